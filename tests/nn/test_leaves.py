"""The leaves that hold weights: values, gradients, prepared copies, first weights, and no global setting left behind."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nabi.errors import OptionError
from nabi.layout import Layout
from nabi.nn import fast, linear
from nabi.nn.attention import Attention
from nabi.nn.linear import (
    ACTIVATIONS,
    Embedding,
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    Linear,
    RMSNorm,
    activation,
    normal_,
    residual,
    uniform_,
)

BF16 = 2e-2  # of the largest result: 8 bits of mantissa, and the rounding of what comes in


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def filled(module, std=0.5):
    g = generator()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * std)
    return module


def relative(a, b):
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def exact(layer, x, add=None, act=""):
    """The same in float64 by torch's own."""
    y = F.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
    y = ACTIVATIONS[act](y) if act else y
    return y if add is None else y + add.double()


# ---- Linear -------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("shape", [(37, 24), (2, 5, 24), (1, 24)], ids=str)
def test_both_routes_of_linear_are_torchs_product(monkeypatch, onednn, bias, shape):
    monkeypatch.setattr(fast, "prefers_onednn", lambda: onednn)
    layer, x = filled(Linear(24, 40, bias=bias)), torch.randn(shape, generator=generator(1), requires_grad=True)
    add = torch.randn(*shape[:-1], 40, generator=generator(2))
    for y, want in (
        (layer(x), exact(layer, x)),
        (layer(x, add), exact(layer, x, add)),
        (layer(x, act="gelu"), exact(layer, x, act="gelu")),
    ):
        assert relative(y, want) < 2e-6
        grad = torch.randn(y.shape, generator=generator(3))
        wrt = [x, *layer.parameters()]
        for mine, theirs in zip(torch.autograd.grad(y, wrt, grad), torch.autograd.grad(want, wrt, grad.double()), strict=True):
            assert mine.shape == theirs.shape and relative(mine, theirs) < 2e-6
    assert relative(layer(x), exact(layer, x) * 1.0001) > 2e-5  # control


def test_only_the_gradients_that_are_asked_for_are_computed():
    layer = filled(Linear(6, 5))
    layer.bias.requires_grad_(False)
    layer(torch.randn(3, 6)).sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is None
    layer.weight.requires_grad_(False)
    x = torch.randn(3, 6, requires_grad=True)
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(0).expand(3, 6), atol=1e-6)


def test_other_types_take_torchs_own_route():
    layer, x = filled(Linear(6, 5)), torch.randn(3, 6)
    for dtype in (torch.float64, torch.bfloat16):
        assert layer.to(dtype)(x.to(dtype)).dtype == dtype
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_the_global_precision_is_as_it_was_even_after_an_error(monkeypatch, before):
    monkeypatch.setattr(fast, "prefers_onednn", lambda: True)
    layer, x, seen = filled(Linear(6, 5)), torch.randn(3, 6, requires_grad=True), []
    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        layer(x).sum().backward()
        assert torch.get_float32_matmul_precision() == before

        def fails(*_):
            seen.append(torch.get_float32_matmul_precision())
            raise RuntimeError("no")

        with pytest.raises(RuntimeError):
            layer(torch.randn(3, 7))  # a shape that does not fit
        monkeypatch.setattr(F, "linear", fails)
        with pytest.raises(RuntimeError, match="no"):
            fast.in_onednn(F.linear, x)
        assert seen == ["medium"] and torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(was)


# ---- prepared copies --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", BF16)])
def test_prepared_copies_agree(precision, bound, fused, bias):
    layer = filled(Linear(48, 33, bias=bias))
    copy = fast.PreparedLinear(layer.weight, layer.bias, linear.PRECISIONS[precision], fused=fused)
    assert copy.fused is (fused and fast.has_onednn())
    for rows in (1, 7, 130):
        x, add = torch.randn(rows, 48, generator=generator(1)), torch.randn(rows, 33, generator=generator(2))
        with torch.inference_mode():
            results = [(copy(x), exact(layer, x)), (copy(x, add), exact(layer, x, add))]
            results += [(copy(x, act=act), exact(layer, x, act=act)) for act in fast.FUSED]
            other = torch.randn(33, generator=generator(3))
            if not bias:
                results.append((copy(x, bias=other), exact(layer, x) + other))
        for y, want in results:
            assert y.dtype == linear.PRECISIONS[precision] and relative(y, want) < bound
        assert relative(results[0][0], exact(layer, x) * (1 + 20 * bound)) > bound  # control
    assert not list(copy.parameters())


