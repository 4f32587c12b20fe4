"""Every attention kernel against the definition in design.md, section 3, written out here in plain Python: no tensor code of ours is shared.

The reference goes over rows, heads and queries one by one, in float64, and asks a boolean formula for each pair of positions.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nabi.errors import OptionError
from nabi.layout import Layout
from nabi.nn import attention, dropout, kernels, opaque
from nabi.nn.attention import attend
from nabi.nn.kernels import KERNELS, Call, DistanceBias, Pattern, choose, explain_kernels

HEADS, SIZE = 4, 8
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}
PATTERNS = [
    Pattern(),
    Pattern(causal=True),
    Pattern(window=3),
    Pattern(causal=True, window=2),
    Pattern(window=2, dilation=3),
    Pattern(causal=True, window=3, dilation=2),
    Pattern(block=4),
    Pattern(causal=True, block=5),
    Pattern(leading=True),
    Pattern(window=2, leading=True),
    Pattern(causal=True, window=2, leading=True),
    Pattern(random_blocks=1, block=3, seed=1),
    Pattern(causal=True, random_blocks=2, block=2, seed=5),
    Pattern(window=2, leading=True, random_blocks=1, block=4, seed=2),
]
LENGTHS = [5, 5, 1, 9, 2, 2, 7]
LEADING = [1, 2, 1, 0, 1, 2, 3]


# ---- the definition ---------------------------------------------------------------------------------------------------------------------------


def mixed(pattern, q, k):
    x = q * 73856093 + k * 19349663 + pattern.seed * 83492791 + 1
    for _ in range(3):
        x = ((x ^ (x >> 16)) * 73244475) % 2**32
    return x, k


def in_random(pattern, query, key, length):
    """The blocks with the smallest numbers, of those that a query could see."""
    size = pattern.block or 64
    q, k = query // size, key // size
    blocks = range(q + 1) if pattern.causal else range((length - 1) // size + 1)
    return k in sorted(blocks, key=lambda j: mixed(pattern, q, j))[: pattern.random_blocks]


def visible(pattern, query, key, length, leading):
    gap = query - key
    ways = []
    if pattern.window is not None:
        ways.append(abs(gap) < pattern.window * pattern.dilation and gap % pattern.dilation == 0)
    if pattern.block is not None:
        ways.append(query // pattern.block == key // pattern.block)
    if pattern.leading:
        ways.append(query < leading or key < leading)
    if pattern.random_blocks:
        ways.append(in_random(pattern, query, key, length))
    return (any(ways) if ways else True) and (key <= query or not pattern.causal)


def starts(layout, given):
    ends = [sum(layout.lengths[:i]) for i in range(len(layout))] if layout.begin is None else layout.begin.tolist()
    return ends, [0] * len(layout) if given is None else given.tolist()


def reference(q, k, v, at, of, pattern, scale=None):
    """(Tq, H, D) in float64, differentiable."""
    q, k, v = q.double(), k.double(), v.double()
    (q_begins, q_starts), (k_begins, k_starts) = starts(at, at.start), starts(of, of.start)
    leading = at.leading if at.leading is not None else of.leading
    rows = []
    for i, (lq, lk) in enumerate(zip(at.lengths, of.lengths, strict=True)):
        for a in range(lq):
            seen = [b for b in range(lk) if visible(pattern, q_starts[i] + a, k_starts[i] + b, lk, 0 if leading is None else int(leading[i]))]
            heads = []
            for h in range(q.shape[1]):
                group = h // (q.shape[1] // k.shape[1])
                if not seen:
                    heads.append(torch.zeros(v.shape[2], dtype=torch.float64))
                    continue
                scores = [torch.dot(q[q_begins[i] + a, h], k[k_begins[i] + b, group]) * (scale or 1 / math.sqrt(q.shape[2])) for b in seen]
                weights = torch.stack(scores).softmax(0)
                heads.append(sum(w * v[k_begins[i] + b, group] for w, b in zip(weights, seen, strict=True)))
            rows.append(torch.stack(heads))
    return torch.stack(rows)


# ---- ways to compute it -----------------------------------------------------------------------------------------------------------------------


def by_kernel(name):
    kernel = next(k for k in KERNELS if k.name == name)

    def run(q, k, v, at, of, pattern, p=0.0):
        call = Call(at, of, pattern, dropout=p)
        if kernel.refuses(call) is not None:
            return None
        return kernel.run(q, k, v, call, kernel.prepare(call, q.device), None, None)

    return run


def by_operator(q, k, v, at, of, pattern, p=0.0):
    marks = at.leading if at.leading is not None else of.leading
    code = opaque.encoded(pattern)
    return None if p else torch.ops.nabi.attend(q, k, v, at.sizes, at.start, of.sizes, of.begin, of.start, marks, code, None)


WAYS = {name: by_kernel(name) for name in ("runs", "slots", "padded", "dense")} | {"operator": by_operator, "attend": lambda *a, p=0.0: attend(*a, dropout=p)}


END_TO_END = {name: way for name, way in WAYS.items() if name != "slots"}  # for keys that lie in no slots


def tensors(at, of, *, heads=HEADS, keys=HEADS, dtype=torch.float64, width=SIZE, seed=0, grad=False):
    g = torch.Generator().manual_seed(seed)
    held = sum(of.lengths) if of.begin is None else max(of.begin.tolist()) + of.longest + 2
    shapes = (sum(at.lengths), heads, SIZE), (held, keys, SIZE), (held, keys, width)
    return [torch.randn(*s, generator=g, dtype=torch.float64).to(dtype).requires_grad_(grad) for s in shapes]


def gap(a, b):
    return (a.double() - b.double()).abs().max().item()


def layout(lengths=LENGTHS, **options):
    return Layout.of(lengths, leading=torch.tensor((LEADING * 9)[: len(lengths)]), **options)


# ---- one pass -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_every_kernel_is_the_definition(pattern, dtype):
    at = layout()
    qkv, grad = tensors(at, at, dtype=dtype, grad=True), torch.randn(sum(LENGTHS), HEADS, SIZE, generator=torch.Generator().manual_seed(9)).to(dtype)
    want = reference(*qkv, at, at, pattern)
    want_grads = torch.autograd.grad(want, qkv, grad.double())
    used = 0
    for way in WAYS.values():
        got = way(*qkv, at, at, pattern)
        if got is None:
            continue
        used += 1
        assert got.dtype == dtype and gap(got, want) < TOLERANCE[dtype]
        for mine, theirs in zip(torch.autograd.grad(got, qkv, grad), want_grads, strict=True):
            assert torch.isfinite(mine).all() and gap(mine, theirs) < 8 * TOLERANCE[dtype]
    assert used == (4 if pattern.leading else 5)  # runs refuse global positions


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        Pattern,
        causal=st.booleans(),
        window=st.none() | st.integers(1, 4),
        dilation=st.integers(1, 3),
        block=st.none() | st.integers(1, 6),
        leading=st.booleans(),
        random_blocks=st.integers(0, 2),
        seed=st.integers(0, 99),
    ),
    st.lists(st.integers(1, 8), min_size=1, max_size=5),
)
def test_any_pattern_over_any_lengths(pattern, lengths):
    at = layout(lengths)
    qkv = tensors(at, at)
    want = reference(*qkv, at, at, pattern)
    for way in WAYS.values():
        got = way(*qkv, at, at, pattern)
        assert got is None or gap(got, want) < 1e-12


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_pattern_that_is_off_by_one_is_another_result(pattern):
    """The control of this file: neighbours of a pattern differ from it by far more than any tolerance."""
    at = layout([9, 17])
    qkv = tensors(at, at)
    wrong = [replace(pattern, causal=not pattern.causal)]
    wrong += [replace(pattern, window=pattern.window + 1)] if pattern.window else []
    wrong += [replace(pattern, dilation=pattern.dilation + 1)] if pattern.window else []
    wrong += [replace(pattern, block=pattern.block + 1)] if pattern.block else []
    wrong += [replace(pattern, random_blocks=pattern.random_blocks + 1)] if pattern.random_blocks else []
    for other in wrong:
        assert gap(attend(*qkv, at, at, pattern), reference(*qkv, at, at, other)) > 0.05, other
    if pattern.leading:
        more = replace(at, leading=at.leading + 1)
        assert gap(attend(*qkv, at, at, pattern), reference(*qkv, more, more, pattern)) > 0.05


def test_visible_is_the_definition_position_by_position():
    for pattern in PATTERNS:
        q, k = torch.arange(4, 30)[:, None], torch.arange(30)[None]
        got = pattern.visible(q, k, length=30, leading=2)
        assert got.tolist() == [[visible(pattern, a, b, 30, 2) for b in range(30)] for a in range(4, 30)], pattern


# ---- a past: prefill, chunks, single tokens against keys in slots -------------------------------------------------------------------------------


def chunked(way, qkv, at, pattern, cuts, reserve, *, shift=0):
    """The rows computed piece by piece: piece i of each row against the keys so far, which lie in slots of ``reserve`` tokens."""
    q, k, v = qkv
    n = len(at)
    slots = [x.new_full((n * reserve, *x.shape[1:]), 1e30) for x in (k, v)]  # what no row has written must never count
    rows = [list(range(b, b + length)) for b, length in zip(starts(at, None)[0], at.lengths, strict=True)]
    pieces = [[] for _ in rows]
    done = [0] * n
    for cut in cuts:
        now = [min(cut, length - d) for length, d in zip(at.lengths, done, strict=True)]
        live = [i for i in range(n) if now[i] > 0]
        tokens = [t for i in live for t in rows[i][done[i] : done[i] + now[i]]]
        for i in live:
            for slot, x in zip(slots, (k, v), strict=True):
                slot[i * reserve + done[i] : i * reserve + done[i] + now[i]] = x[rows[i][done[i] : done[i] + now[i]]]
        leading = at.leading[live]
        here = Layout.of([now[i] for i in live], start=torch.tensor([done[i] + shift for i in live]), leading=leading)
        past = Layout.slots([done[i] + now[i] for i in live], [i * reserve for i in live], leading=leading)
        out = way(q[tokens], *slots, here, past, pattern)
        for i, piece in zip(live, out.split(list(here.lengths)), strict=True):
            pieces[i].append(piece)
            done[i] += now[i]
    assert done == list(at.lengths)
    return torch.cat([torch.cat(p) for p in pieces])


CHUNKINGS = ([9], [4, 3, 2], [1] * 9, [5, 1, 1, 1, 1], [2, 7])


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p.causal], ids=str)
def test_chunks_against_slots_are_one_pass(pattern):
    at = layout()
    qkv = tensors(at, at)
    want = reference(*qkv, at, at, pattern)
    for name in ("slots", "padded", "dense", "operator", "attend") if not pattern.leading else ("padded", "dense", "operator", "attend"):
        for cuts in CHUNKINGS:
            assert gap(chunked(WAYS[name], qkv, at, pattern, cuts, 12), want) < 1e-12, (name, cuts)
        shifted = chunked(WAYS[name], qkv, at, pattern, CHUNKINGS[1], 12, shift=1)  # control: positions one too far
        assert gap(shifted, want) > 0.05


@pytest.mark.parametrize("pattern", [Pattern(), Pattern(causal=True), Pattern(window=2)], ids=str)
def test_rows_that_share_slots_in_any_order(pattern):
    held, shared = [(3, 24), (8, 0), (5, 36)], [1, 1, 0, 2, 0, 1]  # (keys, where they begin); which of these each row reads; slot 12 is empty
    for lengths in ([1] * 6, [2, 1, 3, 1, 1, 2]):
        at = Layout.of(lengths, start=torch.tensor([4, 7, 2, 3, 0, 1]))
        of = Layout.slots([held[i][0] for i in shared], [held[i][1] for i in shared])
        qkv = tensors(at, of)
        want = reference(*qkv, at, of, pattern)
        for name in ("slots", "padded", "attend"):
            assert gap(WAYS[name](*qkv, at, of, pattern), want) < 1e-12, name
        assert gap(WAYS["slots"](*qkv, at, Layout.slots([held[i][0] for i in shared[::-1]], [held[i][1] for i in shared[::-1]]), pattern), want) > 0.05


def test_a_bias_by_distance_in_every_kernel():
    table = torch.randn(HEADS, 41, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    at, past = layout([3, 3, 6]), Layout.slots([4, 9, 6], [20, 0, 10])
    here = Layout.of([1, 2, 1], start=torch.tensor([3, 7, 5]))
    for q_at, of in ((at, at), (here, past)):
        qkv = tensors(q_at, of)
        for pattern in (Pattern(causal=True), Pattern()):
            found = {}
            for kernel in KERNELS:
                call = Call(q_at, of, pattern, "by distance")
                if kernel.refuses(call) is None:
                    bias = DistanceBias(lambda gap: table[:, gap + 20])
                    out = kernel.run(*qkv, call, kernel.prepare(call, torch.device("cpu")), None, bias)
                    found[kernel.name] = out, torch.autograd.grad(out.square().sum(), table)[0]
            assert len(found) == 3
            for name, (out, grad) in found.items():
                assert gap(out, found["dense"][0]) < 1e-12 and gap(grad, found["dense"][1]) < 1e-12, name
            assert gap(found["dense"][0], attend(*qkv, q_at, of, pattern)) > 0.05


def test_a_window_that_has_left_the_start_needs_keys_that_say_where_they_begin():
    """Keys may themselves start late: a sliding cache keeps the last positions only."""
    at, pattern = layout([11, 6]), Pattern(causal=True, window=3)
    qkv = tensors(at, at)
    want = reference(*qkv, at, at, pattern)
    index, last = [8, 9, 10, 13, 14, 15, 16], [10, 16]
    here = Layout.of([1, 1], start=torch.tensor([10, 5]))
    past = Layout.of([3, 4], start=torch.tensor([8, 2]))
    for name in ("padded", "dense", "operator", "attend"):
        got = WAYS[name](qkv[0][last], qkv[1][index], qkv[2][index], here, past, pattern)
        assert gap(got, want[last]) < 1e-12
    assert "past" in next(k for k in KERNELS if k.name == "runs").refuses(Call(here, past, pattern))


def test_random_blocks_of_a_causal_row_do_not_know_its_length():
    pattern, free = Pattern(causal=True, random_blocks=2, seed=3), Pattern(random_blocks=2, seed=3)
    at = torch.arange(0, 384)

    def sees(p, length):
        return p.visible(at[:, None], at[None], length=length)

    assert torch.equal(sees(pattern, 384), sees(pattern, 900)) and not torch.equal(sees(free, 384), sees(free, 900))
    blocks = sees(free, 384).view(6, 64, 6, 64).transpose(1, 2).flatten(2)
    assert torch.equal(blocks.all(-1), blocks.any(-1)) and (blocks.any(-1).sum(-1) == 2).all()  # two whole blocks of 64 for each block of queries
    assert not torch.equal(sees(free, 384), sees(replace(free, seed=4), 384))


# ---- keys of another kind -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [Pattern(), Pattern(causal=True), Pattern(window=2)], ids=str)
def test_cross_attention_over_other_lengths(pattern):
    at, of = Layout.of([3, 3, 1, 6, 2]), Layout.of([4, 4, 7, 1, 2])
    qkv = tensors(at, of, grad=True)
    want = reference(*qkv, at, of, pattern)
    grads = torch.autograd.grad(want.square().sum(), qkv)
    for way in END_TO_END.values():
        got = way(*qkv, at, of, pattern)
        assert gap(got, want) < 1e-12
        for mine, theirs in zip(torch.autograd.grad(got.square().sum(), qkv), grads, strict=True):
            assert gap(mine, theirs) < 1e-11


def test_beams_share_keys_where_they_lie():
    at, of = Layout.of([1] * 6), Layout.of([4, 2, 5]).take([0, 0, 2, 2, 1, 2])
    qkv = tensors(at, of)
    want = reference(*qkv, at, of, Pattern())
    for name in ("padded", "dense", "operator", "attend"):
        assert gap(WAYS[name](*qkv, at, of, Pattern()), want) < 1e-12
    assert WAYS["runs"](*qkv, at, of, Pattern()) is None


@pytest.mark.parametrize("keys", [1, 2])
def test_grouped_keys_in_every_kernel(keys):
    at = layout()
    for pattern in (Pattern(), Pattern(causal=True), Pattern(window=2)):
        qkv = tensors(at, at, keys=keys, grad=True)
        want = reference(*qkv, at, at, pattern)
        grads = torch.autograd.grad(want.square().sum(), qkv)
        for name, way in END_TO_END.items():
            got = way(*qkv, at, at, pattern)
            assert gap(got, want) < 1e-12, name
            for mine, theirs in zip(torch.autograd.grad(got.square().sum(), qkv), grads, strict=True):
                assert mine.shape == theirs.shape and gap(mine, theirs) < 1e-11, name


def test_values_of_another_size_and_a_scale():
    at = layout([3, 5, 5])
    q, k, v = tensors(at, at, width=3)
    assert gap(attend(q, k, v, at, at, Pattern(), scale=0.7), reference(q, k, v, at, at, Pattern(), scale=0.7)) < 1e-12
    for name, way in END_TO_END.items():
        assert gap(way(q, k, v, at, at, Pattern()), reference(q, k, v, at, at, Pattern())) < 1e-12, name
        assert way(q, k, v, at, at, Pattern(), p=0.5) is None or way(q, k, v, at, at, Pattern(), p=0.5).shape == v.shape


def test_different_numbers_of_rows_are_refused():
    at, of = Layout.of([1, 2]), Layout.of([3])
    with pytest.raises(OptionError, match="different numbers of rows"):
        attend(*tensors(at, of), at, of, Pattern())


# ---- queries that see nothing --------------------------------------------------------------------------------------------------------------------

BLIND = [
    (Layout.of([3, 2], start=torch.tensor([9, 0])), Layout.of([4, 4]), Pattern(window=2)),  # row 0 stands far behind its keys
    (Layout.of([4, 4]), Layout.of([3, 2], start=torch.tensor([2, 2])), Pattern(causal=True)),  # the first two queries come before every key
    (Layout.of([4, 3], leading=torch.tensor([0, 1])), Layout.of([4, 3]), Pattern(leading=True)),  # a row without global positions
    (Layout.of([7, 7]), Layout.of([2, 2]), Pattern(window=2)),  # the one that runs take
]


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("case", range(len(BLIND)))
def test_a_query_that_sees_nothing_gives_zeros_and_no_nan(case, p):
    at, of, pattern = BLIND[case]
    qkv = tensors(at, of, dtype=torch.float32, grad=True)
    want = reference(*qkv, at, of, pattern)
    blind = (want == 0).all(-1).all(-1)
    assert blind.any() and not blind.all()
    for way in END_TO_END.values():
        got = way(*qkv, at, of, pattern, p=p)
        if got is None:
            continue
        assert (got[blind] == 0).all() and torch.isfinite(got).all()
        for grad in torch.autograd.grad(got.square().sum(), qkv):
            assert torch.isfinite(grad).all()
        assert p or gap(got, want) < 1e-5


# ---- dropout on the weights ----------------------------------------------------------------------------------------------------------------------


def weights_of(way, at, pattern, p, seed):
    """The weights that a kernel used: with one-hot values the result is the weights themselves."""
    longest = at.longest
    q, k, _ = tensors(at, at)
    v = torch.nn.functional.one_hot(at.positions, longest)[:, None].expand(-1, HEADS, -1).double().contiguous()
    torch.manual_seed(seed)
    return way(q, k, v, at, at, pattern, p=p)


@pytest.mark.parametrize("name", ["runs", "padded", "dense", "attend"])
@pytest.mark.parametrize("pattern", [Pattern(), Pattern(causal=True), Pattern(window=3)], ids=str)
def test_dropped_weights_are_zero_and_the_others_scaled(name, pattern):
    at, p, way = Layout.of([24, 24, 9, 31]), 0.25, WAYS[name]
    whole, dropped = weights_of(way, at, pattern, 0.0, 0), weights_of(way, at, pattern, p, 0)
    seen = whole > 0
    assert torch.equal(dropped > 0, seen & (dropped > 0))
    zero = seen & (dropped == 0)
    share = zero.sum() / seen.sum()
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / seen.sum())  # four standard deviations
    kept = seen & ~zero
    assert torch.allclose(dropped[kept], whole[kept] / (1 - p), rtol=1e-9)
    assert torch.equal(dropped, weights_of(way, at, pattern, p, 0)) and not torch.equal(dropped, weights_of(way, at, pattern, p, 1))
    mean = sum(weights_of(way, at, pattern, p, s) for s in range(60)) / 60
    assert gap(mean, whole) > 0 and (mean - whole).mean().abs() < 1e-3


@pytest.mark.parametrize("name", ["runs", "padded", "dense"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_gradient_goes_through_the_weights_that_were_kept(name, dtype):
    """The mask is read off by one-hot values, then attention with just this mask is differentiated by torch."""
    at, p, way = Layout.of([4, 4, 3, 6]), 0.4, WAYS[name]
    q, k, _ = tensors(at, at, dtype=dtype, grad=True)
    v = torch.nn.functional.one_hot(at.positions, SIZE)[:, None].expand(-1, HEADS, -1).to(dtype).contiguous().requires_grad_()
    for pattern in (Pattern(), Pattern(causal=True)):
        torch.manual_seed(3)
        got = way(q, k, v, at, at, pattern, p=p)
        want = []
        for b, n in zip(starts(at, None)[0], at.lengths, strict=True):
            qi, ki, vi = (x[b : b + n].double().transpose(0, 1) for x in (q, k, v))
            seen = pattern.visible(torch.arange(n)[:, None], torch.arange(n)[None], length=n)
            weights = (qi @ ki.transpose(1, 2) / math.sqrt(SIZE)).masked_fill(~seen, float("-inf")).softmax(-1)
            mask = (got[b : b + n].detach().transpose(0, 1)[..., :n] != 0).double() / (1 - round(p * 65536) / 65536)
            want.append(((weights * mask) @ vi).transpose(0, 1))
        want = torch.cat(want)
        assert gap(got, want) < TOLERANCE[dtype]
        grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        for mine, theirs in zip(torch.autograd.grad(got, (q, k, v), grad), torch.autograd.grad(want, (q, k, v), grad.double()), strict=True):
            assert gap(mine, theirs) < 10 * TOLERANCE[dtype]


def test_dropout_itself():
    x, add = torch.randn(300, 70), torch.randn(300, 70)
    for p in (0.1, 0.5, 0.003):
        torch.manual_seed(1)
        y = dropout.dropout(x, p)
        torch.manual_seed(1)
        assert torch.equal(dropout.dropout_add(x, add, p), torch.addcmul(add, x, (y != 0).float(), value=65536 / (65536 - round(p * 65536))))
        share = (y == 0).double().mean().item()
        assert abs(share - p) < 5 * math.sqrt(p / x.numel()) + 1 / 65536
        assert torch.allclose(y[y != 0], x[y != 0] / (1 - p), rtol=1e-4)
    assert dropout.dropout(x, 0.3, training=False) is x and dropout.dropout(x, 0.0) is x
    assert (dropout.dropout(x, 1.0) == 0).all()  # torch's own takes the ends
    y = torch.randn(9, requires_grad=True)
    dropped = dropout.dropout(y, 0.5)
    (grad,) = torch.autograd.grad(dropped.sum(), y)
    assert torch.allclose(grad * y, dropped)


def test_draws_are_independent_of_their_neighbours():
    """Four elements share one draw of the generator: their fates must be independent all the same."""
    torch.manual_seed(0)
    keep, _ = dropout.kept(4 * 40000, 0.25, torch.float64)
    four = keep.view(-1, 4)
    correlation = torch.corrcoef(four.T) - torch.eye(4)
    assert correlation.abs().max() < 0.025 and (four.mean(0) - 0.75).abs().max() < 0.011
    lagged = torch.corrcoef(torch.stack([keep[:-4], keep[4:]]))[0, 1]
    assert abs(lagged) < 0.0125


# ---- which kernel --------------------------------------------------------------------------------------------------------------------------------


def test_explain_kernels_says_who_and_why():
    at = layout([4, 4, 9])
    lines = explain_kernels(Call(at, at, Pattern()))
    assert [line.split(":")[0] for line in lines] == [k.name for k in KERNELS]
    assert lines[0].endswith("chosen") and sum("chosen" in line for line in lines) == 1
    assert lines[1] == "slots: refuses: keys do not lie in slots of one size, or most slots are empty" and all("cost" in line for line in lines[2:])
    lines = explain_kernels(Call(at, at, Pattern(leading=True)))
    assert lines[0] == "runs: refuses: global positions may differ between rows of one length" and "chosen" in "".join(lines[1:])
    lines = explain_kernels(Call(at, at, Pattern(), watched=True))
    assert lines[2] == "padded: refuses: a bias by row or a watch needs the scores of one row" and lines[3].endswith("chosen")
    assert choose(Call(at, at, Pattern(), "by row")).name == "dense" and choose(Call(at, at, Pattern(), "by distance")).name == "runs"
    slots = Layout.slots([4, 4, 9], [0, 10, 20])
    assert explain_kernels(Call(at, slots, Pattern()))[0] == "runs: refuses: rows do not lie end to end"


def test_the_kernel_is_chosen_once_for_all_layers(monkeypatch):
    at, chosen = Layout.of([2, 3]), []
    monkeypatch.setattr(kernels, "choose", lambda call: chosen.append(call) or choose(call))
    qkv = tensors(at, at)
    for p in (0.0, 0.0, 0.1, 0.1):
        attend(*qkv, at, at, Pattern(), dropout=p)
    assert [call.dropout for call in chosen] == [0.0, 0.1]


def test_a_bias_is_added_to_the_scores():
    at = layout([3, 6])
    q, k, v = tensors(at, at)
    table = torch.randn(HEADS, 20, dtype=torch.float64)
    got = attend(q, k, v, at, at, Pattern(causal=True), bias=lambda a, b, row: table[:, (a[:, None] - b[None]).clamp(0)] * (row + 1))
    for row, (begin, n) in enumerate([(0, 3), (3, 6)]):
        for a in range(n):
            for h in range(HEADS):
                scores = torch.stack([q[begin + a, h] @ k[begin + b, h] / math.sqrt(SIZE) + table[h, a - b] * (row + 1) for b in range(a + 1)])
                assert gap(got[begin + a, h], scores.softmax(0) @ v[begin : begin + a + 1, h]) < 1e-12


def test_the_operator_passes_torchs_own_check():
    at = layout([3, 5])
    qkv = tensors(at, at, dtype=torch.float32, grad=True)
    code = opaque.encoded(Pattern(causal=True, window=2))
    args = (*qkv, at.sizes, None, at.sizes, None, None, None, code, None)
    torch.library.opcheck(torch.ops.nabi.attend.default, args)
    for pattern in PATTERNS:
        assert opaque.decoded(opaque.encoded(pattern)) == pattern


def test_impossible_patterns_are_refused():
    for wrong in ({"window": 0}, {"dilation": 0, "window": 2}, {"block": 0}):
        with pytest.raises(OptionError, match="at least 1"):
            Pattern(**wrong)


def test_the_reference_itself_on_a_case_by_hand():
    """Two keys, one head, D = 1: softmax(q*k) by hand."""
    at = Layout.of([2])
    q, k, v = (torch.tensor(x, dtype=torch.float64).view(2, 1, 1) for x in ([1.0, 2.0], [0.0, 1.0], [3.0, 5.0]))
    e = math.e
    by_hand = [(3 + 5 * e) / (1 + e), (3 + 5 * e**2) / (1 + e**2)]
    assert gap(reference(q, k, v, at, at, Pattern()).flatten(), torch.tensor(by_hand, dtype=torch.float64)) < 1e-15
    assert reference(q, k, v, at, at, Pattern(causal=True))[0].item() == 3.0


def test_a_training_step_under_autocast():
    """bf16 training: a whole layer with dropout runs under autocast, near the float32 result, with gradients."""
    torch.manual_seed(0)
    layer, at, x = attention.Attention(32, HEADS, dropout=0.1, attention_dropout=0.2).train(), layout(), torch.randn(sum(LENGTHS), 32)
    for p in layer.parameters():
        torch.nn.init.normal_(p, 0, 0.2)
    results = []
    for enabled in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = layer(x, at, add=x)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), list(layer.parameters()))))
    for a, b in zip(*results, strict=True):
        assert gap(a, b) < 0.03 * a.abs().max()
