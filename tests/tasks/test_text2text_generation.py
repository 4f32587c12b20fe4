"""Text to text: version 4's pipeline, what it learns and keeps, tokens that a model has to have, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import models as library_models
from tokenizers import pre_tokenizers

import nabi
from nabi import Plan, evaluate
from nabi.errors import DataError, InputError, OptionError
from nabi.metrics import SummaryScore
from tasks.written import SIZES, Pipe, answered, cases, command, fitted, folder, fresh, share_that_differs, streamed, tokenizer

TASK = "text2text-generation"
LONG = "the cat is on the mat . " * 6
QUICK = {"max_new_tokens": 8, "num_beams": 1, "no_repeat_ngram_size": 1}


# ---- version 4's pipeline ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(TASK), ids=str)
def test_the_pipeline_answers_as_version_4(case: dict[str, Any], pipe: Pipe) -> None:
    assert answered(case, pipe(case["task"], case["model"])) == case["answer"]


def test_other_weights_miss_the_golden_answers(strange: Pipe) -> None:
    assert share_that_differs(cases(TASK), lambda case: strange(case["task"], case["model"])) > 0.9


def test_a_stream_of_texts_is_answered_one_by_one(pipe: Pipe) -> None:
    streamed(TASK, pipe)


def test_top_k_leaves_the_shape(pipe: Pipe) -> None:
    (answer,) = pipe(TASK, "t5")("the cat", do_sample=True, top_k=5, max_new_tokens=4, num_beams=1)
    assert list(answer) == ["generated_text"]
    assert [list(each) for each in pipe(TASK, "t5")(["the cat"], do_sample=True, top_k=5, max_new_tokens=4)] == [["generated_text"]]


class Texts(torch.utils.data.Dataset[str]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> str:
        return ("the cat", "a dog")[i]


def test_every_form_of_input_has_the_answers_of_a_list(pipe: Pipe) -> None:
    generate = pipe(TASK, "t5")
    wanted = generate(["the cat", "a dog"], **QUICK)
    assert wanted == [generate(text, **QUICK)[0] for text in ("the cat", "a dog")] and wanted[0] != wanted[1]
    assert generate(("the cat", "a dog"), **QUICK) == generate(pd.Series(["the cat", "a dog"]), **QUICK) == wanted
    assert generate(pd.DataFrame({"source": ["the cat", "a dog"]}), **QUICK) == wanted
    assert generate([{"source": "the cat"}, {"text": "a dog"}], **QUICK) == wanted
    assert [answer for (answer,) in generate(Texts(), **QUICK)] == wanted
    assert generate({"source": "the cat"}, **QUICK) == wanted[:1] and generate([]) == []


def test_words_of_version_4_that_steer_padding_are_told_to_have_no_effect(pipe: Pipe) -> None:
    with pytest.warns(UserWarning, match="batch_size, padding: accepted without effect"):
        answer = pipe(TASK, "t5")("the cat", batch_size=8, padding=True, **QUICK)
    assert answer == pipe(TASK, "t5")("the cat", **QUICK)


def test_truncation_cuts_what_is_too_long(pipe: Pipe, models: dict[str, Path]) -> None:
    model = nabi.load(models["t5"])
    head = model.inputs.tokenizer.truncated(LONG, None, 48)[0]
    cut = model.predict(LONG, long="truncate", **QUICK)
    assert cut["truncated"] is True and len(head.ids) == 48
    assert pipe(TASK, "t5")(LONG, truncation=True, **QUICK) == [{"generated_text": cut["text"]}]
    row = model.encode({"source": LONG}, model.options({"long": "truncate"}))[0]
    assert row.parts["text"]["tokens"] == head.ids


def test_max_length_counts_the_start_token_and_max_new_tokens_wins(models: dict[str, Path]) -> None:
    model = nabi.load(models["t5"])
    found = {}
    for name, options in {"alone": {"max_length": 9}, "both": {"max_length": 9, "max_new_tokens": 4}, "none": {}}.items():
        answer = model.predict("the cat", no_repeat_ngram_size=1, **options)
        found[name] = (len(answer["sequences"][0]["tokens"]), answer["finish_reason"])
    assert found == {"alone": (8, "length"), "both": (4, "length"), "none": (20, "length")}
    assert len(model.predict("the cat", max_length=60, no_repeat_ngram_size=1, suppress_tokens=[1])["sequences"][0]["tokens"]) == 59  # T5 has no end


def test_an_answer_is_told_with_what_ended_it(models: dict[str, Path]) -> None:
    model = nabi.load(models["t5"])
    first = model.predict("the cat", **QUICK)["sequences"][0]["tokens"]
    answer = model.predict("the cat", eos_token_id=first[3], return_tensors=True, **QUICK)
    assert answer["finish_reason"] == "stop" and answer["sequences"][0]["ids"] == [model.task.decoding.decoder_start_token_id, *first[:4]]
    assert answer["sequences"][0]["tokens"] == first[:3] and answer["pieces"] == [{"start": 0, "end": 7, "text": answer["text"]}]
    json.dumps(answer)


# ---- training ------------------------------------------------------------------------------------------------------------------------------------------

ROWS = [{"source": source, "target": target} for source, target in (("add: 1 1", "2"), ("add: 1 2", "3"), ("say: the cat", "the cat"))]
LEARN = Plan(steps=120, batch=6, learning_rate=1e-2, hidden_dropout=0.0, attention_dropout=0.0, evaluate_every=60)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that learnt three answers by heart."""
    base = tmp_path_factory.mktemp("learnt")
    size, tokens = {"vocab_size": 1, **SIZES["t5"]}, tokenizer("t5", base / "tokens")
    return fitted(TASK, ROWS * 2, LEARN, dev=ROWS, family="t5", size=size, tokenizer=tokens, out=base / "out")