def test_a_prepared_copy_gives_gradients_of_its_input():
    """Attributions differentiate a prepared model; the packed operator can't, so the fallback does."""
    layer = filled(Linear(48, 33))
    copy, x = layer.prepared("fp32"), torch.randn(5, 48, requires_grad=True)
    (mine,), (theirs,) = (torch.autograd.grad(f(x).square().sum(), x) for f in (copy, layer))
    assert relative(mine, theirs) < 1e-5


def test_a_prepared_copy_is_a_copy():
    layer, x = filled(Linear(8, 8)), torch.randn(4, 8)
    copy = layer.prepared("fp32")
    before = copy(x)
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(copy(x), before)
    with pytest.raises(OptionError, match="Did you mean 'bf16'"):
        layer.prepared("bf61")


# ---- the rest ---------------------------------------------------------------------------------------------------------------------------------------


def test_activations():
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    phi = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    tanh = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    want = {"gelu": x * phi, "gelu_new": tanh, "gelu_pytorch_tanh": tanh, "relu": x.clamp(0), "tanh": x.tanh(), "silu": x * x.sigmoid()}
    want["quick_gelu"] = x / (1 + torch.exp(-1.702 * x))
    want["swish"] = want["silu"]
    assert want.keys() == ACTIVATIONS.keys()
    for name, y in want.items():
        assert torch.allclose(activation(name)(x), y, atol=1e-12), name
    assert not torch.allclose(want["gelu"], want["gelu_new"], atol=1e-5)  # two names, two functions
    with pytest.raises(OptionError, match="Did you mean 'gelu"):
        activation("glue")


def test_layer_norm():
    norm, x = filled(LayerNorm(16, 1e-3)), torch.randn(5, 16) * 3 + 1
    mean, variance = x.double().mean(-1, keepdim=True), x.double().var(-1, unbiased=False, keepdim=True)
    want = (x - mean) / (variance + 1e-3).sqrt() * norm.weight + norm.bias
    assert relative(norm(x), want) < 1e-6
    assert norm(x.bfloat16()).dtype == torch.float32  # what a bfloat16 layer hands over is normalised in float32
    assert relative(norm(x.bfloat16()), want) < BF16


def test_embedding():
    table = filled(Embedding(5, 3))
    assert torch.equal(table(torch.tensor([4, 0, 4])), torch.stack([table.weight[4], table.weight[0], table.weight[4]]))
    table(torch.tensor([4, 0, 4])).sum().backward()
    assert table.weight.grad[:, 0].tolist() == [1, 0, 0, 0, 2]


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "relu"])
def test_feed_forward(name):
    layer, x, add = filled(FeedForward(8, 20, name, 0.5)).eval(), torch.randn(6, 8), torch.randn(6, 8)
    want = exact(layer.down, activation(name)(exact(layer.up, x)).float(), add)
    assert relative(layer(x, add), want) < 1e-5
    layer.train()
    torch.manual_seed(0)
    dropped = layer(x, add) - add
    zero = (dropped.abs() < 1e-6).float().mean().item()
    assert 0.2 < zero < 0.8  # dropout hits the result, not the residual
    kept = dropped.abs() >= 1e-6
    assert torch.allclose(dropped[kept], (2 * (want - add)).float()[kept], rtol=1e-3, atol=1e-4)


def test_feed_forward_drops_inside():
    """After the activation, in training only: the second layer sees zeros and doubled values, whose mean is what it sees without."""
    layer, x, add = filled(FeedForward(8, 20, "relu", 0.0, 0.5)).eval(), torch.randn(6, 8), torch.randn(6, 8)
    want, seen = layer(x, add), []
    hook = layer.down.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    layer(x, add)
    layer.train()
    torch.manual_seed(0)
    mean = torch.stack([layer(x, add) for _ in range(2000)]).mean(0)
    hook.remove()
    inner, dropped = seen[0], seen[1]
    gone = (dropped == 0) & (inner != 0)
    assert 0.2 < gone.float().mean() / (inner != 0).float().mean() < 0.8 and torch.allclose(dropped[~gone], 2 * inner[~gone])
    assert relative(mean, want) < 0.1 < relative(layer(x, add), want)


