"""Summarisation: version 4's pipeline, documents longer than the model by parts and then the parts, what it learns and keeps, bad input."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import nabi
from nabi import Plan, evaluate
from nabi.batch import Row
from nabi.data import read_table
from nabi.errors import CheckpointError, InputError, OptionError
from nabi.metrics import SummaryScore
from nabi.model import Model
from nabi.training.encoded import encoded
from tasks.written import SIZES, T5_TASKS, Pipe, answered, cases, command, edit, fitted, folder, fresh, share_that_differs, streamed, tokenizer
from training.small import vocabulary

TASK = "summarization"
QUICK = {"max_new_tokens": 8, "num_beams": 1, "no_repeat_ngram_size": 1}
WORDS = ["the cat", "a dog", "no one", "the mat on it", "one in the rain", "ten men", "it", "the end of a thing"]


def document(sentences: int) -> str:
    """So many sentences, no two alike."""
    return " ".join(f"{WORDS[i % 8]} is {WORDS[(i * 3 + i // 8) % 8]}{'.!?'[i % 3]}" for i in range(sentences))


# ---- version 4's pipeline ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(TASK), ids=str)
def test_the_pipeline_answers_as_version_4(case: dict[str, Any], pipe: Pipe) -> None:
    assert answered(case, pipe(case["task"], case["model"])) == case["answer"]


def test_other_weights_miss_the_golden_answers(strange: Pipe) -> None:
    assert share_that_differs(cases(TASK), lambda case: strange(case["task"], case["model"])) > 0.9


def test_a_stream_of_texts_is_answered_one_by_one(pipe: Pipe) -> None:
    streamed(TASK, pipe)


def test_the_model_s_own_settings_hold_where_a_call_says_nothing(pipe: Pipe, models: dict[str, Path]) -> None:
    written = json.loads((models["settled"] / "generation_config.json").read_text())
    own = pipe(TASK, "settled")("the cat")
    named = {name: written[name] for name in ("num_beams", "max_length", "min_length", "no_repeat_ngram_size", "forced_eos_token_id", "length_penalty")}
    assert own == pipe(TASK, "bart")("the cat", **named) != pipe(TASK, "bart")("the cat")
    for name, other in {"num_beams": 1, "max_length": 7, "no_repeat_ngram_size": 0}.items():  # each of them is read
        assert pipe(TASK, "bart")("the cat", **{**named, name: other}) == pipe(TASK, "settled")("the cat", **{name: other}) != own


@pytest.mark.parametrize("most", [{"max_length": 4}, {"max_new_tokens": 3}])
def test_a_least_length_of_the_model_gives_way_to_the_most_that_a_call_allows(most: dict[str, int], pipe: Pipe, models: dict[str, Path]) -> None:
    made = nabi.load(models["settled"], TASK)
    with pytest.warns(UserWarning, match=r"min_length=5 of the model is more than this call allows: 4 is taken"):
        answer = made.predict("the cat", **most)
    # start, 2 tokens, the end token that the last place must hold
    model = transformers.BartForConditionalGeneration.from_pretrained(models["settled"])
    ids = torch.tensor([made.inputs.tokenizer.encode("the cat").ids])
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_length=4)[0].tolist()
    assert answer["sequences"][0]["tokens"] == theirs[1:3] and len(theirs) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made.predict("the cat", min_length=4, **most) == answer  # said by the call: nothing to lower
        assert made.predict("the cat", max_length=5)["text"] != answer["text"]


def test_t5_takes_prefix_and_settings_of_the_task(pipe: Pipe, models: dict[str, Path]) -> None:
    asked = T5_TASKS[TASK]
    settings = {name: value for name, value in asked.items() if name != "prefix"}
    bare = nabi.load(models["t5"], "text2text_generation").predict(f"{asked['prefix']}the cat", **settings)
    assert pipe(TASK, "t5")("the cat") == [{"summary_text": bare["text"]}]
    assert bare["text"] != nabi.load(models["t5"], "text2text_generation").predict("the cat", **settings)["text"]


# ---- long documents ------------------------------------------------------------------------------------------------------------------------------------


def bert_like(path: Path) -> Model:
    """Its tokenizer has a separator and no end token, and stands the separator behind each text."""
    return fresh("bart", vocabulary(path / "words"), task=TASK)


@pytest.fixture(params=["bart", "t5", "bert-like"])
def model(request: pytest.FixtureRequest, models: dict[str, Path], tmp_path: Path) -> Model:
    return bert_like(tmp_path) if request.param == "bert-like" else nabi.load(models[request.param], TASK)


def parts_of(model: Model, source: str, answer: dict[str, Any]) -> list[str]:
    """The parts of the document, having looked that they are whole sentences, all of it, and fit."""
    end, found = 0, []
    for part in answer["parts"]:
        text = source[part["start"] : part["end"]]
        assert source[end : part["start"]].strip() == "" and text == text.strip() and text[-1] in ".!?"
        rows = model.encode({"source": text}, model.options())
        assert len(rows) == 1 and len(rows[0].parts["text"]["tokens"]) <= model.inputs.max_length
        end = part["end"]
        found.append(text)
    assert source[end:].strip() == ""
    return found


def test_a_long_document_is_summarised_by_parts_and_then_the_parts_are(model: Model) -> None:
    source = document(7)
    asked = {**QUICK, "max_new_tokens": 4}
    assert len(model.encode({"source": source}, model.options(asked))) > 1
    answer = model.predict(source, **asked)
    parts = parts_of(model, source, answer)
    alone = [model.predict(part, **asked) for part in parts]
    assert [part["text"] for part in answer["parts"]] == [each["text"] for each in alone] and len(parts) > 1
    # the last round: what stands around each text, and within it the summaries one after another
    marks = model.encode({"source": parts[0]}, model.options())[0].parts["text"]["tokens"]
    prefix = model.inputs.tokenizer.encode(model.task.prefix, special=False).ids
    special = model.inputs.tokenizer.encode("a").special
    front, behind = special.index(False), list(reversed(special)).index(False)
    inner = [token for each in alone for token in each["sequences"][0]["tokens"]]
    tokens = [*marks[:front], *prefix, *inner, *marks[len(marks) - behind :]]
    assert len(tokens) <= model.inputs.max_length
    ((piece,),) = model.readings([Row({"text": {"tokens": tokens}})], model.options(asked))
    assert (answer["text"], answer["sequences"][0]["tokens"]) == (piece.text, list(piece.tokens))
    assert answer["pieces"] == [{"start": 0, "end": len(source), "text": piece.text}]


def test_summaries_of_summaries_go_on_until_one_is_left(models: dict[str, Path]) -> None:
    model, rounds = nabi.load(models["bart"], TASK), []
    readings = model.readings

    def counted(rows: Any, *rest: Any) -> Any:
        rounds.append(len(rows))
        return readings(rows, *rest)

    model.readings = counted  # type: ignore[method-assign]
    source = document(60)
    answer = model.predict(source, **QUICK)
    assert len(rounds) >= 3 and rounds[-1] == 1 and rounds == sorted(rounds, reverse=True) and len(answer["parts"]) == rounds[0] > 10
    assert len(parts_of(model, source, answer)) == rounds[0]


def test_several_answers_are_those_of_the_last_round(pipe: Pipe) -> None:
    asked = {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2}
    answers = pipe(TASK, "bart")([document(9), "the cat"], **asked)
    assert [len(answer) for answer in answers] == [2, 2] and answers[0][0] != answers[0][1]


def test_summaries_that_do_not_become_short_are_told(models: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="summaries of summaries do not become short: '5 parts left'. Lower max_length or min_length"):
        nabi.load(models["bart"], TASK).predict(document(9), min_new_tokens=40, max_new_tokens=40)


def test_a_long_document_is_cut_or_refused_where_that_is_asked_for(models: dict[str, Path], pipe: Pipe) -> None:
    model, source = nabi.load(models["bart"], TASK), document(9)
    cut = model.predict(source, long="truncate", **QUICK)
    assert cut["truncated"] is True and "parts" not in cut and pipe(TASK, "bart")(source, truncation=True, **QUICK) == [{"summary_text": cut["text"]}]
    assert model.predict(source, **QUICK)["truncated"] is False
    with pytest.raises(InputError, match=r"input 1 is too long: '\d+ tokens'. Expected at most 48. With long='window' it is read in pieces"):
        model.predict(source, long="error")


def test_a_document_of_one_word_that_does_not_fit_is_cut_in_its_middle(models: dict[str, Path]) -> None:
    answer = nabi.load(models["bart"], TASK).predict("z" * 150, **QUICK)
    places = [(part["start"], part["end"]) for part in answer["parts"]]
    assert places[0][0] == 0 and places[-1][1] == 150 and all(a[1] == b[0] for a, b in itertools.pairwise(places)) and len(places) >= 4


# ---- training ------------------------------------------------------------------------------------------------------------------------------------------

ROWS = [{"source": source, "target": target} for source, target in (("the cat is on the mat.", "a cat"), ("ten men in the rain.", "men"), ("no dog!", "none"))]
LEARN = Plan(steps=120, batch=6, learning_rate=1e-2, hidden_dropout=0.0, attention_dropout=0.0, evaluate_every=60)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that learnt three summaries by heart."""
    base = tmp_path_factory.mktemp("learnt")
    size, tokens = {"vocab_size": 1, **SIZES["bart"]}, tokenizer("bart", base / "tokens")
    return fitted(TASK, ROWS * 2, LEARN, dev=ROWS, family="bart", size=size, tokenizer=tokens, out=base / "out")


