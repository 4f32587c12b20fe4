"""Multiple choice: scores, loss and gradients of the incumbent's head both ways, any number of choices, long contexts, it learns, bad rows refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import nabi
from conformance.kit import randomised
from nabi import Plan, checkpoint, evaluate, families
from nabi.batch import FILLER, Batch, batch_of
from nabi.errors import DataError, InputError, MissingHeadError, OptionError, UserError
from nabi.model import Model
from nabi.nn.body import Run
from tasks.read import folder
from tasks.written import command, fitted
from training.small import BAD, GOOD, PLAIN, SIZE, text, vocabulary

TOLERANCE = 1e-5
TYPES = {"bert": "bert", "distilbert": "distilbert", "roberta": "roberta", "xlm-roberta": "roberta"}
EXAMPLES = [
    {"question": "the good film", "choices": ["a b c", "bad", "the songs of the scene"], "label": 2},
    {"question": "film", "choices": ["good", "bad", "dull plot"], "label": "good"},
    {"question": "the cast and the plot are fine", "choices": ["a", "b", "c d e f"], "label": 1},
]


def theirs(model_type: str, path: Path, end: str = "ForMultipleChoice") -> Any:
    """The incumbent's model with weights from N(0, 0.25), saved with a tokenizer."""
    hf = families.find(TYPES[model_type]).hf
    assert hf is not None
    sizes = {"vocab_size": 4300, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_positions": 66}
    keys = {key: sizes[name] for key, name in hf.fields.items() if name in sizes}
    config = transformers.AutoConfig.for_model(model_type, **keys)
    model = randomised(getattr(transformers, hf.types[model_type] + end)(config)).eval()
    model.save_pretrained(path)
    vocabulary(path)
    return model


def padded(model: Model, example: dict[str, Any], masked: bool = True) -> dict[str, Tensor]:
    """The choices of one example as the incumbent reads them, (1, choices, L), padded with 1, from which RoBERTa counts."""
    rows = model.encode(example, model.options())
    names = {"tokens": "input_ids", "segments": "token_type_ids"}
    found = {}
    for stream in rows[0].parts["text"]:
        values = [torch.tensor(row.parts["text"][stream]) for row in rows]
        found[names[stream]] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=int(stream == "tokens"))[None]
    lengths = torch.tensor([len(row.parts["text"]["tokens"]) for row in rows])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    return {**found, "attention_mask": (mask if masked else torch.ones_like(mask)).long()[None]}


def training(model: Model, examples: list[dict[str, Any]]) -> Batch:
    rows = [row for i, e in enumerate(examples) for row in model.encode(e, model.options(), "train", f"row {i}", i)]
    return batch_of(rows, range(len(rows)), model.task.targets)


