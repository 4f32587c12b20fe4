"""Token shards as data of the masked language model: what its rows are, and that it trains from them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import nabi
from nabi import Plan, fit
from nabi.data.sharding import write_shards
from nabi.data.shards import TokenShards, Window
from nabi.errors import OptionError
from nabi.model import Model
from nabi.text.training import TokenizerSettings, train_tokenizer
from nabi.training.windows import Windows

SIZE = {"vocab_size": 1, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_positions": 24}
WORDS = ("the", "cat", "sat", "on", "a", "mat", "in")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    train_tokenizer([" ".join(WORDS)] * 9, TokenizerSettings("wordpiece", 60)).save(folder)
    return folder


@pytest.fixture(scope="module")
def shards(words: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    dice = random.Random(0)
    texts = [" ".join(dice.choices(WORDS, k=dice.choice((1, 2, 3, 40)))) for _ in range(40)]
    return write_shards(texts, words, tmp_path_factory.mktemp("shards"), corpus="some", end="[SEP]", length=22)


def fresh(words: Path, **settings: object) -> Model:
    return nabi.create("bert", SIZE, "fill_mask", nabi.tasks.find("fill_mask").Settings(**settings), words, seed=1)


def test_a_row_is_a_fragment_between_the_tokens_around_a_text(words: Path, shards: TokenShards) -> None:
    model = fresh(words)
    tokenizer, rows = model.inputs.tokenizer, Windows.fitted(model, shards)
    assert rows.shards.length == 22, "the model's 24 without [CLS] and [SEP]"
    longest, cls, sep = 0, tokenizer.cls_id, tokenizer.sep_id
    for window, found in zip(rows.shards, rows, strict=True):
        assert len(found) == len(window.fragments())
        for (begin, end), row in zip(window.fragments(), found, strict=True):
            inner = window.ids[begin:end].tolist()
            wanted = [cls, *inner, *([] if inner[-1] == sep else [sep])]
            assert row.notes["ids"] == wanted
            tokens, targets = row.parts["text"]["tokens"], row.targets["masked"]
            assert len(tokens) == len(targets) == len(wanted) <= 24 and any(target >= 0 for target in targets)
            assert all(target in (-100, id) or target < 0 for target, id in zip(targets, wanted, strict=True))
            assert [token for token, target in zip(tokens, targets, strict=True) if target < 0] == [
                id for id, target in zip(wanted, targets, strict=True) if target < 0]  # fmt: skip
            if len(wanted) > 2:
                assert targets[0] < 0 and (wanted[-1] != sep or len(inner) == 1 or targets[-1] < 0), "special tokens are not hidden"
            longest = max(longest, len(wanted))
    assert longest == 24


def test_a_window_that_fits_without_special_tokens_alone_is_cut_evenly(words: Path, shards: TokenShards) -> None:
    rows = Windows(fresh(words), shards.with_length(24))
    whole = [of for of, window in zip(rows, rows.shards, strict=True) if len(window.fragments()) == 1 and len(window.ids) == 24]
    assert whole and all(len(of) == 2 and {row.tokens for row in of} <= {13, 14} for of in whole)


def test_no_document_sees_another_and_whole_words_are_refused(words: Path, shards: TokenShards) -> None:
    rows = Windows.fitted(fresh(words), shards)
    sep = rows.model.inputs.tokenizer.sep_id
    assert all(row.notes["ids"].count(sep) == 1 for of in rows for row in of)
    with pytest.raises(OptionError, match="token shards do not say where words begin"):
        Windows.fitted(fresh(words, whole_word=True), shards)[0]


def test_a_window_of_an_end_token_alone_still_has_a_target(words: Path, shards: TokenShards) -> None:
    model = fresh(words)
    end = shards.manifest.end_id
    (row,) = model.task.encode_window(Window(shards[0].ids[:0].__class__([1]) * 0 + end, shards[0].begins[:0], 7, end), model.inputs)
    assert max(row.targets["masked"]) == end


def test_a_model_learns_from_shards(words: Path, shards: TokenShards, tmp_path: Path) -> None:
    plan = Plan(steps=60, batch=8, learning_rate=5e-3, seed=0)
    run = fit("fill_mask", shards.folder, dev=[{"text": "the cat sat on a mat in the cat"}] * 4, family="bert", size=SIZE, tokenizer=str(words), plan=plan,
              out=tmp_path / "model")  # fmt: skip
    assert run.tokens > 0
