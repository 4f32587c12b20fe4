"""Question answering: version 4's answers, windows, offsets, training, the threshold of no answer, Korean particles, and what is refused.

Where we differ from the incumbent on purpose is in docs/differences.md.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import nabi
from golden.v4_differences import AS_V4
from nabi import checkpoint, tasks
from nabi.errors import DataError, InputError, OptionError, UserError
from nabi.evaluation import evaluate
from nabi.fitting import fit
from nabi.model import Model
from nabi.tasks.question_answering import AnsweringSettings, QuestionAnswering
from nabi.training.plan import Plan
from nabi.training.progress import Progress
from tasks.answering import CONTEXT, KINDS, KOREAN, LONG, QUESTION, answerer, folder
from tasks.written import command

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "v4_answers.json").read_text(encoding="utf-8"))["cases"]
STILL: dict[str, Any] = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}
Made = Callable[[str, int], Model]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The golden file's models by kind and seed."""
    base = tmp_path_factory.mktemp("answering")
    return cache(lambda kind, seed=0: nabi.load(folder(kind, base / f"{kind}{seed}", seed)))


@pytest.fixture
def bert(made: Made) -> Model:
    return made("bert", 0)


def gap(a: Any, b: Any) -> float:
    """The largest difference of a score; infinite where a text, a place or a shape differs."""
    if isinstance(a, list) or isinstance(b, list):
        return max((gap(x, y) for x, y in zip(a, b, strict=True)), default=0.0) if isinstance(a, list) and isinstance(b, list) and len(a) == len(b) else 9.0
    return abs(a["score"] - b["score"]) if {k: a[k] for k in ("start", "end", "answer")} == {k: b[k] for k in ("start", "end", "answer")} else 9.0


def asked(model: Model, case: dict[str, Any]) -> Any:
    options = {name: value for name, value in case["options"].items() if name != "padding"}
    return nabi.pipeline("question-answering", model, **AS_V4["particles"])(*case["args"], **options)


# ---- version 4 -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_version_4(kind: str, made: Made) -> None:
    cases = [case for case in GOLDEN if case["model"] == kind]
    assert len(cases) >= 20
    missed = 0
    for case in cases:
        found = asked(made(kind, 0), case)
        assert gap(found, case["answer"]) <= 1e-5, (case, found)
        missed += gap(asked(made(kind, 1), case), case["answer"]) > 1e-3
    assert missed == len(cases)  # control: other weights


def test_padding_has_no_effect_and_is_said(bert: Model) -> None:
    answer = nabi.pipeline("question-answering", bert)
    with pytest.warns(UserWarning, match="padding: accepted without effect"):
        padded = answer(question=QUESTION, context=CONTEXT, padding=True)
    assert padded == answer(question=QUESTION, context=CONTEXT)


def test_an_iterator_is_answered_one_by_one(bert: Model) -> None:
    answer = nabi.pipeline("question-answering", bert)
    stream = answer({"question": q, "context": CONTEXT} for q in (QUESTION, "Who?"))
    assert not isinstance(stream, list)
    assert gap(list(stream), [answer(question=q, context=CONTEXT) for q in (QUESTION, "Who?")]) <= 1e-5


def test_a_score_is_the_product_of_two_probabilities(bert: Model) -> None:
    """By hand, from the logits of a single window."""
    example = {"question": "who", "context": "the cat sat"}
    (row,) = bert.encode(example, bert.options())
    ((starts, ends),) = bert.readings([row], bert.options())
    places = [0, 3, 4, 5]  # [CLS] who [SEP] the cat sat [SEP]
    p = [torch.tensor(x, dtype=torch.float64)[places].softmax(0).tolist() for x in (starts, ends)]
    spans = {(a, b): p[0][1 + a] * p[1][1 + b] for a in range(3) for b in range(a, 3)}
    words = example["context"].split()
    found = bert.predict(example, top_k=6)
    assert {x["answer"] for x in found["answers"]} == {" ".join(words[a : b + 1]) for a, b in spans}
    assert [x["score"] for x in found["answers"]] == pytest.approx(sorted(spans.values(), reverse=True), abs=1e-9)
    assert found["no_answer_score"] == pytest.approx(p[0][0] * p[1][0], abs=1e-9)


# ---- windows and offsets ----------------------------------------------------------------------------------------------------------------------


