"""Tokenizers of ``nabi.compat`` beside the incumbent's version 4 (``tests/golden/v4_compat.py``): every kind of call, over naughty texts and Korean."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nabi.compat as nc
from compat import tiny
from nabi.errors import InputError, OptionError, TokenizerError
from tasks.written import folder

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "v4_compat.json").read_text(encoding="utf-8"))["tokenizers"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    base = tmp_path_factory.mktemp("tokenizers")
    return cache(lambda kind: nc.AutoTokenizer.from_pretrained(tiny.tokenizer_folder(kind, base / kind)))


@pytest.mark.parametrize("kind", [*tiny.TOKENIZERS, *tiny.MARIAN])
def test_all_calls_answer_as_version_4(kind: str, opened: Callable[[str], Any]) -> None:
    found = json.loads(json.dumps(tiny.asked(copy.deepcopy(opened(kind)), kind)))
    wanted = GOLDEN[kind]
    assert len(found) == len(wanted)
    for number, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        assert ours == theirs, (number, ours, theirs)
    assert sum(answer == "error" for answer in wanted) < 6


def test_control_other_words_answer_otherwise(opened: Callable[[str], Any], tmp_path: Path) -> None:
    """The same calls of BERT's tokenizer that lowers, which the golden one does not."""
    other = nc.AutoTokenizer.from_pretrained(tiny.tokenizer_folder("bert", tmp_path), do_lower_case=True)
    found = json.loads(json.dumps(tiny.asked(other, "bert")))
    assert sum(a != b for a, b in zip(found, GOLDEN["bert"], strict=True)) >= 5


def test_a_batch_is_a_mapping_with_attributes(opened: Callable[[str], Any]) -> None:
    batch = opened("bert")(["good film", "나비가"], padding=True, return_tensors="pt")
    assert list(batch) == ["input_ids", "token_type_ids", "attention_mask"] and batch.input_ids is batch["input_ids"]
    assert batch.to("cpu") is batch and {**batch}.keys() == batch.keys()
    assert (batch.is_fast, batch.n_sequences) == (True, 1) and batch[0].tokens == batch.tokens()
    for other in (copy.copy(batch), pickle.loads(pickle.dumps(batch))):
        assert torch.equal(other.input_ids, batch.input_ids) and other.tokens(1) == ["[CLS]", "나비", "##가", "[SEP]"]
    assert batch.char_to_token(1, 2) == 2 and batch.word_to_tokens(1, 0) == (1, 3) and batch.word_to_chars(1, 0) == (0, 3)
    with pytest.raises(AttributeError, match="no 'input_id', only input_ids"):
        _ = batch.input_id
    with pytest.raises(KeyError, match="(?i)did you mean 'input_ids'"):
        _ = batch["input_id"]
    with pytest.raises(IndexError, match="no row 2 in a batch of 2"):
        batch.tokens(2)


def test_arrays(opened: Callable[[str], Any]) -> None:
    assert isinstance(opened("bert")("good", return_tensors="np").input_ids, np.ndarray)
    assert opened("bert")("good", return_tensors="np").input_ids.shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"truncate": True}, OptionError, "(?i)did you mean 'truncation'"),
        ({"return_tensors": "tf"}, OptionError, "no such tensors"),
        ({"padding": "longst"}, OptionError, "(?i)did you mean 'longest'"),
        ({"truncation": "first"}, OptionError, "unknown way of truncation"),
        ({"truncation": True, "max_length": 3, "stride": 9}, OptionError, "can't be cut so"),
        ({"return_tensors": "pt"}, InputError, "padding=True"),
    ],
)
def test_what_can_not_be_done_is_refused(options: dict[str, Any], error: type[Exception], words: str, opened: Callable[[str], Any]) -> None:
    with pytest.raises(error, match=words):
        opened("bert")(["good", "good film"], **options)


