"""Parity with the incumbent's BART and Marian at 1e-5 (float64: 1e-10), weights from N(0, 0.25), both ways; the model of 2017 against torch's own layers.

The incumbent reads one row at a time, so none of its padding is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from blocks import filled
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conformance.kit import body_of, randomised, task_with
from nabi import checkpoint, families, load
from nabi.batch import Batch, Row, batch_of
from nabi.errors import CheckpointError
from nabi.families import marian, transformer
from nabi.inputs import Inputs
from nabi.model import Model, Origin
from nabi.nn.body import Run
from nabi.nn.heads import Head
from nabi.nn.positions import sinusoids
from parity.kit import CONTROL, TOLERANCE, gap

EOS, VOCAB = 2, 60
SIZES = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 40,
    "scale_embedding": True,
    "pad_token_id": 1,
    "eos_token_id": EOS,
    "forced_eos_token_id": EOS,
    "decoder_start_token_id": 3,  # not the padding, whose vector the incumbent never trains
}
CASES = {"bart": {}, "marian": {"activation_function": "swish"}}
LENGTHS, TARGETS = (7, 2, 19, 3, 38, 12, 12), (3, 30, 2, 12, 1, 12, 9)
HEADS = [(family, kinds) for family in CASES for kinds in families.find(family).hf.heads]  # type: ignore[union-attr]


def theirs(family: str, end: str, folder: Path, tokenizer: Path, **settings: Any) -> Any:
    """A model of the incumbent with all weights from N(0, 0.25), its sinusoids as they were, saved in ``folder`` with a tokenizer."""
    hf = families.find(family).hf
    assert hf is not None
    config = transformers.AutoConfig.for_model(family, **{**SIZES, **CASES[family], **settings})
    made = randomised(getattr(transformers, hf.types[family] + end)(config)).eval()
    with torch.no_grad():
        for name, module in made.named_modules():
            if name.endswith("embed_positions") and hasattr(module, "create_weight"):
                module.weight.copy_(module.create_weight())
        if hasattr(made, "final_logits_bias"):
            made.final_logits_bias.copy_(torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(5)))
    made.save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return made


def rows(targets: bool = True) -> list[Row]:
    """Ragged rows that end with the end token, which comes twice in one of them; targets of other lengths."""
    g = torch.Generator().manual_seed(1)
    made = []
    for i, (n, m) in enumerate(zip(LENGTHS, TARGETS, strict=True)):
        text, target = (torch.randint(5, VOCAB, (size,), generator=g).tolist() for size in (n, m))
        text[-1] = EOS
        parts = {"text": {"tokens": text}, **({"target": {"tokens": target}} if targets else {})}
        made.append(Row(parts, example=i))  # type: ignore[arg-type]
    return made


def batch(given: Sequence[Row]) -> Batch:
    return batch_of(given, range(len(given)), {})


def one_by_one(model: Any, given: Sequence[Row], **more: Any) -> list[Any]:
    """The incumbent's outputs, row by row; without a target it shifts the text itself, where its class does that."""
    outputs = []
    for row in given:
        names = {"text": "input_ids", "target": "decoder_input_ids"}
        fed = {names[part]: torch.tensor([list(streams["tokens"])]) for part, streams in row.parts.items()}
        outputs.append(model(**fed, **more))
    return outputs


def layers_of(body: Any, given: Batch) -> dict[str, list[Tensor]]:
    """What enters the first layer and what each layer gives, of both stacks."""
    seen = {role: [x.values] for role, x in body.embed(given).items()}
    kept = {layer: layer.forward for layer in body.decoder}
    hooks = [layer.register_forward_hook(lambda m, _, out: seen["text"].append(out)) for layer in body.encoder]
    for layer, forward in kept.items():
        layer.forward = lambda *args, forward=forward: seen["target"].append(forward(*args)) or seen["target"][-1]
    body(given)
    for hook in hooks:
        hook.remove()
    for layer in kept:
        del layer.forward
    return seen


def from_position_one(given: Batch) -> Batch:
    """All positions one later."""
    parts = {
        role: replace(part, layout=part.layout.continued(torch.ones(len(part.layout), dtype=torch.int64))) for role, part in given.parts.items()
    }
    return Batch(parts)


