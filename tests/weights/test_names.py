"""The name table: every entry loads and saves back bit for bit, and every misfit is an error that names it."""

import random
import re
from collections.abc import Sequence

import pytest
import torch

from nabi.errors import CheckpointError, OptionError
from nabi.weights import NameTable, flipped, fused, same, stacked, tied, weight_normed

KINDS = ("same", "bare", "flipped", "fused", "fused flipped", "stacked", "weight_normed", "tied")


def random_table(rng, device="cpu"):
    """A random table with a state that it fits: entries, their tensors, the second names."""
    entries, state, seconds = [], {}, []
    for n in range(rng.randint(1, 12)):
        kind, stars, a, b = rng.choice(KINDS), rng.randint(0, 2), rng.randint(1, 5), rng.randint(1, 5)
        stem = ".*" * stars
        layers = [
            ".".join(["", *map(str, numbers)]).rstrip(".")
            for numbers in {tuple(rng.randint(0, 12) for _ in range(stars)) for _ in range(3)}
        ]
        theirs, ours = f"their{n}{stem}", f"ours.{n}x{stem}"
        pieces = rng.randint(2, 3)
        dtype = rng.choice([torch.float32, torch.float16, torch.int64])

        def make(*shape, dtype=dtype):
            return torch.randint(-99, 99, shape).to(dtype)

        if kind == "bare":
            entries.append(same(theirs, ours))
        elif kind == "same":
            entries.append(same(f"{theirs}.m", f"{ours}.m"))
        elif kind == "flipped":
            entries.append(flipped(f"{theirs}.m", f"{ours}.m"))
        elif kind.startswith("fused"):
            entries.append(fused(f"{theirs}.m", *(f"{ours}.p{i}" for i in range(pieces)), flipped="flipped" in kind))
        elif kind == "stacked":
            entries.append(stacked(tuple(f"{theirs}.p{i}" for i in range(pieces)), f"{ours}.m"))
        elif kind == "weight_normed":
            entries.append(weight_normed(f"{theirs}.m", f"{ours}.m"))
        else:
            entries += [same(f"{theirs}.m", f"{ours}.m"), tied(f"{theirs}.second", f"{ours}.m")]
        for layer in layers:
            name = f"their{n}{layer}"
            bias = rng.random() < 0.5
            if kind == "bare":
                state[name] = make(*rng.choice([(), (a,), (a, b), (1, a, b)]))
                continue
            if kind == "weight_normed":
                state |= {f"{name}.m.parametrizations.weight.original{i}": make(a, b) for i in (0, 1)}
            elif kind == "stacked":
                state |= {f"{name}.p{i}.weight": make(a, b) for i in range(pieces)}
            else:
                rows, columns = (a * pieces, b) if kind.startswith("fused") else (a, b)
                state[f"{name}.m.weight"] = make(*((columns, rows) if "flipped" in kind else (rows, columns)))
            if bias and kind == "stacked":
                state |= {f"{name}.p{i}.bias": make(a) for i in range(pieces)}
            elif bias:
                state[f"{name}.m.bias"] = make(a * pieces if kind.startswith("fused") else a)
            if kind == "tied" and rng.random() < 0.7:
                state[f"{name}.second.weight"] = state[f"{name}.m.weight"].clone()
                seconds.append(f"{name}.second.weight")
    return entries, state, seconds


