"""Parity with the incumbent's BERT at 1e-5, all weights from N(0, 0.25) so that no error hides, beside wrong computations at 100 times that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conformance.kit import task_with
from nabi import checkpoint, load, pipeline
from nabi.batch import Batch
from nabi.nn.body import Body, Run
from parity.kit import CONTROL, LENGTHS, TOLERANCE, batch, gap, packed, padded, rows, theirs

LABELS = {"id2label": {0: "ham", 1: "나쁨", 2: "spam"}, "label2id": {"ham": 0, "나쁨": 1, "spam": 2}}
PROBLEMS = {
    "single": {**LABELS, "problem_type": "single_label_classification"},
    "multi": {**LABELS, "problem_type": "multi_label_classification"},
    "regression": {"num_labels": 1, "problem_type": "regression"},
}
TEXTS = ["a good film", "bad", "", "a very very long and winding text", "Film! GOOD? 12"]


def hidden_states(body: Body, given: Batch) -> list[Tensor]:
    """Embeddings and each layer's result, (T, W) each."""
    seen: list[Tensor] = [body.embed(given)["text"].values]
    hooks = [layer.register_forward_hook(lambda m, _, out: seen.append(out)) for layer in body.layers]  # type: ignore[union-attr,operator]
    body(given)
    for hook in hooks:
        hook.remove()
    return seen


def flipped(given: Batch) -> Batch:
    part = given.parts["text"]
    return Batch({"text": replace(part, streams={**part.streams, "segments": 1 - part.streams["segments"]})})


def shifted(given: Batch) -> Batch:
    """Positions from 1."""
    part = given.parts["text"]
    return Batch({"text": replace(part, layout=part.layout.continued(torch.ones(len(part.layout), dtype=torch.int64)))})


def changed(folder: Path, **keys: Any) -> Path:
    """The same weights under another config."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    return folder


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, TOLERANCE), (torch.float64, 1e-10)], ids=str)
@torch.no_grad()
def test_hidden_states(dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    """Embeddings and all layers; in float64 too, where formulas that are nearly the same (two GELUs, two epsilons) are told apart."""
    model, given = theirs("BertModel", tmp_path, max_position_embeddings=41).to(dtype), batch()
    found = model(**padded(given), output_hidden_states=True).hidden_states
    wanted = [packed(given, h) for h in found]
    body = checkpoint.load_body(tmp_path).to(dtype)
    ours = hidden_states(body, given)
    gaps = [gap(a, b) for a, b in zip(ours, wanted, strict=True)]
    assert len(gaps) == 4 and max(gaps) <= tolerance
    controls = {
        "other segments": body(flipped(given))["text"].values,
        "positions from 1": body(shifted(given))["text"].values,
        "no mask": packed(given, model(**padded(given, masked=False)).last_hidden_state),
    }
    if dtype == torch.float64:
        keys = {"another GELU": {"hidden_act": "gelu_new"}, "another epsilon": {"hidden_act": "gelu", "layer_norm_eps": 1e-5}}
        controls |= {name: checkpoint.load_body(changed(tmp_path, **key)).double()(given)["text"].values for name, key in keys.items()}
    report = {name: gap(x, wanted[-1]) for name, x in controls.items()}
    print(f"hidden states, {dtype}: {max(gaps):.1e}; controls", {name: f"{x:.1e}" for name, x in report.items()})
    assert min(report.values()) >= 100 * tolerance, report


@pytest.mark.parametrize("problem", PROBLEMS)
@torch.no_grad()
def test_sequence_classification(problem: str, tmp_path: Path, tokenizer: Path) -> None:
    model, given = theirs("BertForSequenceClassification", tmp_path, tokenizer, **PROBLEMS[problem]), batch()
    wanted = model(**padded(given)).logits
    ours = load(tmp_path)
    assert ours.task.settings.problem == problem and len(ours.task.settings.labels) == wanted.shape[1]
    head: Any = ours.task.row
    found = head.read(Run(ours.body), given)
    assert gap(found, wanted) <= TOLERANCE and gap(torch.tensor(list(ours.readings(rows(), ours.options()))), wanted) <= TOLERANCE
    controls = {"other segments": head.read(Run(ours.body), flipped(given)), "no mask": model(**padded(given, masked=False)).logits}
    head.act = None
    controls["a pooler without tanh"] = head.read(Run(ours.body), given)
    report = {name: gap(x, wanted) for name, x in controls.items()}
    print(f"{problem}: {gap(found, wanted):.1e}; controls", {name: f"{x:.1e}" for name, x in report.items()})
    assert min(report.values()) >= CONTROL, report


@pytest.mark.parametrize(("cls", "kind"), [("BertForTokenClassification", "token"), ("BertForQuestionAnswering", "span")])
@torch.no_grad()
def test_heads_over_tokens(cls: str, kind: str, tmp_path: Path, tokenizer: Path) -> None:
    model, given = theirs(cls, tmp_path, tokenizer, num_labels=2), batch()
    out = model(**padded(given))
    wanted = packed(given, out.logits if kind == "token" else torch.stack([out.start_logits, out.end_logits], -1))
    task = task_with((kind,), 2)
    ours = checkpoint.Folder(tmp_path).model(task, task.Settings(), "cpu", None)
    head: Any = getattr(ours.task, kind)
    found = head.read(Run(ours.body), given)
    report = {"other segments": gap(head.read(Run(ours.body), flipped(given)), wanted), "the two outputs exchanged": gap(found.flip(1), wanted)}
    print(f"{kind}: {gap(found, wanted):.1e}; controls", {name: f"{x:.1e}" for name, x in report.items()})
    assert gap(found, wanted) <= TOLERANCE and min(report.values()) >= CONTROL, report


def test_gradients(tmp_path: Path, tokenizer: Path) -> None:
    """Of the mean cross-entropy, for every parameter, under the incumbent's names."""
    model, given = theirs("BertForSequenceClassification", tmp_path, tokenizer, num_labels=3), batch()
    label = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    F.cross_entropy(model(**padded(given)).logits, label).backward()
    wanted = {name: p.grad for name, p in model.named_parameters()}
    ours = load(tmp_path)

    def gradients(batch: Batch) -> dict[str, Tensor]:
        ours.zero_grad()
        F.cross_entropy(ours.task.row.read(Run(ours.body), batch), label).backward()  # type: ignore[union-attr,operator]
        table = checkpoint.name_table(ours.origin.family, ours.task.heads, "bert.")
        return table.save({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})

    found, wrong = gradients(given), gradients(flipped(given))
    assert found.keys() == wanted.keys()
    scale = max(1.0, *(float(g.abs().max()) for g in wanted.values()))
    gaps = {name: float((found[name] - wanted[name]).abs().max()) / scale for name in wanted}
    control = min(float((wrong[name] - wanted[name]).abs().max()) / scale for name in wanted if "key.bias" not in name)
    print(f"gradients: {max(gaps.values()):.1e} of at most {scale:.2g}; control, other segments: {control:.1e} at least")
    assert max(gaps.values()) <= TOLERANCE and control >= CONTROL, max(gaps, key=gaps.__getitem__)


