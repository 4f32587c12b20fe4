"""Streams: the pieces joined are the text, whatever the tokenizer's tokens are made of; tokens and figures are those of the answer."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

import nabi
from nabi.errors import InputError, OptionError
from nabi.model import Model, largest_gap
from nabi.tasks._streaming import Unfolding, tidied
from nabi.text import Tokenizer
from nabi.training.progress import Progress
from tasks.bytewise import PAIRS, TEXTS, bytewise, writer
from training import small

CELLS = [("gpt2", "text_generation"), ("bart", "translation"), ("bart", "summarization"), ("bart", "text2text_generation")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bytewise(tmp_path_factory.mktemp("bytewise"))


@pytest.fixture(scope="module")
def make(folder: Path) -> Callable[..., Model]:
    return lambda *cell, **more: writer(*cell, folder, **more)


def told(records: list[dict[str, Any]], index: int = 0) -> str:
    """The text of one answer of a stream."""
    return "".join(record["text"] for record in records if record.get("index", 0) == index)


def written(answer: Any) -> str:
    return str(answer["completion"] if "completion" in answer else answer["text"])


# ---- new text out of tokens --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*TEXTS, "값싼 \U0001f98b\u200d나비\n\t£900"])
def test_half_a_character_waits_for_the_rest(text: str, folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode(text, special=False).ids
    unfolding = Unfolding(tokenizer.decode, tokenizer)
    pieces = [unfolding.add(token) for token in ids]
    assert "".join(pieces) + unfolding.rest(text) == text and unfolding.rest(text) == ""
    assert not any("\ufffd" in piece for piece in pieces)
    if not text.isascii():
        assert "" in pieces
        assert "".join(tokenizer.decode([token]) for token in ids) != text, "control: tokens decoded one by one are another text"


def test_bytes_that_never_become_a_character_are_told_at_the_end(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    half = tokenizer.encode("나", special=False).ids[:1]
    unfolding = Unfolding(tokenizer.decode, tokenizer)
    assert [unfolding.add(token) for token in half] == [""] and unfolding.rest(tokenizer.decode(half)) == "\ufffd"


def test_a_token_that_is_part_of_a_character_is_shown_as_its_bytes(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    unfolding = Unfolding(tokenizer.decode, tokenizer)
    names = [(unfolding.shown(token), unfolding.add(token))[0] for token in tokenizer.encode("값 a").ids]
    assert names == ["<s>", "<0xEA>", "<0xB0>", "값", " a", "</s>"]
    assert unfolding.shown(10_000) == "<10000>"


@pytest.mark.parametrize("decoder", [
    decoders.ByteLevel(),
    decoders.WordPiece(),
    decoders.Metaspace(),
    decoders.BPEDecoder(),
    decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
], ids=["byte level", "wordpiece", "metaspace", "suffixes", "byte fallback"])  # fmt: skip
def test_pieces_of_any_tokens_joined_are_their_text(decoder: decoders.Decoder) -> None:
    dice = random.Random(1)
    pieces = ["▁나", "비", "▁", "a", "##b", "##비", "c</w>", "n't", "'s", ".", "Ġ", "Ġa", "<s>", "ê°Ĵ", "ê", "°", "Ĵ", "<0xEA>", "<0xB0>", "<0x92>", "<0x61>"]
    library = tokenizers.Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="<s>"))
    library.decoder, library.pre_tokenizer = decoder, pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens(["<s>"])
    tokenizer, by_itself = Tokenizer(library.to_str().encode(), {}), 0
    for _ in range(300):
        ids = [dice.randrange(len(pieces)) for _ in range(dice.randint(1, 12))]
        unfolding, whole = Unfolding(tokenizer.decode, tokenizer), tokenizer.decode(ids)
        assert "".join(unfolding.add(i) for i in ids) + unfolding.rest(whole) == whole, [pieces[i] for i in ids]
        by_itself += "".join(tokenizer.decode([i]) for i in ids) != whole
    assert by_itself > 5, "control: tokens decoded one by one are another text"


def test_spaces_that_may_go_wait_too() -> None:
    dice = random.Random(0)
    pieces = [" '", "'", " n't", " n", "'t", "'ve", " 've", " 'v", "e", ".", " .", " ", " do", " a", "b", " ?", "'re", " 'r"]

    class Library:
        """Tokens that are texts."""

        def token(self, id: int) -> str:
            return pieces[id]

    for tidy in (True, False):
        broken = 0
        for _ in range(500):
            ids = [dice.randrange(len(pieces)) for _ in range(12)]
            text = Unfolding(lambda tokens: "x" + "".join(pieces[i] for i in tokens), Library(), tidy)  # type: ignore[arg-type]
            whole = tidied("x" + "".join(pieces[i] for i in ids))
            broken += "".join(text.add(i) for i in ids) + text.rest(whole) != whole
        assert broken == 0 if tidy else broken > 10, broken


# ---- streams of models -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "task"), CELLS, ids=lambda value: value)
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3}, {"do_sample": True, "num_return_sequences": 2, "clean_up_tokenization_spaces": True}],
                         ids=["greedy", "drawn", "two drawn"])  # fmt: skip
def test_a_stream_is_the_answer_token_by_token(family: str, task: str, options: dict[str, Any], make: Callable[..., Model]) -> None:
    model, halves = make(family, task), 0
    for number, text in enumerate(TEXTS):
        given = {"max_new_tokens": 12, "top_alternatives": 3, **options, "seed": number}
        records = list(model.stream(text, **given))
        answer = model.predict(text, **given)
        last = records[-1]
        assert largest_gap(last["answer"], answer) < 1e-4
        assert last["finish_reason"] == answer["finish_reason"] and last["text"] == ""
        for index, sequence in enumerate(answer["sequences"]):
            tokens = [r for r in records if r.get("index") == index and "token" in r]
            assert [r["token"] for r in tokens][: len(sequence["tokens"])] == sequence["tokens"]
            assert told(records, index) == sequence["text"]
            assert sum(r["logprob"] for r in tokens) == pytest.approx(sequence["score"], abs=1e-4)
            halves += sum(r["text"] == "" for r in tokens)
        assert written(answer) == told(records)
        for record in records:
            if "token" in record:
                names, ids, logprobs = zip(*record["alternatives"], strict=True)
                assert len(ids) == 3 and list(logprobs) == sorted(logprobs, reverse=True) and all(isinstance(name, str) and name for name in names)
                assert record["token"] not in ids or logprobs[ids.index(record["token"])] == record["logprob"]
    assert halves > 5  # random models write many halves of characters


def test_a_model_that_learnt_hangul_streams_whole_syllables(folder: Path) -> None:
    plan = nabi.Plan(steps=120, batch=4, learning_rate=5e-3)
    fitted = nabi.fit("text_generation", [{"text": text} for text in TEXTS], plan=plan, family="gpt2", tokenizer=folder, progress=Progress("quiet"))
    records = list(fitted.model.stream("나비가 꽃에", max_new_tokens=30))
    tokens = [r for r in records if "token" in r]
    assert told(records) == " 앉았다." and records[-1]["finish_reason"] == "stop" and records[-1]["answer"]["text"] == TEXTS[0]
    assert {r["text"] for r in tokens} >= {" ", ""} and tokens[-1]["name"] == "</s>" and tokens[-1]["text"] == ""
    assert all(math.exp(r["logprob"]) > 0.5 for r in tokens)


def test_sentences_of_a_translation_are_streamed_in_their_places(make: Callable[..., Model]) -> None:
    model, text = make("bart", "translation"), "나비 꽃.  나비 하늘!\nsat"
    records = list(model.stream(text, split="sentences", max_new_tokens=6))
    answer = model.predict(text, split="sentences", max_new_tokens=6)
    assert told(records) == answer["text"] == records[-1]["answer"]["text"] and len(answer["pieces"]) == 3
    assert {r["piece"] for r in records if "piece" in r} == {0, 1, 2}


def test_the_last_round_of_a_long_summary_is_streamed(make: Callable[..., Model]) -> None:
    model, text = make("bart", "summarization"), " ".join(TEXTS * 3)
    records = list(model.stream(text, max_new_tokens=5))
    answer = model.predict(text, max_new_tokens=5)
    assert len(answer["parts"]) > 1 and told(records) == answer["text"] and records[-1]["answer"]["parts"] == answer["parts"]


def test_steps_of_a_beam_search(make: Callable[..., Model]) -> None:
    for family, task in CELLS:
        model = make(family, task)
        records = list(model.stream(TEXTS[0], watch=True, num_beams=3, max_new_tokens=6))
        steps = [r for r in records if "beams" in r]
        assert [r["step"] for r in steps] == list(range(len(steps))) and all(1 <= len(r["beams"]) <= 3 for r in steps[:-1])
        best = records[-1]["answer"]["sequences"][0]
        assert best["tokens"] == model.predict(TEXTS[0], num_beams=3, max_new_tokens=6)["sequences"][0]["tokens"]
        ended = [hypothesis for r in steps for hypothesis in r["ended"]]
        assert all(b["parent"] < len(before["beams"]) for before, r in pairwise(steps) for b in (*r["beams"], *r["ended"]))
        # the texts of a path joined are the text of its end
        paths: list[tuple[str, list[int]]] = [("", [])]
        found = []
        for r in steps:
            found += [(paths[e["parent"]][0] + e["text"], [*paths[e["parent"]][1], e["token"]], e["score"]) for e in r["ended"]]
            paths = [(paths[b["parent"]][0] + b["text"], [*paths[b["parent"]][1], b["token"]]) for b in r["beams"]]
        text, tokens, _ = max(found, key=lambda each: each[2])
        assert tokens[: len(best["tokens"])] == best["tokens"] and best["text"].startswith(text) and best["text"].rstrip("\ufffd") == text
        assert max(h["score"] for h in ended) == pytest.approx(best["score"], abs=1e-5)
        scores = [b["score"] for b in steps[-2]["beams"]]
        assert scores == sorted(scores, reverse=True)


def test_what_cannot_be_streamed_is_said_at_once(make: Callable[..., Model], tokenizer: Path) -> None:
    with pytest.raises(OptionError, match=r"a beam search has no tokens to stream.*num_beams=2.*watch=True"):
        make("gpt2", "text_generation").stream("나비", num_beams=2)
    with pytest.raises(OptionError, match="text_classification does not write token by token"):
        small.model(tokenizer).stream("a good film")
    with pytest.raises(InputError, match="the input leaves no room"):
        make("gpt2", "text_generation").stream("나비" * 80)
    with pytest.raises(InputError, match="leaves no room for an answer: '?21 tokens"):
        make("gpt2", "text_generation").stream("a" * 20, max_length=20)
    with pytest.raises(OptionError, match="did you mean 'max_new_tokens'"):
        make("gpt2", "text_generation").stream("나비", max_new_token=2)


def test_a_stream_that_is_left_leaves_the_model_as_it_was(make: Callable[..., Model]) -> None:
    model = make("gpt2", "text_generation").train()
    stream = model.stream(PAIRS[0]["source"], max_new_tokens=9)
    next(stream)
    assert not model.training
    stream.close()
    assert model.training