@contextmanager
def exchanged(body: Any, family: str) -> Iterator[None]:
    """Positions that are wrong: sines and cosines interleaved, or tables without their two first rows."""
    if family == "marian":
        right, marian.sinusoids = marian.sinusoids, lambda positions, size, interleaved: sinusoids(positions, size, interleaved=True)
        yield
        marian.sinusoids = right
    else:
        tables = [body.embeddings.text.positions, body.embeddings.target.positions]
        for table in tables:
            table.weight.data = table.weight.roll(2, 0)
        yield
        for table in tables:
            table.weight.data = table.weight.roll(-2, 0)


@contextmanager
def unscaled(body: Any) -> Iterator[None]:
    right, body.embeddings.scale = body.embeddings.scale, 1.0
    yield
    body.embeddings.scale = right


@pytest.mark.parametrize("family", CASES)
@torch.no_grad()
def test_hidden_states_of_both_stacks(family: str, tmp_path: Path, tokenizer: Path) -> None:
    """Embeddings and all layers, in float64 too, where formulas that are nearly the same are told apart."""
    for dtype, tolerance in ((torch.float32, TOLERANCE), (torch.float64, 1e-10)):
        model = theirs(family, "Model", tmp_path / str(dtype), tokenizer).to(dtype)
        outputs, given = one_by_one(model, rows(), output_hidden_states=True), batch(rows())
        wanted = {
            role: [torch.cat([x[0] for x in layer]) for layer in zip(*(out[f"{stack}_hidden_states"] for out in outputs), strict=True)]
            for role, stack in (("text", "encoder"), ("target", "decoder"))
        }
        body: Any = checkpoint.load_body(tmp_path / str(dtype)).to(dtype)
        found = layers_of(body, given)
        gaps = [gap(a, b) for role in wanted for a, b in zip(found[role], wanted[role], strict=True)]
        controls = {"positions from 1": body(from_position_one(given))}
        with exchanged(body, family):
            controls["other positions"] = body(given)
        with unscaled(body):
            controls["no scale"] = body(given)
        report = {f"{name}, {role}": gap(x[role].values, wanted[role][-1]) for name, x in controls.items() for role in wanted}
        print(f"{family}, {dtype}: {max(gaps):.1e}; controls", {name: f"{x:.1e}" for name, x in report.items()})
        assert len(gaps) == 7 and max(gaps) <= tolerance and min(report.values()) >= 100 * tolerance, (gaps, report)


