"""What holds for any text, any tokenizer and every text task: spans are where they say, neighbours change nothing, answers are plain data.

The usual run reads the same few hundred texts every time; the slow one draws thousands anew. What it finds becomes a named test beside the code.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import kinds
from fuzz.kinds import KINDS, MASKS, READING, SENTINELS, SHORT, TEXTS, WRITING
from nabi.batch import Batch
from nabi.layout import Packed
from nabi.model import Model
from nabi.text.encoding import Encoding

TOLERANCE = 1e-5
CELLS = [(task, kind) for task in READING for kind in KINDS] + [(task, kind) for task in WRITING for kind in ("bytes", "pieces", "lower")]
CHECKS = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
USUAL = settings(CHECKS, derandomize=True, max_examples=8)
SLOW = settings(CHECKS, max_examples=int(os.environ.get("NABI_FUZZ_EXAMPLES", "200")))
BATCHES = st.lists(st.tuples(TEXTS, SHORT), min_size=1, max_size=4)
ROOM = st.integers(3, 12)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Hangul that a tokenizer takes apart
        yield
    torch.set_num_threads(threads)


# ---- the invariants ----------------------------------------------------------------------------------------------------------------------------------


def letters(text: str) -> str:
    """What of a text every normaliser keeps, in one form."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(c for c in plain if unicodedata.category(c)[0] not in "MCZ" and c not in "#▁")


def spans_hold(task: str, kind: str, example: dict[str, Any], answer: dict[str, Any]) -> None:
    """Each span of an answer holds its own text, in order where there is one."""
    text = example.get("context", example.get("text", example.get("source")))
    if task == "token_classification":
        for entity in answer["entities"]:
            start, end = entity["start"], entity["end"]
            assert 0 <= start <= end <= len(text) and text[start:end] == entity["text"], entity
            if "surface" in entity:
                assert start < end and text[start : start + len(entity["surface"])] == entity["surface"], entity
                assert entity["surface"].startswith(entity["text"]), entity
            elif "index" in entity and kind != "bytes" and entity["word"] != "[UNK]":  # a token, as the vocabulary spells it
                # of its letters only: a tokenizer's library does not follow which mark went where when marks are put into order
                plain, held = letters(entity["word"].removeprefix("##")), letters(text[start:end])
                assert plain in held or (not plain and not held), (entity, text[start:end])
        places = [(entity["start"], entity["end"]) for entity in answer["entities"] if "surface" in entity]
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places)), places
    elif task == "question_answering":
        for found in (answer, *answer["answers"]):
            assert 0 <= found["start"] <= found["end"] <= len(text) and text[found["start"] : found["end"]] == found["answer"], found
            if "surface" in found:
                assert text[found["start"] : found["start"] + len(found["surface"])] == found["surface"], found
    elif task == "fill_mask":
        assert len(answer["masks"]) == text.count(MASKS[kind])
        for mask in answer["masks"]:
            assert text[mask["start"] : mask["end"]].strip() == MASKS[kind], mask
    elif task == "denoise":
        blanks = [text[fill["start"] : fill["end"]].strip() for fill in answer["fills"]]
        assert len(blanks) == 2 and set(blanks) <= {*SENTINELS, *MASKS.values()}, blanks
    elif task in ("translation", "summarization"):
        places = [(piece["start"], piece["end"]) for piece in answer.get("parts", answer["pieces"])]
        between = [0, *itertools.chain(*places), len(text)]
        assert all(a <= b for a, b in itertools.pairwise(between)) and not any(text[a:b].strip() for a, b in zip(between[::2], between[1::2], strict=True))


def plain_data(answer: Any) -> None:
    """An answer comes back from JSON as it was."""
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer


def same(a: Any, b: Any, path: str = "") -> None:
    """Two answers are one: numbers within the tolerance, everything else equal."""
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{i}]")
    elif isinstance(a, float) and isinstance(b, float):
        assert math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE), (path, a, b)
    else:
        assert type(a) is type(b) and a == b, (path, a, b)


def read(built: Model, examples: list[dict[str, Any]], options: dict[str, Any], tokens: int | None = None) -> list[Any]:
    """Answers to examples that are read together."""
    return list(built.answers(examples, built.options(options), tokens=tokens))


