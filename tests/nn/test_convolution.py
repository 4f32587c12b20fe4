"""Convolution over packed images: views and sizes, batch norms in training, frozen, recomputed and over processes, folded kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nabi.errors import InputError, OptionError
from nabi.nn.convolution import BatchNorm, ConvNorm, Convolution, again, freeze_statistics, he_, maps_of, max_pooled, packed
from training.together import Together

SIZES = ((5, 4), (3, 3), (5, 4), (4, 5), (1, 1))


def pixels(sizes: tuple[tuple[int, int], ...] = SIZES, channels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Packed random pixels and their grid."""
    grid = torch.tensor(sizes)
    return torch.randn(int(grid.prod(1).sum()), channels, generator=torch.Generator().manual_seed(seed)), grid


def images(x: Tensor, grid: Tensor) -> list[Tensor]:
    """Each image as (1, C, H, W), cut out by hand."""
    pieces = torch.split(x, grid.prod(1).tolist())
    return [piece.reshape(h, w, -1).permute(2, 0, 1)[None] for piece, (h, w) in zip(pieces, grid.tolist(), strict=True)]


def normed(channels: int = 3, seed: int = 0) -> BatchNorm:
    norm, g = BatchNorm(channels), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x in (norm.weight, norm.bias, norm.running_mean):
            x.copy_(torch.randn(channels, generator=g))
        norm.running_var.copy_(0.5 + torch.rand(channels, generator=g))
    return norm


def test_images_of_one_size_are_a_view_and_come_back() -> None:
    x, grid = pixels(((4, 6),) * 3)
    (map_,) = maps_of(x, grid)
    assert map_.shape == (3, 3, 4, 6) and map_.is_contiguous(memory_format=torch.channels_last)
    assert map_.data_ptr() == x.data_ptr() == packed([map_], grid).data_ptr()
    assert torch.equal(packed([map_], grid), x)


def test_images_of_several_sizes_are_grouped_and_come_back_in_their_order() -> None:
    x, grid = pixels()
    maps = maps_of(x, grid)
    assert [tuple(m.shape) for m in maps] == [(2, 3, 5, 4), (1, 3, 3, 3), (1, 3, 4, 5), (1, 3, 1, 1)]
    assert torch.equal(maps[0][1:], images(x, grid)[2])
    assert torch.equal(packed(maps, grid), x)
    assert not torch.equal(packed([maps[0].flip(0), *maps[1:]], grid), x)  # control


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_a_convolution_of_a_pack_is_that_of_each_image(size: int, stride: int) -> None:
    layer = Convolution(3, 4, size, stride)
    he_(layer, torch.Generator().manual_seed(0))
    x, grid = pixels()
    with torch.no_grad():
        found = packed([layer(m) for m in maps_of(x, grid)], grid)
        shrunk = -(-grid // stride)
        for image, made in zip(images(x, grid), images(found, shrunk), strict=True):
            assert torch.allclose(made, F.conv2d(image, layer.weight, stride=stride, padding=size // 2), atol=1e-5)
        pooled = packed(max_pooled(maps_of(x, grid), 3, 2), grid)
        assert torch.equal(pooled, torch.cat([F.max_pool2d(i, 3, 2, 1).permute(0, 2, 3, 1).reshape(-1, 3) for i in images(x, grid)]))


def test_training_takes_the_statistics_of_all_sizes_together_and_moves_its_own() -> None:
    norm, (x, grid) = normed(), pixels()
    theirs = torch.nn.BatchNorm1d(3)
    theirs.load_state_dict(norm.state_dict())
    norm.train()
    for _ in range(3):
        y = packed(norm(maps_of(x, grid)), grid)
        assert torch.allclose(y, theirs(x), atol=1e-5)
    y = y.detach()
    for name, value in theirs.state_dict().items():
        assert torch.allclose(norm.state_dict()[name], value, atol=1e-6), name
    assert int(norm.num_batches_tracked) == 3
    alone = torch.cat([norm([i])[0].permute(0, 2, 3, 1).reshape(-1, 3) for i in images(x, grid)[:-1]]).detach()
    assert float((alone - y[:-1]).abs().max()) > 1e-2  # control: of each image alone they are others


def test_a_frozen_norm_and_one_at_rest_take_their_own_statistics_and_keep_them() -> None:
    norm, (x, grid) = normed(), pixels()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    wanted = (x - norm.running_mean) * (norm.running_var + 1e-5).rsqrt() * norm.weight + norm.bias
    freeze_statistics(norm)
    for mode in (True, False):
        assert torch.allclose(packed(norm.train(mode)(maps_of(x, grid)), grid), wanted, atol=1e-5)
    freeze_statistics(norm, False)
    assert torch.allclose(packed(norm.eval()(maps_of(x, grid)), grid), wanted, atol=1e-5)
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in before.items())
    assert not torch.allclose(packed(norm.train()(maps_of(x, grid)), grid), wanted, atol=1e-2)  # control


def test_what_is_computed_again_is_counted_once() -> None:
    norm, (x, grid) = normed().train(), pixels()
    with again():
        norm(maps_of(x, grid))
    assert int(norm.num_batches_tracked) == 0 and torch.equal(norm.running_mean, normed().running_mean)
    norm(maps_of(x, grid))
    assert int(norm.num_batches_tracked) == 1


def test_a_batch_of_a_single_place_is_refused() -> None:
    with pytest.raises(InputError, match="plan.batch_statistics=false"):
        normed().train()([torch.zeros(1, 3, 1, 1)])


@torch.no_grad()
def test_a_norm_folds_into_its_kernel() -> None:
    layer = ConvNorm(3, 3, 3, 2, "relu").eval()
    layer.norm = normed()
    layer.norm.eval()
    he_(layer.convolution, torch.Generator().manual_seed(0))
    x, grid = pixels(((6, 5), (4, 4)))
    add = [torch.randn(1, 3, -(-h // 2), -(-w // 2)) for h, w in grid.tolist()]
    for beside in (None, add):
        for a, b in zip(layer.prepared("bf16")(maps_of(x, grid), beside), layer(maps_of(x, grid), beside), strict=True):
            assert torch.allclose(a, b, atol=1e-5)
    layer.norm.running_var *= 1.01
    a, b = layer.prepared("fp32")(maps_of(x, grid))[0], layer(maps_of(x, grid))[0]
    layer.norm.running_var /= 1.01
    assert torch.allclose(a, b, atol=1e-5) and not torch.allclose(a, layer(maps_of(x, grid))[0], atol=1e-3)  # control
    with pytest.raises(OptionError, match="unknown precision"):
        layer.prepared("int3")


def test_statistics_of_several_processes_are_those_of_one(tmp_path: Path) -> None:
    together = Together(tmp_path)
    (one,), both = together("with_batch_statistics", 1), together("with_batch_statistics", 2)
    together.close()
    assert isinstance(one, dict) and all(isinstance(found, dict) for found in both), "a process failed: its words are above"
    wanted, begun = one["alone"], both[0]["alone"]
    for found in both:
        for name in found.keys() - {"alone"}:
            for key, x in found[name].items():
                moved = float((wanted[key] - begun[key]).abs().max())
                assert float((x - wanted[key]).abs().max()) <= 1e-4 * max(moved, 0.1), (name, key)
    assert any("running" in key and float((wanted[key] - begun[key]).abs().max()) > 0.01 for key in wanted)  # control: they have moved