def test_it_learns_summaries_by_heart_and_says_them_after_loading(run: Any) -> None:
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 3 and run.metrics == dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), 1.0) | {
        "rouge2": pytest.approx(1 / 3)  # two of the references have no pair of words
    }
    loaded = nabi.load(run.out)
    assert [loaded.predict(row["source"])["text"] for row in ROWS] == [row["target"] for row in ROWS]
    assert loaded.predict(ROWS[0]["source"])["finish_reason"] == "stop" and evaluate(loaded, ROWS).metrics == run.metrics


def test_the_figures_are_those_of_the_answers_long_documents_too(models: dict[str, Path]) -> None:
    model = nabi.load(models["bart"], TASK)
    rows = [{"source": source, "target": model.predict(source, **QUICK)["text"][:-3] + " the cat"} for source in ("the cat", document(9), "ten men")]
    score = SummaryScore()
    for row in rows:
        score.add(model.predict(row["source"], **QUICK)["text"], row["target"])
    assert evaluate(model, rows, options=QUICK).metrics == pytest.approx(score.result()) and max(score.result().values()) > 0
    cut = evaluate(model, rows, options={**QUICK, "max_new_tokens": 2}).metrics
    assert abs(cut["rougeL"] - score.result()["rougeL"]) > 1e-3 or abs(cut["rouge1"] - score.result()["rouge1"]) > 1e-3


