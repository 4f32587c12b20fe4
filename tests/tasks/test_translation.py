"""Translation: version 4's pipeline and its names, pairs of languages, texts by sentences with their places, what it learns and keeps, bad input."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import nabi
from nabi import Plan, evaluate
from nabi.errors import InputError, MissingHeadError, OptionError
from nabi.metrics import TranslationScore
from nabi.tasks._seq2seq import sentences
from tasks.written import SIZES, T5_TASKS, Pipe, answered, cases, command, edit, fitted, folder, fresh, share_that_differs, streamed, tokenizer

TASK = "translation"
pytestmark = pytest.mark.filterwarnings("ignore:no languages were named")
QUICK = {"max_new_tokens": 6, "num_beams": 1, "no_repeat_ngram_size": 1}
STORY = "the cat is on the mat.  a dog, in the rain!\n\nno one is in? 'he is in on it.' so it is."


# ---- version 4's pipeline ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(TASK), ids=str)
def test_the_pipeline_answers_as_version_4(case: dict[str, Any], pipe: Pipe) -> None:
    assert answered(case, pipe(case["task"], case["model"])) == case["answer"]


def test_other_weights_miss_the_golden_answers(strange: Pipe) -> None:
    assert share_that_differs(cases(TASK), lambda case: strange(case["task"], case["model"])) > 0.9


def test_another_pair_misses_the_golden_answers(pipe: Pipe) -> None:
    found = [case for case in cases("translation_en_to_de") if case["model"] == "t5"]
    assert share_that_differs(found, lambda case: pipe("translation_en_to_fr", "t5")) > 0.5


def test_a_stream_of_texts_is_answered_one_by_one(pipe: Pipe) -> None:
    streamed(TASK, pipe)


# ---- languages -------------------------------------------------------------------------------------------------------------------------------------------


def test_the_name_brings_the_prefix_and_the_settings_of_its_pair(pipe: Pipe, models: dict[str, Path]) -> None:
    bare = nabi.load(models["t5"], "text2text_generation")
    for pair, asked in T5_TASKS.items():
        if pair != "summarization":
            settings = {name: value for name, value in asked.items() if name != "prefix"}
            (answer,) = pipe(pair, "t5")("the cat")
            assert answer == {"translation_text": bare.predict(f"{asked['prefix']}the cat", **settings)["text"]}
            assert answer != {"translation_text": bare.predict("the cat", **settings)["text"]}


def test_languages_given_as_options_are_those_of_the_name(pipe: Pipe) -> None:
    named = pipe("translation_en_to_fr", "t5")("a dog in the rain")
    assert pipe(TASK, "t5")("a dog in the rain", src_lang="en", tgt_lang="fr") == named
    assert pipe("translation_en_to_de", "t5")("a dog in the rain", tgt_lang="fr") == named != pipe("translation_en_to_de", "t5")("a dog in the rain")


def test_without_a_word_of_languages_the_first_pair_is_taken_and_told(pipe: Pipe) -> None:
    with pytest.warns(UserWarning, match="no languages were named: en_to_de is taken, of en_to_de, en_to_fr"):
        found = pipe(TASK, "t5")("a dog in the rain")
    assert found == pipe("translation_en_to_de", "t5")("a dog in the rain")


def test_a_token_names_the_language_where_the_model_has_one(tmp_path: Path) -> None:
    many = folder("marian", tmp_path / "many", languages=("en", "mul"), codes=("fra", "deu"))
    plain = nabi.pipeline(TASK, many)
    for code in ("fra", "deu"):
        assert plain("the cat", src_lang="en", tgt_lang=code, **QUICK) == plain(f">>{code}<< the cat", **QUICK) != plain("the cat", **QUICK)
    with pytest.raises(OptionError, match="does not translate between these languages: 'en to kor'. Expected en to mul"):
        plain("the cat", src_lang="en", tgt_lang="kor")


@pytest.mark.parametrize(("model", "expected"), [("marian", "en to de"), ("t5", "one of en_to_de, en_to_fr")])
def test_an_unknown_pair_is_refused(model: str, expected: str, models: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match=f"the model does not translate between these languages: 'ja to ko'. Expected {expected}"):
        nabi.pipeline("translation_ja_to_ko", models[model])("the cat")
    reverse = nabi.pipeline("translation_de_to_en", models[model])
    with pytest.raises(OptionError, match="'de to en'"):
        reverse("the cat")


def test_a_model_that_was_told_its_language_refuses_another(models: dict[str, Path], tmp_path: Path) -> None:
    nabi.save(fresh("t5", models["t5"], task=TASK, language="ko"), tmp_path / "out")
    (answer,) = nabi.pipeline("translation_en_to_ko", tmp_path / "out")("the cat", **QUICK)
    assert isinstance(answer["translation_text"], str)
    with pytest.raises(OptionError, match="'en to de'. Expected en to ko"):
        nabi.pipeline("translation_en_to_de", tmp_path / "out")("the cat")


def test_a_model_that_says_nothing_of_languages_is_trusted_with_a_warning(models: dict[str, Path]) -> None:
    model = nabi.load(models["bart"], TASK)
    with pytest.warns(UserWarning, match="does not say which languages it translates: that it can do en to de is taken on trust"):
        found = model.predict("a cat", src_lang="en", tgt_lang="de", **QUICK)
    assert found == model.predict("a cat", **QUICK)


def test_what_is_no_example_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="this is no example: 5. Expected one example, such as a text, or a list of them"):
        nabi.load(models["bart"], TASK).predict(5)


def test_a_name_that_is_no_pair_is_no_task(models: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="unknown task: 'translation_en_de'.*'translation'"):
        nabi.pipeline("translation_en_de", models["t5"])


# ---- sentences -------------------------------------------------------------------------------------------------------------------------------------------


def test_sentences_end_at_marks_and_lines_and_keep_their_places() -> None:
    assert [STORY[a:b] for a, b in sentences(STORY)] == [
        "the cat is on the mat.", "a dog, in the rain!", "no one is in?", "'he is in on it.'", "so it is."
    ]  # fmt: skip
    korean = "나비가 꽃에 앉았다. 꽃은 3.5 송이다。나비는 없다\n끝"
    assert [korean[a:b] for a, b in sentences(korean)] == ["나비가 꽃에 앉았다.", "꽃은 3.5 송이다。", "나비는 없다", "끝"]
    assert sentences("") == sentences(" \n ") == []


@pytest.mark.parametrize("model", ["marian", "t5"])
def test_each_sentence_is_translated_as_if_it_were_alone_and_what_lay_between_stays(model: str, models: dict[str, Path]) -> None:
    translate = nabi.load(models[model], TASK)
    answer = translate.predict(f" {STORY}\n", split="sentences", **QUICK)
    source = f" {STORY}\n"
    parts = [source[piece["start"] : piece["end"]] for piece in answer["pieces"]]
    assert parts == [source[a:b] for a, b in sentences(source)] and len(parts) == 5
    alone = [translate.predict(part, **QUICK)["text"] for part in parts]
    assert [piece["text"] for piece in answer["pieces"]] == alone and len(set(alone)) > 1
    gaps = [source[a["end"] : b["start"]] for a, b in zip(answer["pieces"], answer["pieces"][1:], strict=False)]
    assert gaps == ["  ", "\n\n", " ", " "]
    assert answer["text"] == "".join(text.strip() + gap for text, gap in zip(alone, [*gaps, ""], strict=True))
    short = source[: answer["pieces"][1]["end"]]
    whole, apart = (translate.predict(short, split=split, **QUICK) for split in ("auto", "sentences"))
    assert (len(whole["pieces"]), len(apart["pieces"])) == (1, 2) and whole["text"] != apart["text"]  # a text that fits is read whole


def test_a_text_that_does_not_fit_is_read_in_pieces_that_fit_and_nothing_is_lost(models: dict[str, Path]) -> None:
    translate = nabi.load(models["marian"], TASK)
    dice = random.Random(0)
    words = ["the", "cat", "rain", "mat", "on", "a" * 30]
    source = " ".join(dice.choice(words) + dice.choice(["", "", "", ".", "!\n"]) for _ in range(80))
    answer = translate.predict(source, **QUICK)
    ends, limit = 0, translate.inputs.max_length
    for piece in answer["pieces"]:
        assert source[ends : piece["start"]].strip() == ""  # between two pieces lies space alone
        assert len(translate.inputs.tokenizer.encode(source[piece["start"] : piece["end"]]).ids) <= limit
        assert translate.predict(source[piece["start"] : piece["end"]], **QUICK)["text"] == piece["text"]
        ends = piece["end"]
    assert source[ends:].strip() == "" and len(answer["pieces"]) > 5 and answer["truncated"] is False


def test_more_answers_for_a_text_in_pieces_are_joined_rank_by_rank(models: dict[str, Path]) -> None:
    translate = nabi.load(models["marian"], TASK)
    asked = {"split": "sentences", "num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 5, "return_tensors": True}
    answer, parts = translate.predict(STORY, **asked), [STORY[a:b] for a, b in sentences(STORY)]
    alone = [translate.predict(part, **{**asked, "split": "auto"})["sequences"] for part in parts]
    assert len(answer["sequences"]) == 3
    for rank, sequence in enumerate(answer["sequences"]):
        assert sequence["ids"] == [token for found in alone for token in found[rank]["ids"]]
        assert all(found[rank]["text"].strip() in sequence["text"] for found in alone)


def test_a_long_text_is_cut_or_refused_where_that_is_asked_for(models: dict[str, Path], pipe: Pipe) -> None:
    translate, long = nabi.load(models["marian"], TASK), STORY * 4
    cut = translate.predict(long, long="truncate", **QUICK)
    assert cut["truncated"] is True and len(cut["pieces"]) == 1
    assert pipe(TASK, "marian")(long, truncation=True, **QUICK) == [{"translation_text": cut["text"]}]
    with pytest.raises(InputError, match=r"input 1 is too long: '\d+ tokens'. Expected at most 48. With long='window' it is read in pieces"):
        translate.predict(long, long="error")


def test_an_empty_text_is_answered_as_any(models: dict[str, Path]) -> None:
    for text in ("", "  \n"):
        for split in ("auto", "sentences"):
            answer = nabi.load(models["marian"], TASK).predict(text, split=split, **QUICK)
            assert answer["pieces"] == [{"start": 0, "end": len(text), "text": answer["text"]}]


# ---- training ------------------------------------------------------------------------------------------------------------------------------------------

PAIRS = [("the cat", "가나"), ("a dog", "나비"), ("in the rain", "한국어"), ("no one", "다라")]
ROWS = [{"source": source, "target": target} for source, target in PAIRS]
LEARN = Plan(steps=140, batch=8, learning_rate=1e-2, hidden_dropout=0.0, attention_dropout=0.0, evaluate_every=70)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that learnt four sentences by heart."""
    base = tmp_path_factory.mktemp("learnt")
    size, tokens = {"vocab_size": 1, **SIZES["t5"]}, tokenizer("t5", base / "tokens")
    settings = {"language": "ko", "prefix": "to ko: "}
    return fitted(TASK, ROWS * 2, LEARN, dev=ROWS, family="t5", size=size, tokenizer=tokens, out=base / "out", settings=settings)


