"""Parity with the incumbent's DistilBERT, RoBERTa, XLM-R and CamemBERT at 1e-5, weights from N(0, 0.25), both ways; the table of heads still missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.auto import modeling_auto

from conformance.kit import randomised, task_with
from nabi import checkpoint, families, load, tasks
from nabi.batch import Batch, Row, batch_of
from nabi.errors import CheckpointError
from nabi.families import Family
from nabi.nn.body import Body, Run
from parity.kit import CONTROL, LENGTHS, TOLERANCE, gap

READERS = [name for name in families.names() if name != "bert" and (b := families.find(name).body).generates is None and b.needs.keys() == {"text"}]
TYPES = [(name, kind) for name in READERS if (hf := families.find(name).hf) for kind in hf.types]
SIZES = {"vocab_size": 60, "hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 64}
HEADS = [(name, kind, kinds) for name, kind in TYPES for kinds in families.find(name).hf.heads]  # type: ignore[union-attr]


def theirs(family: str, model_type: str, end: str, folder: Path, tokenizer: Path, **settings: Any) -> Any:
    """A model of the incumbent with all weights from N(0, 0.25), saved in ``folder`` with a tokenizer."""
    hf = families.find(family).hf
    assert hf is not None
    positions = 40 + (getattr(families.find(family).sizes["tiny"], "pad_id", -1) + 1)
    keys = {key: value for key, name in hf.fields.items() for ours, value in {**SIZES, "max_positions": positions}.items() if name == ours}
    config = transformers.AutoConfig.for_model(model_type, **{**keys, **settings})
    made = randomised(getattr(transformers, hf.types[model_type] + end)(config)).eval()
    made.save_pretrained(folder)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return made


def batch(family: str, segments: int) -> Batch:
    """Ragged rows; segments turn from 0 to ``segments`` - 1 somewhere, where the family reads them."""
    g = torch.Generator().manual_seed(1)
    rows = []
    for i, n in enumerate(LENGTHS):
        streams = {"tokens": torch.randint(5, 60, (n,), generator=g).tolist(), "segments": [0] * (n // 2) + [segments - 1] * (n - n // 2)}
        needed = families.find(family).body.needs["text"]
        rows.append(Row({"text": {name: x for name, x in streams.items() if name in needed}}, example=i))
    return batch_of(rows, range(len(rows)), {})


def padded(given: Batch, masked: bool = True) -> dict[str, Tensor]:
    """The same rows as the incumbent reads them; padded with 1, RoBERTa's padding, from which it counts positions."""
    part = given.parts["text"]
    names = {"tokens": "input_ids", "segments": "token_type_ids"}
    found = {
        names[s]: torch.nn.utils.rnn.pad_sequence(x.split(part.layout.lengths), batch_first=True, padding_value=1 if s == "tokens" else 0)
        for s, x in part.streams.items()
    }
    mask = torch.arange(max(LENGTHS))[None] < part.layout.sizes[:, None]
    return {**found, "attention_mask": mask.long() if masked else torch.ones_like(mask).long()}


def packed(given: Batch, values: Tensor) -> Tensor:
    """(N, L, ...) of the incumbent -> (T, ...)."""
    return values[padded(given)["attention_mask"].bool()]


def segments_of(model: Any) -> int:
    return int(getattr(model.config, "type_vocab_size", 1))


def shifted(given: Batch) -> Batch:
    """Positions from 1."""
    part = given.parts["text"]
    return Batch({"text": replace(part, layout=part.layout.continued(torch.ones(len(part.layout), dtype=torch.int64)))})