def test_windows_of_a_text_that_fits_are_the_whole(bert: Model) -> None:
    example = {"question": QUESTION, "context": CONTEXT}
    whole = bert.predict(example, top_k=5)
    assert whole["windows"] == 1
    assert bert.predict(example, top_k=5, max_seq_len=90, doc_stride=1) == whole
    assert bert.predict(example, top_k=5, max_seq_len=30, doc_stride=4)["windows"] > 1


@pytest.mark.parametrize("kind", KINDS)
def test_each_answer_is_its_place_in_the_original_text(kind: str, made: Made) -> None:
    dice, model = random.Random(0), made(kind, 0)
    pieces = ["나비가", "\u1102\u1161\u1107\u1175\u1100\u1161", "서울에서", "the cat", "  ", "\t", "\u3000", "日本語の", "カメラ", "مرحبا"]
    pieces += ["\U0001f469\u200d\U0001f467", "e\u0301", "\u00e9", "\x07", "£900", "x" * 60, "\ufb01", "\u0130"]
    for _ in range(25):
        context = "".join(dice.choice(pieces) + dice.choice(["", " ", "\n"]) for _ in range(dice.randint(1, 60)))
        options = {"top_k": 6, "particles": dice.choice(["keep", "trim", "auto"]), "align_to_words": dice.choice([True, False, "auto"])}
        found = model.predict({"question": "나비가?", "context": context}, **options, max_seq_len=dice.choice([48, 96]))
        assert found["answers"] or not context.strip()
        for each in [found, *found["answers"]]:
            assert context[each["start"] : each["end"]] == each["answer"], each
        assert all(x["answer"] for x in found["answers"])
        assert len({x["answer"].lower() for x in found["answers"]}) == len(found["answers"])
        assert json.loads(json.dumps(found)) == found


def test_neighbours_and_order_change_no_answer(bert: Model) -> None:
    contexts = [CONTEXT, LONG, KOREAN, "The cat.", CONTEXT[20:]]
    examples = [{"question": q, "context": c} for c in contexts for q in (QUESTION, "Who?")]
    alone = [bert.predict(example, top_k=3) for example in examples]
    order = random.Random(1).sample(range(len(examples)), len(examples))
    packed = dict(zip(order, bert.predict([examples[i] for i in order], top_k=3), strict=True))
    for i, one in enumerate(alone):
        assert gap(packed[i]["answers"], one["answers"]) <= 1e-5
        assert gap(packed[(i + 1) % len(alone)]["answers"], one["answers"]) > 1e-3  # control: another question's


def test_an_answer_deep_in_a_long_text_is_found_at_its_place(trained: Model) -> None:
    padding = "the dog sat in the house " * 60
    context = padding + "the cat sat in red " + padding
    found = trained.predict({"question": "what color is it", "context": context}, handle_impossible_answer=False, max_seq_len=20, doc_stride=4)
    assert found["windows"] > 50
    assert (found["answer"], found["start"]) == ("red", context.index("red"))


# ---- training ---------------------------------------------------------------------------------------------------------------------------------

COLORS = ("red", "blue")
PLACES = ("garden", "house", "river", "mat")


def rows(count: int, seed: int = 0, silent: float = 0.3) -> list[dict[str, Any]]:
    """Sentences with a color or without one; the question is which."""
    dice, found = random.Random(seed), []
    for _ in range(count):
        words = [dice.choice(("the", "a", "dog", "cat", "sat", "in", *PLACES)) for _ in range(dice.randint(4, 12))]
        answers = []
        if dice.random() >= silent:
            at, color = dice.randrange(len(words) + 1), dice.choice(COLORS)
            words.insert(at, color)
            answers = [{"text": color, "start": len(" ".join(words[:at])) + (at > 0)}]
        found.append({"question": "what color is it", "context": " ".join(words), "answers": answers})
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    base = tmp_path_factory.mktemp("trained")
    answerer("bert", base / "start")
    plan = Plan(steps=150, batch=16, learning_rate=3e-3, evaluate_every=75, seed=1, **STILL)
    size = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_positions": 96}
    done = fit("question_answering", rows(200), family="bert", size=size, tokenizer=base / "start", plan=plan, dev=rows(60, 1), out=base / "out",
               progress=Progress("quiet"))  # fmt: skip
    return done, base / "out"


@pytest.fixture(scope="module")
def trained(run: Any) -> Model:
    model = run[0].model
    assert isinstance(model, Model)
    return model


