"""Parity with the incumbent on the real MiniLM, over real texts of mixed lengths, some longer than the 128 tokens at which its file would cut."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from nabi import checkpoint
from nabi.batch import Batch, Row, batch_of
from nabi.data.shipped import sms_spam
from nabi.nn.body import Body
from nabi.tasks.text_classification import TextClassification
from nabi.text import Tokenizer
from nabi.weights.sources import resolve
from parity.kit import CONTROL, TOLERANCE, gap


def texts() -> list[str]:
    """36 messages spread over all lengths, and four runs of messages up to 500 tokens."""
    train, _ = sms_spam()
    ordered = sorted({row["text"] for row in train}, key=lambda text: (len(text), text))
    chosen = ordered[:: len(ordered) // 35][:36]
    words = " ".join(row["text"] for row in itertools.islice(train, 200)).split()
    return chosen + [" ".join(words[: 60 * i]) for i in range(2, 6)]


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve("minilm")


@pytest.fixture(scope="module")
def body(folder: Path) -> Body:
    return checkpoint.load_body("minilm")


@pytest.fixture(scope="module")
def reference(folder: Path) -> list[Tensor]:
    """(L, W) last hidden states of each text, from padded and masked batches of ten."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found: list[Tensor] = []
    with torch.no_grad():
        for i in range(0, 40, 10):
            given = tokenizer(texts()[i : i + 10], padding=True, truncation=False, return_tensors="pt")
            hidden = model(**given).last_hidden_state
            found += [h[mask.bool()] for h, mask in zip(hidden, given["attention_mask"], strict=True)]
    return found


def batch(tokens: list[list[int]]) -> Batch:
    return batch_of([Row({"text": {"tokens": t, "segments": [0] * len(t)}}) for t in tokens], range(len(tokens)), {})


@torch.no_grad()
def test_hidden_states_and_embeddings(folder: Path, body: Body, reference: list[Tensor]) -> None:
    ours = [encoding.ids for encoding in Tokenizer.load(folder).encode_batch(texts())]
    lengths = sorted(map(len, ours))
    assert len(ours) == 40 and lengths[0] <= 5 and sum(n > 128 for n in lengths) >= 4 and lengths[-1] > 400 and len(set(lengths)) >= 25
    given = batch(ours)
    hidden = body(given)["text"].values
    embeddings = given.parts["text"].layout.mean(hidden)
    wanted, means = torch.cat(reference), torch.stack([h.mean(0) for h in reference])
    gaps = {"hidden": gap(hidden, wanted), "embeddings": gap(embeddings, means)}
    trap = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    trap.no_padding()
    assert trap.truncation["max_length"] == 128  # control: with the truncation that the file stores
    cut = batch([encoding.ids for encoding in trap.encode_batch(texts())])
    truncated = cut.parts["text"].layout.mean(body(cut)["text"].values)
    long = [i for i, t in enumerate(ours) if len(t) > 128]
    report = {
        "stored truncation": min(gap(truncated[i], means[i]) for i in long),
        "no special tokens": gap(torch.stack([h[1:-1].mean(0) for h in reference[1:]]), means[1:]),
        "order of rows": gap(embeddings.roll(1, 0), means),
    }
    print(f"{lengths[0]} to {lengths[-1]} tokens: {gaps}; controls {report}")
    assert max(gaps.values()) <= TOLERANCE and min(report.values()) >= CONTROL
    assert gap(truncated[[i for i in range(40) if i not in long]], means[[i for i in range(40) if i not in long]]) <= TOLERANCE


@torch.no_grad()
def test_a_prepared_copy_and_a_saved_classifier(tmp_path: Path, reference: list[Tensor]) -> None:
    """A head on MiniLM, saved by us, opens in transformers with equal logits; the packed copy that pipelines use gives them too."""
    model: Any = checkpoint.load_for_training("minilm", "text_classification", TextClassification.Settings(("ham", "spam", "나비")))
    assert "fresh weights for task.row.out.bias, task.row.out.weight" in model.origin.notes[0]
    model.task.row.out.weight.mul_(10.0)
    checkpoint.save(model, tmp_path / "ours")
    opened, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()) and opened.config.id2label == {0: "ham", 1: "spam", 2: "나비"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    few = texts()[::4]
    wanted = torch.cat([opened.eval()(**tokenizer(text, return_tensors="pt")).logits for text in few])
    for ours in (model, model.prepare("fp32")):
        rows = [row for text in few for row in ours.encode({"text": text}, ours.options())]
        assert gap(torch.tensor(list(ours.readings(rows, ours.options()))), wanted) <= TOLERANCE
    assert gap(wanted.roll(1, 0), wanted) >= CONTROL
