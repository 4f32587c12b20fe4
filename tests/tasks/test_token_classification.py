"""Token classification: the incumbent's answers, its own words and entities, windows, what data may look like, what is refused."""

from __future__ import annotations

import json
import random
import warnings
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import nabi
from golden.v4_differences import AS_V4
from nabi import Plan, checkpoint, evaluate, fit
from nabi.errors import DataError, InputError, OptionError, UserError
from nabi.model import Model, largest_gap
from nabi.tasks._entities import auto_entities, owners, span_tags, unit_tags, units_of, word_units
from nabi.tasks.token_classification import IGNORED, TokenSettings
from nabi.training.progress import Progress
from tasks.tagged import BIO, LIMIT, LONG, MODELS, SIZE, TEXTS, folder, golden, made, tokens
from tasks.written import Pipe, command

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Pipe:
    """Pipelines over the golden file's models by (name, seed)."""
    base = tmp_path_factory.mktemp("tagged")
    return cache(lambda name, seed: nabi.pipeline("ner", folder(name, base / f"{name}{seed}", seed=seed)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return made("bio", tmp_path_factory.mktemp("model"), unit="word").eval()


# ---- the incumbent's answers -------------------------------------------------------------------------------------------------------------------


def answered(case: dict[str, Any], tagger: Pipe, seed: int = 0) -> Any:
    cut = {} if "stride" in case["options"] else AS_V4["long_texts"]
    return tagger(case["model"], seed)(case["given"], **cut, **case["options"])  # type: ignore[arg-type]


def test_answers_are_version_4s(tagger: Pipe) -> None:
    cases = golden()
    assert len(cases) == 170 and {c["options"].get("aggregation_strategy") for c in cases} == {None, "none", "simple", "first", "average", "max"}
    gaps = [largest_gap(answered(case, tagger), case["answer"]) for case in cases]
    assert max(gaps) <= TOLERANCE, [case for case, gap in zip(cases, gaps, strict=True) if not gap <= TOLERANCE][:3]


def test_other_weights_miss_version_4s_answers(tagger: Pipe) -> None:
    cases = [case for case in golden() if case["model"] == "bio" and case["answer"]]
    missed = [largest_gap(answered(case, tagger, 1), case["answer"]) >= 100 * TOLERANCE for case in cases]
    assert sum(missed) >= 0.95 * len(missed) > 50


def test_a_checkpoint_of_the_incumbent_keeps_its_labels(tagger: Pipe, tmp_path: Path) -> None:
    pipe = tagger("bioes", 0)  # type: ignore[arg-type]
    assert pipe.model.task.labels == MODELS["bioes"][1] and pipe.model.task.settings.unit is None and pipe.task == "token-classification"
    pipe.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"] and config["id2label"]["1"] == "B-PER" and config["label2id"]["S-LOC"] == 8
    assert nabi.pipeline("ner", tmp_path / "saved")(TEXTS[0]) == pipe(TEXTS[0])


# ---- long texts --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["auto", "none", "simple", "first", "average", "max"])
def test_a_text_that_fits_is_read_at_once_whatever_the_stride(model: Model, strategy: str) -> None:
    whole = model.predict(TEXTS[0], aggregation_strategy=strategy, long="error")
    assert whole["windows"] == 1 and whole["entities"]
    assert model.predict(TEXTS[0], aggregation_strategy=strategy) == whole == model.predict(TEXTS[0], aggregation_strategy=strategy, stride=3)


def test_a_token_is_answered_by_the_window_with_most_context() -> None:
    dice = random.Random(0)
    for _ in range(300):
        room = dice.randint(1, 12)
        stride, total = dice.randint(0, room - 1), dice.randint(room + 1, 60)
        count = -(-(total - stride) // (room - stride))
        begins = [i * (room - stride) for i in range(count)]
        sizes = [min(room, total - begin) for begin in begins]
        owned = owners(sizes, stride)
        assert [i for mine in owned for i in mine] == list(range(total))  # each token once, in order
        for i, mine in enumerate(owned):
            for token in mine:
                context = [
                    min(token - b if n else total, b + size - 1 - token if n + 1 < count else total) if b <= token < b + size else -1
                    for n, (b, size) in enumerate(zip(begins, sizes, strict=True))
                ]
                assert stride > room // 2 or context[i] == max(context)


def test_long_texts_are_read_whole_with_their_own_offsets(model: Model) -> None:
    answer = model.predict(LONG)
    assert answer["windows"] > 2 and not answer["truncated"] and answer["entities"][-1]["end"] > 0.9 * len(LONG)
    assert all(LONG[e["start"] : e["end"]] == e["text"] for e in answer["entities"])
    cut = model.predict(LONG, long="truncate")
    assert cut["truncated"] and cut["windows"] == 1 and cut["entities"][-1]["end"] < 0.5 * len(LONG)
    with pytest.raises(InputError, match=rf"too long.*expected at most {LIMIT}|too long.*Expected at most {LIMIT}"):
        model.predict(LONG, long="error")
    with pytest.raises(OptionError, match="stride does not fit"):
        model.predict(LONG, stride=LIMIT)


def test_each_word_of_a_long_list_has_one_tag(model: Model) -> None:
    words = LONG.split() * 3
    answer = model.predict([words])[0]
    assert len(answer["tags"]) == len(words) and answer["windows"] > 5 and answer["text"] == " ".join(words)


# ---- invariants --------------------------------------------------------------------------------------------------------------------------------


def texts(count: int) -> list[str]:
    dice = random.Random(7)
    pieces = ["Ada", "Berlin", " ", "  ", "\t", ".", "'s", "박근혜가", "서울", "\u1112\u1161\u11ab", "e\u0301", "[SEP]", "\u200b", "\x07"]
    pieces += ["日本", "カナ", "مرحبا", "👨‍👩‍👧", "🎉", "é", "ﬁ", "😀가"]
    return ["".join(dice.choices(pieces, k=dice.randint(0, 14))) for _ in range(count)]


@pytest.mark.parametrize("name", ["bio", "plain", "bytes"])
def test_an_entity_is_the_source_between_its_offsets(tagger: Pipe, name: str) -> None:
    pipe, found = tagger(name, 0), 0  # type: ignore[arg-type]
    for text, answer in zip(texts(120), pipe.model.predict(texts(120)), strict=True):
        json.dumps(answer)
        for entity in answer["entities"]:
            assert text[entity["start"] : entity["end"]] == entity["text"] and entity["text"].strip() and entity["surface"].startswith(entity["text"])
            found += 1
        starts = [(e["start"], e["end"]) for e in answer["entities"]]
        assert all(a[1] <= b[0] for a, b in pairwise(starts))
    assert found > 50


@pytest.mark.parametrize("strategy", ["auto", "none", "average"])
def test_company_and_order_change_no_label(tagger: Pipe, strategy: str) -> None:
    pipe, given = tagger("bio", 0), [*texts(40), LONG]  # type: ignore[arg-type]
    alone = [pipe(text, aggregation_strategy=strategy) for text in given]
    together, backwards = pipe(given, aggregation_strategy=strategy), pipe(given[::-1], aggregation_strategy=strategy)[::-1]
    assert largest_gap(alone, together) <= 1e-5 and largest_gap(alone, backwards) <= 1e-5
    json.dumps(alone)


# ---- auto: what carries a label ------------------------------------------------------------------------------------------------------------------


def auto(text: str, pieces: list[str], tags: list[str], unit: str | None, trim: bool = True) -> list[tuple[str, str, str]]:
    """(type, text, surface) for pieces with these tags, found in the text in order."""
    offsets, at = [], 0
    for piece in pieces:
        at = text.index(piece, at)
        offsets.append((at, at + len(piece)))
        at += len(piece)
    labels = sorted({*tags, "O"})
    scores = torch.nn.functional.one_hot(torch.tensor([labels.index(t) for t in tags]), len(labels)).float().numpy()
    units = units_of(text, offsets, unit)
    found = auto_entities(text, units, *unit_tags(units, scores, labels, labels.index("O")), each=False, trim=trim)
    return [(e["label"], e["text"], e["surface"]) for e in found]


def test_a_word_is_one_unit_and_marks_stand_apart() -> None:
    pieces = ["(", "Jean", "-", "Bap", "tiste", "'", "s", "New", "Yor", "k", ")", "."]
    tags = ["O", "B-P", "O", "I-P", "O", "O", "B-L", "B-L", "I-L", "O", "O", "I-L"]
    assert auto("(Jean-Baptiste's New York).", pieces, tags, None) == [("P", "Jean-Baptiste", "Jean-Baptiste"), ("L", "New York", "New York"), ("L", ".", ".")]


def test_korean_is_answered_by_pieces_where_the_model_does_not_say_otherwise() -> None:
    pieces, tags = ["박근", "혜", "가", "서울", "에서"], ["B-PS", "I-PS", "O", "B-LC", "O"]
    assert auto("박근혜가 서울에서", pieces, tags, None) == [("PS", "박근혜", "박근혜"), ("LC", "서울", "서울")]
    assert auto("박근혜가 서울에서", pieces, tags, "piece") == [("PS", "박근혜", "박근혜"), ("LC", "서울", "서울")]
    # a piece that a model set apart from its particle is left as it is, even if it ends like one
    assert auto("김정은 왔다", ["김정", "은", "왔다"], ["B-PS", "I-PS", "O"], None) == [("PS", "김정은", "김정은")]


def test_particles_are_taken_off_words_and_kept_as_surface() -> None:
    pieces, tags = ["박근", "혜가", "서울", "에서", "산다"], ["B-PS", "O", "B-LC", "O", "O"]
    assert auto("박근혜가 서울에서 산다", pieces, tags, "word") == [("PS", "박근혜", "박근혜가"), ("LC", "서울", "서울에서")]
    assert auto("박근혜가 서울에서 산다", pieces, tags, "word", trim=False) == [("PS", "박근혜가", "박근혜가"), ("LC", "서울에서", "서울에서")]
    assert auto("가 에서", ["가", "에서"], ["B-PS", "B-LC"], "word") == [("PS", "가", "가"), ("LC", "에서", "에서")]  # never emptied


def test_scripts_without_spaces_are_answered_by_pieces() -> None:
    assert auto("私は東京へ行く", ["私", "は", "東京", "へ", "行く"], ["O", "O", "B-L", "O", "O"], "word") == [("L", "東京", "東京")]


def test_impossible_tags_are_repaired() -> None:
    assert auto("Ada Lee in Rome", ["Ada", "Lee", "in", "Rome"], ["I-P", "I-P", "O", "E-L"], "word") == [("P", "Ada Lee", "Ada Lee"), ("L", "Rome", "Rome")]


def test_a_word_that_no_token_begins_in_is_outside() -> None:
    units = word_units([(0, 3), (4, 4), (4, 6)], [(0, 3), (4, 6), (7, 8)])
    assert [u.piece for u in units] == [0, 2, None]


# ---- labels to tokens ----------------------------------------------------------------------------------------------------------------------------


def aims(model: Model, example: dict[str, Any]) -> list[list[str]]:
    """Each row's targets by name, "-" where there is none."""
    rows = model.encode(example, model.options(), "train")
    return [["-" if x == IGNORED else model.task.labels[x] for x in row.targets["tags"]] for row in rows]


def test_the_first_piece_of_a_word_learns_its_tag(model: Model) -> None:
    example = {"tokens": ["Berlin", "met", "Yorker", ","], "tags": ["B-LOC", "O", "B-PER", "I-PER"]}
    assert aims(model, example) == [["-", "B-LOC", "-", "O", "B-PER", "-", "I-PER", "-"]]


def test_every_piece_of_a_span_learns(tmp_path: Path) -> None:
    pieces = made("bio", tmp_path, unit="piece")
    example = {"text": "박근혜가 서울에서 Ada", "spans": [[5, 7, "LOC"], {"start": 0, "end": 3, "label": "PER"}]}
    assert aims(pieces, example) == [["-", "B-PER", "O", "B-LOC", "O", "O", "-"]]
    by_character = {"text": "서울 Bergen", "char_tags": ["B-LOC", "I-LOC", "O", *["B-PER", *["I-PER"] * 5]]}
    assert aims(pieces, by_character) == [["-", "B-LOC", "B-PER", "I-PER", "-"]]
    assert aims(pieces, {"tokens": ["Bergen", "Ada"], "tags": ["B-PER", "O"]}) == [["-", "B-PER", "I-PER", "O", "-"]]  # words, learnt by piece


def test_a_token_learns_in_one_window_only(model: Model) -> None:
    words = LONG.split()
    rows = aims(model, {"tokens": words, "tags": ["B-LOC"] * len(words)})
    assert len(rows) > 2 and sum(tag != "-" for row in rows for tag in row) == len(words)


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        (("O", "B-X", "I-X"), "B-X I-X I-X O B-X"),
        (("O", "B-X", "I-X", "E-X", "S-X"), "B-X I-X E-X O S-X"),
        (("O", "B-X", "I-X", "L-X", "U-X"), "B-X I-X L-X O U-X"),
        (("O", "X"), "X X X O X"),
    ],
)
def test_spans_become_tags_of_the_models_scheme(known: tuple[str, ...], wanted: str) -> None:
    tags, lost = span_tags([(0, 1), (1, 2), (2, 4), (5, 6), (7, 9)], [(0, 3, "X"), (6, 7, "X"), (8, 9, "X")], known, "O")
    assert " ".join(tags) == wanted and lost == [1]


def test_a_span_without_a_token_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"row 3: 1 spans hold no token.*\(3, 4, 'PER'\)"):
        made("bio", tmp_path, unit="piece").encode({"text": "Ada to", "spans": [[3, 4, "PER"]]}, nabi.tasks.find("ner").Options(), "train", "row 3")


