"""Parity with the incumbent's T5 1.0, T5 1.1 and mT5 at 1e-5 (1e-10 in float64), weights from N(0, 0.25), both ways; the reference runs row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.mt5.modeling_mt5 import MT5LayerNorm
from transformers.models.t5.modeling_t5 import T5Attention, T5LayerNorm

from conformance.kit import task_with
from nabi import checkpoint, families
from nabi.batch import Batch, Row, batch_of
from nabi.errors import CheckpointError, InputError, OptionError
from nabi.nn import distances
from nabi.nn.attention import Attention, CrossAttention
from nabi.nn.body import Run
from nabi.nn.distances import buckets
from nabi.nn.heads import HeadSpec
from parity.kit import CONTROL, TOLERANCE, gap

GATED = {"feed_forward_proj": "gated-gelu"}
KINDS: Mapping[str, tuple[str, dict[str, Any]]] = {  # model_type and settings
    "1.0": ("t5", {}),
    "1.1": ("t5", {**GATED, "tie_word_embeddings": False}),
    "gated-silu": ("t5", {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False}),
    "mt5": ("mt5", GATED),
}
SIZES = {"vocab_size": 60, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
BUCKETS = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
TEXTS, TARGETS = (7, 1, 19, 3, 40, 12, 12), (5, 9, 2, 30, 11, 11, 1)
HF = families.find("t5").hf
assert HF is not None
HEADS = [(kind, kinds) for kind in ("1.0", "1.1", "mt5") for kinds in HF.heads]


def theirs(kind: str, end: str, folder: Path, tokenizer: Path, **settings: Any) -> Any:
    """A model of the incumbent with all weights from N(0, 0.25), a norm's around 1, the head's table its own but for 1.0; saved with a tokenizer."""
    model_type, keys = KINDS[kind]
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES, **BUCKETS, **keys, **settings})
    made = getattr(transformers, {"t5": "T5", "mt5": "MT5"}[model_type] + end)(config).eval()
    if hasattr(made, "lm_head") and kind != "1.0":
        made.lm_head.weight = nn.Parameter(torch.empty(60, 32))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.25 + ("layer_norm" in name))
    made.save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return made


def rows(targets: bool = True) -> list[Row]:
    """Ragged texts, each closed by the end token 1, and targets of other lengths."""
    g = torch.Generator().manual_seed(1)
    made = []
    for i, (n, m) in enumerate(zip(TEXTS, TARGETS, strict=True)):
        parts = {"text": {"tokens": [*torch.randint(5, 60, (n - 1,), generator=g).tolist(), 1]}}
        target = {"tokens": [0, *torch.randint(5, 60, (m - 1,), generator=g).tolist()]}
        made.append(Row({**parts, "target": target} if targets else parts, example=i))
    return made


def batch(given: list[Row]) -> Batch:
    return batch_of(given, range(len(given)), {})


def inputs(row: Row) -> dict[str, Tensor]:
    """One row as the incumbent reads it."""
    names = {"text": "input_ids", "target": "decoder_input_ids"}
    return {names[part]: torch.tensor([streams["tokens"]]) for part, streams in row.parts.items()}


def hidden(model: Any, given: list[Row]) -> dict[str, Tensor]:
    """What the incumbent's bare model says, row by row, packed."""
    found = [model(**inputs(row)) for row in given]
    return {"text": torch.cat([x.encoder_last_hidden_state[0] for x in found]), "target": torch.cat([x.last_hidden_state[0] for x in found])}


def logits(model: Any, kind: str, given: list[Row]) -> Tensor:
    """What the incumbent's head says, row by row, packed."""
    found = [model(**inputs(row)) for row in given]
    if kind == "row":
        return torch.cat([x.logits for x in found])
    return torch.cat([x.logits[0] if kind != "span" else torch.stack([x.start_logits, x.end_logits], -1)[0] for x in found])


def opened(folder: Path, kinds: tuple[str, ...], seed: int | None = None, outputs: int = 2) -> Any:
    """Our model of a folder, its task nothing but the heads."""
    task = task_with(kinds, 60 if kinds == ("vocabulary",) else outputs)
    return checkpoint.Folder(folder).model(task, task.Settings(), "cpu", seed)


def same_files(a: Path, b: Path) -> bool:
    """Whether two folders hold the same names and the same bits."""
    x, y = (load_file(folder / "model.safetensors") for folder in (a, b))
    return x.keys() == y.keys() and all(torch.equal(x[n].view(torch.uint8), y[n].view(torch.uint8)) for n in x)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("count", "furthest"), [(32, 128), (8, 20), (7, 9), (64, 40), (4, 300)])
