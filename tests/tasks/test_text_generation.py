"""Text generation: version 4's pipeline, the figures of a language model, what it learns and keeps, and every bad input refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import models as library_models
from tokenizers import pre_tokenizers

import nabi
from nabi import Plan, checkpoint, evaluate
from nabi.errors import InputError, MissingHeadError, OptionError
from nabi.tasks.text_classification import ClassificationSettings
from tasks.written import SIZES, Pipe, answered, cases, command, edit, fitted, folder, fresh, share_that_differs, streamed, tokenizer

TASK = "text-generation"
LONG = "the cat is on the mat . " * 6
LEARN = Plan(steps=120, batch=8, learning_rate=1e-2, hidden_dropout=0.0, attention_dropout=0.0, evaluate_every=40)
PROVERBS = ["the cat is on the mat.", "a dog is in the rain!", "one, two, three: go.", "no man is an island."]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that learnt four sentences by heart."""
    base = tmp_path_factory.mktemp("learnt")
    rows = [{"text": text} for text in PROVERBS]
    size = {"vocab_size": 1, **SIZES["gpt2"]}
    return fitted(TASK, rows * 2, LEARN, dev=rows * 4, family="gpt2", size=size, tokenizer=tokenizer("gpt2", base / "tokens"), out=base / "out")


# ---- version 4's pipeline ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(TASK), ids=str)
def test_the_pipeline_answers_as_version_4(case: dict[str, Any], pipe: Pipe) -> None:
    assert answered(case, pipe(case["task"], case["model"])) == case["answer"]


def test_other_weights_miss_the_golden_answers(strange: Pipe) -> None:
    assert share_that_differs(cases(TASK), lambda case: strange(case["task"], case["model"])) > 0.9


def test_a_stream_of_texts_is_answered_one_by_one(pipe: Pipe) -> None:
    streamed(TASK, pipe)


def test_options_of_the_pipeline_hold_for_every_call_and_a_call_goes_before_them(models: dict[str, Path], pipe: Pipe) -> None:
    made = nabi.pipeline(TASK, models["gpt2"], max_new_tokens=3, return_full_text=False)
    (short,), (long,) = made("the cat"), made("the cat", max_new_tokens=9)
    assert long["generated_text"].startswith(short["generated_text"]) and len(short["generated_text"]) < len(long["generated_text"])
    assert pipe(TASK, "gpt2")("the cat", max_new_tokens=3)[0]["generated_text"] == "the cat" + short["generated_text"]


