"""Probe (h): ``watch`` keeps weights, q, k and v and changes nothing; ``mute`` takes one head out, exactly as zeros in the output projection do."""

import copy
import threading

import pytest
import torch

from nabi.batch import Row, batch_of
from nabi.errors import OptionError
from nabi.families.bert import FAMILY, Bert
from nabi.nn.watch import WATCHING, watch

LENGTHS, LAYERS = (5, 1, 9), ["layers.0.attention", "layers.1.attention"]
BATCH = batch_of([Row({"text": {"tokens": list(range(3, 3 + n)), "segments": [0] * n}}) for n in LENGTHS], range(3), {})


def body():
    made = Bert(FAMILY.sizes["tiny"]).eval().double()
    made.initialise(torch.Generator().manual_seed(0))
    return made.requires_grad_(False)


def hidden(body):
    return body(BATCH)["text"].values


def test_watching_changes_nothing_and_sees_the_weights():
    model = body()
    before = hidden(model)
    with watch(model) as seen:
        assert all(torch.allclose(hidden(model), before, atol=1e-12) for _ in range(2))
    assert list(seen) == LAYERS and [len(seen[path]) for path in LAYERS] == [2, 2]  # one entry a forward
    x = model.embed(BATCH)["text"].values
    for path, layer in zip(LAYERS, model.layers, strict=True):
        got, begin = seen[path][0], 0
        q, k, v = layer.attention.qkv(x).view(-1, 3, 4, 8).unbind(1)
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip((got.q, got.k, got.v), (q, k, v), strict=True))
        for n, weights in zip(LENGTHS, got.weights, strict=True):
            by_hand = torch.einsum("qhd,khd->hqk", q[begin : begin + n], k[begin : begin + n]).div(8**0.5).softmax(-1)
            assert torch.allclose(weights, by_hand, atol=1e-12) and torch.allclose(weights.sum(-1), torch.ones(4, n, dtype=x.dtype))
            begin += n
        x = layer(x, BATCH.parts["text"].layout)
    assert not torch.allclose(seen[LAYERS[0]][0].weights[2], seen[LAYERS[1]][0].weights[2], atol=1e-4)  # control: layers are told apart


def test_mute_is_a_slice_of_the_projection_at_zero():
    model, before, muted = body(), hidden(body()), []
    for head in range(4):
        cut = copy.deepcopy(model)
        cut.layers[1].attention.out.weight[:, head * 8 : head * 8 + 8] = 0
        with watch(model) as seen:
            seen.mute(LAYERS[1], head)
            muted.append(hidden(model))
        assert torch.allclose(muted[-1], hidden(cut), atol=1e-12) and not torch.allclose(muted[-1], before, atol=1e-6)
    assert min((a - b).abs().max() for i, a in enumerate(muted) for b in muted[:i]) > 1e-6  # control: each head is another
    with pytest.raises(OptionError, match=r"layers\.0\.attention"):
        seen.mute("layers.0.attentoin", 0)
    with pytest.raises(OptionError, match="0 to 3"):
        seen.mute(LAYERS[0], 4)
    assert torch.equal(hidden(model), before)  # nothing stays behind


def test_nested_failing_and_in_another_thread():
    model, other, results = body(), body(), []
    with watch(model) as outer:
        with watch(other) as inner:
            hidden(other), hidden(model)  # the inner watch holds, and only for its own body
        other = threading.Thread(target=lambda: results.append((hidden(model), WATCHING.get())))
        other.start(), other.join()
        assert results[0][1] is None and not list(outer) and list(inner) == LAYERS and len(inner[LAYERS[0]]) == 1
        broken = model.layers[0].attention.out.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            hidden(model)
        broken.remove(), hidden(model)
    assert [len(outer[p]) for p in LAYERS] == [2, 1] and outer._current == []
    with pytest.raises(ZeroDivisionError), watch(model):
        1 / 0  # noqa: B018
    assert WATCHING.get() is None and not model.layers[0].attention._forward_hooks and not model.layers[0].attention._forward_pre_hooks