def invariants(built: Model, task: str, kind: str, texts: list[tuple[str, str]], room: int, strategy: str) -> None:
    """All of them, over a batch, its examples one by one, the batch turned round, and in small packs."""
    examples = [kinds.example(task, kind, *pair) for pair in texts]
    options = kinds.options(task, examples, built, room)
    if task == "token_classification":
        options |= {"aggregation_strategy": strategy, "ignore_labels": () if strategy == "none" else ("O",)}
    if task == "feature_extraction" and strategy != "auto":
        options["pooling"] = {"none": "mean", "simple": "max"}.get(strategy, "cls")
    together = read(built, examples, options)
    for example, answer in zip(examples, together, strict=True):
        spans_hold(task, kind, example, answer)
        plain_data(answer)
        (alone,) = read(built, [example], options)
        same(answer, alone)
    for i, answer in enumerate(reversed(read(built, examples[::-1], options, tokens=2 * room))):
        same(answer, together[i])
    if task == "token_classification" and strategy == "none":
        whole = read(built, examples, {"aggregation_strategy": "none", "ignore_labels": ()})
        for a, b in zip(whole, together, strict=True):
            assert [(e["start"], e["end"], e["word"]) for e in a["entities"]] == [(e["start"], e["end"], e["word"]) for e in b["entities"]]
    if task == "fill_mask":
        for a, b in zip(read(built, examples, {}), together, strict=True):
            assert [(m["start"], m["end"]) for m in a["masks"]] == [(m["start"], m["end"]) for m in b["masks"]]
    if task == "feature_extraction" and "pooling" not in options:
        for a, b in zip(read(built, examples, {}), together, strict=True):
            assert len(a["features"]) == len(b["features"])


def fuzz(task: str, kind: str, base: Path, profile: settings) -> None:
    built = kinds.model(task, kind, base)

    @given(BATCHES, ROOM, st.sampled_from(["auto", "none", "simple", "first"]))
    @profile
    def check(texts: list[tuple[str, str]], room: int, strategy: str) -> None:
        invariants(built, task, kind, texts, room, strategy)

    check()


@pytest.mark.parametrize(("task", "kind"), CELLS)
def test_any_text_keeps_the_invariants(task: str, kind: str, base: Path) -> None:
    fuzz(task, kind, base, USUAL)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "kind"), CELLS)
def test_many_texts_keep_the_invariants(task: str, kind: str, base: Path) -> None:
    fuzz(task, kind, base, SLOW)


# ---- controls ----------------------------------------------------------------------------------------------------------------------------------------

CONTROL = [("The cat sat on the mat in New York, 나비가 서울에서 東京に", "cat"), ("Mr. O'Neill's 박근혜는 state-of-the-art café", "b"), ("가나다", "a")]


@pytest.mark.parametrize("task", ["token_classification", "fill_mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_control_offsets_one_too_high_are_caught(task: str, kind: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = kinds.model(task, kind, base)
    strategy = "none"
    invariants(built, task, kind, CONTROL, 8, strategy)
    if kind == "bytes" and task == "token_classification":
        strategy = "simple"
    real = type(built.inputs.tokenizer).encode

    def shifted(self: Any, text: str, pair: str | None = None, *, special: bool = True) -> Encoding:
        found = real(self, text, pair, special=special)
        moved = [(a + 1, b + 1) if not added else (a, b) for (a, b), added in zip(found.offsets, found.special, strict=True)]
        return Encoding(found.ids, found.segments, moved, found.words, found.special, found.sequence)

    monkeypatch.setattr(type(built.inputs.tokenizer), "encode", shifted)
    with pytest.raises(AssertionError):
        invariants(built, task, kind, CONTROL, 8, strategy)


def test_control_windows_that_move_offsets_are_caught(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = kinds.model("token_classification", "bytes", base)
    real = Encoding.without

    def moved(self: Encoding, *cuts: tuple[int, int]) -> Encoding:
        found = real(self, *cuts)
        return Encoding(found.ids, found.segments, [(a, max(a, b - 1)) for a, b in found.offsets], found.words, found.special, found.sequence)

    monkeypatch.setattr(Encoding, "without", moved)
    with pytest.raises(AssertionError):
        invariants(built, "token_classification", "bytes", CONTROL, 8, "none")


@pytest.mark.parametrize("task", READING)
def test_control_a_batch_that_leaks_is_caught(task: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = kinds.model(task, "lower", base)
    invariants(built, task, "lower", CONTROL, 8, "auto")
    examples = [kinds.example(task, "lower", *pair) for pair in CONTROL]
    assert task == "next_sentence" or read(built, examples, kinds.options(task, examples, built, 8))[0]["windows"] > 1
    real = built.body.forward

    def leaking(batch: Batch, *args: Any, **more: Any) -> dict[str, Packed]:
        found = real(batch, *args, **more)
        length = len(batch.parts["text"].streams["tokens"])
        return {name: Packed(x.values + 1e-3 * length, x.layout) for name, x in found.items()}

    monkeypatch.setattr(built.body, "forward", leaking)
    with pytest.raises(AssertionError):
        invariants(built, task, "lower", CONTROL, 8, "auto")


@pytest.mark.parametrize("bad", [{"score": torch.tensor(0.5).numpy()[()]}, {"score": float("nan")}, {"places": (0, 1)}, {0: "a"}])
def test_control_what_is_no_plain_data_is_caught(bad: Any) -> None:
    with pytest.raises((AssertionError, TypeError, ValueError)):
        plain_data(bad)


def test_a_mark_behind_a_mask_is_no_part_of_it(base: Path) -> None:
    (mask, _) = kinds.model("fill_mask", "lower", base).predict("[MASK]\u0651[MASK]")["masks"]
    assert (mask["start"], mask["end"]) == (0, 6)