@pytest.mark.parametrize(("family", "kinds"), HEADS, ids=lambda x: x if isinstance(x, str) else "+".join(x))
def test_heads_and_gradients_both_ways(family: str, kinds: tuple[str, ...], tmp_path: Path, tokenizer: Path) -> None:
    """Logits and the gradient of every parameter under their names; our folder, changed, opens there with equal logits."""
    hf = families.find(family).hf
    assert hf is not None
    (kind,) = kinds
    # names, because the incumbent's BART takes three labels where a config says nothing, and its configs say nothing of two labels without names
    model = theirs(family, hf.heads[kinds][0], tmp_path / "theirs", tokenizer, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    fed = rows(targets=kind == "vocabulary")
    given = batch(fed)

    def logits(of: Any) -> Tensor:
        outputs = one_by_one(of, fed)
        if kind == "span":
            return torch.cat([torch.stack([out.start_logits[0], out.end_logits[0]], -1) for out in outputs])
        return torch.cat([out.logits if kind == "row" else out.logits[0] for out in outputs])

    wanted = logits(model)
    task = task_with(kinds, VOCAB if kind == "vocabulary" else 2)
    ours: Any = checkpoint.Folder(tmp_path / "theirs").model(task, task.Settings(), "cpu", None)
    head: Head = getattr(ours.task, kind)
    found = head.read(Run(ours.body), given)
    controls = {"positions from 1": head.read(Run(ours.body), from_position_one(given))}
    with unscaled(ours.body):
        controls["no scale"] = head.read(Run(ours.body), given)
    if kind == "vocabulary":
        controls["no bias"] = found - head.bias
    else:
        ours.body.first = EOS
        controls["another first token"] = head.read(Run(ours.body), given)
        ours.body.first = 3
    report = {name: gap(x.detach(), wanted.detach()) for name, x in controls.items()}
    assert gap(found.detach(), wanted.detach()) <= TOLERANCE and min(report.values()) >= CONTROL, (gap(found.detach(), wanted.detach()), report)

    copy = ours.prepare("fp32")  # a tied table is packed once more in it
    assert gap(getattr(copy.task, kind).read(Run(copy.body), given).detach(), found.detach()) <= TOLERANCE

    label = torch.arange(len(wanted)) % wanted.shape[1]
    F.cross_entropy(wanted, label).backward()
    F.cross_entropy(found, label).backward()
    theirs_by_name = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    table = checkpoint.name_table(ours.origin.family, kinds, hf.prefix)
    ours_by_name = table.save({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    assert ours_by_name.keys() == theirs_by_name.keys()
    scale = max(1.0, *(float(g.abs().max()) for g in theirs_by_name.values()))
    gaps = {name: float((ours_by_name[name] - g).abs().max()) / scale for name, g in theirs_by_name.items()}
    assert max(gaps.values()) <= TOLERANCE, max(gaps, key=gaps.__getitem__)
    moved = {name: float(g.abs().max()) / scale for name, g in theirs_by_name.items()}  # control: the gradients are not near zero all over
    print(f"{family} {kind}: logits {gap(found.detach(), wanted.detach()):.1e}, gradients {max(gaps.values()):.1e}; controls", report)
    assert max(moved.values()) >= CONTROL

    with torch.no_grad():
        for p in ours.parameters():
            p.mul_(1.01)
        checkpoint.save(ours, tmp_path / "ours")
        config = json.loads((tmp_path / "ours" / "config.json").read_text())
        assert config["model_type"] == family and config["architectures"] == [hf.types[family] + hf.heads[kinds][0]]
        opened, loading = getattr(transformers, config["architectures"][0]).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not any(loading.values()), loading
        assert gap(logits(opened.eval()), head.read(Run(ours.body), given)) <= TOLERANCE
        assert gap(logits(opened.eval()), wanted) >= CONTROL  # control: the unchanged weights


@torch.no_grad()
def test_a_class_is_read_from_the_last_end_token(tmp_path: Path, tokenizer: Path) -> None:
    """A pair has several end tokens; the incumbent takes the last, which ends the row."""
    model = theirs("bart", "ForSequenceClassification", tmp_path, tokenizer, num_labels=2)
    task = task_with(("row",), 2)
    ours: Any = checkpoint.Folder(tmp_path).model(task, task.Settings(), "cpu", None)
    pairs = [Row({"text": {"tokens": tokens}}, example=i) for i, tokens in enumerate([[0, 9, EOS, EOS, 8, 7, EOS], [0, EOS, EOS, 8, EOS]])]
    wanted = torch.cat([out.logits for out in one_by_one(model, pairs)])
    assert gap(ours.task.row.read(Run(ours.body), batch(pairs)), wanted) <= TOLERANCE
    hidden = ours.body(batch(pairs))["target"]
    assert gap(ours.task.row.logits(Run(ours.body), hidden.values[[3, 9]]), wanted) >= CONTROL  # control: an end token before the last


@torch.no_grad()
def test_a_classifier_of_the_incumbents_is_one_of_ours(tmp_path: Path, tokenizer: Path) -> None:
    """The task is found by ``architectures``, label names are kept."""
    names = {"id2label": {0: "ham", 1: "나쁨"}, "label2id": {"ham": 0, "나쁨": 1}}
    model = theirs("bart", "ForSequenceClassification", tmp_path, tokenizer, **names)
    ours: Any = load(tmp_path)
    assert ours.task.name == "text_classification" and ours.task.settings.labels == ("ham", "나쁨")
    given = rows(targets=False)
    wanted = torch.cat([out.logits for out in one_by_one(model, given)])
    found = ours.task.row.read(Run(ours.body), batch(given))
    assert gap(found, wanted) <= TOLERANCE and gap(found.flip(1), wanted) >= CONTROL


@pytest.mark.parametrize("family", CASES)
def test_second_names_are_loaded_and_saved_back(family: str, tmp_path: Path, tokenizer: Path) -> None:
    """Older files write the shared table out under each of its names; a second name that differs is refused (control)."""
    hf = families.find(family).hf
    assert hf is not None
    theirs(family, hf.heads["vocabulary",][0], tmp_path / "theirs", tokenizer)
    file = tmp_path / "theirs" / "model.safetensors"
    tensors = load_file(file)
    seconds = ["lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"]
    assert not tensors.keys() & set(seconds)
    whole = {**tensors, **{name: tensors["model.shared.weight"].clone() for name in seconds}}
    save_file(whole, file, metadata={"format": "pt"})
    task = task_with(("vocabulary",), VOCAB)
    loaded = checkpoint.Folder(tmp_path / "theirs").model(task, task.Settings(), "cpu", None)
    checkpoint.save(loaded, tmp_path / "ours")
    saved = load_file(tmp_path / "ours" / "model.safetensors")
    assert saved.keys() == whole.keys() and all(torch.equal(saved[name], x) for name, x in whole.items())
    # without its first name the table is found under the second
    save_file({name: x for name, x in whole.items() if name != "model.shared.weight"}, file, metadata={"format": "pt"})
    table = checkpoint.load_body(tmp_path / "theirs").get_submodule("embeddings.tokens").weight
    assert torch.equal(table, tensors["model.shared.weight"])  # type: ignore[arg-type]
    save_file({**whole, seconds[1]: whole[seconds[1]] + 1}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="should be a second name"):
        checkpoint.load_body(tmp_path / "theirs")


@torch.no_grad()
def test_saved_sinusoids_are_left_out(tmp_path: Path, tokenizer: Path) -> None:
    """Older Marian files hold the positions, which are computed here."""
    theirs("marian", "MTModel", tmp_path, tokenizer)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    table = transformers.models.marian.modeling_marian.MarianSinusoidalPositionalEmbedding(40, 32).create_weight()
    save_file({**tensors, "model.encoder.embed_positions.weight": table}, file, metadata={"format": "pt"})
    checkpoint.load_body(tmp_path)
    assert torch.equal(sinusoids(torch.arange(40), 32, interleaved=False).float(), table)
    assert gap(sinusoids(torch.arange(40), 32, interleaved=True).float(), table) >= CONTROL


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("bart", {"encoder_layerdrop": 0.1}),
        ("bart", {"decoder_start_token_id": VOCAB}),
        ("marian", {"share_encoder_decoder_embeddings": False}),
        ("marian", {"decoder_layerdrop": 0.1}),
        ("marian", {"decoder_vocab_size": VOCAB + 1}),
        ("marian", {"normalize_embedding": True}),
        ("marian", {"tie_word_embeddings": False}),
    ],
    ids=str,
)
def test_a_config_of_other_mathematics_is_refused(family: str, changed: dict[str, Any], tmp_path: Path, tokenizer: Path) -> None:
    theirs(family, "Model", tmp_path, tokenizer)
    checkpoint.load_body(tmp_path)  # control: as it was
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    with pytest.raises(CheckpointError, match="can't be used"):
        checkpoint.load_body(tmp_path)


@pytest.mark.parametrize("family", [*CASES, "transformer"])
@torch.no_grad()
def test_beams_that_share_a_source_equal_one_pass(family: str, tmp_path: Path, tokenizer: Path) -> None:
    """Ragged beginnings, four beams a source, a reordering at each step: as one pass without a cache, and as the incumbent (or torch)."""
    if family in CASES:
        model = theirs(family, "Model", tmp_path, tokenizer)
        body: Any = checkpoint.load_body(tmp_path)
    else:
        model, body = None, body_of(family)
    sources = [row.parts["text"]["tokens"] for row in rows()[:3]]
    beams = [list(row.parts["target"]["tokens"])[:n] for row, n in zip(rows()[:3], (3, 1, 2), strict=True)]

    def of(texts: Sequence[Any], targets: Sequence[Any], source: Sequence[int]) -> Batch:
        made = [Row({"text": {"tokens": text}}, example=i) for i, text in enumerate(texts)]
        return batch([*made, *(Row({"target": {"tokens": target}}, example=i) for i, target in zip(source, targets, strict=True))])

    def run(wrong: bool) -> tuple[float, float]:
        g, source, now = torch.Generator().manual_seed(7), [0, 1, 2], [list(beam) for beam in beams]
        cache, fed, gaps = body.begin(of(sources, now, source), reserve=4), now, (0.0, 0.0)
        for step in range(4):
            piece = of(sources, fed, source).after(cache)
            found = piece.parts["target"].layout.last(body(piece, cache, keep={"target": None})["target"].values)
            whole = of(sources, now, source)
            one_pass = whole.parts["target"].layout.last(body(whole)["target"].values)
            reference = torch.stack([by_reference(model, body, sources[s], beam)[-1] for s, beam in zip(source, now, strict=True)])
            gaps = (max(gaps[0], gap(found, one_pass)), max(gaps[1], gap(found, reference)))
            width = 4 if step == 0 else 1
            parents = [i for i in range(len(now)) for _ in range(width)]
            if step:  # each source's beams in another order, some of them twice
                parents = [4 * (i // 4) + int(torch.randint(4, (), generator=g)) for i in range(len(now))]
            cache.reorder(list(range(len(now))) if wrong and step else parents)
            source = [source[p] for p in parents]
            fed = [[int(torch.randint(5, VOCAB, (), generator=g))] for _ in parents]
            now = [now[p] + t for p, t in zip(parents, fed, strict=True)]
        assert len(now) == 12 and cache.cross is not None and len(cache.cross.stamps) == 3  # twelve beams read three sources where they lie
        return gaps

    found, control = run(wrong=False), run(wrong=True)
    print(f"{family}: one pass {found[0]:.1e}, reference {found[1]:.1e}; control", [f"{x:.1e}" for x in control])
    assert max(found) <= TOLERANCE and min(control) >= CONTROL


def by_reference(model: Any, body: Any, text: Sequence[int], target: Sequence[int]) -> Tensor:
    """The decoder's last hidden values (L, W) of one row, from the incumbent or, for the model of 2017, from torch's layers."""
    if model is None:
        return by_torch(body, text, target)[1]
    found: Tensor = model(input_ids=torch.tensor([list(text)]), decoder_input_ids=torch.tensor([list(target)])).last_hidden_state[0]
    return found


def by_torch(body: Any, text: Sequence[int], target: Sequence[int]) -> tuple[Tensor, Tensor]:
    """One row through torch's own layers with this body's weights; positions are written out as in section 3.5, number by number."""
    config, table = families.find("transformer").sizes["tiny"], body.embeddings.tokens.weight
    size = config.hidden_size
    angle = torch.tensor([[p / 10000 ** (2 * i / size) for i in range(size // 2)] for p in range(max(len(text), len(target)))], dtype=torch.float64)
    places = torch.empty(len(angle), size, dtype=torch.float64)
    places[:, 0::2], places[:, 1::2] = angle.sin(), angle.cos()
    x, y = ((table[list(tokens)] * size**0.5 + places[: len(tokens)].to(table.dtype))[None] for tokens in (text, target))
    twin: Any = {"dim_feedforward": config.intermediate_size, "dropout": 0.0, "activation": "relu", "layer_norm_eps": config.norm_eps}
    twin |= {"batch_first": True, "dtype": table.dtype}
    for layer in body.encoder:
        x = copied(nn.TransformerEncoderLayer(size, config.num_heads, **twin), layer)(x)
    mask = nn.Transformer.generate_square_subsequent_mask(len(target), dtype=table.dtype)
    for layer in body.decoder:
        y = copied(nn.TransformerDecoderLayer(size, config.num_heads, **twin), layer)(y, x, tgt_mask=mask)
    return x[0], y[0]


class _Probe(nn.Module):
    """A layer of ours as tests/probe/blocks.py names its parts."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        cross = hasattr(layer, "cross")
        self.attention, self.feed_forward = layer.attention, layer.feed_forward
        self.norms = nn.ModuleList([layer.attention_norm, *([layer.cross_norm] if cross else []), layer.norm])
        if cross:
            self.q, self.kv, self.out = layer.cross.q, layer.cross.kv, layer.cross.out


def copied(theirs: nn.Module, ours: Any) -> nn.Module:
    made: nn.Module = filled(theirs, _Probe(ours))
    return made


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, TOLERANCE), (torch.float64, 1e-10)], ids=str)
@torch.no_grad()
def test_the_transformer_of_2017_is_torchs(dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    body, given = body_of("transformer").to(dtype), batch(rows())
    pairs = [by_torch(body, row.parts["text"]["tokens"], row.parts["target"]["tokens"]) for row in rows()]
    wanted = {role: torch.cat(x) for role, x in zip(("text", "target"), zip(*pairs, strict=True), strict=True)}
    gaps = [gap(body(given)[role].values, wanted[role]) for role in wanted]
    controls = {"positions from 1": body(from_position_one(given))}
    with monkeypatch.context() as patched:
        patched.setattr(transformer, "sinusoids", lambda positions, size, interleaved: sinusoids(positions, size, interleaved=False))
        controls["not interleaved"] = body(given)
    with monkeypatch.context() as patched:
        patched.setattr(transformer.math, "sqrt", lambda x: 1.0)
        controls["no scale"] = body(given)
    report = {f"{name}, {role}": gap(x[role].values, wanted[role]) for name, x in controls.items() for role in wanted}
    print(f"transformer, {dtype}: {max(gaps):.1e}; controls", {name: f"{x:.1e}" for name, x in report.items()})
    assert max(gaps) <= tolerance and min(report.values()) >= 100 * tolerance, (gaps, report)


def transformer_with(task: Any, tokenizer: Path) -> Model:
    """A tiny model of 2017 for a task, all weights from N(0, 0.25)."""
    family, built = families.find("transformer"), task(task.Settings())
    config = replace(family.sizes["tiny"], vocab_size=VOCAB, first_id=3)
    body = families.build(family, config)
    built.build(body)
    made: Model = randomised(Model(body, built, Inputs.load(tokenizer, limit=40, vocab_size=VOCAB), Origin("transformer", family, config))).eval()
    return made


@torch.no_grad()
def test_the_transformer_of_2017_is_saved_under_our_names(tmp_path: Path, tokenizer: Path) -> None:
    """The incumbent has no such class; the table is written once."""
    task = task_with(("vocabulary",), VOCAB)
    model: Any = transformer_with(task, tokenizer)
    checkpoint.save(model, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == {f"body.{name}" for name in model.body.state_dict()} and "body.embeddings.tokens.weight" in saved
    opened: Any = checkpoint.Folder(tmp_path).model(task, task.Settings(), "cpu", None)
    assert opened.origin.config == model.origin.config and opened.body.first == 3
    logits = [of.task.vocabulary.read(Run(of.body), batch(rows())) for of in (model, opened)]
    assert torch.equal(*logits) and logits[0].shape == (sum(TARGETS), VOCAB)


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("field", ["hidden_dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_of_a_config_is_heard(family: str, field: str) -> None:
    """In training the values differ from draw to draw if this one dropout is on, and do not if it is off (control); embeddings drop too."""
    still = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    for share, differ in ((0.5, True), (0.0, False)):
        config = replace(families.find(family).sizes["tiny"], **{**still, field: share}, first_id=3)
        body = randomised(families.build(families.find(family), config)).train()
        first, second = (body(batch(rows())) for _ in range(2))
        assert all(torch.equal(first[role].values, second[role].values) is not differ for role in first)
        vectors = [body.embed(batch(rows()))["target"].values for _ in range(2)]
        assert torch.equal(*vectors) is not (differ and field == "hidden_dropout")


@torch.no_grad()
def test_greedy_writing_by_the_transformer_of_2017_is_torchs() -> None:
    """Token by token with a cache, against a loop over torch's layers without one; the best token that the row lacks, or random weights repeat themselves."""
    body: Any = body_of("transformer").double()
    texts, table = [list(row.parts["text"]["tokens"]) for row in rows()[:3]], body.embeddings.tokens.weight
    head = Head(body.heads["vocabulary"], body.hidden_size, len(table), dropout=0.0, std=0.0)

    def longer(row: list[int], logits: Tensor) -> list[int]:
        return [*row, int(logits.index_fill(0, torch.tensor(row), -torch.inf).argmax())]

    def ours(first: int) -> list[list[int]]:
        written = [[first] for _ in texts]
        sources = batch([Row({"text": {"tokens": text}, "target": {"tokens": [first]}}, example=i) for i, text in enumerate(texts)])
        cache = body.begin(sources, reserve=4)
        for _ in range(8):
            now = batch([Row({"target": {"tokens": row[-1:]}}, example=i) for i, row in enumerate(written)]).after(cache)
            logits = head.logits(Run(body), body(now, cache, keep={"target": None})["target"].values)
            written = [longer(row, x) for row, x in zip(written, logits, strict=True)]
        return written

    wanted = [[body.first] for _ in texts]
    for _ in range(8):
        wanted = [longer(row, table @ by_torch(body, text, row)[1][-1]) for row, text in zip(wanted, texts, strict=True)]
    assert ours(body.first) == wanted
    # controls: the texts and the first token matter
    assert len({tuple(row) for row in wanted}) == 3 and [row[1:] for row in ours(body.first + 1)] != [row[1:] for row in wanted]