def test_long_rows_of_training_are_cut_with_a_warning(models: dict[str, Path]) -> None:
    model = nabi.load(models["bart"], TASK)
    with pytest.warns(UserWarning, match=r"sources of training that are too long are cut, first row 3 \(\d+ tokens, at most 48 fit\)"):
        (row,) = model.encode({"source": document(9), "target": "it"}, model.options(), "train", "row 3")
    assert len(row.parts["text"]["tokens"]) == 48 and row.targets["next"][-1] == model.inputs.tokenizer.eos_id
    with pytest.warns(UserWarning, match="targets of training"):
        (row,) = model.encode({"source": "it", "target": document(9)}, model.options(), "train", "row 3")
    assert len(row.targets["next"]) == len(row.parts["target"]["tokens"]) == 48 and row.targets["next"][-1] != model.inputs.tokenizer.eos_id


def test_one_warning_says_how_many_rows_and_tokens_of_training_are_cut(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))
    model = nabi.load(models["bart"], TASK)
    sources = ["the cat", document(9), document(12), "ten men"]
    lengths = [len(model.inputs.tokenizer.encode(source).ids) for source in sources]
    lost = sum(length - 48 for length in lengths if length > 48)
    table = read_table([{"source": source, "target": "it"} for source in sources])
    message = rf"first .*row 2 \({lengths[1]} tokens, at most 48 fit\); cut off: {lost} tokens of 2 of 4 rows\. .*part long pairs"
    for _ in range(2):  # encoded, and from the cache
        with pytest.warns(UserWarning, match=message) as said:
            rows = encoded(model, table, model.options(), "train", print)
        assert len(said) == 1 and [len(of_example[0].parts["text"]["tokens"]) for of_example in rows] == [min(length, 48) for length in lengths]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # control: what fits, and what is evaluated
        encoded(model, table, model.options(), "evaluate", print)
        encoded(model, read_table([{"source": "the cat", "target": "it"}]), model.options(), "train", print)