def test_residual_without_dropout_is_left_to_the_layer():
    layer, x, add = filled(Linear(4, 4)), torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(residual(layer, x, add, 0.0), layer(x, add))
    torch.manual_seed(0)
    y = residual(layer, x, add, 1 - 1e-9)  # everything is dropped
    assert torch.equal(y, add)


def test_attention_keeps_what_is_asked_for():
    layer, layout, x = filled(Attention(12, 3)).eval(), Layout.of([4, 1, 6]), torch.randn(11, 12)
    keep = torch.tensor([9, 0, 4])
    assert relative(layer(x, layout, add=x, keep=keep), layer(x, layout, add=x)[keep]) < 1e-5
    with pytest.raises(OptionError, match="not divisible"):
        Attention(10, 3)
    assert Attention(10, 3, head_size=4, bias=False).qkv.weight.shape == (36, 10)


def test_first_weights():
    tree = nn.Sequential(Linear(300, 200), LayerNorm(200, 1e-5), Embedding(150, 200), FeedForward(200, 100, "gelu", 0.1), Linear(100, 3, bias=False))
    normal_(tree, 0.3, generator(4))
    for leaf in tree.modules():
        if isinstance(leaf, Linear | Embedding):
            count = leaf.weight.numel()
            assert abs(leaf.weight.mean()) < 4 * 0.3 / math.sqrt(count) and abs(leaf.weight.std() / 0.3 - 1) < 4 / math.sqrt(2 * count)
            assert getattr(leaf, "bias", None) is None or not leaf.bias.any()
        elif isinstance(leaf, LayerNorm):
            assert (leaf.weight == 1).all() and not leaf.bias.any()
    before = [p.clone() for p in tree.parameters()]
    normal_(tree, 0.3, generator(4))
    assert all(torch.equal(a, b) for a, b in zip(before, tree.parameters(), strict=True))  # the generator decides, and nothing else
    layer = Linear(64, 500)
    uniform_(layer, generator())
    for p in (layer.weight, layer.bias):
        assert p.abs().max() <= 1 / 8 and abs(p.std() - 1 / 8 / math.sqrt(3)) < 0.01


# ---- the leaves of T5 ---------------------------------------------------------------------------------------------------------------------------


def test_rms_norm_divides_by_the_root_mean_square():
    norm, x = filled(RMSNorm(24, 1e-3)), torch.randn(5, 24, generator=generator(1)) + 1
    want = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight.double()
    assert relative(norm(x), want) < 2e-6 and norm(x.bfloat16()).dtype == torch.float32
    assert relative(F.layer_norm(x, (24,), norm.weight, None, 1e-3), want) > 1e-2  # control: the mean is not taken off


@pytest.mark.parametrize("act", ["gelu_new", "silu", "gelu"])
def test_a_gated_feed_forward_multiplies_the_gate_by_what_goes_up(act):
    layer = filled(GatedFeedForward(24, 40, act, 0.0))
    x, add = torch.randn(5, 24, generator=generator(1)), torch.randn(5, 24, generator=generator(2))
    gate, up = (F.linear(x.double(), part.double()) for part in layer.gate_up.weight.chunk(2))
    want = F.linear(ACTIVATIONS[act](gate) * up, layer.down.weight.double()) + add
    turned = F.linear(ACTIVATIONS[act](up) * gate, layer.down.weight.double()) + add
    assert relative(layer(x, add), want) < 2e-6 < 1e-2 < relative(layer(x, add), turned)
    for precision, bound in (("fp32", 2e-6), ("bf16", BF16)):
        prepared = GatedFeedForward(24, 40, act, 0.0)
        prepared.gate_up, prepared.down = layer.gate_up.prepared(precision), layer.down.prepared(precision)
        with torch.no_grad():
            assert relative(prepared(x, add), want) < bound


@pytest.mark.parametrize("leaf", [FeedForward, GatedFeedForward])
def test_dropout_inside_a_feed_forward_is_there_only_in_training(leaf):
    layer, x = filled(leaf(24, 40, "relu", 0.0, 0.5)), torch.randn(5, 24, generator=generator(1))
    drawn = [layer(x, x) for _ in range(2)]
    still = [layer.eval()(x, x) for _ in range(2)]
    assert not torch.equal(*drawn) and torch.equal(*still)
    layer.inner_dropout = None
    assert torch.equal(layer.train()(x, x), still[0])