def test_training_learns_to_answer_and_to_give_no_answer(run: Any) -> None:
    metrics = run[0].metrics
    assert metrics["f1"] >= 0.95 and metrics["has_answer_f1"] >= 0.9 and metrics["no_answer_em"] >= 0.9
    assert metrics["always_no_answer"] < 0.6  # what a model without any answer reaches


def test_the_threshold_is_fitted_on_dev_and_saved(run: Any) -> None:
    done, out = run
    threshold = done.model.task.settings.threshold
    assert threshold not in (None, 0.0)
    again = nabi.load(out)
    assert again.task.settings.threshold == threshold
    found = evaluate(again, rows(60, 1)).metrics
    assert found == pytest.approx(done.metrics)
    # no other threshold does better on these rows
    for other in (threshold - 50, threshold - 1, threshold + 1, threshold + 50):
        again.task.settings = AnsweringSettings(other)
        assert evaluate(again, rows(60, 1)).metrics["f1"] <= found["f1"] + 1e-9
    again.task.settings = AnsweringSettings(-1e8)
    assert evaluate(again, rows(60, 1)).metrics["f1"] == pytest.approx(found["always_no_answer"])


def test_the_scores_of_an_overconfident_model_are_calibrated_on_dev_and_its_answers_stay(run: Any, tmp_path: Path) -> None:
    model, dev = nabi.load(run[1]), [*rows(150, 2), *wrongly(rows(50, 3))]
    options: dict[str, Any] = {"max_seq_len": 12, "doc_stride": 2}  # several windows
    model.task.settings = AnsweringSettings(threshold=0.0)
    with torch.no_grad():
        for parameter in model.task.span.parameters():  # type: ignore[union-attr]
            parameter.mul_(4.0)
    before, answers = evaluate(model, dev, options=options), model.predict(dev, top_k=4, **options)
    found = evaluate(model, dev, options=options, calibrate=True)
    fitted = model.task.settings.temperature
    assert fitted > 1.5 and model.task.settings.threshold != 0.0
    assert before.metrics["ece"] == before.metrics["ece_unscaled"] > 0.15 and found.metrics["ece"] < 0.5 * found.metrics["ece_unscaled"]
    nabi.save(model, tmp_path / "scaled")
    again = nabi.load(tmp_path / "scaled")
    assert again.task.settings == model.task.settings and evaluate(again, dev, options=options).metrics == pytest.approx(found.metrics, abs=1e-6)
    assert evaluate(again, dev, options=options, calibrate=True).metrics == pytest.approx(found.metrics, abs=1e-6)  # it is fitted anew, not on top

    # the same spans in the same order, with other scores
    for merge in ("document", "windows"):
        model.task.settings = AnsweringSettings(threshold=0.0)
        answers = model.predict(dev, top_k=4, merge=merge, **options)
        model.task.settings = AnsweringSettings(threshold=0.0, temperature=fitted)
        scaled = model.predict(dev, top_k=4, merge=merge, **options)
        assert [without_scores(a) for a in scaled] == [without_scores(a) for a in answers]
        assert max(abs(a["score"] - b["score"]) for a, b in zip(scaled, answers, strict=True)) > 0.1
        assert json.loads(json.dumps(scaled)) == scaled and "by_temperature" not in scaled[0]


def test_windows_of_their_own_are_not_calibrated(run: Any) -> None:
    """Their scores are sums, which may be more than 1."""
    model = nabi.load(run[1])
    model.task.settings = AnsweringSettings(threshold=0.0, merge="windows")
    found = evaluate(model, rows(60, 2), options={"max_seq_len": 12, "doc_stride": 4}, calibrate=True)
    assert model.task.settings.temperature == 1 and "ece" not in found.metrics
    several = model.predict(rows(60, 2), max_seq_len=12, doc_stride=4, handle_impossible_answer=False)
    assert max(answer["score"] for answer in several) > 1.5


def without_scores(answer: dict[str, Any]) -> Any:
    return answer["answer"], answer["margin"], [{k: v for k, v in x.items() if k != "score"} for x in answer["answers"]]


