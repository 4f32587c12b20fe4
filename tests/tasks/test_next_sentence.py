"""Next sentence, and BERT's pretraining of which it is half: pairs of documents, the incumbent's checkpoints both ways, learning, what is cut, bad input."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import nabi
from conformance.kit import randomised
from nabi import Plan, checkpoint, evaluate, fit, tasks
from nabi.data.corrupt import IGNORED, next_sentence_pairs, sentences
from nabi.errors import DataError, InputError, MissingHeadError, OptionError
from nabi.model import Model
from nabi.tasks.fill_mask import FillMaskSettings
from nabi.training.progress import Progress
from tasks.masked import wordpiece
from training.small import PLAIN, SIZE, feed

TOLERANCE = 1e-5
STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}
# not an empty second text, which for the incumbent is none
PAIRS = [("the film is good", "songs and plots"), ("bad", "나비가 날았다"), ("the cast", "fine , fine ."), ("", "good"), ("dull", "bad")]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wordpiece(tmp_path_factory.mktemp("words"))


def made(words: Path, task: str = "next_sentence") -> Model:
    return nabi.create("bert", SIZE, task, tasks.find(task).Settings(), words)


# ---- pairs out of documents ------------------------------------------------------------------------------------------------------------------------


def documents(count: int = 60, length: int = 30) -> list[list[str]]:
    return [[f"d{d} s{s} {'x' * (s * 7 % 40)}." for s in range(length)] for d in range(count)]


def place(sentence: str) -> tuple[int, int]:
    document, number = sentence.split()[:2]
    return int(document[1:]), int(number[1:])


def test_half_of_the_pairs_go_on_and_half_come_from_another_document() -> None:
    rows = list(next_sentence_pairs(documents(), characters=150))
    assert abs(sum(row["is_next"] for row in rows) - len(rows) / 2) <= 2.5 * math.sqrt(len(rows)) and len(rows) > 400
    sizes: Counter[int] = Counter()
    for row in rows:
        first, second = (sentences(row[name]) for name in ("text", "next"))
        sizes[len(first)] += 1
        for text in (first, second):
            assert all((a, i + 1) == (b, j) for (a, i), (b, j) in zip(map(place, text), map(place, text[1:]), strict=False)), row
        (a, i), (b, j) = place(first[-1]), place(second[0])
        assert ((a, i + 1) == (b, j)) if row["is_next"] else a != b
        assert len(row["text"]) + len(row["next"]) <= 2 * 150
    assert len(sizes) > 2


def test_a_seed_repeats_the_pairs_and_another_does_not() -> None:
    texts = [" ".join(document) for document in documents()]
    rows = [list(next_sentence_pairs(texts, seed=seed)) for seed in (3, 3, 4)]
    assert rows[0] == rows[1] != rows[2]
    assert rows[0] == list(next_sentence_pairs(documents(), seed=3))  # the text is cut where the sentences were joined


def test_sentences() -> None:
    assert sentences('He said "no!" Then 3.5 went.\nNext line\n\n나비가 날았다. 앉았다? 猫が鳴く。犬も。') == [
        'He said "no!"', "Then 3.5 went.", "Next line", "나비가 날았다.", "앉았다?", "猫が鳴く。", "犬も。",
    ]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_sentences_lose_nothing_but_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


LONG_WORDS = [f"w{i}" for i in range(9000)]


def kinds(seed: int) -> dict[str, str]:
    dice = random.Random(seed)
    words = [f"w{i:05}" for i in range(8600)]
    return {"sentences": " ".join(word + dice.choice(["", "", "", "."]) for word in words), "one": " ".join(words), "no spaces": "나".join(words)}


@pytest.mark.parametrize("kind", ["sentences", "one", "no spaces"])
@pytest.mark.parametrize("seed", range(3))
def test_all_of_a_long_document_is_in_its_pairs(seed: int, kind: str) -> None:
    """60,000 characters of words that occur once, in sentences, in one sentence, and in one without a space."""
    text = kinds(seed)[kind]
    rows = list(next_sentence_pairs([text, "Else is elsewhere. Else was there."], seed=seed, characters=400))
    own = [row for row in rows if not row["text"].startswith("Else")]
    covered = [character == " " for character in text]
    for row in own:
        assert len(row["text"]) + len(row["next"]) <= 400 + 100  # and the spaces between sentences
        for piece in [row["text"], *([row["next"]] if row["is_next"] else [])]:
            for part in piece.split():
                begin = text.index(part)
                covered[begin : begin + len(part)] = [True] * len(part)
    assert len(text) > 60_000 and all(covered), covered.index(False)
    assert abs(sum(row["is_next"] for row in own) - len(own) / 2) <= 2.5 * math.sqrt(len(own))


@pytest.mark.parametrize("short", ["Only.", "a", "Aa. Bb.", "Aa. Bb. Cc."])
def test_all_of_a_short_document_is_in_its_pairs(short: str) -> None:
    for seed in range(20):
        rows = [row for row in next_sentence_pairs([short, "Else. Else."], seed=seed) if not row["text"].startswith("Else")]
        read = " ".join(row["text"] + " " + (row["next"] if row["is_next"] else "") for row in rows)
        assert set("".join(short.split())) <= set(read), rows


@pytest.mark.parametrize("few", [[], ["One. Two."], ["One. Two.", " "]], ids=repr)
def test_random_pairs_need_two_documents(few: list[str]) -> None:
    with pytest.raises(DataError, match="random pairs need two documents"):
        list(next_sentence_pairs(few))


# ---- checkpoints and answers -----------------------------------------------------------------------------------------------------------------------


def incumbent(cls: str, words: Path, folder: Path) -> Any:
    count = len(json.loads((words / "tokenizer.json").read_text())["model"]["vocab"])
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
    model = randomised(getattr(transformers, cls)(transformers.BertConfig(vocab_size=count, **sizes))).eval()
    model.save_pretrained(folder)
    wordpiece(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}))
    return model


@pytest.mark.parametrize(("cls", "task"), [("BertForNextSentencePrediction", "next_sentence"), ("BertForPreTraining", "pretraining")])
@torch.no_grad()
def test_checkpoints_of_the_incumbent_answer_alike_both_ways(cls: str, task: str, words: Path, tmp_path: Path) -> None:
    incumbent(cls, words, tmp_path / "theirs")
    ours = nabi.load(tmp_path / "theirs")
    assert ours.task.name == task
    nabi.save(ours, tmp_path / "ours")
    found = ours.predict([{"text": a, "next": b} for a, b in PAIRS])
    for path in (tmp_path / "theirs", tmp_path / "ours"):
        theirs, report = getattr(transformers, cls).from_pretrained(path, output_loading_info=True)
        assert not any(report.values()), report
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        for (a, b), answer in zip(PAIRS, found, strict=True):
            out = theirs.eval()(**tokenizer(a, b, return_tensors="pt"))
            wanted = (out.logits if task == "next_sentence" else out.seq_relationship_logits).softmax(-1)[0].tolist()
            gap = max(abs(x - y) for x, y in zip(answer["scores"].values(), wanted, strict=True))
            assert gap <= TOLERANCE and list(answer["scores"]) == ["is_next", "not_next"]
            assert answer["is_next"] == (wanted[0] > 0.5) and answer["score"] == max(answer["scores"].values())
        swapped = ours.predict([{"text": b, "next": a} for a, b in PAIRS])
        assert max(abs(x["scores"]["is_next"] - y["scores"]["is_next"]) for x, y in zip(found, swapped, strict=True)) >= 100 * TOLERANCE
    json.dumps(found)
    # both halves of the pretraining open by themselves
    if task == "pretraining":
        again = nabi.load(tmp_path / "ours", "next_sentence").predict([list(pair) for pair in PAIRS])
        assert [a["scores"]["is_next"] for a in again] == pytest.approx([a["scores"]["is_next"] for a in found], abs=TOLERANCE)
        assert nabi.load(tmp_path / "ours", "fill_mask").predict("good [MASK]")["masks"]
    else:
        with pytest.raises(MissingHeadError, match="no head for fill_mask"):
            nabi.load(tmp_path / "theirs", "fill_mask")


@torch.no_grad()
def test_the_joint_loss_is_the_incumbents(words: Path, tmp_path: Path) -> None:
    theirs = incumbent("BertForPreTraining", words, tmp_path)
    ours = nabi.load(tmp_path)
    rows = [row for i, (a, b) in enumerate(PAIRS) for row in ours.encode({"text": a, "next": b, "is_next": i % 2}, ours.options(), "train", "", i)]
    (batch,) = ours.pack(rows)
    found, counts = ours(batch), ours.task.counts(batch.targets)
    wanted = {"masked": 0.0, "next": 0.0}
    for row in rows:
        text = row.parts["text"]
        out = theirs(input_ids=torch.tensor([text["tokens"]]), token_type_ids=torch.tensor([text["segments"]]))
        labels = torch.tensor(row.targets["masked"])
        wanted["masked"] += float(torch.nn.functional.cross_entropy(out.prediction_logits[0], labels, ignore_index=IGNORED, reduction="sum"))
        wanted["next"] += float(torch.nn.functional.cross_entropy(out.seq_relationship_logits, torch.tensor([row.targets["next"]])))
    assert {name: float(x) for name, x in found.items()} == pytest.approx(wanted, rel=1e-5)
    assert counts == {"masked": sum(label != IGNORED for row in rows for label in row.targets["masked"]), "next": 5.0}


# ---- learning --------------------------------------------------------------------------------------------------------------------------------------


def topical(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """A text goes on with the word that it ends with."""
    dice, rows = random.Random(seed), []
    for i in range(count):
        last, other = dice.sample(PLAIN[:6], 2)
        rows.append({"text": f"{dice.choice(PLAIN)} {last}", "next": f"{other if i % 2 else last} {dice.choice(PLAIN)}", "is_next": not i % 2})
    return rows


def test_it_learns_which_text_goes_on(words: Path) -> None:
    plan = Plan(steps=250, batch=32, learning_rate=3e-3, evaluate_every=250, **STILL)  # type: ignore[arg-type]
    model = fit("next-sentence", topical(400), plan=plan, family="bert", size=SIZE, tokenizer=words, progress=Progress("quiet")).model
    figures = evaluate(model, topical(100, 1)).metrics
    assert figures["accuracy"] >= 0.9, figures
    assert {"macro_f1", "mcc", "ece", "f1/is_next", "f1/not_next"} < figures.keys()


def test_both_are_learnt_together(words: Path, tmp_path: Path) -> None:
    rows = topical(8)
    plan = Plan(steps=150, batch=8, learning_rate=5e-3, schedule="constant", evaluate_every=150, **STILL)  # type: ignore[arg-type]
    model = fit("pretraining", rows, plan=plan, family="bert", size=SIZE, tokenizer=words, progress=Progress("quiet"), out=tmp_path / "out").model
    figures, before = evaluate(model, rows).metrics, evaluate(made(words, "pretraining"), rows).metrics
    assert figures.keys() == {"perplexity", "accuracy", "next_accuracy"}
    assert figures["next_accuracy"] == 1.0 and figures["perplexity"] <= 0.1 * before["perplexity"], (figures, before)
    assert evaluate(nabi.load(tmp_path / "out"), rows).metrics == pytest.approx(figures, rel=1e-5)
    assert nabi.load(tmp_path / "out", "fill_mask").task.name == "fill_mask"


def test_pairs_are_hidden_anew_each_epoch_and_labels_stay(words: Path) -> None:
    model = made(words, "pretraining")
    fed = feed(model, topical(16), Plan(epochs=2, batch=16))
    one, two = (fed.step(n)[0] for n in (0, 1))
    by_example = [{e: (n, m.tolist()) for e, n, m in zip(b.parts["text"].example.tolist(), b.targets["next"].tolist(),
                   b.targets["masked"].split(b.parts["text"].layout.lengths), strict=True)} for b in (one, two)]  # fmt: skip
    assert {e: n for e, (n, _) in by_example[0].items()} == {e: n for e, (n, _) in by_example[1].items()} == {e: e % 2 for e in range(16)}
    assert sum(by_example[0][e][1] != by_example[1][e][1] for e in range(16)) >= 8


# ---- long pairs and bad input ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["next_sentence", "pretraining"])
def test_a_long_pair_keeps_its_seam(task: str, words: Path) -> None:
    model = made(words, task)
    left, right = " ".join(["bad"] * 100 + ["good"]), " ".join(["fine", *["dull"] * 30])
    (row,) = model.encode({"text": left, "next": right}, model.options())
    tokens = model.inputs.tokenizer.tokens(row.parts["text"]["tokens"])
    middle = tokens.index("[SEP]")
    assert len(tokens) == 64 and tokens[middle - 1] == "good" and tokens[middle + 1] == "fine" and tokens[0] == "[CLS]" and tokens[-1] == "[SEP]"
    assert (middle - 1, len(tokens) - middle - 2) == (31, 30) and row.parts["text"]["segments"] == [0] * (middle + 1) + [1] * (63 - middle)
    assert model.predict({"text": left, "next": right})["truncated"] and not model.predict({"text": "a", "next": "b"})["truncated"]
    assert model.predict({"text": left, "next": right}, max_length=10)["truncated"]
    with pytest.raises(OptionError, match="max_length is too small for a pair: 4. Expected 5 or more"):
        model.predict({"text": left, "next": right}, max_length=4)


@pytest.mark.parametrize("use", ["train", "evaluate"])
def test_pretraining_learns_all_of_a_long_pair(use: Any, words: Path) -> None:
    model = made(words, "pretraining")
    dice = random.Random(0)
    left, right = (" ".join(dice.choices(PLAIN, k=count)) for count in (700, 500))
    row, *others = model.encode({"text": left, "next": right, "is_next": True}, model.options(), use)
    tokenizer = model.inputs.tokenizer

    def texts(*encoded: Any) -> list[str]:
        return [token for x in encoded for token in tokenizer.tokens(x.notes["ids"]) if token not in ("[CLS]", "[SEP]")]

    assert len(others) >= 18 and all(len(x.parts["text"]["tokens"]) <= 64 and x.notes["truncated"] for x in [row, *others])
    rest, before = texts(*others), 700 - tokenizer.tokens(row.notes["ids"]).index("[SEP]") + 1
    assert [*rest[:before], *texts(row), *rest[before:]] == [*left.split(), *right.split()]
    if use == "train":
        assert [x.targets["next"] for x in [row, *others]] == [0, *[IGNORED] * len(others)]
        (batch,) = model.pack([row, *others], tokens=10_000)
        counts = model.task.counts(batch.targets)
        assert counts == {"masked": sum(label != IGNORED for x in [row, *others] for label in x.targets["masked"]), "next": 1.0}
        (alone,) = model.pack([row])
        with torch.no_grad():
            all_of_it, pair = model.eval()(batch), model(alone)
        assert float(all_of_it["next"]) == pytest.approx(float(pair["next"]), rel=1e-5)  # the other rows are asked nothing about a pair
        assert float(all_of_it["masked"]) > 5 * float(pair["masked"])
    else:
        answer = next(iter(model.answers([{"text": left, "next": right, "is_next": True}], use="evaluate")))
        alone_ = model.predict({"text": left, "next": right})
        assert answer["scores"] == pytest.approx(alone_["scores"], abs=0.05) and answer["truncated"] and alone_["truncated"]
        assert answer["tokens"] == sum(label != IGNORED for x in [row, *others] for label in x.targets["masked"]) > 150


@pytest.mark.parametrize(("bad", "message"), [
    ({"text": "good"}, "input 2 has no 'next'"),
    ("good", "input 2 has no 'next'"),
    ({"next": "good"}, "input 2 has no 'text'"),
    ({"text": "good", "next": 3}, "input 2 has no 'next': 3"),
    (("a", "b", "c"), "input 2 has no 'text': "),
], ids=repr)  # fmt: skip
def test_what_is_no_pair_is_named(bad: Any, message: str, words: Path) -> None:
    with pytest.raises(InputError, match=message):
        list(made(words).answers([("good", "bad"), bad]))


def test_labels_as_files_spell_them(words: Path, tmp_path: Path) -> None:
    task = made(words).task
    assert [task.truth({"is_next": x}, "") for x in (True, "True", "1", 1, "yes", False, "false", 0, "no")] == [True] * 5 + [False] * 4
    rows = [{"text": "a", "next": "b", "is_next": x} for x in (True, "perhaps")]
    with pytest.raises(DataError, match="row 2: is_next says neither yes nor no: 'perhaps'"):
        fit("next_sentence", rows, plan=Plan(steps=1), family="bert", size=SIZE, tokenizer=words)


def test_families_without_the_head_are_refused(words: Path) -> None:
    for task in ("next_sentence", "pretraining"):
        with pytest.raises(OptionError, match="has no 'next_sentence' head"):
            nabi.create("distilbert", "tiny", task, tasks.find(task).Settings(), words)
    with pytest.raises(OptionError, match="mask_probability"):
        checkpoint.create("bert", SIZE, "pretraining", FillMaskSettings(mask_probability=2.0), words)