def test_it_learns_sentences_by_heart_and_says_them_after_loading(run: Any) -> None:
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 3 and run.metrics["chrf"] == pytest.approx(100)
    loaded = nabi.load(run.out)
    assert [loaded.predict(source)["text"] for source, _ in PAIRS] == [target for _, target in PAIRS]
    assert loaded.predict("the cat")["finish_reason"] == "stop"
    assert nabi.pipeline("translation_en_to_ko", run.out)("the cat") == [{"translation_text": "가나"}]
    assert evaluate(loaded, ROWS).metrics == run.metrics


def test_the_figures_are_those_of_the_answers(models: dict[str, Path]) -> None:
    rows = [{"source": "the cat", "target": "s h 한 h 7 。"}, {"source": STORY, "target": "h。。한 7 7 the"}]
    for language, cut in (("de", "13a"), ("ko", "char")):
        model = fresh("marian", models["marian"], language=language, prefix="")
        score = TranslationScore(cut)
        for row in rows:
            score.add(model.predict(row["source"], **QUICK)["text"], row["target"])
        assert evaluate(model, rows, options=QUICK).metrics == pytest.approx(score.result())
        assert score.result()["chrf"] > 0
        assert set(evaluate(model, rows, options={"max_new_tokens": 1}).metrics.values()) != set(score.result().values())