def test_it_learns_answers_by_heart_and_says_them_after_loading(run: Any) -> None:
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 3 and run.metrics["rougeL"] == 1
    loaded = nabi.load(run.out)
    assert [loaded.predict(row["source"])["text"] for row in ROWS] == [row["target"] for row in ROWS]
    assert loaded.predict(ROWS[0]["source"])["finish_reason"] == "stop" and evaluate(loaded, ROWS).metrics == run.metrics


def test_the_loss_is_the_mean_over_the_tokens_of_the_targets_and_their_ends(models: dict[str, Path]) -> None:
    from transformers import T5ForConditionalGeneration

    theirs = T5ForConditionalGeneration.from_pretrained(models["t5"]).eval()
    model = nabi.load(models["t5"])
    nats, tokens, unended = 0.0, 0, 0.0
    for row in ROWS:
        source, target = (torch.tensor([model.inputs.tokenizer.encode(row[name]).ids]) for name in ("source", "target"))
        with torch.no_grad():
            logs = theirs(input_ids=source, labels=target).logits[0].double().log_softmax(-1)
        each = -logs[torch.arange(target.shape[1]), target[0]]
        nats, tokens, unended = nats + float(each.sum()), tokens + target.shape[1], unended + float(each[:-1].sum())
    rows = [model.encode(row, model.options(), "train", number=i)[0] for i, row in enumerate(ROWS)]
    (batch,) = model.pack(rows)
    ours = float(model(batch)["next"].detach()) / model.task.counts(batch.targets)["next"]
    assert ours == pytest.approx(nats / tokens, rel=1e-5)
    assert abs(unended / (tokens - len(ROWS)) - ours) / ours > 1e-3  # control: without the end tokens


def test_the_figures_are_those_of_the_answers(models: dict[str, Path]) -> None:
    model, score = nabi.load(models["t5"]), SummaryScore()
    rows = [{"source": text, "target": model.predict(text, **QUICK)["text"][:-2] + " the"} for text in ("the cat", "a dog", "ten men")]
    for row in rows:
        score.add(model.predict(row["source"], **QUICK)["text"], row["target"])
    assert evaluate(model, rows, options=QUICK).metrics == pytest.approx(score.result()) and 0 < score.result()["rougeL"] < 1


