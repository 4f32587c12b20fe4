"""Denoising: what is taken out and how much, targets, long documents, token shards, pretraining from nothing, blanks filled, fine-tuning, bad input."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import nabi
from nabi import Plan, checkpoint, tasks
from nabi.batch import pack
from nabi.data.corrupt import dropped_spans, infilled_spans, sentences, span_counts
from nabi.data.sharding import write_shards
from nabi.errors import DataError, InputError, OptionError, TokenizerError
from nabi.inputs import Inputs
from nabi.model import Model
from nabi.tasks import _denoising
from nabi.tasks._denoising import between, written_spans
from nabi.tasks._generating import Piece
from nabi.tasks.denoise import DenoiseSettings
from nabi.text.training import TokenizerSettings, train_tokenizer
from nabi.training.windows import Windows
from tasks.bytewise import bytewise
from tasks.noised import LONG, SENTINELS, TEXTS, WHO, documents, dropped_places, ids, inputs_words, made, put_back, rows, sentinels, tokenizer
from tasks.written import command, fitted, folder
from tasks.written import tokenizer as written_tokenizer
from training.small import feed, same, weights

STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}
ANY = st.lists(st.sampled_from([*WHO, *WHO.values(), "뷁", "don't", ".", "?", "x y"]), min_size=1, max_size=25).map(" ".join)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer(tmp_path_factory.mktemp("words"))


# ---- how much is taken out -----------------------------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_t5_and_the_incumbent() -> None:
    # its collator: noise = int(np.round(length * density)) within 1 and length - 1, spans = max(int(np.round(noise / mean)), 1); of 568 tokens it says itself
    # that they become 512 and 114 with one end token each
    assert span_counts(568, 0.15, 3.0) == (85, 28) and 568 - 85 + 28 + 1 == 512 and 85 + 28 + 1 == 114
    assert [span_counts(n, 0.15, 3.0) for n in (2, 3, 10, 30, 100, 512, 1142)] == [(1, 1), (1, 1), (2, 1), (4, 1), (15, 5), (77, 26), (171, 57)]
    for length, density, mean in itertools.product(range(2, 700), (0.1, 0.15, 0.3, 0.5), (1.0, 3.0, 3.5, 8.0)):
        noise = min(max(int(np.round(length * density)), 1), length - 1)
        assert span_counts(length, density, mean) == (noise, min(max(int(np.round(noise / mean)), 1), length - noise))
    wrong = [span_counts(n, 0.15, 3.0)[0] != math.ceil(n * 0.15) for n in range(2, 700)]
    assert sum(wrong) > 250, "the control, which rounds up, is told apart"
    assert span_counts(1, 0.15, 3.0) == (1, 1)


def test_spans_are_drawn_evenly_from_all_that_there_are() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(tuple(dropped_spans(6, share=0.5, mean=1.5, most=9, generator=generator)) for _ in range(6000))
    every = {
        ((a, a + m), (b, b + 3 - m)) for m in (1, 2) for a in range(7) for b in range(7) if a + m < b and b + 3 - m <= 6
    }  # fmt: skip
    assert drawn.keys() == every and len(every) == 12
    # 500 each: six standard deviations of a binomial draw are 128
    assert all(abs(count - 500) < 128 for count in drawn.values()), drawn


@given(st.integers(1, 300), st.floats(0.01, 0.99), st.floats(1, 12), st.integers(1, 40), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_spans_have_the_counts_and_stand_apart(length: int, share: float, mean: float, most: int, seed: int) -> None:
    spans = dropped_spans(length, share=share, mean=mean, most=most, generator=torch.Generator().manual_seed(seed))
    dropped, count = span_counts(length, share, mean)
    assert sum(b - a for a, b in spans) == dropped and len(spans) == min(count, most)
    assert spans[0][0] >= 0 and spans[-1][1] <= length and all(a < b for a, b in spans) and all(b < c for (_, b), (c, _) in itertools.pairwise(spans))


@given(st.integers(1, 300), st.floats(0.01, 0.99), st.floats(1, 12), st.integers(0, 5), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_infilling_hides_its_share_and_the_row_grows_no_more_than_it_may(length: int, share: float, mean: float, grow: int, seed: int) -> None:
    spans = infilled_spans(length, share=share, mean=mean, grow=grow, generator=torch.Generator().manual_seed(seed))
    hidden = max(round(length * share), 1)
    assert sum(b - a for a, b in spans) == hidden and length - hidden + len(spans) <= length + grow
    assert spans[0][0] >= 0 and spans[-1][1] <= length and all(a <= b <= c for (a, b), (c, _) in itertools.pairwise(spans))


def test_lengths_of_infilled_spans_are_poisson_and_their_places_even() -> None:
    generator = torch.Generator().manual_seed(1)
    drawn = [infilled_spans(1000, share=0.3, mean=3.0, grow=1000, generator=generator) for _ in range(60)]
    sizes = Counter(b - a for spans in drawn for a, b in spans)
    total = sum(sizes.values())
    for size in range(7):
        chance = math.exp(-3) * 3**size / math.factorial(size)
        # four standard deviations, and the last span of each row, which may be cut
        assert abs(sizes[size] / total - chance) < 4 * math.sqrt(chance / total) + 60 / total, (size, sizes[size] / total, chance)
    mean = sum(a for spans in drawn for a, _ in spans) / total
    assert abs(mean - 500) < 4 * 1000 / math.sqrt(12 * total) + 5


# ---- rows ----------------------------------------------------------------------------------------------------------------------------------------------


def test_the_example_of_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Raffel et al., figure 2; Lewis et al., figure 2 (text infilling, with a mask where nothing is missing)
    text = "Thank you for inviting me to your party last week ."
    special = ("<pad>", "</s>", "<unk>", "<mask>", "<extra_id_0>", "<extra_id_1>", "<extra_id_2>")
    letters = TokenizerSettings("wordpiece", special_tokens=("[UNK]", "[PAD]", "[MASK]", *special[4:], "</s>"), vocab_size=400)
    train_tokenizer([text] * 3, letters).save(tmp_path)
    for style, spans, source, target in (
        ("spans", [(2, 4), (8, 9)], "Thank you <extra_id_0> me to your party <extra_id_1> week .", "<extra_id_0> for inviting <extra_id_1> last <extra_id_2>"),
        ("infilling", [(2, 4), (5, 5), (8, 9)], "Thank you [MASK] me [MASK] to your party [MASK] week .", text),
    ):
        name = "dropped_spans" if style == "spans" else "infilled_spans"
        monkeypatch.setattr(_denoising, name, lambda length, spans=spans, **how: spans if length == 11 else pytest.fail("words are counted"))
        model = made(tmp_path, style=style, whole_word=True)
        (row,) = rows(model, text)
        told = [" ".join(model.inputs.tokenizer.tokens(x)) for x in (row.parts["text"]["tokens"], row.targets["next"])]
        assert told == [source, f"{target} </s>"], style


@given(ANY, st.integers(0, 2**32), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_sentinels_and_their_spans_are_the_text(words: Path, text: str, seed: int, whole_word: bool) -> None:
    model = made(words, whole_word=whole_word)
    marks, whole = sentinels(model), ids(model, text)
    (row,) = rows(model, text)
    for each in (row, model.task.corrupt(row, torch.Generator().manual_seed(seed))):
        assert put_back(each, marks) == whole
        spans = each.targets["spans"]
        numbers = inputs_words(model, text) if whole_word else list(range(len(whole)))
        dropped, count = span_counts(len(set(numbers)), 0.15, 3.0)
        assert len({x for x in spans if x >= 0}) == count
        assert whole_word or (sum(x >= 0 for x in spans) == dropped and len(each.parts["text"]["tokens"]) == len(whole) - dropped + count + 1)


@given(ANY, st.integers(0, 2**32), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_infilling_keeps_what_it_does_not_hide(words: Path, text: str, seed: int, whole_word: bool, permuted: bool) -> None:
    model = made(words, "bart", style="infilling", whole_word=whole_word, permute_sentences=permuted)
    mask, whole = model.inputs.tokenizer.mask_id, ids(model, text)
    row = model.task.corrupt(rows(model, text)[0], torch.Generator().manual_seed(seed))
    assert row.targets["next"] == [*whole, 1] and len(row.parts["text"]["tokens"]) <= 64
    spans, source = row.targets["spans"][:-1], row.parts["text"]["tokens"][:-1]
    kept = [id for id in source if id != mask]
    wanted = [id for id, of in zip(whole, spans, strict=True) if of < 0]
    assert sorted(kept) == sorted(wanted) and (permuted or kept == wanted)
    assert source.count(mask) >= len({of for of in spans if of >= 0}) > 0
    if not whole_word:
        assert sum(of >= 0 for of in spans) == max(round(0.3 * len(whole)), 1)


def test_sentences_change_places_and_nothing_else(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_denoising, "infilled_spans", lambda length, **how: [])
    text = "나비가 꽃에 앉았다. the cat sat on the mat! a butterfly flew over the hill. 고양이가 집에서 잤다."
    orders = set()
    for words_too in (False, True):
        model = made(words, "bart", style="infilling", permute_sentences=True, whole_word=words_too)
        (row,) = rows(model, text)
        for seed in range(40):
            found = model.inputs.tokenizer.decode(model.task.corrupt(row, torch.Generator().manual_seed(seed)).parts["text"]["tokens"])
            assert sorted(sentences(found)) == sorted(sentences(text)), found
            orders.add(found)
    assert len(orders) > 15
    (row,) = rows(made(words, "bart", style="infilling"), text)
    assert model.inputs.tokenizer.decode(row.parts["text"]["tokens"]) == text


@pytest.mark.parametrize("style", ["spans", "infilling"])
def test_words_of_korean_are_hidden_whole(words: Path, style: Any) -> None:
    text = "고양이가 집에서 잤다. 나비가 꽃에 앉았다. 고양이가 꽃에 앉았다."
    cut = {False: 0, True: 0}
    for whole_word in cut:
        model = made(words, style=style, whole_word=whole_word)
        of_word, whole = inputs_words(model, text), ids(model, text)
        assert len(set(of_word)) == 9 and len(whole) > 15
        (row,) = rows(model, text)
        for seed in range(60):
            noised = model.task.corrupt(row, torch.Generator().manual_seed(seed))
            places = dropped_places(noised, whole, sentinels(model), style)
            by_word = {word: {i in places for i, of in enumerate(of_word) if of == word} for word in of_word}
            cut[whole_word] += sum(len(seen) == 2 for seen in by_word.values())
    assert cut[True] == 0 < 30 < cut[False], cut


def test_a_sentinel_of_the_text_is_passed_over(words: Path) -> None:
    model = made(words)
    marks = sentinels(model)
    (row,) = rows(model, "the cat <extra_id_0> sat on the mat. a butterfly flew over the hill.")
    for seed in range(20):
        noised = model.task.corrupt(row, torch.Generator().manual_seed(seed))
        source, target = noised.parts["text"]["tokens"], noised.targets["next"]
        assert [*source, *target].count(marks[0]) == 1 and target[0] == marks[1] and marks[1] in source, "it stays what it is: a token of the text"
    with pytest.raises(DataError, match="a text holds all of the tokenizer's sentinels. Expected two that it does not. Take them out of the text"):
        rows(model, "the cat " + " ".join(SENTINELS[1:]))


def test_noise_is_drawn_anew_in_each_epoch_and_is_the_same_in_each_evaluation(words: Path) -> None:
    model, plan = made(words), Plan(steps=40, batch=8, seed=2)
    data = [{"text": text} for text in TEXTS[:16]]
    once, again = feed(model, data, plan), feed(model, data, plan)

    def sources(step: int, of: Any) -> Counter[tuple[int, ...]]:
        return Counter(
            tuple(row.tolist()) for batch in of.step(step)
            for row in torch.split(batch.parts["text"].streams["tokens"], list(batch.parts["text"].layout.lengths))
        )  # fmt: skip

    assert sources(5, once) == sources(5, again)
    epochs = [sources(2 * e, once) + sources(2 * e + 1, once) for e in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    a, b = (rows(made(words), TEXTS[0], "evaluate")[0] for _ in range(2))
    assert (a.parts, a.targets) == (b.parts, b.targets)
    assert rows(model, TEXTS[0])[0].parts == a.parts and model.task.corrupt(a, torch.Generator().manual_seed(1)).parts != a.parts


# ---- long texts, token shards ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole_word", [False, True])
def test_a_long_document_is_read_whole(words: Path, whole_word: bool) -> None:
    whole: list[int] = []
    for length in (6, 48, 512):
        model = made(words, length=length, whole_word=whole_word)
        found = rows(model, LONG, "evaluate")
        longest = [max(row.length(part) for row in found) for part in ("text", "target")]
        assert max(longest) <= length and [x for row in found for x in put_back(row, sentinels(model))] == (whole := ids(model, LONG))
        assert sum(sum(row.notes["sizes"]) for row in found) == len(LONG.encode())
        assert length < 48 or sum(row.notes["bytes"] for row in found) < 0.3 * len(LONG.encode())
        # no more rows than must be: with one less a row would be too long, or the sentinels too few
        room = model.task._row_room(model.task._frame(model.inputs))  # type: ignore[operator]
        assert len(found) == math.ceil(len(whole) / room) and max(map(len, (row.notes["ids"] for row in found))) <= room
    bart = made(words, "bart", style="infilling", permute_sentences=True)
    found = rows(bart, LONG)
    assert [id for row in found for id in row.targets["next"][:-1]] == whole and all(row.length("target") <= 64 >= row.length("text") for row in found)


def test_rows_are_as_long_as_the_paper_has_them(tmp_path: Path) -> None:
    model = made(tokenizer(tmp_path, sentinels=100))
    assert model.task._row_room(model.task._frame(model.inputs)) == 568  # type: ignore[operator]
    assert max(row.length("text") for row in rows(model, LONG * 3)) <= 512


@pytest.mark.parametrize(("family", "style"), [("t5", "spans"), ("bart", "infilling")])
def test_token_shards_are_read_fragment_by_fragment(words: Path, tmp_path: Path, family: str, style: Any) -> None:
    texts = [*TEXTS[:30], LONG]
    shards = write_shards(texts, words, tmp_path / "shards", corpus="some", length=48)
    model = made(words, family, style=style, length=40)
    marks, windows = sentinels(model), Windows(model, shards)
    found = [row for of in windows for row in of]
    read = [put_back(row, marks) if style == "spans" else row.targets["next"][:-1] for row in found]
    assert [id for row in read for id in row if id != 1] == [id for text in texts for id in ids(model, text)]
    assert max(max(row.length("text"), row.length("target")) for row in found) <= 40
    assert sum(1 in row for row in read) == sum(row == [1] for row in read) < 3, "the end token is no text, unless it is all there is"
    spelt = [f",{','.join(map(str, ids(model, text)))}," for text in texts]
    assert all(any(f",{','.join(map(str, row))}," in text for text in spelt) for row in read if row != [1]), "no row holds two documents"
    run = fitted("denoise", str(shards.folder), Plan(steps=3, batch=2), family=family, tokenizer=words, settings={"style": style})
    assert run.tokens > 0
    for name in ("whole_word", "permute_sentences"):
        if (name, style) != ("permute_sentences", "spans"):
            with pytest.raises(OptionError, match="token shards hold no words and no sentences"):
                fitted("denoise", str(shards.folder), Plan(steps=3), family=family, tokenizer=words, settings={"style": style, name: True})


# ---- learning ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command line makes of nothing in a short run, with its data beside it."""
    path = tmp_path_factory.mktemp("run")
    for name, texts in (("train", TEXTS), ("dev", documents(40, 1))):
        (path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    plan = ("steps=150", "batch=32", "learning_rate=1e-2", "evaluate_every=75", "hidden_dropout=0", "attention_dropout=0")
    code, out, said = command("train", "--task", "denoise", "--data", path / "train.jsonl", "--dev", path / "dev.jsonl", "--family", "t5", "--size", "tiny",
                              "--tokenizer", words, "--out", path / "model", *(x for each in plan for x in ("--set", f"plan.{each}")), "--json")  # fmt: skip
    assert code == 0, said
    (path / "told.json").write_text(out)
    return path


def unigram(model: Model, train: list[str], dev: list[str]) -> float:
    """The perplexity on the targets of dev of how often each token stands in those of train, with one more of each."""
    counts = Counter(id for text in train for row in rows(model, text, "evaluate") for id in row.targets["next"])
    total = sum(counts.values()) + model.body.tables["tokens"]
    nats = [-math.log((counts[id] + 1) / total) for text in dev for row in rows(model, text, "evaluate") for id in row.targets["next"]]
    return math.exp(sum(nats) / len(nats))


def test_pretraining_from_nothing_beats_a_unigram(trained: Path, words: Path) -> None:
    told = json.loads((trained / "told.json").read_text())
    assert told["task"] == "denoise" and set(told["metrics"]) == {"perplexity", "bits_per_byte", "spans_restored"}
    dev = documents(40, 1)
    baseline = unigram(nabi.load(trained / "model"), TEXTS, dev)
    assert told["metrics"]["perplexity"] < 0.5 * baseline, (told["metrics"], baseline)
    untrained = nabi.evaluate(made(words), [{"text": text} for text in dev]).metrics
    assert untrained["perplexity"] > baseline and untrained["spans_restored"] < 0.1 < 0.3 < told["metrics"]["spans_restored"]
    assert (trained / "model" / "report.html").read_text().count("spans_restored") > 0


def test_figures_are_those_of_the_incumbents_loss(trained: Path) -> None:
    model = nabi.load(trained / "model")
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(trained / "model").eval()
    data, marks = [{"text": text} for text in documents(12, 2)], sentinels(model)
    nats, off, tokens, spans, restored, size = 0.0, 0.0, 0, 0, 0, 0
    for example in data:
        (row,) = rows(model, example["text"], "evaluate")
        labels = torch.tensor([row.targets["next"]])
        with torch.no_grad():
            found = theirs(input_ids=torch.tensor([row.parts["text"]["tokens"]]), labels=labels)
            less = theirs(input_ids=torch.tensor([row.parts["text"]["tokens"]]), labels=labels[:, :-2])  # without the last sentinel and the end
        nats, tokens, off = nats + float(found.loss) * labels.shape[1], tokens + labels.shape[1], off + float(less.loss) * (labels.shape[1] - 2)
        right, of = (found.logits.argmax(-1) == labels)[0].tolist(), row.targets["spans"]
        numbers = {number for number in of if number >= 0}
        spans += len(numbers)
        restored += sum(all(ok for ok, number in zip(right, of, strict=True) if number == each) for each in numbers)
        pieces = model.inputs.tokenizer.tokens(ids(model, example["text"]))
        pieces[0] = pieces[0].removeprefix("▁")  # the space that is not in the text
        size += sum(len(pieces[i].replace("▁", " ").encode()) for i in dropped_places(row, ids(model, example["text"]), marks, "spans"))
    figures = nabi.evaluate(model, data).metrics
    perplexity = math.exp(nats / tokens)
    assert math.isclose(figures["perplexity"], perplexity, rel_tol=1e-5) and abs(math.exp(off / tokens) / perplexity - 1) > 1e-3
    assert math.isclose(figures["bits_per_byte"], nats / math.log(2) / size, rel_tol=1e-5)
    assert figures["spans_restored"] == restored / spans and 0 < restored < spans


def test_a_model_is_saved_and_read_and_its_golden_vectors_hold(trained: Path, tmp_path: Path) -> None:
    model = nabi.load(trained / "model")
    assert isinstance(model.task.settings, DenoiseSettings) and model.task.settings.style == "spans" and model.origin.golden and not model.check_golden()
    with torch.no_grad():
        next(model.body.parameters()).add_(0.05)
    assert model.check_golden(), "the control"


def test_a_model_that_was_denoised_learns_to_summarise(trained: Path, words: Path, tmp_path: Path) -> None:
    pairs = [{"source": f"{who} {WHO[who]}. {other} {WHO[other]}.", "target": f"{who} {WHO[who]}"} for who in WHO for other in WHO if who != other]
    before = checkpoint.load_for_training(trained / "model", "summarization", tasks.find("summarization").Settings(), seed=0, device="cpu")
    assert same(weights(before), weights(nabi.load(trained / "model"))), "the body, and the head with it"
    plan = Plan(steps=40, batch=12, learning_rate=5e-3, schedule="constant", evaluate_every=40, **STILL)  # type: ignore[arg-type]
    run = fitted("summarization", pairs, plan, base=trained / "model", out=tmp_path / "out")
    fresh = fitted("summarization", pairs, plan, family="t5", tokenizer=words)
    assert run.history[-1]["loss"] < 0.8 * fresh.history[-1]["loss"], "what it learnt before helps"
    answer = nabi.pipeline("summarization", tmp_path / "out")("나비가 꽃에 앉았다. the cat sat on the mat.", max_new_tokens=20)
    assert answer[0]["summary_text"]


# ---- blanks filled -------------------------------------------------------------------------------------------------------------------------------------


def test_blanks_are_filled_in_the_pipeline_and_on_the_command_line(trained: Path) -> None:
    pipe = nabi.pipeline("denoise", trained / "model")
    assert pipe("the cat sat on the <extra_id_0>.")["text"] == "the cat sat on the mat."
    text = "나비가 <extra_id_0> 앉았다. the cat <extra_id_1> on the mat."
    answer = pipe(text)
    assert set(answer) == {"text", "fills"} and [text[fill["start"] : fill["end"]] for fill in answer["fills"]] == SENTINELS[:2]
    filled = text
    for name, fill in zip(SENTINELS, answer["fills"], strict=False):
        filled = filled.replace(name, name if fill["text"] is None else fill["text"])
    assert answer["text"] == filled != text, answer
    code, out, _ = command("predict", trained / "model", text)
    assert code == 0 and out == answer["text"] + "\n"
    code, out, _ = command("predict", trained / "model", text, "--json")
    assert code == 0 and json.loads(out)["fills"] == answer["fills"]
    assert pipe([text, text]) == [answer, answer]
    several = pipe(text, num_beams=3, num_return_sequences=2)
    assert [set(one) for one in several] == [{"text", "fills"}] * 2
    assert set(nabi.pipeline("denoising", trained / "model")(text, return_tensors=True)) == {"token_ids"}


def test_blanks_are_numbered_as_in_training(trained: Path) -> None:
    model = nabi.load(trained / "model")
    asked = [model.predict(f"나비가 <extra_id_0> 앉았다. the cat {name} on.")["fills"] for name in SENTINELS[:2]]
    assert [fill["text"] for fill in asked[0]] == [fill["text"] for fill in asked[1]]
    assert model.predict("the cat sat on the <extra_id_7>.")["text"] == "the cat sat on the mat."


def test_a_long_text_is_filled_in_windows_and_stays_as_it_is_around_its_blanks(trained: Path, words: Path) -> None:
    model = nabi.load(trained / "model")
    model.inputs = Inputs(model.inputs.tokenizer, 40)
    text = f"{LONG}나비가 <extra_id_0> 앉았다. {LONG}the cat <extra_id_1> on the mat. {LONG}"
    assert len(model.encode({"text": text}, model.options(), "predict")) == 2, "windows without a blank are not read"
    answer = model.predict(text)
    assert len(answer["fills"]) == 2 and not answer["truncated"]
    assert answer["text"].startswith(f"{LONG}나비가 ") and answer["text"].endswith(f" on the mat. {LONG}") and answer["text"].count(LONG) == 3
    cut = model.predict(f"나비가 <extra_id_0> 앉았다. {LONG}", long="truncate")
    assert cut["truncated"] and cut["text"].endswith(LONG)
    with pytest.raises(InputError, match="the text is too long|input 1 is too long"):
        model.predict(text, long="error")


def test_the_whole_text_is_written_where_a_mask_stands_for_a_span(words: Path) -> None:
    model = made(words, "bart", style="infilling")
    source = "나비가 <mask> 앉았다. the cat <mask> mat."
    (row,) = model.encode({"text": source}, model.options(), "predict")
    written = "나비가 꽃에 앉았다. the cat sat on the mat."
    piece = Piece(written, tuple(ids(model, written)), "stop")
    answer = model.task.answer([[piece]], [row], {"text": source}, model.options())
    assert answer["text"] == written and [fill["text"] for fill in answer["fills"]] == ["꽃에", "sat on the"]
    other = model.task.answer([[replace(piece, text="a dog")]], [row], {"text": source}, model.options())
    assert other["text"] == "a dog" and [fill["text"] for fill in other["fills"]] == [None, None], "what stands around the masks was not written again"


@pytest.mark.parametrize(
    ("written", "known", "found"),
    [
        ("a b c", ["a", "c"], ["b"]), ("a b c", ["", "c"], ["a b"]), ("a b c", ["a", ""], ["b c"]), ("a x b x c", ["a", "x", "x c"], ["", "b"]),
        ("a. b.", ["a", "."], [". b"]), ("ab", ["ab", "b"], [None]), ("xa", ["a", ""], [None]), ("", ["", ""], [""]), ("a b", ["a", "c", "b"], [None, None]),
    ],
)  # fmt: skip
def test_what_stands_between_known_texts(written: str, known: list[str], found: list[str | None]) -> None:
    assert between(written, known) == found


def test_spans_that_were_not_written_stay_blank(trained: Path) -> None:
    assert written_spans([7, 1, 2, 8, 9, 3], [7, 8, 9, 10]) == [[1, 2], [], [3], None]
    assert written_spans([5, 8, 4, 8, 6, 7], [7, 8]) == [[], [4]], "what stands in front of the first is no span's, and what comes again is not taken"
    model = nabi.load(trained / "model")
    source = "나비가 <extra_id_0> 앉았다. the <extra_id_1> sat."
    (row,) = model.encode({"text": source}, model.options(), "predict")
    said = [sentinels(model)[0], *ids(model, "꽃에")]
    answer = model.task.answer([[Piece("", tuple(said), "stop")]], [row], {"text": source}, model.options())
    assert answer["text"] == "나비가 꽃에 앉았다. the <extra_id_1> sat." and [fill["text"] for fill in answer["fills"]] == ["꽃에", None]


@pytest.mark.parametrize(
    ("before", "fill", "after", "text"),
    [
        ("나비", "가", " 앉았다.", "나비가 앉았다."), ("나비가", " 꽃에", " 앉았다.", "나비가 꽃에 앉았다."), ("the cat ", "sat", ".", "the cat sat."),
        ("", "the", " cat", "the cat"),
    ],
)  # fmt: skip
def test_spaces_are_as_the_model_wrote_them(trained: Path, before: str, fill: str, after: str, text: str) -> None:
    model = nabi.load(trained / "model")
    tokenizer = model.inputs.tokenizer
    source = f"{before}<extra_id_0>{after}"
    (row,) = model.encode({"text": source}, model.options(), "predict")
    whole = ids(model, before + fill)
    written = whole[len(ids(model, before)) :] if tokenizer.decode(whole[: len(ids(model, before))]) == before else ids(model, fill)
    answer = model.task.answer([[Piece("", (sentinels(model)[0], *written), "stop")]], [row], {"text": source}, model.options())
    assert answer["text"] == text


# ---- styles, and what is refused ---------------------------------------------------------------------------------------------------------------------------


def test_the_style_follows_the_tokenizer(words: Path, tmp_path: Path) -> None:
    assert made(words).task.settings.style == "spans" and made(words, style="infilling").task.settings.style == "infilling"
    bart = folder("bart", tmp_path / "bart", config={"decoder_start_token_id": 2}, generation={"decoder_start_token_id": 2})
    model = nabi.load(bart, "denoise")
    assert model.task.settings.style == "infilling" and model.task.settings.mask_probability is None
    (row,) = rows(model, "the cat in the rain")
    assert row.parts["text"]["tokens"][0] == row.targets["next"][0] == 0 and row.parts["text"]["tokens"][-1] == row.targets["next"][-1] == 2
    assert row.parts["target"]["tokens"][:2] == [2, 0], "the decoder begins with what its checkpoint says"


def test_a_tokenizer_without_the_tokens_is_refused(words: Path, tmp_path: Path) -> None:
    bart = written_tokenizer("bart", tmp_path / "bart")
    plain = bytewise(tmp_path / "plain")
    with pytest.raises(TokenizerError, match=r"has no sentinels and no mask token. Expected one of the two. Train one with them"):
        made(plain)
    with pytest.raises(TokenizerError, match=r"has no sentinels, which style=spans needs. Expected <extra_id_0>, <extra.* Leave style out: .*infilling"):
        made(bart, style="spans")
    with pytest.raises(TokenizerError, match="has no mask token, which style=infilling needs"):
        made(plain, style="infilling")
    with pytest.raises(OptionError, match="denoise can't be built on this family: Bert writes nothing"):
        made(words, "bert")


def test_settings_that_can_not_be_are_refused(words: Path) -> None:
    for name, value in (("mask_probability", 0.0), ("mask_probability", 1.0), ("mean_span", 0.5), ("mean_span", math.nan), ("length", 0)):
        with pytest.raises(OptionError, match=f"{name} is out of range"):
            made(words, **{name: value})
    with pytest.raises(OptionError, match="permute_sentences goes with the style whose target is the whole text"):
        made(words, permute_sentences=True)
    with pytest.raises(OptionError, match="denoise puts nothing before a text: 'fill: '"):
        made(words, prefix="fill: ")
    with pytest.raises(OptionError, match="the rows are too short to take anything out of them: 3"):
        rows(made(words, length=3), "the cat")


def test_two_vocabularies_are_refused(words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(words)
    model.inputs.tokenizer.target = made(words).inputs.tokenizer
    with pytest.raises(TokenizerError, match="writes in another vocabulary than it reads"):
        tasks.find("denoise").completed(DenoiseSettings(), {}, {}, model.inputs.tokenizer)


def test_bad_texts_are_refused(words: Path) -> None:
    model = made(words)
    with pytest.raises(InputError, match=r"the text has no blank|input 1 has no blank.*Expected <extra_id_0> where something is missing"):
        model.predict("나비가 앉았다.")
    with pytest.raises(InputError, match=r"has no blank.*Expected <mask> where something is missing. Write <mask>, as this model spells it"):
        made(words, style="infilling").predict("나비가 <extra_id_0> 앉았다.")
    with pytest.raises(InputError, match="has too many blanks: 24. Expected at most 23 in a row"):
        model.predict("a <extra_id_0> " * 24)
    with pytest.raises(InputError, match="a text has no text: 3"):
        model.encode({"text": 3}, model.options(), "train", "a text")
    with pytest.raises(DataError, match="a text is empty: ''. Expected at least one token"):
        rows(model, "")
    with pytest.raises(OptionError, match="there is nothing to stream"):
        model.stream("나비가 <extra_id_0> 앉았다.")
    with pytest.raises(InputError, match="a message of a chat"):
        model.predict([{"role": "user", "content": "hello"}])


def test_rows_of_any_length_are_packed_without_a_change(words: Path) -> None:
    model = made(words)
    data = [row for text in (*TEXTS[:5], LONG, "a") for row in rows(model, text)]
    together = list(model.readings(data, model.options()))
    for row, reading in zip(data, together, strict=True):
        (alone,) = model.readings([row], model.options())
        assert math.isclose(alone["nats"], reading["nats"], rel_tol=1e-5) and (alone["tokens"], alone["spans"]) == (reading["tokens"], reading["spans"])
    (batch,) = pack(data, tokens=10**6, targets=model.task.targets)
    counts = model.task.counts(batch.targets)
    assert counts == {"next": float(sum(len(row.targets["next"]) for row in data))}