def test_the_buckets_are_the_incumbents(causal: bool, count: int, furthest: int) -> None:
    distance = torch.arange(-300, 301)

    def wanted(count: int) -> Tensor:
        found: Tensor = T5Attention._relative_position_bucket(distance, not causal, count, furthest)
        return found

    found = buckets(causal, count, furthest, torch.device("cpu"))[distance.clamp(-furthest, furthest) + furthest]
    assert torch.equal(found, wanted(count)) and not torch.equal(found, wanted(count + 4))


def test_buckets_that_the_formula_cant_fill_are_refused() -> None:
    for count, furthest in ((3, 128), (32, 8)):
        with pytest.raises(OptionError, match="too few buckets"):
            buckets(False, count, furthest, torch.device("cpu"))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_hidden_states(kind: str, tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both stacks, in float64 too; the incumbent's norm, which squares in float32 whatever comes in, then squares in float64."""
    model, given = theirs(kind, "Model", tmp_path, tokenizer), rows()
    body: Any = checkpoint.load_body(tmp_path)
    real = buckets
    for dtype, tolerance in ((torch.float32, TOLERANCE), (torch.float64, 1e-10)):
        with monkeypatch.context() as patch:
            if dtype == torch.float64:
                for norm in (T5LayerNorm, MT5LayerNorm):
                    patch.setattr(norm, "forward", lambda self, x: self.weight * (x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()))
            wanted = hidden(model.to(dtype), given)
        body.to(dtype)
        gaps = {part: gap(x.values, wanted[part]) for part, x in body(batch(given)).items()}
        with monkeypatch.context() as patch:
            patch.setattr(distances, "buckets", lambda causal, count, furthest, device: real(causal, count - 2, furthest, device))
            wrong = {f"six buckets, {part}": gap(x.values, wanted[part]) for part, x in body(batch(given)).items()}
        attentions = [m for m in body.modules() if isinstance(m, Attention | CrossAttention)]
        for m in attentions:
            m.scale = None
        wrong |= {f"scaled scores, {part}": gap(x.values, wanted[part]) for part, x in body(batch(given)).items()}
        for m in attentions:
            m.scale = 1.0
        print(f"{kind}, {dtype}:", {n: f"{x:.1e}" for n, x in (gaps | wrong).items()})
        assert len(gaps) == 2 and max(gaps.values()) <= tolerance and min(wrong.values()) >= 100 * tolerance, (gaps, wrong)


@pytest.mark.parametrize(("kind", "kinds"), HEADS, ids=lambda x: x if isinstance(x, str) else "+".join(x))
def test_heads_and_gradients_both_ways(kind: str, kinds: tuple[str, ...], tmp_path: Path, tokenizer: Path) -> None:
    """Logits and every gradient; saved back bit-equal; our folder, changed, opens there with equal logits."""
    assert HF is not None
    (head,), (end, _) = kinds, HF.heads[kinds]
    model = theirs(kind, end, tmp_path / "theirs", tokenizer, num_labels=2)
    given = rows(targets=head == "vocabulary")
    wanted, ours = logits(model, head, given), opened(tmp_path / "theirs", kinds)
    run, built = Run(ours.body), getattr(ours.task, head)
    found = built.read(run, batch(given))
    turned = [Row({part: {"tokens": list(reversed(x["tokens"]))} for part, x in row.parts.items()}) for row in given]
    control = {"turned rows": gap(built.read(run, batch(turned)), wanted), "outputs exchanged": gap(found.flip(1), wanted)}
    if head == "vocabulary":
        x, table = run(batch(given))["target"].values, ours.body.embeddings.tokens
        tied = table.scores(x * 32**-0.5)
        control["not scaled" if kind == "1.0" else "tied"] = gap(table.scores(x) if kind == "1.0" else tied, wanted)
        assert kind != "1.0" or gap(tied, wanted) <= TOLERANCE
    near = gap(found.detach(), wanted.detach())
    assert near <= TOLERANCE and min(control.values()) >= CONTROL, (near, control)

    label = torch.arange(len(wanted)) % 2
    F.cross_entropy(wanted, label).backward()
    F.cross_entropy(found, label).backward()
    theirs_by_name = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    table = checkpoint.name_table(ours.origin.family, kinds, "" if kinds in HF.bare else HF.prefix, ours.body.heads)
    ours_by_name = table.save({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    assert ours_by_name.keys() == theirs_by_name.keys()
    scale = max(1.0, *(float(g.abs().max()) for g in theirs_by_name.values()))
    gaps = {name: float((ours_by_name[name] - g).abs().max()) / scale for name, g in theirs_by_name.items()}
    print(f"{kind} {head}: logits {near:.1e}, gradients {max(gaps.values()):.1e}; controls", {n: f"{x:.1e}" for n, x in control.items()})
    assert max(gaps.values()) <= TOLERANCE, max(gaps, key=gaps.__getitem__)

    with torch.no_grad():
        checkpoint.save(ours, tmp_path / "again")
        assert same_files(tmp_path / "theirs", tmp_path / "again")
        for p in ours.parameters():
            p.mul_(1.01)
        checkpoint.save(ours, tmp_path / "ours")
        config = json.loads((tmp_path / "ours" / "config.json").read_text())
        assert config["model_type"] == KINDS[kind][0] and config["architectures"] == [HF.types[config["model_type"]] + end]
        there, report = getattr(transformers, config["architectures"][0]).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not any(report.values()), report
        assert gap(logits(there.eval(), head, given), built.read(run, batch(given))) <= TOLERANCE
        assert gap(logits(there.eval(), head, given), wanted) >= CONTROL  # control: the unchanged weights


@pytest.mark.parametrize("kind", ["1.0", "1.1"])
@torch.no_grad()
def test_a_ragged_continuation_is_the_incumbents_one_pass(kind: str, tmp_path: Path, tokenizer: Path) -> None:
    model, given = theirs(kind, "Model", tmp_path, tokenizer), rows()
    wanted = hidden(model, given)["target"].split(TARGETS)
    body = checkpoint.load_body(tmp_path)
    for right in (True, False):
        cache, gaps = body.begin(batch(given), reserve=4), []
        order, done = list(range(len(given))), [0] * len(given)
        for step in (1, 3, 2, 40):
            left = [at for at, i in enumerate(order) if done[i] < TARGETS[i]]
            cache.reorder(left)
            order = [order[at] for at in left]
            ends = [min(TARGETS[i], done[i] + step + i % 2) for i in order]
            piece = batch([Row({"target": {"tokens": given[i].parts["target"]["tokens"][done[i] : e]}}) for i, e in zip(order, ends, strict=True)])
            piece = piece.after(cache) if right else piece
            found = body(piece, cache)["target"].values.split(piece.parts["target"].layout.lengths)
            gaps += [gap(x, wanted[i][done[i] : e]) for x, i, e in zip(found, order, ends, strict=True)]
            for i, e in zip(order, ends, strict=True):
                done[i] = e
        assert done == list(TARGETS)
        assert (max(gaps) <= TOLERANCE) if right else (max(gaps) >= CONTROL), gaps  # control: every piece from position 0


@pytest.mark.parametrize("kind", ["1.0", "1.1", "mt5"])
@torch.no_grad()
def test_folders_of_older_versions(kind: str, tmp_path: Path, tokenizer: Path) -> None:
    """All names of the embedding table, a config that says tied or not and nothing of scaling: read right, saved under the same names."""
    model = theirs(kind, "ForConditionalGeneration", tmp_path / "new", tokenizer)
    theirs(kind, "ForConditionalGeneration", tmp_path / "old", tokenizer)
    file, config = tmp_path / "old" / "model.safetensors", json.loads((tmp_path / "old" / "config.json").read_text())
    tensors = load_file(file)
    shared, head = tensors["shared.weight"], tensors.get("lm_head.weight", tensors["shared.weight"])
    save_file({**tensors, "lm_head.weight": head.clone(), **{f"{s}.embed_tokens.weight": shared.clone() for s in ("encoder", "decoder")}}, file)
    config.pop("scale_decoder_outputs", None)
    config["tie_word_embeddings"] = kind == "1.0"
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    given = rows()
    wanted = logits(model, "vocabulary", given)
    for folder in ("new", "old"):
        ours: Any = opened(tmp_path / folder, ("vocabulary",))
        assert ours.origin.config.tied is ours.origin.config.scaled is (kind == "1.0")
        assert gap(ours.task.vocabulary.read(Run(ours.body), batch(given)), wanted) <= TOLERANCE
        checkpoint.save(ours, tmp_path / f"{folder} again")
        assert same_files(tmp_path / folder, tmp_path / f"{folder} again")
    assert not same_files(tmp_path / "new", tmp_path / "old")
    save_file({**load_file(file), "encoder.embed_tokens.weight": shared + 1}, file)
    with pytest.raises(CheckpointError, match="should be a second name"):
        opened(tmp_path / "old", ("vocabulary",))


@torch.no_grad()
def test_an_encoder_alone(tmp_path: Path, tokenizer: Path) -> None:
    """The incumbent's encoder as a body, also where an older config calls it an encoder-decoder; it can't write."""
    model, given = theirs("1.1", "EncoderModel", tmp_path, tokenizer), rows(targets=False)
    wanted = torch.cat([model(**inputs(row)).last_hidden_state[0] for row in given])
    for said in (False, True):
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "is_encoder_decoder": said}))
        body: Any = checkpoint.load_body(tmp_path)
        found = body(batch(given))
        assert set(found) == {"text"} == set(body.embed(batch(given))) and set(body.heads) == {"token"}
        assert gap(found["text"].values, wanted) <= TOLERANCE and gap(found["text"].values.flip(0), wanted) >= CONTROL
        with pytest.raises(InputError, match="keeps no past"):
            body.begin(batch(given), 4)