def test_fine_tuning_keeps_how_the_base_decodes(tmp_path: Path) -> None:
    asked = {"num_beams": 2, "max_new_tokens": 7, "repetition_penalty": 1.5, "suppress_tokens": [9], "stop_strings": ["x"]}
    base = folder("t5", tmp_path / "base", generation=asked, config={"prefix": "do: "})
    done = fitted(TASK, ROWS, Plan(steps=2), base=base, out=tmp_path / "out")
    written = json.loads((done.out / "generation_config.json").read_text())
    assert written == json.loads((base / "generation_config.json").read_text()) and asked.items() <= written.items()
    loaded = nabi.load(done.out)
    assert loaded.task.settings == nabi.load(base).task.settings and loaded.task.prefix == "do: "
    assert loaded.encode({"source": "it"}, loaded.options())[0].parts["text"]["tokens"] == loaded.inputs.tokenizer.encode("do: it").ids


# ---- long sources ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "front"),
    [
        ("the cat is on the mat . " * 60, ""),  # sentences
        ("summarize: " + "the cat is on the mat . " * 60, "summarize: "),
        ("translate English to German: " + "the cat " * 180, "translate English to German: "),  # one sentence
        ("question: the cat ? context: " + "is on the mat . " * 90, "question: the cat ? context: "),
        ("say: " + "x" * 900, "say: "),  # no space
        ("x" * 900, ""),
        ("카" * 400, ""),
        ("one two three four five six seven: " + "x" * 300, ""),  # too many words for a task
        ("a: ", "a: "),
    ],
    ids=lambda x: x[:24],
)
def test_a_long_source_is_read_in_pieces_behind_its_task(source: str, front: str, models: dict[str, Path]) -> None:
    model = nabi.load(models["t5"])
    rows = model.encode({"source": source}, model.options())
    tokenizer, limit = model.inputs.tokenizer, model.inputs.max_length
    if len(tokenizer.encode(source).ids) <= limit:
        assert len(rows) == 1
        return
    assert len(rows) > 3 and all(len(row.parts["text"]["tokens"]) <= limit and not row.notes["truncated"] for row in rows)
    ends = len(front)
    for row in rows:
        begin, end = row.notes["place"]
        assert source[ends:begin].strip() == "" and row.parts["text"]["tokens"] == tokenizer.encode(front + source[begin:end]).ids
        ends = end
    assert source[ends:].strip() == ""
    answer = model.predict(source, max_new_tokens=3, num_beams=1)
    assert not answer["truncated"] and [(p["start"], p["end"]) for p in answer["pieces"]] == [row.notes["place"] for row in rows]
    alone = [model.predict(front + source[slice(*row.notes["place"])], max_new_tokens=3, num_beams=1)["text"] for row in (rows[0], rows[-1])]
    assert [answer["pieces"][0]["text"], answer["pieces"][-1]["text"]] == alone
    streamed_ = [record for record in model.stream(source, max_new_tokens=3, num_beams=1) if "answer" in record]
    assert streamed_[-1]["answer"]["text"] == answer["text"]


def test_a_prefix_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    model = nabi.load(folder("t5", tmp_path / "long", config={"prefix": "the cat is on the mat . " * 20}))
    with pytest.raises(InputError, match=r"tokens before it'. Expected fewer than 48. Shorten the prefix"):
        model.predict("the cat")


# ---- bad input -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (LONG, {"long": "error"}, InputError, r"input 1 is too long: '\d+ tokens'. Expected at most 48. With long='window' it is read in pieces"),
        (["the cat", LONG], {"long": "error"}, InputError, "input 2 is too long.*With long='window'"),
        ("the cat", {"min_length": 30, "max_length": 20}, OptionError, "min_length=30 is more than max_length=20"),
        ("the cat", {"num_beams": 2, "num_return_sequences": 3}, OptionError, "num_return_sequences=3 is more than num_beams=2"),
        ("the cat", {"num_return_sequences": 2}, OptionError, "without beams or do_sample"),
        ("the cat", {"max_length": 0}, OptionError, "max_length=0 is less than 1"),
        ("the cat", {"do_smaple": True}, OptionError, "Did you mean 'do_sample'"),
        ([["a", "b"]], {}, InputError, r"input 1 has no source: \['a', 'b'\]"),
        (7, {}, InputError, "this is no input: '7'"),
        ([{"role": "user", "content": "hello"}], {}, InputError, "input 1 is a message of a chat"),
    ],
)
def test_bad_input_is_refused(given: Any, options: dict[str, Any], error: type[Exception], message: str, pipe: Pipe) -> None:
    with pytest.raises(error, match=message):
        pipe(TASK, "t5")(given, **options)