# ---- it learns -----------------------------------------------------------------------------------------------------------------------------------

NAMES = {"PER": ["Ada", "Ada Bergen", "박근혜"], "LOC": ["Berlin", "New York", "서울"]}
FAST = Plan(steps=150, batch=8, learning_rate=5e-3, weight_decay=0.0, schedule="constant", hidden_dropout=0.0, attention_dropout=0.0, head_dropout=0.0)


def sentences(count: int, seed: int = 0) -> list[tuple[str, list[tuple[int, int, str]]]]:
    """Texts and their spans."""
    dice, found = random.Random(seed), []
    for _ in range(count):
        text, spans = "", []
        for _ in range(dice.randint(1, 3)):
            text += dice.choice(["the ", "from ", "met in "])
            kind = dice.choice(["PER", "LOC"])
            name = dice.choice(NAMES[kind])
            spans.append((len(text), len(text) + len(name), kind))
            text += name + (dice.choice(["가 ", "은 ", "에서 "]) if name[-1] >= "\uac00" else " ")
        found.append((text + ".", spans))
    return found


def as_chars(text: str, spans: list[tuple[int, int, str]]) -> list[str]:
    tags = ["O"] * len(text)
    for start, end, kind in spans:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


def as_words(text: str, spans: list[tuple[int, int, str]]) -> dict[str, Any]:
    chars, words, tags, at = as_chars(text, spans), text.split(), [], 0
    for word in words:
        at = text.index(word, at)
        tags.append(chars[at])
        at += len(word)
    return {"tokens": words, "tags": tags}