@pytest.mark.parametrize(("family", "model_type"), TYPES)
@torch.no_grad()
def test_hidden_states(family: str, model_type: str, tmp_path: Path, tokenizer: Path) -> None:
    """Embeddings and all layers, in float64 too, where formulas that are nearly the same are told apart."""
    # one position more than the longest row has, so that the control's positions exist; no rule of the incumbent's depends on it
    longer = {"max_position_embeddings": 43}
    for dtype, tolerance in ((torch.float32, TOLERANCE), (torch.float64, 1e-10)):
        folder = tmp_path / str(dtype)
        model = theirs(family, model_type, "Model", folder, tokenizer, **longer).to(dtype)
        given = batch(family, segments_of(model))
        wanted = [packed(given, h) for h in model(**padded(given), output_hidden_states=True).hidden_states]
        body = checkpoint.load_body(folder).to(dtype)
        seen = [body.embed(given)["text"].values]
        hooks = [layer.register_forward_hook(lambda m, _, out, seen=seen: seen.append(out)) for layer in body.layers]  # type: ignore[union-attr,operator]
        body(given)
        for hook in hooks:
            hook.remove()
        gaps = [gap(a, b) for a, b in zip(seen, wanted, strict=True)]
        controls = {
            "positions from 1": body(shifted(given))["text"].values,
            "no mask": packed(given, model(**padded(given, masked=False)).last_hidden_state),
        }
        report = {name: gap(x, wanted[-1]) for name, x in controls.items()}
        print(f"{model_type}, {dtype}: {max(gaps):.1e}; controls", {name: f"{x:.1e}" for name, x in report.items()})
        assert len(gaps) == 4 and max(gaps) <= tolerance and min(report.values()) >= 100 * tolerance, (gaps, report)


