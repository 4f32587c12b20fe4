"""Training from token shards: the same as training on the fragments themselves, and no document sees another."""

from __future__ import annotations

import dataclasses
import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import nabi
from nabi.batch import Row, pack
from nabi.data.sharding import write_shards
from nabi.data.shards import TokenShards, Window
from nabi.errors import DataError, OptionError, TokenizerError
from nabi.model import Model
from nabi.training.feed import Feed
from nabi.training.loop import train
from nabi.training.plan import Plan
from nabi.training.progress import Progress
from nabi.training.windows import Windows
from tasks.written import SIZES, command, fitted
from tasks.written import tokenizer as written_tokenizer

WORDS = ("the", "cat", "sat", "on", "a", "mat", "in")
PLAN = Plan(steps=8, batch=4, tokens=100, learning_rate=3e-3, windows=1000, seed=3)
LENGTH = 32


def texts(count: int) -> list[str]:
    dice = random.Random(0)
    return [" ".join(dice.choices(WORDS, k=dice.choice((1, 2, 3, 40)))) for _ in range(count)]


TEXTS = texts(60)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_tokenizer("gpt2", tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def shards(words: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    return write_shards(TEXTS, words, tmp_path_factory.mktemp("shards"), corpus="some", file_tokens=700, length=LENGTH)


def fresh(words: Path, **size: Any) -> Model:
    settings = nabi.tasks.find("text_generation").Settings()
    return nabi.create("gpt2", {"vocab_size": 1, **SIZES["gpt2"], **size}, "text_generation", settings, words, seed=1)


def by_hand(model: Model, length: int) -> list[list[Row]]:
    """The fragments of each window, from the texts alone: a document is read from its begin token on, and cut where the windows end."""
    tokenizer, at = model.inputs.tokenizer, 0
    windows: dict[int, list[Row]] = {}
    for text in TEXTS:
        whole = [tokenizer.bos_id, *tokenizer.encode(text, special=False).ids, tokenizer.eos_id]
        begin = 0
        while begin < len(whole) - 1:
            end = min(begin + length - at % length, len(whole) - 1)
            number = at // length
            row = Row({"text": {"tokens": whole[begin:end]}}, targets={"next": whole[begin + 1 : end + 1]}, example=number)
            windows.setdefault(number, []).append(row)
            at, begin = at + end - begin, end
    return [windows[i] for i in range(len(windows))]


def test_the_rows_of_a_window_are_its_documents_fragments(words: Path, shards: TokenShards) -> None:
    model = fresh(words)
    for length in (LENGTH, 7, 48):
        assert list(Windows(model, shards.with_length(length))) == by_hand(model, length)
    rows = Windows(model, shards)
    assert all(sum(row.tokens for row in rows[i]) == LENGTH for i in range(len(rows) - 1)), "each token of the stream is predicted once"
    assert [rows[i] for i in (2, 3)] == rows[2:4] and rows[-1] == rows[len(rows) - 1]
    assert max(map(len, rows)) > 4 and any(len(of) == 1 for of in rows)


def test_a_window_of_whole_documents_has_the_rows_of_a_table(words: Path, shards: TokenShards) -> None:
    model = fresh(words, max_positions=4000)
    model.inputs = dataclasses.replace(model.inputs, max_length=4000)
    whole = Windows(model, shards.with_length(4000))[0]
    options = model.options()
    table = [row for text in TEXTS for row in model.encode({"text": text}, options, "train")]
    cut = len(whole) - 1  # the last one may go on in the next window
    assert cut > 30 and [(row.parts, row.targets) for row in whole[:cut]] == [(row.parts, row.targets) for row in table[:cut]]


def losses(model: Model, rows: Any, plan: Plan = PLAN) -> list[float]:
    return [step.loss for step in train(model, Feed(model, rows, plan), plan)]


def test_training_on_shards_is_training_on_their_fragments(words: Path, shards: TokenShards) -> None:
    one, two, three = (fresh(words) for _ in range(3))
    first, second = losses(one, Windows(one, shards)), losses(two, by_hand(two, LENGTH))
    assert first == second and first[-1] < first[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    mixed = [[Row({"text": {"tokens": [t for r in of for t in r.parts["text"]["tokens"]]}},
                  targets={"next": [t for r in of for t in r.targets["next"]]}, example=of[0].example)] for of in by_hand(three, LENGTH)]  # fmt: skip
    assert max(abs(a - b) for a, b in zip(first, losses(three, mixed), strict=True)) > 1e-3, "control: a window as one row is another training"


def test_every_document_of_a_window_is_read_whatever_the_plan_says_of_windows_of_a_text(words: Path, shards: TokenShards) -> None:
    model, plan = fresh(words), dataclasses.replace(PLAN, windows=1)
    batches = Feed(model, Windows(model, shards), plan).step(0)
    assert sum(batch.tokens for batch in batches) == 4 * LENGTH
    fewer = Feed(model, by_hand(model, LENGTH), plan).step(0)
    assert sum(batch.tokens for batch in fewer) < 4 * LENGTH, "control: of a long text one window is drawn"


@torch.no_grad()
def logits(model: Model, rows: list[Row]) -> list[torch.Tensor]:
    """Of each row's tokens, all rows in one batch."""
    (batch,) = pack([dataclasses.replace(row, example=i) for i, row in enumerate(rows)], tokens=10_000)
    run = model.eval().run()
    weight, bias = model.task._head.output(run)
    values = torch.nn.functional.linear(model.task._head.before(run(batch)["text"].values), weight, bias)
    parts = values.split(list(batch.parts["text"].layout.lengths))
    return [parts[batch.parts["text"].ids.index(i)] for i in range(len(rows))]


def test_documents_of_a_window_do_not_see_each_other(words: Path, shards: TokenShards) -> None:
    model = fresh(words)
    window = next(w for w in shards if len(w.fragments()) == 3)
    (_, first), _, _ = window.fragments()
    other = Window(window.ids.copy(), window.begins, window.before, window.end)
    other.ids[0] = (other.ids[0] + 1) % 20
    rows, changed = (model.task.encode_window(w, model.inputs) for w in (window, other))
    before, after = logits(model, rows), logits(model, changed)
    assert not torch.allclose(before[0], after[0], atol=1e-3), "the changed document itself"
    assert all(torch.equal(a, b) for a, b in zip(before[1:], after[1:], strict=True))

    def joined(rows: list[Row]) -> Row:
        return Row({"text": {"tokens": [t for row in rows for t in row.parts["text"]["tokens"]]}})

    (one,), (two,) = logits(model, [joined(rows)]), logits(model, [joined(changed)])
    assert (one[first:] - two[first:]).abs().max() > 1e-3, "control: as one row they see each other"


def test_a_step_makes_the_rows_of_its_own_windows_alone(words: Path, shards: TokenShards, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = fresh(words), []
    window = TokenShards._window
    monkeypatch.setattr(TokenShards, "_window", lambda self, i: (asked.append(i), window(self, i))[1])
    feed = Feed(model, Windows(model, shards), PLAN)
    assert not asked
    feed.step(5)
    assert sorted(asked) == sorted(feed.examples(5))


# ---- in one call -------------------------------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


class Stopping(Progress):
    def __init__(self, at: int) -> None:
        super().__init__("quiet", io.StringIO())
        self.at = at

    def say(self, sentence: str, **entry: Any) -> None:
        if entry.get("step") == self.at:
            raise Stop


def start(words: Path) -> dict[str, Any]:
    return {"family": "gpt2", "size": {"vocab_size": 1, **SIZES["gpt2"]}, "tokenizer": words}


def test_fit_reads_a_folder_of_shards_and_resumes_exactly(words: Path, shards: TokenShards, tmp_path: Path) -> None:
    plan = Plan(steps=12, batch=4, learning_rate=3e-3, evaluate_every=0.25)
    dev = [{"text": text} for text in TEXTS[:5]]
    whole = fitted("text_generation", shards.folder, plan, out=tmp_path / "a", dev=dev, **start(words))
    assert whole.metrics["bits_per_byte"] > 0 and whole.history[-1]["loss"] < whole.history[0]["loss"]
    facts = (tmp_path / "a" / "history.json").read_text()
    assert shards.sha256 in facts and f'"rows": {len(shards.with_length(48))}' in facts, "in windows of the model's length"
    how: dict[str, Any] = {"out": tmp_path / "b", "plan": plan, "dev": dev, **start(words)}
    with pytest.raises(Stop):
        nabi.fit("text_generation", str(shards.folder), progress=Stopping(6), **how)
    again = fitted("text_generation", str(shards.folder), how.pop("plan"), resume=True, **how)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


def test_windows_of_a_length_of_one_s_own(words: Path, shards: TokenShards, tmp_path: Path) -> None:
    run = fitted("text_generation", shards.with_length(16), Plan(steps=2, batch=4), **start(words))
    assert run.tokens == 2 * 4 * 16
    with pytest.raises(OptionError, match=r"longer than the model reads: '?64 tokens.*at most 48"):
        nabi.fit("text_generation", shards.with_length(64), plan=Plan(steps=2), **start(words))


def test_the_command_trains_on_shards(words: Path, shards: TokenShards, tmp_path: Path) -> None:
    code, _, said = command("train", "--task", "text-generation", "--data", str(shards.folder), "--family", "gpt2", "--size", "tiny", "--tokenizer", str(words),
                  "--out", str(tmp_path / "out"), "--set", "plan.steps=2", "--set", "plan.batch=2")  # fmt: skip
    assert code == 0 and (tmp_path / "out" / "config.json").is_file(), said


def test_what_does_not_go_together_is_refused(words: Path, shards: TokenShards, tmp_path: Path) -> None:
    plan = Plan(steps=1)
    for error, match, task, given in (
        (OptionError, "text_classification does not learn from token shards", "text_classification", {}),
        (OptionError, "token shards are not split: 0.1", "text_generation", {"dev": 0.1}),
        (OptionError, "no columns to rename: 'text'", "text_generation", {"columns": {"text": "content"}}),
        (TokenizerError, "another tokenizer made the token shards", "text_generation", {"tokenizer": written_tokenizer("bart", tmp_path / "bart")}),
        (DataError, "there are no token shards|folder, not a file", "text_generation", {"data": tmp_path}),
    ):
        with pytest.raises(error, match=match):
            nabi.fit(task, given.pop("data", shards.folder), out=tmp_path / "out", plan=plan, **{**start(words), **given})
    assert not (tmp_path / "out").exists()


def test_edited_shards_are_not_trained_on(words: Path, tmp_path: Path) -> None:
    made = write_shards(TEXTS, words, tmp_path, corpus="some")
    path = made.folder / "00000.bin"
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    with pytest.raises(DataError, match="was edited"):
        nabi.fit("text_generation", made.folder, plan=Plan(steps=1), **start(words))
