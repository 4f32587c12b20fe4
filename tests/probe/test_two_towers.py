"""Probe (d): an image and its labels. A batch whose parts have different numbers of rows, tied by their examples and kept together."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nabi.batch import Row, Target, batch_of, pack
from nabi.errors import InputError
from nabi.inputs import Inputs
from nabi.layout import Packed
from nabi.model import Model
from nabi.nn.body import Body, Run
from nabi.nn.linear import Embedding, Linear
from nabi.tasks import NoSettings, Task

IMAGES = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (4, 9, 1)]
LABELS = [[[1, 2], [3], [4, 4, 5]], [[6], [7, 8]], [[2], [2], [9]]]
EXAMPLES = [{"image": image, "labels": labels} for image, labels in zip(IMAGES, LABELS, strict=True)]


class TwoTowers(Body):
    needs = {"image": frozenset({"patches"}), "text": frozenset({"tokens"})}

    def __init__(self):
        super().__init__()
        self.image, self.text, self.ran = Linear(3, 8), Embedding(10, 8), []

    def forward(self, batch, cache=None, *, embedded=None, keep=None):
        towers = {"image": lambda s: torch.tanh(self.image(s["patches"])), "text": lambda s: self.text(s["tokens"])}
        self.ran = list(batch.parts if keep is None else keep)
        return {name: Packed(towers[name](batch.parts[name].streams), batch.parts[name].layout) for name in self.ran}


class ZeroShot(Task):
    name, together, Options, Settings = "zero_shot", True, NoSettings, NoSettings
    targets = {"right": Target("example", "image"), "weight": Target("example", "image", torch.float32)}

    def encode(self, example, inputs, options, use="predict", where=""):
        rows = [Row({"text": {"tokens": label}}) for label in example["labels"]]
        rows[0].parts["image"] = {"patches": example["image"]}
        return rows

    def read(self, run, batches, options):
        for batch in batches:
            hidden, image = run(batch), torch.tensor(self.tie(batch))
            a, b = (F.normalize(hidden[part].layout.mean(hidden[part].values), dim=-1) for part in ("image", "text"))
            yield from zip(batch.parts["text"].ids, (a[image] * b).sum(-1).tolist(), strict=True)

    def tie(self, batch):
        return batch.tied("text", "image")

    def answer(self, readings, rows, example, options):
        return torch.tensor(readings).mul(10).softmax(0).tolist()


def made(task):
    torch.manual_seed(0)
    body = TwoTowers()
    nn.utils.vector_to_parameters(torch.randn(sum(p.numel() for p in body.parameters())), body.parameters())
    return Model(body, task, Inputs(None, 1 << 30), None)


def alone(body, example):
    image = torch.tanh(example["image"] @ body.image.weight.T + body.image.bias).mean(0)
    labels = torch.stack([body.text.weight[label].mean(0) for label in example["labels"]])
    return (F.cosine_similarity(image[None], labels) * 10).softmax(0)


def gap(model, tokens):
    found = model.answers(EXAMPLES, tokens=tokens)
    return max((torch.tensor(answer) - alone(model.body, example)).abs().max() for answer, example in zip(found, EXAMPLES, strict=True))


def test_answers_are_each_example_alone():
    model = made(ZeroShot(NoSettings()))
    assert max(gap(model, 1000), gap(model, 16), gap(model, 1)) < 1e-6
    model.task.tie = lambda batch: [i % len(batch.parts["image"].ids) for i in range(len(batch.parts["text"].ids))]
    assert gap(model, 1000) > 0.1  # the control: ties by place


def test_parts_have_their_own_rows():
    model = made(ZeroShot(NoSettings()))
    rows = [row for i, example in enumerate(EXAMPLES) for row in model.encode(example, NoSettings(), number=i)]
    (batch,) = pack(rows, together=True)
    assert (len(batch.parts["image"].layout), len(batch.parts["text"].layout)) == (3, 8)
    hidden = Run(model.body)(batch, keep={"image": None})
    assert list(hidden) == model.body.ran == ["image"]  # no tower runs that is not asked for
    with pytest.raises(InputError, match=r"rows of part 'text' without a row of part 'image'"):
        for torn in pack(rows, tokens=10, together=False):  # the control
            if "image" in torn.parts:
                torn.tied("text", "image")


def test_targets_of_an_example():
    rows = [Row({"text": {"tokens": [1]}}, example=i // 2) for i in range(6)]
    for i, row in enumerate(rows[::2]):
        row.parts["image"], row.targets = {"patches": IMAGES[i]}, {"right": i, "weight": 1.0}
    batch = batch_of(rows, [4, 5, 0, 1, 2, 3], ZeroShot.targets)
    assert batch.targets["right"].tolist() == batch.parts["image"].example.tolist() == [2, 0, 1]
    assert batch.tied("text", "image") == [0, 0, 1, 1, 2, 2]