def test_long_rows_of_training_are_refused_where_that_is_asked_for(models: dict[str, Path]) -> None:
    model = nabi.load(models["bart"], TASK)
    for row, what in (({"source": document(9), "target": "it"}, "source"), ({"source": "it", "target": document(9)}, "target")):
        with pytest.raises(InputError, match=rf"row 3: the {what} is too long.*tokens.*at most 48"):
            model.encode(row, model.options({"long": "error"}), "train", "row 3")


def test_fine_tuning_keeps_how_the_base_decodes(models: dict[str, Path], tmp_path: Path) -> None:
    done = fitted(TASK, ROWS, Plan(steps=2), base=models["settled"], out=tmp_path / "out")
    files = [path / "generation_config.json" for path in (models["settled"], done.out)]
    assert json.loads(files[0].read_text()) == json.loads(files[1].read_text()) and "forced_eos_token_id" in files[1].read_text()
    assert nabi.load(done.out).task.settings == nabi.load(models["settled"], TASK).task.settings
    own = fitted(TASK, ROWS, Plan(steps=2), base=models["settled"], out=tmp_path / "own", settings={"decoding": {"num_beams": 2, "max_new_tokens": 5}})
    written = json.loads((own.out / "generation_config.json").read_text())
    assert (written["num_beams"], written["max_new_tokens"], "length_penalty" in written) == (2, 5, False)  # control: what the caller says


# ---- bad input -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ("the cat", {"min_length": 30, "max_length": 20}, OptionError, "min_length=30 is more than max_length=20"),
        ("the cat", {"min_new_tokens": 60, "max_new_tokens": 70}, InputError, "leaves less room than the answer has to have"),
        ("the cat", {"num_beams": 2, "num_return_sequences": 3}, OptionError, "num_return_sequences=3 is more than num_beams=2"),
        ("the cat", {"num_return_sequences": 2}, OptionError, "without beams or do_sample"),
        ("the cat", {"max_length": 1}, InputError, "the beginning of the output leaves no room for an answer"),
        ("the cat", {"max_lenght": 9}, OptionError, "Did you mean 'max_length'"),
        ([None], {}, InputError, "input 1 has no source"),
        ([{"role": "user", "content": "hello"}], {}, InputError, "input 1 is a message of a chat"),
    ],
)
def test_bad_input_is_refused(given: Any, options: dict[str, Any], error: type[Exception], message: str, pipe: Pipe) -> None:
    with pytest.raises(error, match=message):
        pipe(TASK, "bart")(given, **options)


def test_an_empty_document_is_answered_as_any(pipe: Pipe) -> None:
    answers = pipe(TASK, "bart")(["", " "], **QUICK)
    assert [list(answer) for answer in answers] == [["summary_text"]] * 2


@pytest.mark.parametrize("kind", ["gpt2"])
def test_a_family_that_goes_on_with_a_text_is_refused(kind: str, models: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="summarization can't be built on this family: Gpt2 goes on with a text"):
        nabi.pipeline(TASK, models[kind])


def test_damaged_settings_of_decoding_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    base = folder("bart", tmp_path / "model")
    edit(base / "generation_config.json", num_beams="four")
    with pytest.raises((CheckpointError, OptionError), match="'num_beams' has the wrong type: 'four'"):
        nabi.load(base, TASK)
    edit(base / "generation_config.json", num_beams=2, penalty_alpha=0.6)
    with pytest.raises((CheckpointError, OptionError), match="ask for what is not built: 'penalty_alpha=0.6'"):
        nabi.load(base, TASK)


def test_the_command_summarises_a_long_document_and_ends_with_2_where_the_input_was_wrong(models: dict[str, Path]) -> None:
    settings = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]
    code, out, err = command("predict", models["bart"], document(9), *settings, "--json")
    assert code == 0, err
    assert len(json.loads(out)["parts"]) > 1
    for wrong, message in (("min_length=50", "leaves less room"), ("num_return_sequences=2", "without beams"), ("long=error", "input 1 is too long")):
        code, out, err = command("predict", models["bart"], document(9), "--set", wrong)
        assert (code, out) == (2, "") and message in err and "Traceback" not in err