FORMS = {
    "words": lambda text, spans: as_words(text, spans),
    "numbers": lambda text, spans: {"tokens": (w := as_words(text, spans))["tokens"], "tags": [BIO.index(tag) for tag in w["tags"]]},
    "spans": lambda text, spans: {"text": text, "spans": [list(span) for span in spans]},
    "characters": lambda text, spans: {"text": text, "char_tags": as_chars(text, spans)},
}


@pytest.mark.parametrize("form", FORMS)
def test_it_learns_from_each_form_of_data(form: str, tmp_path: Path) -> None:
    train, dev = ([FORMS[form](*pair) for pair in sentences(n, seed)] for n, seed in ((60, 0), (20, 1)))
    size = {**SIZE, "max_positions": 64}
    given = {"settings": {"labels": list(BIO)}} if form == "numbers" else {}
    run = fit("ner", train, plan=FAST, dev=dev, family="bert", size=size, tokenizer=tokens("bert", tmp_path / "t", 64), progress=Progress("quiet"), **given)
    assert set(run.model.task.labels) == set(BIO) and run.model.task.settings.unit == ("piece" if form in ("spans", "characters") else "word")
    checkpoint.save(run.model, tmp_path / "saved")
    loaded = checkpoint.load(tmp_path / "saved")
    found = evaluate(loaded, dev, keep=True)
    assert found.metrics["f1"] >= 0.95, found.metrics
    assert ("accuracy" in found.metrics) == (form in ("words", "numbers")) and ("char_f1" in found.metrics) == (form in ("spans", "characters"))
    assert found.kept is not None
    text = "met in New York the 박근혜가 ."
    answer = loaded.predict(text)
    assert [(e["label"], e["text"]) for e in answer["entities"]] == [("LOC", "New York"), ("PER", "박근혜")]
    assert answer["entities"][1]["surface"] == ("박근혜가" if form in ("words", "numbers") else "박근혜")