# ---- as the incumbent --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", TYPES)
def test_scores_loss_and_gradients_of_the_incumbent_both_ways(model_type: str, tmp_path: Path) -> None:
    model = theirs(model_type, tmp_path / "theirs")
    ours = nabi.load(tmp_path / "theirs")
    assert ours.task.name == "multiple_choice"
    wanted, losses = [], []
    for example in EXAMPLES:
        out = model(**padded(ours, example), labels=torch.tensor([ours.task.truth(example, "here")]))  # by number or by text
        wanted.append(out.logits[0].softmax(0).detach())
        losses.append(out.loss)
    found = [torch.tensor(answer["scores"]) for answer in ours.predict(EXAMPLES)]
    assert max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)) <= TOLERANCE
    with torch.no_grad():
        control = [model(**padded(ours, e, masked=False)).logits[0].softmax(0) for e in EXAMPLES]
    assert max(float((a - b).abs().max()) for a, b in zip(control, wanted, strict=True)) >= 100 * TOLERANCE

    batch = training(ours, EXAMPLES)
    loss, total = ours(batch)["choice"], sum(losses)
    assert ours.task.counts(batch.targets) == pytest.approx({"choice": 3.0}) and loss.item() == pytest.approx(total.item(), rel=1e-5)
    total.backward()
    loss.backward()
    hf = families.find(TYPES[model_type]).hf
    assert hf is not None
    table = checkpoint.name_table(ours.origin.family, ("choice",), hf.prefix)
    mine = table.save({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    their = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    scale = max(1.0, *(float(g.abs().max()) for g in their.values()))
    assert mine.keys() == their.keys() and max(float((mine[n] - g).abs().max()) / scale for n, g in their.items()) <= TOLERANCE

    with torch.no_grad():
        for p in ours.parameters():
            p.mul_(1.02)
    checkpoint.save(ours, tmp_path / "ours")
    cls = json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"][0]
    opened, report = getattr(transformers, cls).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(opened) is type(model) and not any(report.values()), report
    changed = [torch.tensor(answer["scores"]) for answer in ours.predict(EXAMPLES)]
    with torch.no_grad():
        back = [opened.eval()(**padded(ours, e)).logits[0].softmax(0) for e in EXAMPLES]
    assert max(float((a - b).abs().max()) for a, b in zip(changed, back, strict=True)) <= TOLERANCE
    assert max(float((a - b).abs().max()) for a, b in zip(back, wanted, strict=True)) >= 100 * TOLERANCE  # control: the unchanged weights


def test_a_base_model_keeps_its_pooler_and_says_what_is_fresh(tmp_path: Path) -> None:
    for model_type in ("bert", "roberta"):
        base = theirs(model_type, tmp_path / model_type, "Model")
        kind = checkpoint.tasks.find("multiple_choice")
        with pytest.raises(MissingHeadError, match="no head for multiple_choice"):
            nabi.load(tmp_path / model_type, "multiple_choice")
        made = checkpoint.load_for_training(tmp_path / model_type, "multiple_choice", kind.Settings())
        assert torch.equal(made.task.choice.dense.weight, base.pooler.dense.weight)  # type: ignore[union-attr]
        (note,) = made.origin.notes
        assert "fresh weights for task.choice.out.bias, task.choice.out.weight" in note


# ---- rows that belong together -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    theirs("bert", path := tmp_path_factory.mktemp("choice") / "bert")
    return nabi.load(path)


def test_scores_do_not_depend_on_what_else_is_asked(model: Model) -> None:
    dice = random.Random(0)
    many = [
        {"question": text(dice, GOOD, 1, 30), "choices": [text(dice, BAD, 1, dice.choice((2, 20))) for _ in range(dice.randint(2, 6))]} for _ in range(15)
    ]
    alone = [model.predict(e)["scores"] for e in many]
    for found in (model.predict(many), model.predict(many[::-1])[::-1], list(model.answers(many, tokens=40)), list(model.answers(many, tokens=300))):
        assert max(abs(a - b) for x, y in zip(alone, found, strict=True) for a, b in zip(x, y["scores"], strict=True)) <= TOLERANCE
    turned = [model.predict({**e, "choices": e["choices"][::-1]})["scores"][::-1] for e in many]
    assert max(abs(a - b) for x, y in zip(alone, turned, strict=True) for a, b in zip(x, y, strict=True)) <= TOLERANCE
    other = [model.predict({**e, "question": "film"})["scores"] for e in many]
    assert max(abs(a - b) for x, y in zip(alone, other, strict=True) for a, b in zip(x, y, strict=True)) >= 100 * TOLERANCE


def test_the_loss_of_a_batch_is_the_sum_of_its_examples_whatever_their_choices(model: Model) -> None:
    dice = random.Random(1)
    long = " ".join(dice.choices(PLAIN, k=150))
    examples = [*EXAMPLES, {"question": "good", "choices": ["a", "b"], "label": 0}, {"question": long, "choices": list("abcdef"), "label": 5}]
    with torch.no_grad():
        parts = [float(model(training(model, [e]))["choice"]) for e in examples]
        whole = training(model, examples)
        assert float(model(whole)["choice"]) == pytest.approx(sum(parts), rel=1e-5)
        assert model.task.counts(whole.targets)["choice"] == pytest.approx(5.0)
        answers = model.predict(examples)
        by_hand = [-np.log(a["scores"][model.task.truth(e, "here")]) for a, e in zip(answers, examples, strict=True)]
    assert parts == pytest.approx(by_hand, rel=1e-4) and answers[-1]["windows"] > 2


def test_a_batch_of_fillers_has_a_finite_loss(model: Model) -> None:
    rows = model.encode(EXAMPLES[0], model.options(), "train", "row 1", FILLER)
    batch = batch_of(rows, range(len(rows)), model.task.targets)
    assert not batch.real and torch.isfinite(model(batch)["choice"])


def test_a_long_context_is_read_in_windows_that_repeat_question_and_choice(model: Model) -> None:
    context = " ".join(random.Random(2).choices(PLAIN, k=150))
    example = {"context": context, "question": "the good film", "choices": ["bad", "dull plot"], "label": 0}
    rows = model.encode(example, model.options())
    tails = [model.inputs.tokenizer.encode(f"the good film {choice}").ids[1:] for choice in example["choices"]]
    for row in rows:
        tokens, tail = row.parts["text"]["tokens"], tails[row.notes["choice"]]
        assert len(tokens) <= model.inputs.max_length == 66 and tokens[-len(tail) :] == tail
    head: Any = model.task.choice
    with torch.no_grad():
        scores = head.read(Run(model.body), batch_of(rows, range(len(rows)), {}))[:, 0]
    share = torch.tensor([row.notes["share"] for row in rows])
    of = torch.tensor([row.notes["choice"] for row in rows])
    wanted = torch.stack([(scores * share)[of == i].sum() for i in (0, 1)]).softmax(0)
    found = model.predict(example)
    assert found["scores"] == pytest.approx(wanted.tolist(), abs=TOLERANCE) and found["windows"] == len(rows) // 2 > 2 and not found["truncated"]
    cut = model.predict(example, long="truncate")
    assert (cut["windows"], cut["truncated"]) == (1, True)
    assert max(abs(a - b) for a, b in zip(cut["scores"], found["scores"], strict=True)) >= 100 * TOLERANCE


def test_windows_count_by_their_length_in_answers_and_in_the_loss(model: Model) -> None:
    """Weights are counted here from the tokens of the rows; a mean that counts windows alike is another."""
    dice = random.Random(3)
    context = " ".join(dice.choices(PLAIN, k=70))  # one window is full, the last holds a few words
    example = {"context": context, "question": "the good film", "choices": ["bad", " ".join(dice.choices(PLAIN, k=8))], "label": 1}
    rows = model.encode(example, model.options(), "train")
    special = {model.inputs.tokenizer.id(name) for name in ("[CLS]", "[SEP]")}
    weights = torch.tensor([sum(token not in special for token in row.parts["text"]["tokens"]) for row in rows], dtype=torch.float64)
    of = torch.tensor([row.notes["choice"] for row in rows])
    batch = batch_of(rows, range(len(rows)), model.task.targets)
    head: Any = model.task.choice
    with torch.no_grad():
        scores, loss = head.read(Run(model.body), batch)[:, 0].double(), float(model(batch)["choice"])

    def mean(weights: Tensor) -> Tensor:
        return torch.stack([(scores * weights)[of == i].sum() / weights[of == i].sum() for i in (0, 1)])

    wanted, alike = mean(weights).log_softmax(0), mean(torch.ones_like(weights)).log_softmax(0)
    assert (of == 0).sum() > 1 and weights.max() > 2 * weights.min()
    assert model.predict(example)["scores"] == pytest.approx(wanted.exp().tolist(), abs=TOLERANCE) and loss == pytest.approx(-float(wanted[1]), abs=TOLERANCE)
    assert float((wanted.exp() - alike.exp()).abs().max()) >= 100 * TOLERANCE and abs(float(wanted[1] - alike[1])) >= 100 * TOLERANCE  # control


# ---- it learns ---------------------------------------------------------------------------------------------------------------------------------------


def data(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """The right choice has a good word, the others have a bad one."""
    dice, found = random.Random(seed), []
    for _ in range(count):
        choices = [text(dice, BAD, 0, 2) for _ in range(dice.randint(1, 3))]
        label = dice.randint(0, len(choices))
        choices.insert(label, text(dice, GOOD, 0, 2))
        found.append({"question": dice.choice(PLAIN), "choices": choices, "label": label})
    return found


def test_it_learns_which_choice_is_right(tmp_path: Path) -> None:
    plan = Plan(steps=100, batch=16, learning_rate=3e-3, evaluate_every=50, hidden_dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
    given = {"family": "bert", "size": SIZE, "tokenizer": vocabulary(tmp_path / "tokens"), "out": tmp_path / "out"}
    fitted("multiple_choice", data(96), plan, dev=data(20, 2), **given)
    model = nabi.load(tmp_path / "out")
    assert model.task.name == "multiple_choice" and model.check_golden() == []
    figures = evaluate(model, data(60, 1)).metrics
    chance = sum(1 / len(e["choices"]) for e in data(60, 1)) / 60
    assert figures["accuracy"] >= 0.85 > 0.45 > chance, (figures, chance)
    assert (tmp_path / "out" / "README.md").is_file()


@pytest.mark.parametrize("label", [1, "1", 1.0, "bad", np.int64(1)], ids=repr)
def test_a_label_is_a_number_or_the_text_of_a_choice(label: Any, model: Model) -> None:
    assert model.task.truth({"choices": ["good", "bad"], "label": label}, "here") == 1
    assert model.task.truth({"choices": ["1", "0"], "label": "0"}, "here") == 1  # the text goes before the number


# ---- bad input ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ("good", {}, InputError, "input 1 has no choices: 'good'. Expected {'question': ..., 'choices': [...]}"),
        ({"question": "good"}, {}, InputError, "input 1 has no choices"),
        ({"question": "good", "choices": ["a"]}, {}, InputError, "expected a list of two texts at least"),
        ({"question": "good", "choices": "ab"}, {}, InputError, "input 1 has no choices: \"'ab'\""),
        ({"question": "good", "choices": ["a", 2]}, {}, InputError, "input 1 has no choices"),
        ({"question": 3, "choices": ["a", "b"]}, {}, InputError, "input 1 has no question: '3'"),
        ({"question": "q", "context": 3, "choices": ["a", "b"]}, {}, InputError, "input 1 has no context: '3'"),
        ({"question": "a " * 80, "choices": ["a", "b"]}, {"long": "error"}, InputError, "input 1 is too long: '84 tokens'"),
        ({"question": "good", "choices": ["a", "b"]}, {"top_k": 1}, OptionError, "unknown"),
    ],
    ids=str,
)
def test_bad_input_is_refused(given: Any, options: dict[str, Any], error: type[UserError], message: str, model: Model) -> None:
    with pytest.raises(error) as found:
        model.predict(given, **options)
    assert message.lower() in str(found.value).lower() and found.value.exit_code == 2


@pytest.mark.parametrize("label", [2, -1, None, True, "god", 0.5, ""], ids=repr)
def test_bad_labels_are_refused(label: Any, model: Model) -> None:
    row = {"question": "good", "choices": ["a", "b"], "label": label}
    with pytest.raises(DataError, match="the label is none of the choices.*Expected a number from 0 to 1, or the text of a choice") as found:
        evaluate(model, [row])
    assert found.value.exit_code == 2


def test_other_heads_are_refused(tmp_path: Path) -> None:
    kind: Any = checkpoint.tasks.find("multiple_choice")
    with pytest.raises(MissingHeadError, match="more than one score a choice: 2. Expected 1. Train one"):
        kind.from_hf({}, {"choice": 2}, {})
    with pytest.raises(MissingHeadError, match="no head for multiple_choice"):
        nabi.load(folder("encoder", tmp_path / "encoder"), "multiple_choice")


def test_the_command_line_answers_and_refuses(tmp_path: Path, model: Model) -> None:
    checkpoint.save(model.original, tmp_path / "saved")
    (tmp_path / "in.jsonl").write_text(json.dumps(EXAMPLES[0]) + "\n")
    code, out, _ = command("predict", tmp_path / "saved", "--data", tmp_path / "in.jsonl", "--json")
    assert code == 0 and json.loads(out)["scores"] == pytest.approx(model.predict(EXAMPLES[0])["scores"], abs=TOLERANCE)
    code, out, _ = command("evaluate", tmp_path / "saved", "--data", tmp_path / "in.jsonl", "--json")
    assert code == 0 and json.loads(out)["metrics"].keys() == {"accuracy"}
    code, _, told = command("predict", tmp_path / "saved", "the good film")
    assert code == 2 and "has no choices" in told
