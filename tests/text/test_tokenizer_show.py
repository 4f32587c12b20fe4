"""The replay of a tokenisation agrees with the library, and says what happened in which order."""

from __future__ import annotations

import random
from dataclasses import replace as changed
from typing import Any

import pytest

from nabi.errors import TokenizerError
from nabi.text import Tokenizer
from nabi.text.replay import _Model, readable, replay
from nabi.text.training import TokenizerSettings, train_tokenizer
from text.tokenizer_kinds import byte_level, characters, made, metaspace, random_text

TEXTS = ["def f(x):\n    return x  # 나비가 꽃에 앉았다", "이순신은 조선의 무신이다. 12,345", "The merge of a pair; the merges of pairs.", "naïve café 👍🏽"]


@pytest.fixture(scope="module")
def kinds() -> dict[str, Tokenizer]:
    sizes: dict[Any, int] = {"byte_bpe": 320, "wordpiece": 160, "character": 60, "unigram": 100}
    found = {kind: train_tokenizer(TEXTS * 5, TokenizerSettings(kind, size)) for kind, size in sizes.items()}
    return found | {"roberta": made(byte_level(True, True)), "metaspace": made(metaspace()), "characters": made(characters(None))}


@pytest.mark.parametrize("kind", ["byte_bpe", "wordpiece", "character", "unigram", "roberta", "metaspace", "characters"])
def test_the_replay_gives_the_librarys_ids(kind: str, kinds: dict[str, Tokenizer]) -> None:
    tokenizer, dice = kinds[kind], random.Random(1)
    for text in [*TEXTS, "", " ", *(random_text(dice, 60) for _ in range(80)), TEXTS[0] + next(iter(tokenizer.library.get_vocab()))]:
        found = replay(tokenizer, text)
        assert found.ids == tokenizer.encode(text).ids and found.offsets == tokenizer.encode(text).offsets
        assert [id for word in found.words for id in word.ids] == tokenizer.encode(text, special=False).ids
        assert all(0 <= start <= end <= len(text) for start, end in (word.offsets for word in found.words))


def test_control_another_order_of_merges_is_noticed(kinds: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    begin = _Model.__init__

    def backwards(self: _Model, *given: Any) -> None:
        begin(self, *given)
        self.ranks = {pair: len(self.ranks) - rank for pair, rank in self.ranks.items()}

    monkeypatch.setattr(_Model, "__init__", backwards)
    with pytest.raises(TokenizerError, match="do not lead to the library's ids"):
        for cut in range(1, 12):  # words that it does not know whole
            replay(kinds["byte_bpe"], "".join(word[:cut] for text in TEXTS for word in text.split()))


def test_merges_come_in_the_order_of_their_ranks_at_each_step(kinds: dict[str, Tokenizer]) -> None:
    word = next(word for word in replay(kinds["byte_bpe"], TEXTS[2]).words if len(word.steps) > 3)
    assert word.steps[0].what == "letters" and "".join(word.steps[0].pieces) == word.text
    assert all(len(a.pieces) == len(b.pieces) + 1 for a, b in zip(word.steps, word.steps[1:], strict=False))
    assert word.steps[-1].pieces == tuple(word.tokens) and all(step.note is not None for step in word.steps[1:])


def test_wordpiece_shows_its_matches_and_unigram_its_score(kinds: dict[str, Tokenizer]) -> None:
    words = replay(kinds["wordpiece"], "merges ☃").words
    assert "".join(piece.pieces[0].removeprefix("##") for piece in words[0].steps) == "merges" and words[1].steps[-1].what == "unknown"
    path = replay(kinds["unigram"], "merges").words[0].steps[0]
    scores = dict(kinds["unigram"].library.get_vocab())
    assert path.what == "path" and path.note is not None and path.note < 0 and all(piece in scores for piece in path.pieces)


def test_offsets_of_words_are_of_the_text_as_given(kinds: dict[str, Tokenizer]) -> None:
    decomposed = "나비 x"
    words = replay(kinds["byte_bpe"], decomposed).words
    assert [decomposed[slice(*word.offsets)] for word in words] == ["나비", " x"]


BYTES = [("Ġthe", "␣the"), ("ĊĠĠ", "⏎␣␣"), ("ëĤĺ", "나"), ("ëĤ", "⟨eb⟩⟨82⟩"), ("ĉ", "⇥"), ("<|endoftext|>", "<|endoftext|>")]


@pytest.mark.parametrize(("token", "shown"), BYTES)
def test_bytes_are_shown_as_what_they_are(token: str, shown: str) -> None:
    assert readable(token, "BPE") == shown
    assert readable("▁나\u200b", "Unigram") == "␣나⟨U+200B⟩"


def test_a_tokenizer_with_chance_in_it_is_refused(kinds: dict[str, Tokenizer]) -> None:
    definition = kinds["byte_bpe"].definition().replace(b'"dropout": null', b'"dropout": 0.5')
    with pytest.raises(TokenizerError, match="dropout"):
        replay(Tokenizer(definition, {}), "abc")
    assert changed(replay(kinds["byte_bpe"], "abc"), text="").text == ""