def test_tagging_takes_the_encoder_of_a_whole_checkpoint(tmp_path: Path, tokenizer: Path) -> None:
    """A fresh head on its encoder; every parameter has a gradient, and the folder opens there as a tagger."""
    model, given = theirs("1.0", "ForConditionalGeneration", tmp_path / "theirs", tokenizer), rows(targets=False)
    ours = opened(tmp_path / "theirs", ("token",), seed=0)
    ours.task.token.read(Run(ours.body), batch(given)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in ours.parameters())
    assert "decoder.0.attention.qkv.weight" in dict(checkpoint.load_body(tmp_path / "theirs").named_parameters())  # control: the whole has one
    with torch.no_grad():
        text = torch.cat([model.encoder(inputs(row)["input_ids"]).last_hidden_state[0] for row in given])
        assert gap(ours.body(batch(given))["text"].values, text) <= TOLERANCE
        checkpoint.save(ours, tmp_path / "ours")
        there, report = transformers.T5ForTokenClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not any(report.values()) and not there.config.is_encoder_decoder
        assert gap(logits(there.eval(), "token", given), ours.task.token.read(Run(ours.body), batch(given))) <= TOLERANCE


@pytest.mark.parametrize(("kind", "end", "kinds"), [("1.0", "ForSequenceClassification", ("row",)), ("1.1", "ForTokenClassification", ("token",))])
@torch.no_grad()
def test_dropout_is_at_the_incumbents_places(
    kind: str, end: str, kinds: tuple[str, ...], tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a factor in place of chance, everywhere but on the attention weights."""
    model, given = theirs(kind, end, tmp_path, tokenizer, num_labels=2, classifier_dropout=0.3), rows(targets=False)
    ours = opened(tmp_path, kinds)
    for m in ours.modules():
        if isinstance(m, Attention | CrossAttention):
            assert m.attention_dropout == m.dropout == 0.1
            m.attention_dropout = 0.0
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x * (1 + self.p) if self.training else x)
    for place in ("nabi.nn.linear.drop", "nabi.nn.heads.drop", "nabi.families.t5.dropout"):
        monkeypatch.setattr(place, lambda x, p, training: x * (1 + p) if training else x)
    monkeypatch.setattr("nabi.nn.linear.dropout_add", lambda x, add, p: x * (1 + p) + add)
    model.train()
    for m in model.modules():
        if type(m).__name__ == "T5Attention":
            m.eval()
    wanted = logits(model, kinds[0], given)
    head = getattr(ours.task, kinds[0])
    still = head.read(Run(ours.body), batch(given))
    ours.train()
    assert gap(head.read(Run(ours.body), batch(given)), wanted) <= TOLERANCE and gap(still, wanted) >= CONTROL
    ours.body.encoder[0].feed_forward.inner_dropout = None
    assert gap(head.read(Run(ours.body), batch(given)), wanted) >= CONTROL


def test_a_config_that_contradicts_itself_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    theirs("1.0", "Model", tmp_path, tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    bare = {k: v for k, v in config.items() if k not in ("dense_act_fn", "is_gated_act")}
    wrong = (("dense_act_fn", "silu", "contradicts"), ("is_decoder", True, "computes only False"), ("feed_forward_proj", "twice-relu", "feed-forward"))
    for key, value, said in wrong:
        (tmp_path / "config.json").write_text(json.dumps({**bare, key: value}))
        with pytest.raises(CheckpointError, match=said):
            checkpoint.load_body(tmp_path)


def test_every_size_has_its_published_count() -> None:
    """Parameters of the published checkpoints, in millions, with their own head where they have one."""
    published = {"small": 60.5, "base": 222.9, "v1.1-base": 247.6, "mt5-small": 300.2}
    for size, millions in published.items():
        config = families.find("t5").sizes[size]
        with torch.device("meta"):
            body: Any = families.build(families.find("t5"), config)
        head = 0 if config.tied else config.vocab_size * config.hidden_size
        assert abs((sum(p.numel() for p in body.parameters()) + head) / 1e6 - millions) < 0.06, size
    spec: HeadSpec = body.heads["vocabulary"]
    assert spec.tied_to is None and not spec.scaled