def test_the_loss_is_the_mean_over_labelled_tokens(model: Model) -> None:
    example = {"tokens": ["Berlin", "met", "Yorker"], "tags": ["B-LOC", "O", "B-PER"]}
    rows = model.encode(example, model.options(), "train")
    (batch,) = model.pack(rows)
    with torch.no_grad():
        total = float(model(batch)["tags"])
    (logits,) = model.readings(rows, model.options())
    log_p = torch.tensor(logits).log_softmax(-1)
    assert model.task.counts(batch.targets) == {"tags": 3.0}
    assert total == pytest.approx(-float(log_p[1, 3] + log_p[3, 0] + log_p[4, 1]), rel=1e-5)


def test_parts_of_speech_are_one_each_and_have_no_outside(tmp_path: Path) -> None:
    rows = [{"tokens": ["the", "Ada", "Berlin"], "tags": ["DET", "NOUN", "NOUN"]}] * 2
    settings = nabi.tasks.find("ner").fitted(rows, "list", {})
    assert settings == TokenSettings(labels=("DET", "NOUN"), unit="word")
    task = nabi.tasks.find("ner")(settings)
    score = task.score()
    score.add({"tags": ["DET", "NOUN", "DET"]}, task.truth(rows[0], "row 1"))
    assert score.result()["f1"] == pytest.approx(2 / 3) == score.result()["accuracy"]