def test_the_language_of_a_model_for_one_pair_is_known_from_its_tokenizer(tmp_path: Path) -> None:
    model = nabi.load(folder("marian", tmp_path / "model", languages=("en", "ko")), TASK)
    assert model.task.settings.language == "ko"


def test_fine_tuning_keeps_how_the_base_decodes_and_its_pairs(tmp_path: Path, models: dict[str, Path]) -> None:
    asked = {"num_beams": 2, "max_length": 9, "no_repeat_ngram_size": 2, "bad_words_ids": [[5]]}
    base = folder("t5", tmp_path / "base", generation=asked)
    done = fitted(TASK, ROWS, Plan(steps=2), base=base, out=tmp_path / "out", options={"src_lang": "en", "tgt_lang": "de"})
    written = json.loads((done.out / "generation_config.json").read_text())
    assert written == json.loads((base / "generation_config.json").read_text()) and asked.items() <= written.items()
    loaded, before = nabi.load(done.out), nabi.load(base, TASK)
    assert loaded.task.settings == before.task.settings and loaded.task.settings.pairs.keys() == {"en_to_de", "en_to_fr"}
    pair = {"src_lang": "en", "tgt_lang": "fr"}
    assert loaded.predict("the cat", **pair) == loaded.predict("the cat", **pair, **{**asked, "num_beams": 3, "max_length": 11})


