"""Settings to be compared with the incumbent's, and small models whose answers vary."""

from __future__ import annotations

from typing import Any

from decoding.against import Count, Texts, ours, texts, whole
from decoding.plain import END, bart, gpt2, t5
from nabi.decoding import Settings

MODELS = {"gpt2": gpt2(), "t5": t5(), "bart": bart()}
# name -> settings that are laid over BASE
BASE: dict[str, Any] = {"max_new_tokens": 10}
ANY: dict[str, dict[str, Any]] = {
    "max_new_tokens": {"max_new_tokens": 6},
    "max_length": {"max_new_tokens": None, "max_length": 14},
    "max_new_tokens before max_length": {"max_new_tokens": 7, "max_length": 30},
    "min_length": {"min_length": 9},
    "min_new_tokens": {"min_new_tokens": 6},
    "min_new_tokens before min_length": {"min_new_tokens": 5, "min_length": 30},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "repetition_penalty below 1": {"repetition_penalty": 0.6},
    "no_repeat_ngram_size 1": {"no_repeat_ngram_size": 1},
    "no_repeat_ngram_size 2": {"no_repeat_ngram_size": 2},
    "no_repeat_ngram_size 3": {"no_repeat_ngram_size": 3, "min_new_tokens": 9},
    "encoder_no_repeat_ngram_size 1": {"encoder_no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size 2": {"encoder_no_repeat_ngram_size": 2, "min_new_tokens": 9},
    "bad_words_ids": {"bad_words_ids": ((21,), (18,), (12,), (END,), (19, 19), (11, 11), (24, 24), (30, 11), (5, 6, 7))},
    "suppress_tokens": {"suppress_tokens": (11, 18, 19, 21, 30)},
    "begin_suppress_tokens": {"begin_suppress_tokens": (11, 12, 19, 21, 24, 30, END)},
    "forced_bos_token_id": {"forced_bos_token_id": 17},
    "forced_bos_token_id and begin_suppress_tokens": {"forced_bos_token_id": 17, "begin_suppress_tokens": (17, 11, 12, 19, 21, 24)},
    "forced_eos_token_id": {"forced_eos_token_id": END, "min_new_tokens": 8},
    "two eos_token_id": {"eos_token_id": (END, 11)},
    "no eos_token_id": {"eos_token_id": ()},
    "stop_strings": {"stop_strings": ("lll", "sh", "zg", "tt", "vv", "ny")},
    "several": {
        "repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "bad_words_ids": ((21,), (18,), (11, 12)), "min_new_tokens": 3, "suppress_tokens": (24,),
        "forced_eos_token_id": END, "eos_token_id": (END, 11), "encoder_no_repeat_ngram_size": 3,
    },
}  # fmt: skip
# both ends score 0: greedy decoding takes the lower id, beams leave it to the top-k
GREEDY = ANY | {"two forced_eos_token_id": {"forced_eos_token_id": (7, END), "min_new_tokens": 8}}
BEAM: dict[str, dict[str, Any]] = {
    "length_penalty 2": {"length_penalty": 2.0},
    "length_penalty 0": {"length_penalty": 0.0},
    "length_penalty -1": {"length_penalty": -1.0},
    "early_stopping": {"early_stopping": True},
    "early_stopping, longer": {"early_stopping": True, "length_penalty": 2.0, "num_return_sequences": 3},
    "early_stopping never": {"early_stopping": "never", "length_penalty": 2.0},
    "early_stopping never, shorter": {"early_stopping": "never", "length_penalty": -0.5},
    "num_return_sequences": {"num_return_sequences": 3},
    "renormalize_logits": {"renormalize_logits": True, "suppress_tokens": (11, 19, 21), "num_return_sequences": 2},
    "a machine translator's": {"renormalize_logits": True, "bad_words_ids": ((11,),), "forced_eos_token_id": END, "num_return_sequences": 3},
    "a summarizer's": {"early_stopping": True, "length_penalty": 2.0, "min_length": 5, "no_repeat_ngram_size": 3, "forced_eos_token_id": END},
}
PLAIN = {"max_new_tokens": 10, "eos_token_id": (END,)}


def agreed(count: Count) -> None:
    assert not count.wrong, count.first
    assert count.ties <= 0.01 * count.answers


def given(name: str, model: str, count: int) -> Texts:
    """Prompts for a case; a forced first token follows only a prompt of one token, which is a decoder's start anyway."""
    return texts(model == "gpt2", count, seed=len(name), longest=1 if name.startswith("forced_bos") else 8)


def changed(model: str, texts: Texts, settings: dict[str, Any], plain: dict[str, Any]) -> int:
    """Prompts that are answered otherwise without the settings: none of these would pass if they were not heeded."""
    with_them, without = (ours(MODELS[model], texts, Settings(**{"eos_token_id": (END,), **some})) for some in (settings, plain))
    return sum(list(map(whole, a)) != list(map(whole, b)) for a, b in zip(with_them, without, strict=True))