@pytest.mark.parametrize(("family", "model_type", "kinds"), HEADS, ids=lambda x: x if isinstance(x, str) else "+".join(x))
def test_heads_and_gradients_both_ways(family: str, model_type: str, kinds: tuple[str, ...], tmp_path: Path, tokenizer: Path) -> None:
    """Logits and the gradient of every parameter under their names; our folder, changed, opens there with equal logits."""
    hf = families.find(family).hf
    assert hf is not None
    (kind,) = kinds
    model = theirs(family, model_type, hf.heads[kinds][0], tmp_path / "theirs", tokenizer, num_labels=2)
    given = batch(family, segments_of(model))
    task = task_with(kinds, {"vocabulary": SIZES["vocab_size"], "choice": 1}.get(kind, 2))

    def logits(of: Any) -> Tensor:
        if kind == "choice":  # all rows as the choices of one example
            scores: Tensor = of(**{name: x[None] for name, x in padded(given).items()}).logits
            return scores.T
        out = of(**padded(given))
        if kind == "row":
            found: Tensor = out.logits
            return found
        return packed(given, torch.stack([out.start_logits, out.end_logits], -1) if kind == "span" else out.logits)

    wanted = logits(model)
    ours = checkpoint.Folder(tmp_path / "theirs").model(task, task.Settings(), "cpu", None)
    head: Any = getattr(ours.task, kind)
    found = head.read(Run(ours.body), given)
    exchanged = found.flip(0 if kind == "choice" else 1)
    control = {"other positions": gap(head.read(Run(ours.body), batch_of_halves(given)), wanted), "outputs exchanged": gap(exchanged, wanted)}
    assert gap(found, wanted) <= TOLERANCE and min(control.values()) >= CONTROL, (gap(found, wanted), control)

    label = torch.arange(len(wanted)) % 2 if kind != "choice" else torch.tensor([2])
    for scores in (wanted, found):
        F.cross_entropy(scores if kind != "choice" else scores.T, label).backward()
    # a table that the head is tied to has two names there, of which ours is one
    named = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.grad is not None}
    table = checkpoint.name_table(ours.origin.family, kinds, hf.prefix)
    ours_by_name = table.save({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    theirs_by_name = {name: p.grad for name, p in named.items() if name in ours_by_name}
    assert theirs_by_name.keys() == ours_by_name.keys() and len(theirs_by_name) == len({id(p) for p in named.values()})
    scale = max(1.0, *(float(g.abs().max()) for g in theirs_by_name.values()))
    gaps = {name: float((ours_by_name[name] - g).abs().max()) / scale for name, g in theirs_by_name.items()}
    print(f"{model_type} {kind}: logits {gap(found, wanted):.1e}, gradients {max(gaps.values()):.1e}; controls", {n: f"{x:.1e}" for n, x in control.items()})
    assert max(gaps.values()) <= TOLERANCE, max(gaps, key=gaps.__getitem__)

    with torch.no_grad():
        for p in ours.parameters():
            p.mul_(1.01)
        checkpoint.save(ours, tmp_path / "ours")
        config = json.loads((tmp_path / "ours" / "config.json").read_text())
        assert config["model_type"] == model_type and config["architectures"] == [hf.types[model_type] + hf.heads[kinds][0]]
        opened, report = getattr(transformers, config["architectures"][0]).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not any(report.values()), report
        assert gap(logits(opened.eval()), head.read(Run(ours.body), given)) <= TOLERANCE
        assert gap(logits(opened.eval()), wanted) >= CONTROL  # control: the unchanged weights


def batch_of_halves(given: Batch) -> Batch:
    """The tokens of each row in turned order: what is wrong if order does not matter."""
    part = given.parts["text"]
    turned = {name: torch.cat([x.flip(0) for x in values.split(part.layout.lengths)]) for name, values in part.streams.items()}
    return Batch({"text": replace(part, streams=turned)})


@pytest.mark.parametrize(("family", "model_type"), TYPES)
@torch.no_grad()
def test_text_classification_of_every_type(family: str, model_type: str, tmp_path: Path, tokenizer: Path) -> None:
    """The task is found by ``architectures``, label names are kept."""
    names = {"id2label": {0: "ham", 1: "나쁨"}, "label2id": {"ham": 0, "나쁨": 1}}
    model = theirs(family, model_type, "ForSequenceClassification", tmp_path, tokenizer, **names)
    ours = load(tmp_path)
    assert ours.task.name == "text_classification" and ours.task.settings.labels == ("ham", "나쁨")
    given = batch(family, segments_of(model))
    assert gap(ours.task.row.read(Run(ours.body), given), model(**padded(given)).logits) <= TOLERANCE  # type: ignore[union-attr,operator]


@torch.no_grad()
def test_one_segment_takes_every_segment(tmp_path: Path, tokenizer: Path) -> None:
    """A BERT tokenizer over a RoBERTa of one segment numbers the second text of a pair 1, which its table does not hold."""
    theirs("roberta", "roberta", "ForSequenceClassification", tmp_path, tokenizer, num_labels=2, type_vocab_size=1)
    ours = load(tmp_path)
    rows = ours.encode({"text": "a good film", "text_pair": "a bad film"}, ours.options())
    assert 1 in rows[0].parts["text"]["segments"]
    flat = [replace(row, parts={"text": {**row.parts["text"], "segments": [0] * len(row.parts["text"]["tokens"])}}) for row in rows]
    assert list(ours.readings(rows, ours.options())) == list(ours.readings(flat, ours.options()))


@torch.no_grad()
def test_tensors_that_no_head_reads(tmp_path: Path, tokenizer: Path) -> None:
    """A base model with a pooler and a language model's head load as bodies; a tensor of nobody is refused (control)."""
    for model_type, end in (("roberta", "Model"), ("roberta", "ForMaskedLM"), ("xlm-roberta", "ForMaskedLM")):
        theirs("roberta", model_type, end, tmp_path / end, tokenizer)
        checkpoint.load_body(tmp_path / end)
    theirs("distilbert", "distilbert", "ForMaskedLM", tmp_path / "distil", tokenizer)
    checkpoint.load_body(tmp_path / "distil")
    file = tmp_path / "distil" / "model.safetensors"
    save_file({**load_file(file), "extra.weight": torch.ones(2)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="no place in distilbert"):
        checkpoint.load_body(tmp_path / "distil")


# column -> the kinds of its head, the part that a body with it writes, the incumbent's list of classes for it; of one class in two columns the first holds
CLASSES: Mapping[str, tuple[tuple[str, ...], str | None, str]] = {
    "row": (("row",), None, "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"),
    "token": (("token",), None, "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES"),
    "span": (("span",), None, "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES"),
    "choice": (("choice",), None, "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES"),
    "causal": (("vocabulary",), "text", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    "seq2seq": (("vocabulary",), "target", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    "masked": (("vocabulary",), None, "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
    "next_sentence": (("next_sentence",), None, "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES"),
    "vocabulary+next_sentence": (("vocabulary", "next_sentence"), None, "MODEL_FOR_PRETRAINING_MAPPING_NAMES"),
}


def cells_of(family: Family, model_type: str) -> dict[str, tuple[str, bool]]:
    """Column -> (``opens``, ``missing``, or ``-`` where the incumbent has no class of its own; whether a task of ours needs it to open)."""
    assert family.hf is not None
    seen: set[str] = set()
    cells = {}
    for column, (kinds, writes, listing) in CLASSES.items():
        found = getattr(modeling_auto, listing).get(model_type)
        cls = found[0] if isinstance(found, list | tuple) else found
        # of BERT there is a class that writes, BertLMHeadModel, of BART one that is half a body, BartForCausalLM: neither is what our bodies do
        fits = "vocabulary" not in kinds or family.body.generates == writes
        needed = fits and any(task.heads == kinds and (task.generates == writes or "vocabulary" not in kinds) for task in map(tasks.find, tasks.names()))
        opened = None if cls is None else family.hf.kinds(cls)
        cells[column] = ("-" if cls is None or cls in seen else "missing" if opened is None else "opens", needed)
        assert cells[column][0] != "opens" or (fits and opened == kinds), (cls, column, opened)
        seen.add(str(cls))
    return cells


def test_the_table_of_heads(capsys: pytest.CaptureFixture[str]) -> None:
    """Which of the incumbent's classes open here; every one whose task exists must, and every vocabulary head of a body that writes."""
    lines, missing = [], []
    for family in map(families.find, families.names()):
        for model_type in family.hf.types if family.hf else ():
            cells = cells_of(family, model_type)
            missing += [(model_type, column) for column, (cell, needed) in cells.items() if cell == "missing" and needed]
            lines.append(f"{model_type:<14}" + "  ".join(f"{cell:<{max(7, len(column))}}" for column, (cell, _) in cells.items()))
            writing = {"text": "causal", "target": "seq2seq"}
            assert family.body.generates not in writing or cells[writing[family.body.generates]][0] == "opens", model_type
    with capsys.disabled():
        print(f"\n{'':<14}" + "  ".join(f"{column:<7}" for column in CLASSES), *lines, sep="\n")
    assert not missing and len(lines) >= 5


def test_control_the_table_of_heads_is_checked() -> None:
    """A family that lacks a class is caught; what an encoder-decoder's classes are is read by what it writes."""
    gpt2 = families.find("gpt2")
    assert gpt2.hf is not None

    def without(*kinds: str) -> Family:
        return replace(gpt2, hf=replace(gpt2.hf, heads={k: x for k, x in gpt2.hf.heads.items() if k not in {(kind,) for kind in kinds}}))  # type: ignore[union-attr]

    assert cells_of(without("row"), "gpt2")["row"] == ("missing", True) and cells_of(gpt2, "gpt2")["row"] == ("opens", True)
    assert cells_of(without("vocabulary"), "gpt2")["causal"][0] == "missing" and cells_of(gpt2, "gpt2")["causal"][0] == "opens"

    class Pair(Body):
        generates = "target"

    hf = replace(gpt2.hf, types={"bart": "Bart"}, heads={("vocabulary",): ("ForConditionalGeneration", ())})
    cells = cells_of(replace(gpt2, body=Pair, hf=hf), "bart")
    found = {column: cell for column, (cell, _) in cells.items() if cell != "-"}
    assert found == {"row": "missing", "span": "missing", "causal": "missing", "seq2seq": "opens"} and not cells["causal"][1]
    with pytest.raises(AssertionError):
        cells_of(replace(gpt2, hf=hf), "bart")  # a body that writes its own text is none of those
