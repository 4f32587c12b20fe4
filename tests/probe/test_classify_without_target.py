"""Probe (a, second half): text classification on an encoder-decoder whose decoder is fed the shifted text (BART); the task knows nothing of it."""

import pytest
import torch
from blocks import SHIFTED, EncoderDecoder, by_torch

from nabi.batch import Row, batch_of
from nabi.errors import InputError
from nabi.model import Model
from nabi.nn.body import Run
from nabi.tasks.text_classification import ClassificationOptions as Options
from nabi.tasks.text_classification import ClassificationSettings as Settings
from nabi.tasks.text_classification import TextClassification
from nabi.training.loop import backward, total_counts
from nabi.training.plan import Plan

TEXTS = [[5, 9, 3, 2], [8, 2, 2, 7, 30, 11, 4], [6], [12, 13]]


def model():
    body, task = EncoderDecoder(), TextClassification(Settings(labels=("a", "b", "c")))
    task.build(body)
    for part in (body, task):
        part.initialise(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(task.row.out.weight, std=1.0, generator=torch.Generator().manual_seed(1))
    return Model(body, task, None, None).double().eval()


def rows():
    return [Row({"text": {"tokens": t}}, targets={"label": i % 3, "weight": 1.0}, example=i) for i, t in enumerate(TEXTS)]


def by_hand(built, text, fed):
    state = by_torch(built.body, text, fed)[-1]
    head = built.task.row
    return torch.nn.functional.linear(torch.tanh(state @ head.dense.weight.T + head.dense.bias), head.out.weight, head.out.bias)


def test_readings():
    built = model()
    found = torch.tensor(list(built.readings(rows(), Options(), tokens=12)))
    with torch.no_grad():
        wanted = torch.stack([by_hand(built, text, [SHIFTED, *text[:-1]]) for text in TEXTS])
        unshifted = torch.stack([by_hand(built, text, text) for text in TEXTS])
    assert (found - wanted).abs().max() < 1e-5 and (found - unshifted).abs().max() > 0.1


def test_loss_reaches_every_parameter():
    built, batch = model(), batch_of(rows(), range(4), model().task.targets)
    losses = backward(built, batch, total_counts(built, [batch]), Plan(), seed=0)
    logits = torch.stack([by_hand(built, text, [SHIFTED, *text[:-1]]) for text in TEXTS])
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0]), reduction="sum")
    assert abs(losses["label"] - wanted) < 1e-5
    assert all(p.grad is not None and p.grad.abs().max() > 0 for name, p in built.named_parameters() if "positions" not in name)


def test_only_what_a_body_makes_may_be_missing():
    batch = batch_of(rows(), range(4), {})
    run = Run(model().body)
    assert run(batch, keep={"text": None})["text"].values.shape == (14, 16)
    del batch.parts["text"]
    with pytest.raises(InputError, match="part 'text' is missing"):
        run(batch, keep={"target": None})