@pytest.mark.parametrize("problem", PROBLEMS)
@torch.no_grad()
def test_a_folder_of_ours_opens_in_transformers(problem: str, tmp_path: Path, tokenizer: Path) -> None:
    """By way of a folder of theirs, changed and saved by us: equal tokens, logits and label names, and back again."""
    theirs("BertForSequenceClassification", tmp_path / "theirs", tokenizer, seed=3, **PROBLEMS[problem])
    ours = load(tmp_path / "theirs")
    for p in ours.parameters():
        p.mul_(1.01)
    checkpoint.save(ours, tmp_path / "ours")
    opened, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    tokens = their_tokenizer(TEXTS, padding=True, return_tensors="pt")
    found = [row for text in TEXTS for row in ours.encode({"text": text}, ours.options())]
    assert [row.parts["text"]["tokens"] for row in found] == [their_tokenizer(text).input_ids for text in TEXTS]
    wanted, logits = opened.eval()(**tokens).logits, torch.tensor(list(ours.readings(found, ours.options())))
    assert gap(logits, wanted) <= TOLERANCE
    assert gap(torch.tensor(list(load(tmp_path / "theirs").readings(found, ours.options()))), wanted) >= CONTROL  # control: the unchanged weights
    assert list(opened.config.id2label.values()) == list(ours.task.settings.labels)
    assert opened.config.problem_type == PROBLEMS[problem]["problem_type"]
    answers = pipeline("text-classification", str(tmp_path / "ours"), top_k=None)(TEXTS)
    for answer, row in zip(answers, wanted, strict=True):
        scores = {"single": row.softmax(-1), "multi": row.sigmoid(), "regression": row}[problem]
        by_label = {item["label"]: item["score"] for item in answer}
        assert gap(torch.tensor([by_label[name] for name in opened.config.id2label.values()]), scores) <= TOLERANCE
    opened.save_pretrained(tmp_path / "back")
    a, b = load_file(tmp_path / "ours" / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@torch.no_grad()
def test_old_names_of_the_norms(tmp_path: Path, tokenizer: Path) -> None:
    theirs("BertForSequenceClassification", tmp_path, tokenizer, num_labels=3)
    wanted = torch.tensor(list(load(tmp_path).readings(rows(), load(tmp_path).options())))
    file = tmp_path / "model.safetensors"
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x for n, x in load_file(file).items()}
    assert sum("gamma" in name for name in old) == 7
    save_file(old, file, metadata={"format": "pt"})
    ours = load(tmp_path)
    assert torch.equal(torch.tensor(list(ours.readings(rows(), ours.options()))), wanted)
    checkpoint.save(ours, tmp_path / "new")
    assert not any("gamma" in name or "beta" in name for name in load_file(tmp_path / "new" / "model.safetensors"))
    exchanged = {n.replace("gamma", "x").replace("beta", "gamma").replace("x", "beta"): x for n, x in old.items()}
    save_file({n: x for n, x in exchanged.items() if "LayerNorm" in n} | old | {n: x for n, x in exchanged.items() if "LayerNorm" in n}, file)
    wrong = load(tmp_path)
    assert gap(torch.tensor(list(wrong.readings(rows(), wrong.options()))), wanted) >= CONTROL  # control


@torch.no_grad()
def test_half_precision_is_read_exactly_and_saved_as_float32(tmp_path: Path, tokenizer: Path) -> None:
    model = theirs("BertForSequenceClassification", tmp_path / "full", tokenizer, num_labels=3).half()
    model.save_pretrained(tmp_path / "full")
    ours = load(tmp_path / "full")
    checkpoint.save(ours, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == "float32"
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours")
    assert opened.dtype == torch.float32
    wanted = opened.eval()(**padded(batch())).logits
    assert gap(torch.tensor(list(ours.readings(rows(), ours.options()))), wanted) <= TOLERANCE
    half = model.half().state_dict()
    assert all(torch.equal(x, half[name].float()) for name, x in opened.state_dict().items() if name in half)


def test_the_rows_are_ragged_enough() -> None:
    assert len(set(LENGTHS)) >= 5 and 1 in LENGTHS and max(LENGTHS) == 40
    assert all(0 < sum(row.parts["text"]["segments"]) < row.tokens for row in rows() if row.tokens > 20)
