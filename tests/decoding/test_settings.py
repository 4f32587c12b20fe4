"""Settings of decoding: files in and out, limits, and an error for each impossible value."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from nabi.decoding import Settings
from nabi.errors import InputError, OptionError

OTHER: dict[str, Any] = {
    "max_new_tokens": 40, "max_length": 60, "min_length": 3, "min_new_tokens": 2, "do_sample": True, "temperature": 0.7, "top_k": 7, "top_p": 0.9,
    "repetition_penalty": 1.2, "length_penalty": 0.6, "no_repeat_ngram_size": 3, "num_beams": 4, "num_return_sequences": 2, "early_stopping": "never",
    "renormalize_logits": True, "eos_token_id": (2, 5), "pad_token_id": 1, "bos_token_id": 0, "decoder_start_token_id": 2, "forced_bos_token_id": 0,
    "forced_eos_token_id": (2, 3), "bad_words_ids": ((4,), (5, 6)), "suppress_tokens": (7, 8), "begin_suppress_tokens": (9,),
    "encoder_no_repeat_ngram_size": 4, "stop_strings": ("\n\n", "끝"), "seed": 11, "top_alternatives": 5,
}  # fmt: skip


def test_every_setting_is_tried_here() -> None:
    assert OTHER.keys() == {field.name for field in fields(Settings)}


@pytest.mark.parametrize("name", OTHER)
def test_each_setting_goes_to_a_file_and_back(name: str) -> None:
    settings = Settings(**{name: OTHER[name]})
    written = settings.to_hf()
    assert list(written) == [name]
    assert Settings.from_hf(json.loads(json.dumps(written)), {}) == settings


def test_all_settings_go_to_a_file_and_back() -> None:
    settings = Settings(**OTHER)
    assert Settings.from_hf(json.loads(json.dumps(settings.to_hf())), {}) == settings
    assert Settings.from_hf(Settings().to_hf(), {}) == Settings()


def test_files_of_the_incumbent_are_read_as_written(tmp_path: Path) -> None:
    alone = {"seed", "top_alternatives"}  # ours
    values = {name: list(map(list, value)) if name == "bad_words_ids" else list(value) if isinstance(value, tuple) else value
              for name, value in OTHER.items() if name not in alone}  # fmt: skip
    values["early_stopping"] = True
    GenerationConfig(**values).save_pretrained(tmp_path)
    found = Settings.from_hf(json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8")), {})
    assert found == Settings(**{name: value for name, value in OTHER.items() if name not in alone} | {"early_stopping": True})


def test_the_incumbent_reads_our_file_as_written(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(Settings(**OTHER).to_hf()), encoding="utf-8")
    theirs = GenerationConfig.from_pretrained(tmp_path)
    for name, value in OTHER.items():
        assert getattr(theirs, name) == json.loads(json.dumps(value)), name


def test_null_and_single_values_stand_for_defaults_and_tuples() -> None:
    found = Settings.from_hf({"eos_token_id": 2, "num_beams": None, "stop_strings": "end", "top_k": None, "length_penalty": 2}, {})
    assert found == Settings(eos_token_id=(2,), stop_strings=("end",), length_penalty=2.0)


def test_without_a_generation_file_the_model_file_is_read() -> None:
    config = {"model_type": "bart", "vocab_size": 9, "num_beams": 4, "early_stopping": True, "max_length": 142, "eos_token_id": 2, "min_length": 56,
              "force_bos_token_to_be_generated": True, "bos_token_id": 0}  # fmt: skip
    assert Settings.from_hf(None, config) == Settings(
        num_beams=4, early_stopping=True, max_length=142, eos_token_id=(2,), min_length=56, bos_token_id=0, forced_bos_token_id=0
    )


def test_with_a_generation_file_the_model_file_gives_only_missing_special_tokens() -> None:
    config = {"num_beams": 4, "eos_token_id": 2, "pad_token_id": 1}
    assert Settings.from_hf({"eos_token_id": 3}, config) == Settings(eos_token_id=(3,), pad_token_id=1)


def test_settings_of_the_task_come_on_top() -> None:
    config = {"task_specific_params": {"summarization": {"num_beams": 4, "length_penalty": 2.0, "prefix": "summarize: "}}, "num_beams": 2}
    assert Settings.from_hf(None, config, "summarization") == Settings(num_beams=4, length_penalty=2.0)
    assert Settings.from_hf(None, config) == Settings(num_beams=2)


def test_settings_that_are_not_built_are_refused_unless_they_change_nothing() -> None:
    Settings.from_hf({"typical_p": 1.0, "diversity_penalty": 0.0, "num_beam_groups": 1, "min_p": None, "use_cache": True, "guidance_scale": 1}, {})
    with pytest.raises(OptionError, match=r"min_p=0.1, penalty_alpha=0.6"):
        Settings.from_hf({"penalty_alpha": 0.6, "min_p": 0.1}, {})


def test_values_of_a_wrong_type_are_refused_together() -> None:
    with pytest.raises(OptionError, match=r"'num_beams'.*'early_stopping'"):
        Settings.from_hf({"num_beams": "four", "early_stopping": "soon"}, {})


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no tokens": ({"max_new_tokens": 0}, "max_new_tokens=0 is less than 1"),
    "no length": ({"max_length": 0}, "max_length=0 is less than 1"),
    "a negative least length": ({"min_length": -1}, "min_length=-1 is less than 0"),
    "a negative least number": ({"min_new_tokens": -1}, "min_new_tokens=-1 is less than 0"),
    "a negative top_k": ({"top_k": -1}, "top_k=-1 is less than 0"),
    "a negative n-gram": ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size=-2"),
    "a negative n-gram of the source": ({"encoder_no_repeat_ngram_size": -2}, "encoder_no_repeat_ngram_size=-2"),
    "no beams": ({"num_beams": 0}, "num_beams=0 is less than 1"),
    "no answers": ({"num_return_sequences": 0}, "num_return_sequences=0"),
    "a negative seed": ({"seed": -1}, "seed=-1"),
    "negative alternatives": ({"top_alternatives": -1}, "top_alternatives=-1"),
    "no temperature": ({"temperature": 0.0}, "temperature=0.0 is not above 0"),
    "a temperature that is no number": ({"temperature": float("nan")}, "temperature=nan"),
    "no repetition penalty": ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 is not above 0"),
    "an endless length penalty": ({"length_penalty": float("inf")}, "length_penalty=inf"),
    "no top_p": ({"top_p": 0.0}, r"top_p=0.0 does not lie in \(0, 1\]"),
    "top_p above 1": ({"top_p": 1.1}, "top_p=1.1"),
    "an unknown early_stopping": ({"early_stopping": "always"}, "early_stopping='always'"),
    "beams and draws": ({"num_beams": 2, "do_sample": True}, "search with beams or draw"),
    "more answers than beams": ({"num_beams": 2, "num_return_sequences": 3}, "more than num_beams=2"),
    "several greedy answers": ({"num_return_sequences": 3}, "the same answer again"),
    "least new above most new": ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens=5 is more than max_new_tokens=4"),
    "least above most": ({"min_length": 5, "max_length": 4}, "min_length=5 is more than max_length=4"),
    "least above the usual most": ({"min_length": 21, "max_length": 20}, "more than max_length=20"),
    "least new without a place for a prompt": ({"min_new_tokens": 4, "max_length": 4}, "no place for a prompt"),
    "an empty stop string": ({"stop_strings": ("a", "")}, "empty string"),
    "an empty bad word": ({"bad_words_ids": ((),)}, "empty sequence"),
    "no forced end": ({"forced_eos_token_id": ()}, "forced_eos_token_id is empty"),
    "a negative id": ({"suppress_tokens": (-1,)}, "suppress_tokens holds -1"),
    "a bad word beyond the vocabulary": ({"bad_words_ids": ((3, 99),)}, "bad_words_ids holds 99"),
    "a forced token beyond the vocabulary": ({"forced_bos_token_id": 50}, "forced_bos_token_id holds 50"),
    "a forced end beyond the vocabulary": ({"forced_eos_token_id": (1, 50)}, "forced_eos_token_id holds 50"),
    "a first token beyond the vocabulary": ({"begin_suppress_tokens": (50,)}, "begin_suppress_tokens holds 50"),
}


@pytest.mark.parametrize("case", BAD)
def test_impossible_settings_are_refused(case: str) -> None:
    settings, message = BAD[case]
    with pytest.raises(OptionError, match=message):
        Settings(**settings).check(vocab_size=50)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(OptionError, match=r"top_k=-1.*temperature=0.*num_return_sequences=2"):
        Settings(top_k=-1, temperature=0, num_return_sequences=2).check()


def test_good_settings_pass() -> None:
    Settings().check()
    Settings(eos_token_id=(50256,), pad_token_id=50256).check(vocab_size=100)  # an id that never comes harms nothing
    Settings(num_beams=4, num_return_sequences=4, early_stopping="never", length_penalty=-1.0).check()
    Settings(min_length=56, max_new_tokens=20, min_new_tokens=5).check()


@pytest.mark.parametrize(
    ("settings", "prompt", "room", "expected"),
    [
        ({}, 4, None, (0, 20)),
        ({"max_length": 10}, 4, None, (0, 6)),
        ({"max_length": 10, "max_new_tokens": 30}, 4, None, (0, 30)),
        ({"max_new_tokens": 30}, 4, 20, (0, 16)),
        ({"max_length": 12, "min_length": 9}, 4, None, (5, 8)),
        ({"max_length": 12, "min_length": 3}, 4, None, (0, 8)),
        ({"max_length": 12, "min_length": 9, "min_new_tokens": 2}, 4, None, (2, 8)),
        ({"max_length": 142, "min_length": 56}, 1, 1024, (55, 141)),
    ],
)
def test_limits_of_an_answer(settings: dict[str, Any], prompt: int, room: int | None, expected: tuple[int, int]) -> None:
    assert Settings(**settings).limits(prompt, True, room) == expected


@pytest.mark.parametrize(
    ("settings", "prompt", "room", "message"),
    [
        ({"max_length": 20}, 20, None, "the prompt leaves no room.*fewer than max_length=20"),
        ({"max_new_tokens": 5}, 64, 64, "fewer than the 64 positions"),
        ({"max_new_tokens": 5, "min_new_tokens": 5}, 60, 64, "room for 5 more tokens where there is room for 4"),
        ({"min_length": 30, "max_new_tokens": 5}, 4, None, "room for 26 more tokens where there is room for 5"),
        ({}, 0, None, "the prompt is empty"),
    ],
)
def test_a_prompt_without_room_is_refused(settings: dict[str, Any], prompt: int, room: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**settings).limits(prompt, True, room)


def test_errors_name_the_output_of_an_encoder_decoder() -> None:
    with pytest.raises(InputError, match="the beginning of the output leaves no room"):
        Settings(max_length=1).limits(1, False)