def test_a_draw_is_repeated_by_its_seed_and_top_k_leaves_the_shape(pipe: Pipe) -> None:
    drawn = [pipe(TASK, "gpt2")("the cat", do_sample=True, top_k=20, seed=seed, num_return_sequences=2, max_new_tokens=12) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and [list(answer) for answer in drawn[0]] == [["generated_text"]] * 2
    assert drawn[0][0] != drawn[0][1]


def test_space_before_marks_goes_in_the_pipeline_and_stays_in_the_answer(models: dict[str, Path], pipe: Pipe) -> None:
    model = nabi.load(models["gpt2"])
    whole = model.predict("the cat", max_new_tokens=12)
    assert " ," in whole["completion"]
    assert pipe(TASK, "gpt2")("the cat", max_new_tokens=12) == [{"generated_text": whole["text"].replace(" ,", ",").replace(" ?", "?")}]
    assert pipe(TASK, "gpt2")("the cat", max_new_tokens=12, clean_up_tokenization_spaces=False) == [{"generated_text": whole["text"]}]
    cleaned = model.predict("the cat", max_new_tokens=12, clean_up_tokenization_spaces=True)
    assert cleaned["completion"] == whole["completion"].replace(" ,", ",").replace(" ?", "?")


def test_max_length_counts_the_prompt_and_max_new_tokens_wins(models: dict[str, Path]) -> None:
    model = nabi.load(models["gpt2"])
    prompt = len(model.inputs.tokenizer.encode("the cat").ids)
    lengths = {}
    for name, options in {"alone": {"max_length": 15}, "both": {"max_length": 15, "max_new_tokens": 4}, "none": {}}.items():
        answer = model.predict("the cat", **options)
        lengths[name] = len(answer["sequences"][0]["tokens"])
        assert answer["finish_reason"] == "length"
    assert lengths == {"alone": 15 - prompt, "both": 4, "none": 20}
    assert len(model.predict("the cat", max_length=500)["sequences"][0]["tokens"]) == 48 - prompt  # as far as the model reaches


def test_finish_reason_says_what_ended_the_text(models: dict[str, Path]) -> None:
    model = nabi.load(models["gpt2"])
    first = model.predict("the cat", max_new_tokens=5)["sequences"][0]["tokens"]
    ended = model.predict("the cat", max_new_tokens=5, eos_token_id=first[2], return_tensors=True)
    assert ended["finish_reason"] == "stop" and ended["sequences"][0]["tokens"] == first[:2] and ended["sequences"][0]["ids"][-3:] == first[:3]
    assert model.predict("the cat", max_new_tokens=12, stop_sequence="a")["finish_reason"] == "stop"


# ---- figures -------------------------------------------------------------------------------------------------------------------------------------------


def by_hand(path: Path, ids: list[int], limit: int, shared: int) -> float:
    """Nats of all tokens but the first, by the incumbent: rows of ``limit``, each with ``shared`` tokens of context."""
    from transformers import GPT2LMHeadModel

    theirs, total, begin = GPT2LMHeadModel.from_pretrained(path).eval(), 0.0, 0
    while begin < len(ids) - 1:
        window, context = ids[begin : begin + limit + 1], shared if begin else 0
        with torch.no_grad():
            logs = theirs(torch.tensor([window[:-1]])).logits[0].double().log_softmax(-1)
        total -= sum(float(logs[i, token]) for i, token in enumerate(window[1:]) if i >= context)
        if begin + len(window) >= len(ids):
            break
        begin += limit - shared
    return total


@pytest.mark.parametrize("texts", [["the cat is on a mat .", "no dog !"], [LONG, "the cat"]], ids=["short", "longer than the model"])
def test_perplexity_and_bits_per_byte_are_the_formulas(texts: list[str], models: dict[str, Path]) -> None:
    model = nabi.load(models["gpt2"])
    end = model.inputs.tokenizer.eos_id
    assert end is not None
    ids = [[end, *model.inputs.tokenizer.encode(text).ids, end] for text in texts]
    nats, tokens = sum(by_hand(models["gpt2"], row, 48, 24) for row in ids), sum(len(row) - 1 for row in ids)
    figures = evaluate(model, [{"text": text} for text in texts]).metrics
    assert figures["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert figures["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(len(text.encode()) for text in texts), rel=1e-5)
    unmarked = sum(by_hand(models["gpt2"], row[1:], 48, 24) for row in ids)  # control: without what begins a text
    assert abs(unmarked - nats) / nats > 1e-3


def test_a_row_of_evaluation_has_each_token_once(models: dict[str, Path]) -> None:
    model = nabi.load(models["gpt2"])
    rows = model.encode({"text": LONG}, model.options(), "evaluate")
    counted = [target for row in rows for target in row.targets["next"] if target >= 0]
    assert len(rows) > 2 and counted == [*model.inputs.tokenizer.encode(LONG).ids, model.inputs.tokenizer.eos_id]
    assert sum(row.notes["bytes"] for row in rows) == len(LONG.encode())


# ---- training ------------------------------------------------------------------------------------------------------------------------------------------


def test_it_learns_sentences_by_heart_and_says_them_after_loading(run: Any) -> None:
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 3 and run.metrics["perplexity"] < 2
    loaded = nabi.load(run.out)
    for text in PROVERBS:
        answer = loaded.predict(text[:6])
        assert (answer["text"], answer["finish_reason"]) == (text, "stop")
    assert evaluate(loaded, [{"text": text} for text in PROVERBS]).metrics == pytest.approx(run.metrics, rel=1e-4)


def test_a_prompt_begins_as_the_texts_of_training_did(run: Any, models: dict[str, Path]) -> None:
    ours, theirs = nabi.load(run.out), nabi.load(models["gpt2"])
    plain = theirs.inputs.tokenizer.encode("the cat").ids
    assert [m.predict("the cat", return_tensors=True)["sequences"][0]["ids"][: len(plain)] for m in (ours, theirs)] == [
        [ours.inputs.tokenizer.bos_id, *plain][:-1], plain
    ]  # fmt: skip
    settings = dataclasses.replace(ours.task.settings, begin=False)  # control: without that token it has not learnt them
    other = checkpoint.load_for_training(run.out, TASK, settings)
    assert [other.predict(text[:6])["text"] for text in PROVERBS] != PROVERBS


def test_the_best_checkpoint_is_the_one_of_fewest_bits(run: Any) -> None:
    bits = [entry["metrics"]["bits_per_byte"] for entry in run.history]
    assert run.metrics["bits_per_byte"] == min(bits) < max(bits)
    report, step = (run.out / "report.html").read_text(encoding="utf-8"), run.history[bits.index(min(bits))]["step"]
    assert f"The best weights are those of step {step}, by bits_per_byte." in report


def test_the_card_names_the_length_with_the_most_bits_as_the_weakest(run: Any, tmp_path: Path) -> None:
    rows = [{"text": text} for text in (*PROVERBS, *(f"{text} {text}" for text in PROVERBS), LONG)]  # one is longer than the model
    again = fitted(TASK, rows, Plan(steps=2), dev=rows, base=run.out, out=tmp_path / "out")
    from nabi.evaluation.findings import Findings

    found = Findings(again.model, evaluate(again.model, rows, keep=True))
    worst = max(found.by_length, key=lambda part: part.figure)
    assert worst.figure > min(found.by_length, key=lambda part: part.figure).figure
    assert f"Weakest length: {worst.name}, bits_per_byte {worst.figure:.4f}" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8").replace("\\_", "_")


def test_fine_tuning_keeps_how_the_base_decodes(tmp_path: Path) -> None:
    asked = {"num_beams": 2, "max_length": 30, "no_repeat_ngram_size": 3, "length_penalty": 0.7}
    base = folder("gpt2", tmp_path / "base", generation=asked)
    done = fitted(TASK, [{"text": text} for text in PROVERBS], Plan(steps=2), base=base, out=tmp_path / "out")
    written = json.loads((done.out / "generation_config.json").read_text())
    assert written == json.loads((base / "generation_config.json").read_text()) and asked.items() <= written.items()
    loaded = nabi.load(done.out)
    assert loaded.predict("the cat") == loaded.predict("the cat", **asked) != loaded.predict("the cat", num_beams=1)


# ---- bad input -----------------------------------------------------------------------------------------------------------------------------------------

PLAIN = "the cat"
REFUSED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (LONG, {}, InputError, r"input 1 leaves no room: '\d+ tokens'. Expected fewer than 48. .*handle_long_generation='hole'"),
    (LONG, {"handle_long_generation": "hole", "max_new_tokens": 48}, InputError, "the answer alone is longer than the model: 48"),
    (PLAIN, {"handle_long_generation": "gap"}, OptionError, "'handle_long_generation' has the wrong type|has an unknown value"),
    (PLAIN, {"min_length": 30, "max_length": 20}, OptionError, "min_length=30 is more than max_length=20"),
    (PLAIN, {"min_new_tokens": 30, "max_new_tokens": 20}, OptionError, "min_new_tokens=30 is more than max_new_tokens=20"),
    (PLAIN, {"num_beams": 2, "num_return_sequences": 3}, OptionError, "num_return_sequences=3 is more than num_beams=2"),
    (PLAIN, {"num_return_sequences": 3}, OptionError, "num_return_sequences=3 without beams or do_sample"),
    (PLAIN, {"num_beams": 3, "do_sample": True}, OptionError, "num_beams > 1 and do_sample exclude each other"),
    (PLAIN, {"max_length": 3}, InputError, "the prompt leaves no room for an answer: '6 tokens'. Expected fewer than max_length=3"),
    (PLAIN, {"max_length": 0}, OptionError, "max_length=0 is less than 1"),
    (PLAIN, {"temperature": 0.0, "do_sample": True}, OptionError, "temperature=0.0 is not above 0"),
    (PLAIN, {"stop_sequence": ""}, OptionError, "stop_strings holds an empty string"),
    (PLAIN, {"num_beam": 3}, OptionError, "Did you mean 'num_beams'"),
    (PLAIN, {"bad_words_ids": [[9999]]}, OptionError, "bad_words_ids holds 9999: not among the"),
    ([["a", "b"]], {}, InputError, r"input 1 has no text: \['a', 'b'\]"),
    ([PLAIN, None], {}, InputError, "input 2 has no text"),
    (5, {}, InputError, "this is no input: '5'"),
    ([{"role": "user", "content": "hello"}], {}, InputError, "input 1 is a message of a chat, and nabi lays out no chat templates: 'hello'"),
    ([[{"role": "user", "content": "hello"}]], {}, InputError, "input 1 is a message of a chat"),
]