def test_inputs_that_are_no_texts(opened: Callable[[str], Any]) -> None:
    tokenizer = opened("bert")
    for given in (None, ["good", None], [float("nan")], 3):
        with pytest.raises(InputError):
            tokenizer(given)
    with pytest.raises(InputError, match="needs words"):
        tokenizer("good", is_split_into_words=True)
    with pytest.raises(InputError, match="2 and 1"):
        tokenizer(["a", "b"], ["c"])
    with pytest.raises(AttributeError, match="did you mean 'pad_token_id'"):
        _ = tokenizer.pad_tokn_id


def test_classes_by_name(tmp_path: Path) -> None:
    """A class takes the files of its own kind; with its name come its columns."""
    bert = tiny.tokenizer_folder("bert", tmp_path / "bert")
    assert type(nc.AutoTokenizer.from_pretrained(bert)).__name__ == "BertTokenizer"
    assert isinstance(nc.BertTokenizerFast.from_pretrained(bert), nc.BertTokenizer)
    assert list(nc.BertTokenizer.from_pretrained(bert)("good")) == ["input_ids", "token_type_ids", "attention_mask"]
    assert list(nc.DistilBertTokenizer.from_pretrained(bert)("good")) == ["input_ids", "attention_mask"]
    with pytest.raises(TokenizerError, match="Take BertTokenizer or AutoTokenizer"):
        nc.GPT2Tokenizer.from_pretrained(bert)
    with pytest.raises(OptionError, match="(?i)did you mean 'do_lower_case'"):
        nc.BertTokenizer.from_pretrained(bert, lower_case=True)
    with pytest.raises(OptionError, match="never runs the code"):
        nc.AutoTokenizer.from_pretrained(bert, trust_remote_code=True)
    with pytest.raises(OptionError, match="no setting add_prefix_space"):
        nc.AutoTokenizer.from_pretrained(bert, add_prefix_space=True)


def test_a_token_to_pad_with(tmp_path: Path) -> None:
    tokenizer = nc.AutoTokenizer.from_pretrained(folder("gpt2", tmp_path / "gpt2"))
    tokenizer.pad_token = None
    with pytest.raises(OptionError, match="tokenizer.pad_token = tokenizer.eos_token"):
        tokenizer(["a", "a b"], padding=True)
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer(["a", "a a a"], padding=True)["input_ids"][0][-1] == tokenizer.eos_token_id
    with pytest.raises(OptionError, match="add_special_tokens"):
        tokenizer.pad_token = "[NOT THERE]"
    before = len(tokenizer)
    assert tokenizer.add_special_tokens({"pad_token": "[NOT THERE]"}) == 1 and tokenizer.pad_token_id == before


def test_saved_and_opened_again(tmp_path: Path) -> None:
    tokenizer = nc.AutoTokenizer.from_pretrained(tiny.tokenizer_folder("bert", tmp_path / "bert"), padding_side="left")
    tokenizer.add_tokens(["[NEW]"])
    tokenizer.save_pretrained(tmp_path / "again")
    again = nc.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert len(again) == len(tokenizer) == tiny.SIZE + 1 and again.padding_side == "left" and type(again) is type(tokenizer)
    for text in (*tiny.TEXTS, "good [NEW] film"):
        assert again(text).data == tokenizer(text).data


def test_a_marian_folder_has_two_sides(tmp_path: Path) -> None:
    tokenizer = nc.AutoTokenizer.from_pretrained(folder("marian", tmp_path / "marian"))
    assert isinstance(tokenizer, nc.MarianTokenizer) and not tokenizer.is_fast
    both = tokenizer(["the cat", "a"], text_target=["the cat", "a"], padding=True, return_tensors="pt")
    assert both.input_ids.shape == both.attention_mask.shape and len(both.labels) == 2
    with tokenizer.as_target_tokenizer():
        assert torch.equal(tokenizer(["the cat", "a"], padding=True, return_tensors="pt").input_ids, both.labels)
    assert tokenizer("the cat")["input_ids"] == both.input_ids[0].tolist()
    with pytest.raises(ValueError, match="not available"):
        both.word_ids()
    with pytest.raises(OptionError, match="no return_offsets_mapping"):
        tokenizer("a", return_offsets_mapping=True)