def equal(a, b):
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("seed", range(150))
def test_round_trip(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    entries, state, seconds = random_table(rng)
    loaded = NameTable(entries).load(state)
    assert not loaded.unknown and not loaded.ignored and sorted(loaded.tied) == sorted(seconds)
    saved = NameTable(entries).save(loaded.tensors, tied=loaded.tied)
    assert equal(saved, state) and all(t.is_contiguous() for t in saved.values())
    assert equal(NameTable(entries).save(loaded.tensors), {n: t for n, t in state.items() if n not in seconds})
    # neither the order of entries nor that of tensors matters, and a prefix comes and goes
    rng.shuffle(entries)
    names = list(state)
    rng.shuffle(names)
    again = NameTable(entries).load({f"bert.{n}": state[n] for n in names}, prefix="bert.")
    assert equal(again.tensors, loaded.tensors)
    back = NameTable(entries).save(again.tensors, prefix="bert.", tied=again.tied)
    assert equal(back, {f"bert.{n}": t for n, t in state.items()})


def test_what_each_entry_means():
    weight, bias, table = torch.arange(18.0).view(3, 6), torch.arange(6.0), torch.rand(4, 3)
    state = {"h.3.attn.weight": weight, "h.3.attn.bias": bias, "wte.weight": table, "a.q": torch.ones(2, 3), "a.k": torch.zeros(2, 3)}
    names = NameTable([fused("h.*.attn", "l.*.q", "l.*.k", "l.*.v", flipped=True), same("wte", "tokens"), stacked(("a.q", "a.k"), "qk")])
    ours = names.load(state).tensors
    assert sorted(ours) == sorted(["tokens.weight", "qk"] + [f"l.3.{p}.{k}" for p in "qkv" for k in ("weight", "bias")])
    assert torch.equal(ours["l.3.k.weight"], weight[:, 2:4].t()) and torch.equal(ours["l.3.v.bias"], bias[4:])
    assert ours["tokens.weight"] is table
    assert torch.equal(ours["qk"], torch.cat([torch.ones(2, 3), torch.zeros(2, 3)]))
    assert all(t.is_contiguous() for t in ours.values())


@pytest.mark.parametrize(
    "entries",
    [
        [same("a", "x"), same("a", "y")],
        [same("a", "x"), same("b", "x")],
        [same("a", "x"), same("a.weight", "y")],
        [same("a.*.b", "x.*"), same("a.0.b", "y")],
        [same("a.*.b.1", "x.*"), same("a.0.b.*", "y.*")],
        [stacked(("a", "a"), "x")],
        [fused("a", "x", "x")],
        [same("a", "x"), same("c", "z"), tied("a.weight", "z.weight")],
        [same("a.*", "x")],
        [same("a", "x.*")],
        [same("a.b*", "x.b*")],
        [same("", "x")],
        [same("a..b", "x")],
        [stacked((), "x")],
        [fused("a")],
        [weight_normed("a", "x"), same("a.bias", "y")],
    ],
)
def test_a_table_that_is_no_bijection_is_refused(entries):
    with pytest.raises(OptionError):
        NameTable(entries)


def test_tables_that_only_look_alike_are_taken():
    NameTable(
        [
            same("a.0.b", "x.0"),
            same("a.1.b", "x.1"),
            same("a.*.c", "x.*.c"),
            same("a.b", "ab"),
            same("a.b.c.d", "abcd"),
            same("a.00.b", "x.00"),
        ]
    )


def test_all_clashes_are_in_one_error():
    with pytest.raises(OptionError, match=re.compile("'a'.*'b'", re.DOTALL)):
        NameTable([same("a", "x"), same("a", "y"), same("b", "z"), same("b", "w")])


def test_legacy_names():
    table = NameTable(
        [same("e.*.LayerNorm", "n.*"), weight_normed("conv", "c")],
        legacy={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    )
    state = {
        "e.1.LayerNorm.gamma": torch.rand(2),
        "e.1.LayerNorm.beta": torch.rand(2),
        "conv.weight_g": torch.rand(2, 1),
        "conv.weight_v": torch.rand(2, 3),
    }
    loaded = table.load(state)
    assert sorted(loaded.tensors) == ["c.weight_g", "c.weight_v", "n.1.bias", "n.1.weight"] and not loaded.unknown
    new = ["conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1", "e.1.LayerNorm.bias", "e.1.LayerNorm.weight"]
    assert sorted(table.save(loaded.tensors)) == new
    assert table.under("m.").load({"m.e.1.LayerNorm.gamma": torch.rand(2)}).tensors.keys() == {"n.1.weight"}
    with pytest.raises(CheckpointError, match="two names of one tensor"):
        table.load(state | {"e.1.LayerNorm.weight": torch.rand(2)})
    # an ending is whole parts: 'MyLayerNorm.gamma' is another name
    assert table.load({"e.1.MyLayerNorm.gamma": torch.rand(1)}).unknown == ("e.1.MyLayerNorm.gamma",)
    for legacy in ({"a.gamma": "a.weight", "gamma": "weight"}, {"*.g": "w"}):
        with pytest.raises(OptionError):
            NameTable([same("a", "x")], legacy=legacy)


def test_weight_norm_is_what_torch_calls_it():
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(4, 6, 3), dim=2)
    ours = NameTable([weight_normed("conv", "c")]).load({f"conv.{k}": v for k, v in layer.state_dict().items()}).tensors
    assert torch.equal(torch._weight_norm(ours["c.weight_v"], ours["c.weight_g"], 2), layer.weight)


def test_unknown_and_ignored():
    table = NameTable([same("h.*.w", "l.*")], ignore={r".*position_ids": "counted, not learnt"})
    state = {
        "h.0.w": torch.ones(1),
        "e.position_ids": torch.ones(1),
        "h.x.w": torch.ones(1),
        "h.*.w": torch.ones(1),
        "h.01.w": torch.ones(1),
        "h.٣.w": torch.ones(1),
    }
    loaded = table.load(state)
    assert loaded.ignored == {"e.position_ids": "counted, not learnt"}
    assert loaded.unknown == ("h.x.w", "h.*.w", "h.01.w", "h.٣.w")
    assert table.under("b.").load({"b.e.position_ids": torch.ones(1), "e.position_ids": torch.ones(1)}).unknown == ("e.position_ids",)
    with pytest.raises(OptionError, match="regular expression"):
        NameTable([], ignore={"(": "no"})


def test_only_known_tensors_are_read():
    class Once(dict):
        def __getitem__(self, name):
            assert name != "skip" and name != "strange"
            return super().__getitem__(name)

    state = Once({"a": torch.ones(1), "skip": torch.ones(1), "strange": torch.ones(1)})
    assert NameTable([same("a", "x")], ignore={"skip": "not read"}).load(state).unknown == ("strange",)


@pytest.mark.parametrize(
    ("entry", "state", "message"),
    [
        (stacked(("q", "k", "v"), "qkv"), {"q.weight": torch.ones(2, 2), "v.weight": torch.ones(2, 2)}, "without 'k.weight'"),
        (stacked(("q", "k"), "qk"), {"q": torch.ones(2, 2), "k": torch.ones(3, 2)}, "shape or dtype"),
        (stacked(("q", "k"), "qk"), {"q": torch.ones(2), "k": torch.ones(2).half()}, "shape or dtype"),
        (stacked(("q", "k"), "qk"), {"q": torch.tensor(1.0), "k": torch.tensor(1.0)}, "equal parts"),
        (fused("a", "x", "y"), {"a.weight": torch.ones(3, 2)}, "2 equal parts"),
        (fused("a", "x", "y", flipped=True), {"a.weight": torch.ones(2, 3)}, "2 equal parts"),
        (flipped("a", "x"), {"a.weight": torch.ones(2)}, "two axes"),
    ],
)
def test_misfits_are_errors(entry, state, message):
    with pytest.raises(CheckpointError, match=message):
        NameTable([entry]).load(state)


def test_all_misfits_are_in_one_error():
    table = NameTable([stacked(("a.*.q", "a.*.k"), "qk.*")])
    with pytest.raises(CheckpointError) as caught:
        table.load({f"a.{i}.q": torch.ones(1) for i in range(50)})
    assert "a.0.k" in str(caught.value) and "a.19.k" in str(caught.value) and "and 30 more" in str(caught.value)


def test_saving_what_no_entry_writes_or_is_incomplete():
    table = NameTable([fused("a.*", "x.*", "y.*"), tied("t", "x.0")])
    with pytest.raises(CheckpointError, match=r"(?s)no entry writes our 'z'.*without 'y.0'"):
        table.save({"z": torch.ones(1), "x.0": torch.ones(1)})
    ours = table.load({"a.0": torch.arange(4)}).tensors
    assert sorted(table.save(ours, tied=["t"])) == ["a.0", "t"]
    for name in ("a.0", "nothing", "t.weight"):
        with pytest.raises(CheckpointError, match="no second name"):
            table.save(ours, tied=[name])


def test_tied_tensors():
    table = NameTable([same("wte", "tokens"), tied("lm_head", "tokens")])
    weight = torch.tensor([[1.0, float("nan")]])
    assert table.load({"wte.weight": weight}).tied == ()
    loaded = table.load({"wte.weight": weight, "lm_head.weight": weight.clone()})
    assert loaded.tied == ("lm_head.weight",) and loaded.tensors["tokens.weight"] is weight
    assert table.load({"lm_head.weight": weight}).tensors["tokens.weight"] is weight
    for other in (weight + 1, weight.double(), weight.reshape(2, 1)):
        with pytest.raises(CheckpointError, match="second name"):
            table.load({"wte.weight": weight, "lm_head.weight": other})


def test_head_beside_body():
    body, head = (
        NameTable([same("h.*.w", "l.*.w")], legacy={"old": "w"}, ignore={"junk": "junk"}),
        NameTable([same("classifier", "linear")]),
    )
    whole = body.under("bert.", "body.").join(head.under("", "head."))
    state = {"bert.h.0.w": torch.rand(2), "classifier.weight": torch.rand(2, 2), "bert.junk": torch.rand(1), "junk": torch.rand(1)}
    loaded = whole.load(state)
    assert sorted(loaded.tensors) == ["body.l.0.w", "head.linear.weight"] and loaded.unknown == ("junk",)
    assert equal(whole.save(loaded.tensors), {n: state[n] for n in ("bert.h.0.w", "classifier.weight")})
    with pytest.raises(OptionError, match="could be one name"):
        body.join(body)
    with pytest.raises(OptionError, match="differently"):
        body.join(NameTable([], legacy={"old": "v"}))
    with pytest.raises(OptionError, match="full stop"):
        body.under("bert")


def test_hostile_names_end_soon():
    names = [".".join(["7"] * 50_000), "9" * 100_000, "." * 50_000, "a" * 100_000 + ".gamma", "\x00\ud800\n"]
    loaded = NameTable([same("a.*", "x.*")], legacy={"gamma": "weight"}, ignore={r"b\..*": "b"}).load({n: torch.ones(1) for n in names})
    assert loaded.unknown == tuple(names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_large_tensors_are_stacked_as_small_ones(dtype: torch.dtype) -> None:
    parts = {name: torch.randn(200, 180).mul(100).to(dtype) for name in ("q", "k", "v")}
    joined = NameTable([stacked(("q", "k", "v"), "qkv")]).load({f"{name}.weight": x for name, x in parts.items()}).tensors["qkv.weight"]
    assert joined.dtype == dtype and torch.equal(joined, torch.cat([parts["q"], parts["k"], parts["v"]]))
    assert not torch.equal(joined, torch.cat([parts["k"], parts["q"], parts["v"]]))  # control
    joined[0] = 0
    assert parts["q"][0].any()  # a copy


def test_what_is_read_by_others_is_waited_for() -> None:
    class Later(dict[str, torch.Tensor]):
        """Joins into memory that is filled when it is waited for."""

        made: torch.Tensor | None = None

        def joined(self, names: Sequence[str]) -> torch.Tensor:
            self.made = torch.zeros(6, 3)
            return self.made

        def filled(self) -> None:
            if self.made is not None:
                self.made.fill_(7)

    state = Later({f"{name}.weight": torch.ones(2, 3) for name in ("q", "k", "v")})
    table = NameTable([stacked(("q", "k", "v"), "qkv")])
    assert table.load(state).tensors["qkv.weight"].eq(7).all()