# ---- what is refused -----------------------------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "fewer tags": ({"tokens": ["a", "b"], "tags": ["O"]}, "another number than tokens: '?1 tags, 2 tokens"),
    "no list": ({"tokens": "a b", "tags": ["O", "O"]}, "tokens are not a list of words"),
    "tags in a string": ({"tokens": ["a"], "tags": "O"}, "tags is not a list"),
    "a number among words": ({"tokens": ["a", 3], "tags": ["O", "O"]}, "tokens are not a list of words"),
    "a missing tag": ({"tokens": ["a", "b"], "tags": ["O", None]}, "tag 2 is missing"),
    "no labels": ({"text": "a"}, "no column 'spans'"),
    "a span behind the end": ({"text": "abc", "spans": [[1, 4, "PER"]]}, "outside of the text.*0 <= start < end <= 3"),
    "an empty span": ({"text": "abc", "spans": [[1, 1, "PER"]]}, "outside of the text"),
    "no span": ({"text": "abc", "spans": [[1, 2]]}, "this is no span"),
    "spans in each other": ({"text": "abcdef", "spans": [[0, 4, "PER"], [3, 6, "LOC"]]}, "two spans overlap"),
    "too few characters": ({"text": "abc", "char_tags": ["O"]}, "another number than characters"),
    "a strange tag": ({"tokens": ["a"], "tags": ["B-XYZ"]}, "unknown label.*row 1.*B-XYZ"),
    "a number without a name": ({"tokens": ["a"], "tags": [9]}, "number that no label has: '?9"),
    "a strange type": ({"text": "abc", "spans": [[0, 1, "PERS"]]}, "'PERS'.*Did you mean 'PER'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_labels_are_refused_with_their_row(name: str, model: Model) -> None:
    row, words = BAD[name]
    with pytest.raises(DataError, match=words) as caught:
        evaluate(model, [row])
    assert caught.value.exit_code == 2 and ("list, row 1" in str(caught.value) or name == "no labels")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "has no text"),
        (["a", None], "tokens are not a list of words"),
        ({"question": "?"}, "has no text"),
    ],
)
def test_bad_inputs_are_refused(given: Any, words: str, model: Model) -> None:
    with pytest.raises(InputError, match=words):
        model.predict([given])


