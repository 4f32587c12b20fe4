"""Parity with the incumbent's GPT-2 and GPT, weights from N(0, 0.25): hidden states, heads both ways, tied weights, continuation, sizes.

The incumbent reads one row at a time: no padding, no mask.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from conformance.kit import randomised, task_with
from nabi import checkpoint, families
from nabi.batch import Batch, Row, batch_of
from nabi.errors import CheckpointError, MissingHeadError
from nabi.families import HF
from nabi.inspection import models
from nabi.model import Model
from nabi.nn.body import Body, Run
from nabi.nn.kernels import Pattern
from nabi.nn.linear import FeedForward, activation
from nabi.nn.losses import token_nats
from parity.kit import CONTROL, LENGTHS, TOLERANCE, gap

TYPES = [("gpt2", "gpt2"), ("gpt", "openai-gpt")]  # the family, its model_type
SIZES = {"vocab_size": 60, "hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 64, "max_positions": 43}
HEADS = [(name, kind, kinds) for name, kind in TYPES for kinds in families.find(name).hf.heads]  # type: ignore[union-attr]
TABLES = {"gpt2": "transformer.wte.weight", "openai-gpt": "transformer.tokens_embed.weight"}


def hf_of(family: str) -> HF:
    found = families.find(family).hf
    assert found is not None
    return found


def theirs(family: str, model_type: str, end: str, folder: Path, tokenizer: Path, **settings: Any) -> Any:
    """A model of the incumbent with all weights from N(0, 0.25), saved in ``folder`` with a tokenizer."""
    hf = hf_of(family)
    keys = {key: SIZES[name] for key, name in hf.fields.items() if name in SIZES}
    config = transformers.AutoConfig.for_model(model_type, **{**keys, **settings})
    made = randomised(getattr(transformers, hf.types[model_type] + end)(config)).eval()
    made.save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return made


def of_folder(folder: Path, kinds: tuple[str, ...], outputs: int) -> Model:
    """The folder with these heads."""
    task = task_with(kinds, outputs)
    return checkpoint.Folder(folder).model(task, task.Settings(), "cpu", None)


def outputs_of(kind: str) -> int:
    return SIZES["vocab_size"] if kind == "vocabulary" else 2


def rows() -> list[list[int]]:
    g = torch.Generator().manual_seed(1)
    return [torch.randint(5, 60, (n,), generator=g).tolist() for n in LENGTHS]


def packed(texts: list[list[int]]) -> Batch:
    made = [Row({"text": {"tokens": tokens}}, example=i) for i, tokens in enumerate(texts)]
    return batch_of(made, range(len(made)), {})


def outputs(model: Any, **settings: Any) -> list[Any]:
    """What the incumbent says to each row alone."""
    return [model(input_ids=torch.tensor([tokens]), **settings) for tokens in rows()]


def logits_of(model: Any, kind: str) -> Tensor:
    """The incumbent's logits, (N, C) or (T, C)."""
    found = outputs(model)
    if kind == "span":
        return torch.cat([torch.stack([out.start_logits[0], out.end_logits[0]], -1) for out in found])
    return torch.cat([out.logits if kind == "row" else out.logits[0] for out in found])


def shifted(given: Batch) -> Batch:
    """Positions from 1."""
    part = given.parts["text"]
    return Batch({"text": replace(part, layout=part.layout.continued(torch.ones(len(part.layout), dtype=torch.int64)))})


def wrong(body: Body) -> Iterator[tuple[str, Tensor]]:
    """Hidden values of variants that are not the architecture."""
    given = packed(rows())
    yield "positions from 1", body(shifted(given))["text"].values
    layers: list[Any] = list(body.layers)  # type: ignore[arg-type]
    for layer in layers:
        layer.attention.pattern = Pattern()
    yield "not causal", body(given)["text"].values
    for layer in layers:
        layer.attention.pattern = Pattern(causal=True)
        layer.attention.qkv.weight.data = layer.attention.qkv.weight.data.T.reshape(layer.attention.qkv.weight.shape)
    yield "products as they lie in the file", body(given)["text"].values