@pytest.fixture
def unmarked(tmp_path: Path) -> Path:
    """A folder with a tokenizer that has no special tokens."""
    library = Library(library_models.WordLevel({letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}, unk_token="a"))
    library.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    (tmp_path / "unmarked").mkdir()
    library.save(str(tmp_path / "unmarked" / "tokenizer.json"))
    return tmp_path / "unmarked"


def test_a_model_that_does_not_say_how_its_output_begins_is_refused(unmarked: Path) -> None:
    model = fresh("t5", unmarked)
    for use in ("predict", "train"):
        with pytest.raises(OptionError, match="does not say which token its output begins with. Expected decoder_start_token_id in its config.json"):
            list(model.readings(model.encode({"source": "abc", "target": "abc"}, model.options(), use), model.options()))  # type: ignore[arg-type]


def test_without_an_end_token_only_the_length_ends_an_answer(unmarked: Path) -> None:
    model = fresh("t5", unmarked, decoding=nabi.decoding.Settings(decoder_start_token_id=3))
    answer = model.predict("abc", max_new_tokens=30)
    assert answer["finish_reason"] == "length" and len(answer["sequences"][0]["tokens"]) == 30
    with pytest.raises(InputError, match="input 1 has no tokens. Expected one at least. Give it some text"):
        model.predict("")
    with pytest.raises(DataError, match="row 2: the target is empty: ''. Expected at least one token"):
        model.encode({"source": "abc", "target": ""}, model.options(), "train", "row 2")


def test_where_a_model_is_silent_its_output_begins_as_in_version_4(tmp_path: Path) -> None:
    for kind, start in (("bart", "bos_id"), ("t5", "pad_id")):
        silent = folder(kind, tmp_path / kind, config={"decoder_start_token_id": None}, generation={"decoder_start_token_id": None})
        model = nabi.load(silent, TASK)
        assert model.task.decoding.decoder_start_token_id == getattr(model.inputs.tokenizer, start)


def test_a_model_that_does_not_say_its_task_takes_it_from_the_text(models: dict[str, Path]) -> None:
    assert nabi.load(models["t5"]).task.name == "text2text_generation"


def test_a_family_that_goes_on_with_a_text_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="text2text_generation can't be built on this family: Gpt2 goes on with a text"):
        nabi.pipeline(TASK, models["gpt2"])


def test_the_command_answers_and_ends_with_2_where_the_input_was_wrong(models: dict[str, Path], tmp_path: Path) -> None:
    wanted = nabi.load(models["t5"], precision="fp32").predict("the cat", max_new_tokens=4)
    assert command("predict", models["t5"], "the cat", "--set", "max_new_tokens=4") == (0, wanted["text"] + "\n", "")
    refused = {"long=error": "input 1 is too long", "min_new_tokens=30": "leaves less room", "num_return_sequences=2": "without beams"}
    for wrong, message in refused.items():
        text = LONG if wrong == "long=error" else "the cat"
        code, out, err = command("predict", models["t5"], text, "--set", wrong, "--json")
        assert (code, out) == (2, "") and err.startswith("error: ") and message in err and "Traceback" not in err
    (tmp_path / "rows.jsonl").write_text(json.dumps({"source": "the cat"}) + "\n" + json.dumps({"source": 5}) + "\n")
    code, out, err = command("predict", models["t5"], "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "answers.jsonl")
    assert code == 2 and "has no source: 5" in err and not (tmp_path / "answers.jsonl").exists()