def test_the_prefix_of_the_pair_is_read_in_training(models: dict[str, Path]) -> None:
    model = nabi.load(models["t5"], TASK)
    of = {lang: model.encode(ROWS[0], model.options({"src_lang": "en", "tgt_lang": lang}), "train")[0].parts["text"]["tokens"] for lang in ("de", "fr")}
    for lang, tokens in of.items():
        assert tokens == model.inputs.tokenizer.encode(f"en to {lang}: the cat").ids


def test_a_prefix_of_its_own_makes_it_a_model_of_one_pair(models: dict[str, Path], tmp_path: Path) -> None:
    done = fitted(TASK, ROWS, Plan(steps=2), base=models["t5"], out=tmp_path / "out", settings={"prefix": "to ko: "})
    model = nabi.load(done.out)
    assert model.task.settings.pairs is None
    row = model.encode(ROWS[0], model.options({"src_lang": "en", "tgt_lang": "ko"}), "train")[0]
    assert row.parts["text"]["tokens"] == model.inputs.tokenizer.encode("to ko: the cat").ids


# ---- bad input -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ("the cat", {"min_length": 30, "max_length": 20}, OptionError, "min_length=30 is more than max_length=20"),
        ("the cat", {"num_beams": 2, "num_return_sequences": 3}, OptionError, "num_return_sequences=3 is more than num_beams=2"),
        ("the cat", {"max_length": 1}, InputError, "the beginning of the output leaves no room for an answer"),
        ("the cat", {"split": "words"}, OptionError, "'split' has an unknown value: 'words'"),
        (["the cat", {"target": "x"}], {}, InputError, "input 2 has no source"),
        ([["a", "b"]], {}, InputError, r"input 1 has no source: \['a', 'b'\]"),
        ([{"role": "user", "content": "hello"}], {}, InputError, "input 1 is a message of a chat"),
    ],
)
def test_bad_input_is_refused(given: Any, options: dict[str, Any], error: type[Exception], message: str, pipe: Pipe) -> None:
    with pytest.raises(error, match=message):
        pipe(TASK, "marian")(given, **options)


def test_a_family_that_goes_on_with_a_text_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="can't be built on this family: Gpt2 goes on with a text. Expected a family that writes a text for a text"):
        nabi.pipeline(TASK, models["gpt2"])


def test_a_body_without_its_head_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    from nabi.tasks.text_classification import ClassificationSettings

    tokens = models["bart"]
    classifier = nabi.create("bart", {"vocab_size": 1, **SIZES["bart"]}, "text_classification", ClassificationSettings(labels=("a", "b")), tokens)
    nabi.save(classifier, tmp_path / "out")
    with pytest.raises(MissingHeadError, match="no head for translation.*Train one: nabi train --task translation"):
        nabi.pipeline(TASK, tmp_path / "out")


def test_rows_of_training_need_a_target(models: dict[str, Path]) -> None:
    with pytest.raises(nabi.errors.DataError, match="row 1 has no target: 5. Expected a str"):
        nabi.load(models["marian"], TASK).encode({"source": "the cat", "target": 5}, nabi.load(models["marian"], TASK).options(), "train", "row 1")


def test_the_command_translates_by_sentences_and_ends_with_2_for_an_unknown_pair(models: dict[str, Path]) -> None:
    settings = [part for name, value in {**QUICK, "split": "sentences"}.items() for part in ("--set", f"{name}={value}")]
    code, out, _ = command("predict", models["marian"], STORY, *settings, "--json")
    assert code == 0 and len(json.loads(out)["pieces"]) == 5
    code, out, err = command("predict", models["marian"], STORY, "--set", "tgt_lang=fr", "--json")
    assert (code, out) == (2, "") and err == (
        "error: the model does not translate between these languages: 'None to fr'. Expected en to de. Give a model of this pair.\n"
    )


def test_settings_that_ask_for_what_is_not_built_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    base = folder("t5", tmp_path / "model")
    edit(base / "config.json", task_specific_params={"translation_en_to_de": {"prefix": "de: ", "diversity_penalty": 0.5, "num_beam_groups": 2}})
    with pytest.raises(OptionError, match="ask for what is not built: 'diversity_penalty=0.5, num_beam_groups=2'"):
        nabi.load(base, TASK)