def wrongly(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with the truth that another word is the answer, so that a sure model is wrong."""
    return [{**row, "answers": [{"text": row["context"].split()[0], "start": 0}]} for row in found]


def test_a_score_under_a_temperature_is_the_product_of_two_tempered_probabilities(bert: Model) -> None:
    """By hand, from the logits of a single window."""
    example = {"question": "who", "context": "the cat sat"}
    (row,) = bert.encode(example, bert.options())
    (logits,) = bert.readings([row], bert.options())
    before, plain = bert.predict(example, top_k=6), bert.task.settings
    bert.task.settings = AnsweringSettings(merge=plain.merge, temperature=2.5)
    try:
        found = bert.predict(example, top_k=6)
    finally:
        bert.task.settings = plain
    p = [torch.tensor(x, dtype=torch.float64)[[0, 3, 4, 5]].div(2.5).softmax(0).tolist() for x in logits]
    wanted = sorted((p[0][1 + a] * p[1][1 + b] for a in range(3) for b in range(a, 3)), reverse=True)
    assert [x["score"] for x in found["answers"]] == pytest.approx(wanted, abs=1e-9) and found["score"] == found["answers"][0]["score"]
    assert found["no_answer_score"] == pytest.approx(p[0][0] * p[1][0], abs=1e-9)
    assert [x["answer"] for x in found["answers"]] == [x["answer"] for x in before["answers"]]
    assert max(abs(x["score"] - y["score"]) for x, y in zip(found["answers"], before["answers"], strict=True)) > 0.01
    with pytest.raises(OptionError, match="temperature is out of range"):
        AnsweringSettings(temperature=0.0)


def test_a_trained_model_gives_no_answer_unless_it_is_told_to(trained: Model) -> None:
    answer = nabi.pipeline("question-answering", trained)
    asked = {"question": "what color is it", "context": "the dog sat in the house"}
    assert answer(**asked)["answer"] == ""
    given = answer(**asked, handle_impossible_answer=False)
    assert given["answer"] and asked["context"][given["start"] : given["end"]] == given["answer"]
    ranked = answer(**asked, top_k=3)
    assert ranked[0]["answer"] == "" and len(ranked) == 3 and ranked[1]["answer"] == given["answer"]


def test_the_report_and_the_card_are_written(run: Any) -> None:
    report = (run[1] / "report.html").read_text(encoding="utf-8")
    assert "no answer given" in report and (run[1] / "README.md").is_file()


def test_targets_are_the_tokens_of_the_answer(bert: Model) -> None:
    start = LONG.index("river and the cat was")
    answer = {"text": LONG[start : start + 21], "start": start}
    encoded = bert.encode({"question": "Where?", "context": LONG, "answers": [answer]}, bert.options({"max_seq_len": 40, "negatives": None}), "train")
    held = [row for row in encoded if row.targets["start"]]
    assert held and len(held) < len(encoded)
    for row in encoded:
        window, targets = row.notes["window"], row.targets
        assert targets["place"] == [i == 0 or window.first <= i < window.stop for i in range(len(row.parts["text"]["tokens"]))]
        if targets["start"]:
            place = (window.offsets[targets["start"] - window.first][0], window.offsets[targets["end"] - window.first][1])
            assert LONG[slice(*place)] == answer["text"]
        else:
            assert targets["end"] == 0
            cut = [(max(a, start), min(b, start + 21)) for a, b in window.offsets]
            assert not all(any(a <= c < b for a, b in cut) for c in range(start, start + 21) if not LONG[c].isspace())
    some = bert.encode({"question": "Where?", "context": LONG, "answers": [answer]}, bert.options({"max_seq_len": 40, "negatives": 1}), "train")
    assert len(some) == len(held) + 1


def test_the_loss_is_the_cross_entropy_over_the_places(bert: Model) -> None:
    """By hand, row by row; a loss over all tokens is another."""
    examples = [{"question": "who", "context": c, "answers": a} for c, a in (("the cat sat", [{"text": "cat"}]), ("a dog in the garden", []))]
    encoded = [row for i, e in enumerate(examples) for row in bert.encode(e, bert.options(), "train", number=i)]
    (batch,) = bert.pack(encoded)
    found = bert.eval()(batch)["span"].item()
    wanted = over_all = 0.0
    for row, logits in zip(encoded, bert.readings(encoded, bert.options()), strict=True):
        for side, name in enumerate(("start", "end")):
            each = torch.tensor(logits[side], dtype=torch.float64)
            place = torch.tensor(row.targets["place"])
            wanted += float(each[place].logsumexp(0) - each[row.targets[name]]) / 2
            over_all += float(each.logsumexp(0) - each[row.targets[name]]) / 2
    assert found == pytest.approx(wanted, abs=1e-4) and abs(found - over_all) > 1e-2
    assert bert.task.counts(batch.targets) == {"span": 2.0}


def test_an_answer_that_fits_into_no_window_is_told(bert: Model) -> None:
    example = {"question": "Where?", "context": LONG, "answers": [{"text": LONG[:200], "start": 0}]}
    with pytest.warns(UserWarning, match="row 7: the answer fits whole into no window"):
        bert.encode(example, bert.options({"max_seq_len": 40}), "train", "row 7")


# ---- the forms of data ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": "cat", "start": 4}],
        [{"text": "cat", "answer_start": 4}],
        [{"text": "cat"}],
        ["cat"],
        {"text": ["cat"], "answer_start": [4]},
        {"text": "cat", "answer_start": 4},
        '[{"text": "cat", "start": 4}]',
        [{"text": "sat", "start": 8}, {"text": "cat", "start": 4}, {"text": "cat", "start": 4}],
    ],
)
def test_answers_in_each_of_their_forms(answers: Any, bert: Model) -> None:
    (row,) = bert.encode({"question": "who", "context": "the cat sat", "answers": answers}, bert.options(), "train")
    assert (row.targets["start"], row.targets["end"]) == (4, 4)
    assert "cat" in bert.task.truth({"answers": answers}, "row 1")


@pytest.mark.parametrize("none", [{"answers": []}, {"answers": {"text": [], "answer_start": []}}, {"answers": "[]"}, {"answers": [], "is_impossible": True}])
def test_no_answer_in_each_of_its_forms(none: dict[str, Any], bert: Model) -> None:
    (row,) = bert.encode({"question": "who", "context": "the cat sat", **none}, bert.options(), "train")
    assert (row.targets["start"], row.targets["end"]) == (0, 0) and bert.task.truth(none, "row 1") == []


def test_nested_rows_are_one_row_a_question(bert: Model, tmp_path: Path) -> None:
    flat = rows(12)
    nested = [{"title": "t", "context": r["context"], "questions": [{"id": i, "question": r["question"], "answers": r["answers"]}]} for i, r in enumerate(flat)]
    nested[0]["questions"] *= 2
    (tmp_path / "nested.jsonl").write_text("\n".join(json.dumps(row) for row in nested), encoding="utf-8")
    table = QuestionAnswering.opened(nabi_table(tmp_path / "nested.jsonl"))
    assert len(table) == 13 and table.where(2) == "nested.jsonl, line 2" and table[0] == table[1]
    assert evaluate(bert, tmp_path / "nested.jsonl").metrics == evaluate(bert, [flat[0], *flat]).metrics


def nabi_table(path: Path) -> Any:
    from nabi.data import read_table

    return read_table(path)


def test_a_split_leaves_a_context_on_one_side() -> None:
    assert QuestionAnswering.columns[0] == "context"


# ---- Korean -----------------------------------------------------------------------------------------------------------------------------------


def test_a_korean_particle_is_not_swallowed(bert: Model) -> None:
    context = "나비가 서울에서 꽃에 앉았다."
    for options, wanted in (
        ({"align_to_words": True, "particles": "keep"}, {"나비가", "서울에서", "꽃에"}),
        ({"align_to_words": True, "particles": "auto"}, {"나비", "서울", "꽃"}),
        ({"align_to_words": True, "particles": "trim"}, {"나비", "서울", "꽃"}),
        ({"align_to_words": "auto"}, {"나비", "서울", "꽃"}),
    ):
        answers = bert.predict({"question": "어디?", "context": context}, top_k=60, max_answer_len=1, **options)["answers"]
        assert wanted <= {x["answer"] for x in answers}, (options, answers)
        for each in answers:
            assert each["answer"] and context[each["start"] : each["end"]] == each["answer"]
            if "surface" in each:
                assert each["surface"].startswith(each["answer"]) and context[each["start"] :].startswith(each["surface"])
        shown = nabi.pipeline("question-answering", bert)(question="어디?", context=context, top_k=60, max_answer_len=1, **options)
        assert all(("surface" in x) == ("surface" in y) for x, y in zip(shown, answers, strict=True))


# ---- what is refused --------------------------------------------------------------------------------------------------------------------------

GOOD = {"question": "who", "context": "the cat sat"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"question": "", "context": "x"}, "empty question"),
        ({"question": "x", "context": ""}, "empty context"),
        ({"question": None, "context": "x"}, "has no question"),
        ({"context": "x"}, "has no question"),
        ({"question": "x", "context": 3}, "has no context"),
        ("just a text", "no question with its context"),
        ("{broken", "is no JSON"),
        (3, "this is no input"),
        ({**GOOD, "question": "cat " * 200}, "that each window repeats is too long"),
    ],
)
def test_bad_input_is_refused_with_code_2(given: Any, message: str, bert: Model) -> None:
    with pytest.raises(UserError, match=message) as caught:
        nabi.pipeline("question-answering", bert)(given)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k is out of range"),
        ({"max_answer_len": 0}, "max_answer_len is out of range"),
        ({"max_seq_len": 97}, "max_seq_len is out of range"),
        ({"doc_stride": 96}, "stride does not fit"),
        ({"doc_stride": -1}, "doc_stride is out of range"),
        ({"max_answer_length": 3}, "Did you mean 'max_answer_len'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str, bert: Model) -> None:
    with pytest.raises(OptionError, match=message):
        nabi.pipeline("question-answering", bert)(**GOOD, **options)


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((), {}, "there is no question"),
        ((), {"question": ["a", "b"], "context": ["x"]}, "not as many"),
        ((), {"question": "a", "context": ["x"]}, "one question has several contexts"),
        ((["a", "b"],), {}, "no question with its context"),
    ],
)
def test_calls_that_say_nothing_are_refused(args: tuple[Any, ...], options: dict[str, Any], message: str, bert: Model) -> None:
    with pytest.raises(InputError, match=message):
        nabi.pipeline("question-answering", bert)(*args, **options)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([{"text": "cat", "start": 5}], "row 3: the context has 'at ' at 5, not the answer: 'cat'. .*It begins at 4"),
        ([{"text": "dog", "start": 4}], "The answer is nowhere in the context"),
        (["dog"], "row 3: the answer is not in the context"),
        ([{"text": " ", "start": 0}], "an answer has no text"),
        (None, "the answers are no list"),
        ("cat", "the answers are no list"),
        ("[{", "are no JSON"),
        ({"text": ["cat"], "answer_start": [4, 5]}, "not as many"),
    ],
)
def test_labels_that_do_not_fit_are_named(answers: Any, message: str, bert: Model) -> None:
    with pytest.raises(DataError, match=message):
        bert.encode({**GOOD, "answers": answers}, bert.options(), "train", "row 3")


def test_a_text_of_white_space_has_no_answer(bert: Model) -> None:
    answer = nabi.pipeline("question-answering", bert)
    for top_k in (1, 3):
        assert answer(question="who", context=" \n ", top_k=top_k) == {"score": 1.0, "start": 0, "end": 0, "answer": ""}


def test_a_long_question_is_cut_only_if_asked(bert: Model) -> None:
    example = {"question": "who where what was " * 5, "context": CONTEXT}
    assert not bert.predict(example)["truncated"]
    cut = bert.predict(example, max_question_len=3)
    assert cut["truncated"] and cut["answers"] == bert.predict({**example, "question": "who where what"})["answers"]


def test_a_saved_model_answers_as_before(bert: Model, tmp_path: Path) -> None:
    checkpoint.save(bert, tmp_path / "saved")
    again = nabi.load(tmp_path / "saved")
    assert again.task.name == "question_answering" and not again.check_golden() and again.origin.golden
    assert again.predict({"question": QUESTION, "context": CONTEXT}) == bert.predict({"question": QUESTION, "context": CONTEXT})
    assert tasks.find("question-answering") is QuestionAnswering


def test_the_command_line_answers_and_refuses(run: Any, tmp_path: Path) -> None:
    example = {"question": "what color is it", "context": "the cat sat in the red house"}
    code, out, _ = command("predict", run[1], json.dumps(example), "--json")
    assert code == 0 and json.loads(out)["answer"] == "red"
    code, _, err = command("predict", run[1], "what color is it")
    assert code == 2 and "no question with its context" in err and "Traceback" not in err
    (tmp_path / "bad.jsonl").write_text(json.dumps({**example, "answers": [{"text": "red", "start": 3}]}), encoding="utf-8")
    code, _, err = command("train", "--task", "question-answering", "--data", tmp_path / "bad.jsonl", "--base", run[1], "--out", tmp_path / "out")
    assert code == 2 and "bad.jsonl, line 1: the context has" in err
    (tmp_path / "none.jsonl").write_text(json.dumps(example), encoding="utf-8")
    code, _, err = command("evaluate", run[1], "--data", tmp_path / "none.jsonl")
    assert code == 2 and "no column 'answers'" in err