@pytest.mark.parametrize(("given", "options", "error", "message"), REFUSED)
def test_bad_input_is_refused(given: Any, options: dict[str, Any], error: type[Exception], message: str, pipe: Pipe) -> None:
    with pytest.raises(error, match=message):
        pipe(TASK, "gpt2")(given, **options)


def test_an_empty_prompt_begins_with_the_token_that_begins_a_text(models: dict[str, Path]) -> None:
    model = nabi.load(models["gpt2"])
    answer = model.predict("", return_tensors=True, max_new_tokens=4)
    assert answer["sequences"][0]["ids"][0] == model.inputs.tokenizer.bos_id and answer["text"] == answer["completion"]


@pytest.fixture
def unmarked(tmp_path: Path) -> Path:
    """A folder with a tokenizer that has no special tokens."""
    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    library = Library(library_models.WordLevel(letters, unk_token="a"))
    library.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    (tmp_path / "unmarked").mkdir()
    library.save(str(tmp_path / "unmarked" / "tokenizer.json"))
    return tmp_path / "unmarked"


def test_without_an_end_token_only_the_length_ends_a_text(unmarked: Path) -> None:
    model = fresh("gpt2", unmarked)
    assert model.task.decoding.eos_token_id == ()
    answer = model.predict("abc", max_new_tokens=30)
    assert answer["finish_reason"] == "length" and len(answer["sequences"][0]["tokens"]) == 30
    with pytest.raises(InputError, match="is empty: ''. Expected some text, as the model has no token that begins one"):
        model.predict("")