def with_activation(body: Body, name: str) -> Tensor:
    """Hidden values with another activation."""
    for m in body.modules():
        if isinstance(m, FeedForward):
            m.act, m.fused = activation(name), name
    return body(packed(rows()))["text"].values


@pytest.mark.parametrize(("family", "model_type"), TYPES)
@torch.no_grad()
def test_hidden_states(family: str, model_type: str, tmp_path: Path, tokenizer: Path) -> None:
    """Embeddings and all layers, in float64 too, where formulas that are nearly the same are told apart."""
    for dtype, tolerance in ((torch.float32, TOLERANCE), (torch.float64, 1e-10)):
        folder = tmp_path / str(dtype)
        found = outputs(theirs(family, model_type, "Model", folder, tokenizer).to(dtype), output_hidden_states=True)
        wanted = [torch.cat([out.hidden_states[i][0] for out in found]) for i in range(4)]
        assert torch.equal(wanted[-1], torch.cat([out.last_hidden_state[0] for out in found]))
        body, given = checkpoint.load_body(folder).to(dtype), packed(rows())
        seen = [body.embed(given)["text"].values]
        hooks = [layer.register_forward_hook(lambda m, _, out, seen=seen: seen.append(out)) for layer in body.layers]  # type: ignore[union-attr,operator]
        last = body(given)["text"].values
        for hook in hooks:
            hook.remove()
        gaps = [gap(a, b) for a, b in zip([*seen[:-1], last], wanted, strict=True)]
        gelu = gap(with_activation(checkpoint.load_body(folder).to(dtype), "gelu"), wanted[-1])  # the exact formula, not the tanh one
        controls = {name: gap(x, wanted[-1]) for name, x in wrong(body)} | ({"the other GELU": gelu} if dtype is torch.float64 else {})
        print(f"{model_type}, {dtype}: {max(gaps):.1e}; the other GELU {gelu:.1e}; controls", {name: f"{x:.1e}" for name, x in controls.items()})
        assert len(gaps) == 4 and max(gaps) <= tolerance and min(controls.values()) >= 100 * tolerance, (gaps, controls)


@pytest.mark.parametrize("name", ["relu", "silu", "swish", "gelu"])
@torch.no_grad()
def test_every_activation_of_gpt(name: str, tmp_path: Path, tokenizer: Path) -> None:
    """GPT's config spells the tanh formula "gelu"; a name that its incumbent does not know is refused."""
    model = theirs("gpt", "openai-gpt", "Model", tmp_path, tokenizer, afn=name)
    wanted = torch.cat([out.last_hidden_state[0] for out in outputs(model)])
    body = checkpoint.load_body(tmp_path)
    assert gap(body(packed(rows()))["text"].values, wanted) <= TOLERANCE
    assert gap(with_activation(body, "silu" if name == "relu" else "relu"), wanted) >= CONTROL
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "afn": "gelu_new"}))
    with pytest.raises(CheckpointError, match="'afn' has an unknown value"):
        checkpoint.load_body(tmp_path)