def test_bad_options_are_refused(model: Model) -> None:
    for options, words in (
        ({"aggregation_strategy": "simpel"}, "Did you mean 'simple'"),
        ({"strategy": "first"}, "strategy"),
        ({"ignore_labels": "O"}, "wrong type"),
        ({"max_length": 0}, "max_length"),
    ):
        with pytest.raises(OptionError, match=words):
            model.predict("Ada", **options)
    with pytest.raises(InputError, match="not split into words"):
        model.predict("Ada went", is_split_into_words=True)
    with pytest.raises(OptionError, match="can't be scored token by token"):
        evaluate(model, [{"text": "Ada", "spans": []}], options={"aggregation_strategy": "none"})
    with pytest.raises(OptionError, match="two labels have one name"):
        nabi.tasks.find("ner")(TokenSettings(labels=("O", "O")))


def test_data_that_teaches_nothing_is_refused() -> None:
    task = nabi.tasks.find("token-classification")
    with pytest.raises(DataError, match="only one label"):
        task.fitted([{"tokens": ["a"], "tags": ["O"]}], "list", {})
    with pytest.raises(DataError, match="row 2: labelled in another way"):
        task.fitted([{"tokens": ["a"], "tags": ["B-X"]}, {"text": "a", "spans": []}], "list", {})


def test_the_command_line_trains_tells_and_answers(tmp_path: Path) -> None:
    rows = [FORMS["spans"](*pair) for pair in sentences(12)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bad.jsonl").write_text(json.dumps({"tokens": ["a", "b"], "tags": ["O"]}) + "\n")
    base = ["--family", "bert", "--tokenizer", tokens("bert", tmp_path / "t"), "--set", "plan.steps=2"]
    code, out, err = command("train", "--task", "ner", "--data", tmp_path / "train.jsonl", "--dev", "0.3", "--out", tmp_path / "out", *base)
    assert code == 0, err
    assert "By type" in (tmp_path / "out" / "report.html").read_text()
    code, out, err = command("train", "--task", "ner", "--data", tmp_path / "bad.jsonl", "--out", tmp_path / "not", *base)
    assert code == 2 and "bad.jsonl, row 1: tags: another number than tokens" in err
    code, out, err = command("evaluate", tmp_path / "out", "--data", tmp_path / "train.jsonl", "--json")
    assert code == 0 and {"f1", "char_f1", "f1/PER"} <= json.loads(out)["metrics"].keys(), err
    code, out, err = command("predict", tmp_path / "out", "Ada met Berlin", "--json")
    assert code == 0 and set(json.loads(out)) == {"entities", "windows", "truncated"}, err
    code, out, err = command("predict", tmp_path / "out", "--data", tmp_path / "train.jsonl")
    assert code == 0 and len(out.splitlines()) == 12, err
    code, out, err = command("predict", tmp_path / "out", "Ada", "--set", "aggregation_strategy=simpel")
    assert code == 2 and "simple" in err


def test_no_user_mistake_is_another_exception(model: Model) -> None:
    """Rows of any shape are taken or refused as data, never with a bare exception."""
    dice = random.Random(3)
    values: list[Any] = [None, 1, True, "a b", "", [], ["a"], ["O"], [["a"]], [[0, 1, "PER"]], [0], {"start": 0}]
    values += [[{"start": 0, "end": 1, "label": "PER"}], 1.5]
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(400):
            row = {name: dice.choice(values) for name in ("tokens", "tags", "text", "spans", "char_tags") if dice.random() < 0.6}
            try:
                evaluate(model, [row])
            except UserError:
                refused += 1
    assert 200 < refused < 400