def test_a_model_whose_tokenizer_has_no_special_tokens_is_saved_and_refuses_an_empty_text(unmarked: Path, tmp_path: Path) -> None:
    nabi.save(nabi.create("bert", "tiny", "text_classification", ClassificationSettings(labels=("a", "b")), unmarked), tmp_path / "out")
    with pytest.raises(InputError, match="input 1 has no tokens. Expected one at least"):
        nabi.load(tmp_path / "out").predict("")


@pytest.mark.parametrize(("kind", "named"), [("bart", "Bart"), ("t5", "T5"), ("marian", "Marian")])
def test_a_family_that_writes_a_text_for_a_text_is_refused(kind: str, named: str, models: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match=f"text_generation can't be built on this family: {named} writes a text for a text. Expected a family that goes on"):
        nabi.pipeline(TASK, models[kind])


def test_a_family_that_writes_nothing_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    tokens = models["bart"]
    with pytest.raises(OptionError, match="Bert writes nothing"):
        nabi.create("bert", "tiny", "text_generation", checkpoint.tasks.find(TASK).Settings(), tokens)
    nabi.save(nabi.create("bert", "tiny", "text_classification", ClassificationSettings(labels=("a", "b")), tokens), tmp_path / "bert")
    with pytest.raises(MissingHeadError, match="no head for text_generation.*None can be trained on bert: take a model of another family"):
        nabi.pipeline(TASK, tmp_path / "bert")


def test_a_damaged_table_of_settings_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["gpt2"], tmp_path / "model")
    for damage, message in ((["x"], "no table of tables"), ({"text-generation": {"prefix": 5}}, "no text: 5")):
        edit(tmp_path / "model" / "config.json", task_specific_params=damage)
        with pytest.raises(nabi.errors.CheckpointError, match=message):
            nabi.load(tmp_path / "model")


# ---- command line ----------------------------------------------------------------------------------------------------------------------------------------


def test_the_command_answers_in_text_and_in_json(models: dict[str, Path]) -> None:
    wanted = nabi.load(models["gpt2"], precision="fp32").predict("the cat", max_new_tokens=4)
    assert command("predict", models["gpt2"], "the cat", "--set", "max_new_tokens=4") == (0, wanted["text"] + "\n", "")
    code, out, _ = command("predict", models["gpt2"], "the cat", "--set", "options.max_new_tokens=4", "--json")
    assert code == 0 and json.loads(out).keys() == wanted.keys() and json.loads(out)["completion"] == wanted["completion"]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (LONG, (), "input 1 leaves no room"),
        (PLAIN, ("min_length=30", "max_length=20"), "min_length=30 is more than max_length=20"),
        (PLAIN, ("num_beams=2", "num_return_sequences=3"), "num_return_sequences=3 is more than num_beams=2"),
        (PLAIN, ("num_beam=2",), "did you mean 'num_beams'"),
    ],
)
def test_the_command_ends_with_2_where_the_input_was_wrong(text: str, settings: tuple[str, ...], message: str, models: dict[str, Path]) -> None:
    code, out, err = command("predict", models["gpt2"], text, *(part for setting in settings for part in ("--set", setting)), "--json")
    assert (code, out) == (2, "") and err.startswith("error: ") and message in err and "Traceback" not in err


def test_a_process_of_its_own_ends_with_2_too(models: dict[str, Path]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(nabi.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-m", "nabi", "predict", models["gpt2"], LONG], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: input 1 leaves no room")


def test_the_command_evaluates_a_language_model(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in PROVERBS))
    code, out, _ = command("evaluate", models["gpt2"], "--data", tmp_path / "dev.jsonl", "--json")
    assert code == 0 and json.loads(out)["metrics"] == pytest.approx(evaluate(nabi.load(models["gpt2"]), tmp_path / "dev.jsonl").metrics, rel=1e-4)