@pytest.mark.parametrize(("family", "model_type", "kinds"), HEADS, ids=lambda x: x if isinstance(x, str) else "+".join(x))
def test_heads_and_gradients_both_ways(family: str, model_type: str, kinds: tuple[str, ...], tmp_path: Path, tokenizer: Path) -> None:
    """Logits and the gradient of every parameter under their names; our folder, changed, opens there with equal logits."""
    hf, (kind,) = hf_of(family), kinds
    model = theirs(family, model_type, hf.heads[kinds][0], tmp_path / "theirs", tokenizer, num_labels=2)
    wanted, given = logits_of(model, kind), packed(rows())
    ours = of_folder(tmp_path / "theirs", kinds, outputs_of(kind))
    head: Any = getattr(ours.task, kind)
    found = head.read(Run(ours.body), given)
    turned = packed([tokens[::-1] for tokens in rows()])
    with torch.no_grad():
        far, control = gap(found, wanted), {"other order": gap(head.read(Run(ours.body), turned), wanted), "outputs exchanged": gap(found.flip(1), wanted)}
    assert far <= TOLERANCE and min(control.values()) >= CONTROL, (far, control)

    label = torch.arange(len(wanted)) % wanted.shape[1]
    F.cross_entropy(wanted, label).backward()
    F.cross_entropy(found, label).backward()
    theirs_by_name = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    table = checkpoint.name_table(ours.origin.family, kinds, hf.prefix, ours.body.heads)
    ours_by_name = table.save({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    assert ours_by_name.keys() == theirs_by_name.keys() and "lm_head.weight" not in ours_by_name  # it is the table, which has both gradients
    scale = max(1.0, *(float(g.abs().max()) for g in theirs_by_name.values()))
    gaps = {name: float((ours_by_name[name] - g).abs().max()) / scale for name, g in theirs_by_name.items()}
    ours.zero_grad()
    F.cross_entropy(head.read(Run(ours.body), given), label.roll(1)).backward()
    others = table.save({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    control |= {"gradients of other labels": max(float((others[name] - g).abs().max()) for name, g in theirs_by_name.items()) / scale}
    print(f"{model_type} {kind}: logits {far:.1e}, gradients {max(gaps.values()):.1e}; controls", {n: f"{x:.1e}" for n, x in control.items()})
    assert max(gaps.values()) <= TOLERANCE and min(control.values()) >= CONTROL, (max(gaps, key=gaps.__getitem__), control)

    with torch.no_grad():
        for p in ours.parameters():
            p.mul_(1.01)
        checkpoint.save(ours, tmp_path / "ours")
        config = json.loads((tmp_path / "ours" / "config.json").read_text())
        assert config["model_type"] == model_type and config["architectures"] == [hf.types[model_type] + hf.heads[kinds][0]]
        opened, report = getattr(transformers, config["architectures"][0]).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not any(report.values()), report
        assert gap(logits_of(opened.eval(), kind), head.read(Run(ours.body), given)) <= TOLERANCE
        assert gap(logits_of(opened, kind), wanted) >= CONTROL  # control: the unchanged weights


# ---- tied weights ---------------------------------------------------------------------------------------------------------------------------------


def edit(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The folder's tensors after ``change``, written back."""
    tensors = change(load_file(folder / "model.safetensors"))
    save_file({name: x.contiguous().clone() for name, x in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


@pytest.mark.parametrize(("family", "model_type"), TYPES)
@pytest.mark.parametrize("both", [False, True], ids=["the table alone", "both names"])
@torch.no_grad()
def test_a_tied_head_is_written_as_it_was_read(family: str, model_type: str, both: bool, tmp_path: Path, tokenizer: Path) -> None:
    """The incumbent writes the table once, older files hold it twice."""
    model = theirs(family, model_type, "LMHeadModel", tmp_path / "theirs", tokenizer)
    written = edit(tmp_path / "theirs", lambda tensors: {**tensors, "lm_head.weight": tensors[TABLES[model_type]].clone()} if both else tensors)
    assert ("lm_head.weight" in written) is both
    ours = of_folder(tmp_path / "theirs", ("vocabulary",), SIZES["vocab_size"])
    assert not list(ours.task.parameters()) and gap(ours.task.vocabulary.read(Run(ours.body), packed(rows())), logits_of(model, "vocabulary")) <= TOLERANCE  # type: ignore[operator,union-attr]
    checkpoint.save(ours, tmp_path / "ours")
    saved = load_file(tmp_path / "ours" / "model.safetensors")
    assert saved.keys() == written.keys() and all(torch.equal(saved[name], x) for name, x in written.items())


@pytest.mark.parametrize(("family", "model_type"), TYPES)
def test_a_head_that_differs_from_its_table_is_refused(family: str, model_type: str, tmp_path: Path, tokenizer: Path) -> None:
    theirs(family, model_type, "LMHeadModel", tmp_path, tokenizer)
    edit(tmp_path, lambda tensors: {**tensors, "lm_head.weight": tensors[TABLES[model_type]].nextafter(torch.tensor(9.0))})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight.* should be a second name of our 'body\.embeddings\.tokens\.weight' but differs"):
        of_folder(tmp_path, ("vocabulary",), SIZES["vocab_size"])
    checkpoint.load_body(tmp_path)  # the body does not read it
    edit(tmp_path, lambda tensors: {**tensors, "lm_head.weight": tensors[TABLES[model_type]].clone()})
    of_folder(tmp_path, ("vocabulary",), SIZES["vocab_size"])  # control


@pytest.mark.parametrize(("family", "model_type"), TYPES)
def test_a_head_of_its_own(family: str, model_type: str, tmp_path: Path, tokenizer: Path) -> None:
    """Under tie_word_embeddings: false the head has a weight of its own, with a gradient of its own, and both ways."""
    kinds, given = ("vocabulary",), packed(rows())
    model = theirs(family, model_type, "LMHeadModel", tmp_path / "theirs", tokenizer, tie_word_embeddings=False)
    written = load_file(tmp_path / "theirs" / "model.safetensors")
    assert not torch.equal(written["lm_head.weight"], written[TABLES[model_type]])
    ours = of_folder(tmp_path / "theirs", kinds, SIZES["vocab_size"])
    head: Any = ours.task.vocabulary
    wanted, found = logits_of(model, "vocabulary"), head.read(Run(ours.body), given)
    tied = F.linear(ours.body(given)["text"].values, ours.body.embeddings.tokens.weight)  # type: ignore[arg-type,union-attr]
    with torch.no_grad():
        assert gap(found, wanted) <= TOLERANCE and gap(tied, wanted) >= CONTROL
    label = torch.arange(len(wanted)) % wanted.shape[1]
    F.cross_entropy(wanted, label).backward()
    F.cross_entropy(found, label).backward()
    table = checkpoint.name_table(ours.origin.family, kinds, hf_of(family).prefix, ours.body.heads)
    gradients = table.save({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    for name, p in model.named_parameters():
        assert gap(gradients[name], p.grad) <= TOLERANCE and p.grad.any(), name
    assert [*models._unused(tmp_path / "theirs", ours)] == []  # nabi doctor finds a place for each tensor

    checkpoint.save(ours, tmp_path / "same")
    saved = load_file(tmp_path / "same" / "model.safetensors")
    assert saved.keys() == written.keys() and all(torch.equal(saved[name], x) for name, x in written.items())
    with torch.no_grad():
        for p in ours.parameters():
            p.mul_(1.01)
        checkpoint.save(ours, tmp_path / "ours")
        opened, report = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not any(report.values()) and not opened.config.tie_word_embeddings, report
        assert gap(logits_of(opened.eval(), "vocabulary"), head.read(Run(ours.body), given)) <= TOLERANCE
        assert gap(logits_of(opened, "vocabulary"), wanted) >= CONTROL

    task = task_with(kinds, SIZES["vocab_size"])
    edit(tmp_path / "theirs", lambda tensors: {name: x for name, x in tensors.items() if name != "lm_head.weight"})
    with pytest.raises(MissingHeadError, match="no head for heads_only"):
        of_folder(tmp_path / "theirs", kinds, SIZES["vocab_size"])
    body = families.build(families.find(family), replace(families.find(family).sizes["tiny"], tied=False))
    assert body.heads["vocabulary"].tied_to is None and type(body).heads["vocabulary"].tied_to is not None
    built = task(task.Settings())
    built.build(body)
    assert [name for name, _ in built.named_parameters()] == ["vocabulary.out.weight"]


@pytest.mark.parametrize(("family", "model_type"), TYPES)
@pytest.mark.parametrize("bare", [False, True], ids=["under transformer.", "bare"])
@torch.no_grad()
def test_the_constants_of_old_files_are_left_out(family: str, model_type: str, bare: bool, tmp_path: Path, tokenizer: Path) -> None:
    """Files of the years of .bin hold the causal mask of each layer; GPT-2's first ones have no prefix. A neighbour of theirs is refused (control)."""
    model = theirs(family, model_type, "LMHeadModel", tmp_path, tokenizer)
    prefix = "" if bare else "transformer."
    mask = torch.ones(43, 43).tril()[None, None]
    old = {f"{prefix}h.{i}.attn.{name}": x for i in range(3) for name, x in {"bias": mask, "masked_bias": torch.tensor(-1e4)}.items()}
    if model_type == "openai-gpt":
        old = {name: x for name, x in old.items() if "masked" not in name} | {f"{prefix}position_ids": torch.arange(43)}
    edit(tmp_path, lambda tensors: {name.removeprefix("transformer." if bare else ""): x for name, x in tensors.items()} | old)
    ours = of_folder(tmp_path, ("vocabulary",), SIZES["vocab_size"])
    assert gap(ours.task.vocabulary.read(Run(ours.body), packed(rows())), logits_of(model, "vocabulary")) <= TOLERANCE  # type: ignore[operator,union-attr]
    checkpoint.save(ours, tmp_path / "ours")
    assert not any(name.endswith((".attn.bias", "masked_bias", "position_ids")) for name in load_file(tmp_path / "ours" / "model.safetensors"))
    edit(tmp_path, lambda tensors: {**tensors, f"{prefix}h.0.attn.other_bias": torch.ones(2)})
    with pytest.raises(CheckpointError, match=f"no place in {family}"):
        checkpoint.load_body(tmp_path)


# ---- writing --------------------------------------------------------------------------------------------------------------------------------------


def pieces(sizes: list[int]) -> Iterator[list[list[int]]]:
    """Every row cut in ragged pieces, until the longest is at its end; a row that is at its end leaves an empty list."""
    begins = [0] * len(LENGTHS)
    for step, size in enumerate(sizes):
        last = step == len(sizes) - 1
        ends = [n if last else min(n, b + 1 + (size + 3 * i) % 5) for i, (b, n) in enumerate(zip(begins, LENGTHS, strict=True))]
        yield [tokens[b:e] for tokens, b, e in zip(rows(), begins, ends, strict=True)]
        begins = ends


def continued(body: Body, *, positions: bool = True) -> list[Tensor]:
    """Hidden values row by row of a pass in five ragged pieces; rows that end leave the cache."""
    made: list[list[Tensor]] = [[] for _ in LENGTHS]
    here, cache = list(range(len(LENGTHS))), None
    for piece in pieces([2, 4, 1, 3, 0]):
        if cache is not None and (over := [at for at, i in enumerate(here) if not piece[i]]):
            cache.release(over)
            here = [i for i in here if piece[i]]
        now = packed([piece[i] for i in here])
        if cache is None:
            cache = body.begin(now, reserve=4)
        now = now.after(cache) if positions else now
        hidden = body(now, cache)["text"].values.split(now.parts["text"].layout.lengths)
        for i, values in zip(here, hidden, strict=True):
            made[i].append(values)
    return [torch.cat(values) for values in made]


@pytest.mark.parametrize(("family", "model_type"), TYPES)
@torch.no_grad()
def test_a_continuation_is_the_incumbents_one_pass(family: str, model_type: str, tmp_path: Path, tokenizer: Path) -> None:
    """Ragged prompts and ragged pieces over a cache: hidden values, and the log-probability of each token after the first."""
    model = theirs(family, model_type, "LMHeadModel", tmp_path, tokenizer)
    ours = of_folder(tmp_path, ("vocabulary",), SIZES["vocab_size"])
    found = outputs(model, output_hidden_states=True)
    hidden = torch.cat([out.hidden_states[-1][0] for out in found])
    table: Any = model.get_input_embeddings().weight

    after = [torch.tensor(tokens[1:], dtype=torch.int64) for tokens in rows()]

    def nats(values: list[Tensor]) -> Tensor:
        return torch.cat([token_nats(x[:-1], table, None, tokens) for x, tokens in zip(values, after, strict=True) if len(tokens)])

    wanted = torch.cat([F.cross_entropy(out.logits[0, :-1], tokens, reduction="none") for out, tokens in zip(found, after, strict=True)])
    whole = list(ours.body(packed(rows()))["text"].values.split(list(LENGTHS)))
    assert [len(x) for x in continued(ours.body)] == list(LENGTHS)
    report = {
        "in pieces": (gap(torch.cat(continued(ours.body)), hidden), gap(nats(continued(ours.body)), wanted)),
        "in one": (gap(torch.cat(whole), hidden), gap(nats(whole), wanted)),
        "positions from 0 in each piece": (gap(torch.cat(lost := continued(ours.body, positions=False)), hidden), gap(nats(lost), wanted)),
    }
    print(model_type, {name: f"hidden {a:.1e}, nats {b:.1e}" for name, (a, b) in report.items()})
    right, control = [*report["in pieces"], *report["in one"]], report["positions from 0 in each piece"]
    assert max(right) <= TOLERANCE and min(control) >= CONTROL, report


# ---- sizes ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "size", "settings", "millions"),
    [
        ("gpt2", "xl", {"vocab_size": 32768}, 1529.6),  # the two of a book on training a model of code, whose tokenizer has 32,768 tokens
        ("gpt2", "small", {"vocab_size": 32768}, 111.0),
        ("gpt2", "xl", {"vocab_size": 32768, "tied": False}, 1582.1),  # control: a head of its own is 52.4 M more
        ("gpt2", "small", {}, 124.4),
        ("gpt", "base", {}, 116.5),
    ],
)
def test_parameters_in_millions(family: str, size: str, settings: dict[str, Any], millions: float) -> None:
    """Body and vocabulary head, built without memory."""
    config = replace(families.find(family).sizes[size], **settings)
    task = task_with(("vocabulary",), config.vocab_size)
    with torch.device("meta"):
        body, built = families.build(families.find(family), config), task(task.Settings())
        built.build(body)
    count = sum(p.numel() for m in (body, built) for p in m.parameters())
    print(f"{family} {size} {settings}: {count:,} parameters, {count / 1e6:.1f} M")
    assert f"{count / 1e6:.1f}" == str(millions)


OLD = {"n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "n_special": 0, "predict_special_tokens": True}
OLD |= {"initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1, "vocab_size": 50257}
OLD |= {"summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True}
PUBLISHED: dict[str, dict[str, Any]] = {  # the keys of the two config.json files as they were published
    "gpt2": OLD | {"model_type": "gpt2", "activation_function": "gelu_new", "bos_token_id": 50256, "eos_token_id": 50256},
    "gpt": OLD | {"model_type": "openai-gpt", "afn": "gelu", "n_ctx": 512, "n_positions": 512, "vocab_size": 40478},
}


@pytest.mark.parametrize(("family", "model_type"), TYPES)
def test_the_published_configs_are_the_defaults(family: str, model_type: str) -> None:
    """Every key is known; what an old file lacks is as it was then."""
    kind, data = families.find(family), PUBLISHED[family] | {"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data["model_type"] == model_type and families.config_from(kind, data, "config.json") == kind.config()
    with pytest.raises(CheckpointError, match="'n_special' is 2, but this family computes only 0"):  # tokens beside the vocabulary
        families.config_from(kind, data | {"n_special": 2}, "config.json")
    with pytest.warns(UserWarning, match="n_unheard"):
        families.config_from(kind, data | {"n_unheard": 1}, "config.json")
