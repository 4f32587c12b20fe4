"""Fill-mask: v4's answers, the incumbent's checkpoints both ways, what is hidden and how often, learning, long texts, bad input."""

from __future__ import annotations

import itertools
import json
import math
import random
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import nabi
from conformance.kit import randomised
from golden.v4_filled import CASES, FILE, KOREAN, ONE, SEVERAL, spelt
from nabi import Plan, checkpoint, evaluate, fit, tasks
from nabi.batch import Row
from nabi.data.corrupt import IGNORED, masked
from nabi.errors import DataError, InputError, MissingHeadError, OptionError, TokenizerError
from nabi.model import Model
from nabi.pipelines import Pipeline
from nabi.tasks.fill_mask import FillMaskSettings
from nabi.training.progress import Progress
from tasks.bytewise import bytewise
from tasks.masked import KINDS, MASKS, folder, tokenizer_of
from training.small import PLAIN, SIZE, feed, same, weights

TOLERANCE = 1e-5
V4: list[tuple[str, dict[str, Any], Any, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["cases"]
STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}


@pytest.fixture(scope="session")
def filling(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pipeline]:
    base = tmp_path_factory.mktemp("masked")
    return cache(lambda kind, seed=0: nabi.pipeline("fill-mask", folder(kind, base / f"{kind}{seed}", seed)))


def told(answer: Any) -> Any:
    """An answer without its scores."""
    return [told(x) for x in answer] if isinstance(answer, list) else {k: v for k, v in answer.items() if k != "score"}


def scores(answer: Any) -> list[float]:
    return [s for x in answer for s in scores(x)] if isinstance(answer, list) else [answer["score"]]


def quiet(pipe: Pipeline, text: Any, options: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a target that is no token
        return pipe(text, **options)


# ---- answers ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_version_4(kind: str, filling: Callable[..., Pipeline]) -> None:
    cases = [case for case in V4 if case[0] == kind]
    assert len(cases) == len(CASES)
    gaps, others = [], []
    for _, options, text, wanted in cases:
        found = quiet(filling(kind), text, options)
        assert told(found) == told(wanted), (options, text)
        gaps += [abs(a - b) for a, b in zip(scores(found), scores(wanted), strict=True)]
        others += [abs(a - b) for a, b in zip(scores(quiet(filling(kind, 1), text, options)), scores(wanted), strict=True)]
        json.dumps(found)
    print(f"{kind}: {len(gaps)} scores, largest difference {max(gaps):.1e}; control, other weights: {max(others):.1e}")
    assert max(gaps) <= TOLERANCE and max(others) >= 100 * TOLERANCE


def test_the_golden_file_is_of_these_cases() -> None:
    assert [[kind, options, text] for kind, options, text, _ in V4] == [[kind, options, spelt(text, kind)] for kind in KINDS for options, text in CASES]


@pytest.mark.parametrize(("model_type", "cls"), [("bert", "BertForMaskedLM"), ("bert", "BertForPreTraining"), ("roberta", "RobertaForMaskedLM"),
    ("xlm-roberta", "XLMRobertaForMaskedLM"), ("camembert", "CamembertForMaskedLM"), ("distilbert", "DistilBertForMaskedLM")])  # fmt: skip
def test_checkpoints_of_the_incumbent_answer_alike_both_ways(model_type: str, cls: str, tmp_path: Path) -> None:
    kind = "roberta" if model_type in ("xlm-roberta", "camembert") else model_type
    words = tokenizer_of(kind, tmp_path / "theirs")
    usual, short = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size"), ("n_layers", "n_heads", "dim", "hidden_dim")
    sizes = dict(zip(short if kind == "distilbert" else usual, (2, 4, 32, 64), strict=True))
    count = len(json.loads((words / "tokenizer.json").read_text())["model"]["vocab"])
    config = transformers.AutoConfig.for_model(model_type, vocab_size=count, max_position_embeddings=50, pad_token_id=int(kind == "roberta"), **sizes)
    randomised(getattr(transformers, cls)(config)).eval().save_pretrained(words)
    ours = nabi.pipeline("fill-mask", words)
    nabi.save(ours.model, tmp_path / "ours")
    control = nabi.pipeline("fill-mask", words)
    with torch.no_grad():
        control.model.task.vocabulary.norm.weight.mul_(1.1)  # type: ignore[union-attr,operator]
    for path in (words, tmp_path / "ours"):
        theirs = transformers.pipeline("fill-mask", str(path), device="cpu")
        for text in (spelt(each, kind) for each in (ONE, SEVERAL, KOREAN)):
            wanted, found = theirs(text), ours(text)
            assert told(found) == told(wanted)
            assert max(abs(a - b) for a, b in zip(scores(found), scores(wanted), strict=True)) <= TOLERANCE
            assert max(abs(a - b) for a, b in zip(scores(control(text)), scores(wanted), strict=True)) >= 100 * TOLERANCE
    if cls.endswith("ForMaskedLM"):
        assert nabi.load(words).task.name == "fill_mask"
        written = json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"]
        assert written == [cls]


def test_a_list_of_one_text_gives_a_list(filling: Callable[..., Pipeline]) -> None:
    """Another than v4, which takes the list away: docs/differences.md."""
    pipe, text = filling("bert"), "good [MASK]"
    assert pipe([text]) == [pipe(text)] and next(iter(pipe(iter([text])))) == pipe(text)


def test_masks_have_their_place_in_the_text(filling: Callable[..., Pipeline]) -> None:
    text = "나비가 [MASK] 날았다. the [MASK]"
    answer = filling("bert").model.predict(text)
    assert [text[m["start"] : m["end"]] for m in answer["masks"]] == ["[MASK]", "[MASK]"] and not answer["truncated"]
    assert filling("bert").model.task.line(answer).count("\t") == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_neighbours_never_change_an_answer(filling: Callable[..., Pipeline], texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() + " [MASK]" for text in texts]
    pipe = filling("bert")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together, alone = pipe(texts), [pipe(text) for text in texts]
    gaps = [abs(a - b) for a, b in zip(scores(together), scores(alone), strict=True)]
    assert max(gaps) <= TOLERANCE
    assert json.dumps(together)


# ---- long texts ------------------------------------------------------------------------------------------------------------------------------------


def test_masks_of_a_long_text_are_filled_in_windows_with_most_around_them(filling: Callable[..., Pipeline]) -> None:
    pipe = filling("bert")
    dice = random.Random(0)
    words = dice.choices(PLAIN, k=300)
    for place in (0, 150, 299):
        words[place] = "[MASK]"
    text = " ".join(words)
    answer = pipe.model.predict(text, top_k=2)
    assert [text[m["start"] : m["end"]] for m in answer["masks"]] == ["[MASK]"] * 3 and answer["windows"] > 8
    assert answer["masks"][1]["fills"][0]["sequence"].count("[MASK]") == 2
    # the middle mask is answered as in a row of its own with what stands around it: one of the windows that hold it, and the best of them
    encoded = pipe.model.inputs.tokenizer.windows(text, max_length=48, stride=23)
    offsets = (answer["masks"][1]["start"], answer["masks"][1]["end"])
    sides = {i: min(w.offsets.index(offsets), 47 - w.offsets.index(offsets)) for i, w in enumerate(encoded) if offsets in w.offsets}
    best = encoded[max(sides, key=sides.__getitem__)]
    inside = text[best.offsets[1][0] : best.offsets[-2][1]]
    assert pipe(inside, top_k=1)[0]["score"] == pytest.approx(answer["masks"][1]["fills"][0]["score"], abs=TOLERANCE) and max(sides.values()) >= 11


@pytest.mark.parametrize(("options", "windows"), [({}, 1), ({"stride": 0}, 1), ({"max_length": 10, "stride": 2}, 1)])
def test_a_short_text_is_one_row_whatever_the_windows(options: dict[str, Any], windows: int, filling: Callable[..., Pipeline]) -> None:
    assert filling("bert").model.predict("good [MASK] .", **options)["windows"] == windows


def test_a_long_text_can_be_cut_or_refused(filling: Callable[..., Pipeline]) -> None:
    pipe, text = filling("bert"), "[MASK] " + "good film " * 100
    cut = pipe.model.predict(text, long="truncate")
    assert cut["truncated"] and cut["windows"] == 1
    assert pipe(text, truncation=True) == pipe(text, tokenizer_kwargs={"truncation": True}) == [
        {k: f[k] for k in ("score", "token", "token_str", "sequence")} for f in cut["masks"][0]["fills"]
    ]
    with pytest.raises(InputError, match="too long: .*tokens.*with long='window'|With long='window'"):
        pipe(text, long="error")
    with pytest.raises(InputError, match=r"has no mask within max_length"):
        pipe("good film " * 100 + "[MASK]", long="truncate")


# ---- what is hidden ----------------------------------------------------------------------------------------------------------------------------------


def within(hits: int, trials: int, share: float) -> bool:
    """Whether so many hits are within five standard deviations of their mean."""
    return abs(hits - trials * share) <= 5 * math.sqrt(trials * share * (1 - share))


def test_the_shares_of_what_is_hidden() -> None:
    ids, vocabulary, mask = list(range(100, 300)), 10_000, 4
    kinds: Counter[str] = Counter()
    others = []
    for seed in range(300):
        units, generator = [[i] for i in range(1, 199)], torch.Generator().manual_seed(seed)
        hidden, labels = masked(ids, units, mask_id=mask, vocab_size=vocabulary, share=0.15, generator=generator)
        assert labels[0] == labels[-1] == IGNORED and hidden[0] == 100
        for now, label, was in zip(hidden, labels, ids, strict=True):
            assert label in (IGNORED, was) and (label != IGNORED or now == was)
            kinds["seen" if label == IGNORED else "mask" if now == mask else "kept" if now == was else "random"] += 1
            if label != IGNORED and now not in (mask, was):
                others.append(now)
    chosen = kinds["mask"] + kinds["kept"] + kinds["random"]
    assert within(chosen, 198 * 300, 0.15) and all(within(kinds[kind], chosen, share) for kind, share in (("mask", 0.8), ("kept", 0.1), ("random", 0.1)))
    assert not within(kinds["mask"], chosen, 0.75) and not within(chosen, 198 * 300, 0.16)  # controls: the bounds tell such shares apart
    assert len(set(others)) > 0.9 * len(others) and abs(sum(others) / len(others) / vocabulary - 0.5) < 0.05


def test_each_token_is_hidden_equally_often() -> None:
    hits: Counter[int] = Counter()
    for seed in range(2000):
        _, labels = masked(list(range(40)), [[i] for i in range(40)], mask_id=0, vocab_size=9, share=0.15, generator=torch.Generator().manual_seed(seed))
        hits.update(i for i, label in enumerate(labels) if label != IGNORED)
    assert 0.5 < sum((hits[i] - 300) ** 2 / (300 * 0.85) for i in range(40)) / 39 < 1.6


def words_of(row: Row) -> list[list[int]]:
    """Places of the tokens of each word."""
    found: dict[Any, list[int]] = {}
    for i, group in enumerate(row.notes["groups"]):
        if group is not None:
            found.setdefault(group, []).append(i)
    return list(found.values())


def fresh(tmp_path: Path, kind: str = "bert", **given: Any) -> Model:
    return nabi.create(kind, {**SIZE}, "fill_mask", FillMaskSettings(**given), tokenizer_of(kind, tmp_path / kind))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_whole_words_stay_whole(kind: str, tmp_path: Path) -> None:
    text = {"text": "the goodness filmed unknown words abc" + " thee film good" * (3 if kind == "bert" else 1)}
    parts = {}
    for whole in (True, False):
        model = fresh(tmp_path, kind, whole_word=whole)
        (row,) = model.encode(text, model.options(), "train")
        if whole:
            words = words_of(row)
            assert max(map(len, words)) > 2
        split, hidden, total = 0, 0, 0
        for seed in range(200):
            labels = model.task.corrupt(row, torch.Generator().manual_seed(seed)).targets["masked"]
            states = [{labels[i] != IGNORED for i in word} for word in words]
            split += sum(len(state) > 1 for state in states)
            hidden, total = hidden + sum(label != IGNORED for label in labels), total + sum(map(len, words))
        parts[whole] = split, hidden / total
    assert parts[True][0] == 0 < parts[False][0]
    assert 0.1 < parts[True][1] <= 0.16 and 0.13 < parts[False][1] < 0.17, parts


def test_special_tokens_and_masks_of_the_text_are_never_hidden(tmp_path: Path) -> None:
    model = fresh(tmp_path, mask_probability=0.9)
    (row,) = model.encode({"text": "good [MASK] film"}, model.options(), "train")
    for seed in range(20):
        labels = model.task.corrupt(row, torch.Generator().manual_seed(seed)).targets["masked"]
        assert [labels[i] == IGNORED for i in (0, 2, 4)] == [True] * 3 and sum(label != IGNORED for label in labels) == 2


TRAINED = [{"text": " ".join(random.Random(i).choices(PLAIN, k=20))} for i in range(24)]


def seen(model: Model, plan: Plan, steps: int) -> list[list[tuple[list[int], list[int]]]]:
    """Of each step the tokens and targets of its batches."""
    fed = feed(model, TRAINED, plan)
    return [[(b.parts["text"].streams["tokens"].tolist(), b.targets["masked"].tolist()) for b in fed.step(n)] for n in range(steps)]


def test_epochs_hide_other_tokens_and_a_seed_repeats_them(tmp_path: Path) -> None:
    model, plan = fresh(tmp_path), Plan(epochs=3, batch=8, seed=3)
    first = seen(model, plan, 9)
    assert first == seen(model, plan, 9) and first[::-1] == [step for n in reversed(range(9)) for step in [seen(model, plan, n + 1)[n]]]
    assert first != seen(model, replace(plan, seed=4), 9)
    fed = feed(model, TRAINED, plan)
    patterns: dict[int, set[tuple[int, ...]]] = {}
    for n in range(9):
        for batch in fed.step(n):
            of = batch.targets["masked"].split(batch.parts["text"].layout.lengths)
            for example, labels in zip(batch.parts["text"].example.tolist(), of, strict=True):
                patterns.setdefault(example, set()).add(tuple((labels != IGNORED).nonzero()[:, 0].tolist()))
    assert sum(len(found) == 3 for found in patterns.values()) >= 23


def test_windows_of_one_text_are_hidden_differently(tmp_path: Path) -> None:
    model = fresh(tmp_path)
    text = [{"text": " ".join(["good"] * 400)}]
    (batch,) = feed(model, text, Plan(batch=1, windows=100)).step(0)
    of = batch.targets["masked"].split(batch.parts["text"].layout.lengths)
    patterns = [tuple((labels != IGNORED).nonzero()[:, 0].tolist()) for labels in of if len(labels) == 64]
    assert len(patterns) >= 6 and len(set(patterns)) == len(patterns)
    assert sum(len(labels) - 2 for labels in of) == 400  # each token once


def test_a_resumed_run_hides_what_the_whole_run_would(tmp_path: Path) -> None:
    words = tokenizer_of("bert", tmp_path / "tokenizer")
    plan = Plan(steps=8, batch=6, seed=5, evaluate_every=4, schedule="constant")

    def run(out: Path, **changes: Any) -> Model:
        return fit("masked-lm", TRAINED, plan=replace(plan, **changes.pop("plan", {})), out=out, dev=TRAINED[:4], family="bert", size=SIZE, tokenizer=words,
                   progress=Progress("quiet"), **changes).model  # fmt: skip

    whole = run(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        from nabi.training.runs import RunFolder

        real, count = RunFolder.save_last, itertools.count()

        def stopped(*args: Any) -> None:
            real(*args)
            if next(count) == 0:
                raise KeyboardInterrupt

        patch.setattr(RunFolder, "save_last", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    resumed = run(tmp_path / "cut", resume=True)
    assert same(weights(resumed), weights(whole))
    assert not same(weights(run(tmp_path / "other", plan={"seed": 6})), weights(whole))


# ---- learning and figures ------------------------------------------------------------------------------------------------------------------------------


def test_it_learns_what_stands_where(tmp_path: Path) -> None:
    rows = [{"text": f"the {a} film is {b}"} for a, b in (("good", "fine"), ("bad", "dull"), ("great", "lovely"), ("poor", "awful"))]
    plan = Plan(steps=200, batch=32, learning_rate=3e-3, schedule="constant", evaluate_every=200, **STILL)  # type: ignore[arg-type]
    made = fit("fill_mask", rows * 8, plan=plan, family="bert", size=SIZE, tokenizer=tokenizer_of("bert", tmp_path / "t"), progress=Progress("quiet"))
    pipe = nabi.pipeline("fill-mask", made.model)
    assert pipe("the [MASK] film is dull")[0]["token_str"] == "bad" and pipe("the good [MASK] is fine")[0]["sequence"] == "the good film is fine"
    assert pipe("the great film is [MASK]", targets=["lovely", "awful"])[0]["token_str"] == "lovely"
    figures = evaluate(made.model, rows).metrics
    assert figures["accuracy"] >= 0.8 and figures["perplexity"] < 3, figures


def test_an_evaluation_is_the_loss_over_fixed_masks(filling: Callable[..., Pipeline]) -> None:
    model = filling("bert").model
    figures = [evaluate(model, TRAINED[:8]).metrics for _ in range(2)]
    assert figures[0] == figures[1] and figures[0].keys() == {"perplexity", "accuracy"}
    rows = [row for i, e in enumerate(TRAINED[:8]) for row in model.encode(e, model.options(), "evaluate", "", i)]
    nats, right, count = 0.0, 0, 0
    for row in rows:
        (batch,) = model.pack([row])
        with torch.no_grad():
            logits = model.task.vocabulary.read(model.run(), batch).double()  # type: ignore[union-attr,operator]
        for place, label in enumerate(row.targets["masked"]):
            if label != IGNORED:
                nats, count = nats - float(logits[place].log_softmax(-1)[label]), count + 1
                right += int(logits[place].argmax()) == label
    assert figures[0]["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5) and figures[0]["accuracy"] == right / count
    with torch.no_grad():
        losses = model(next(iter(model.pack(rows, tokens=4096))))
    assert float(losses["masked"]) == pytest.approx(nats, rel=1e-5)
    assert next(model.answers(TRAINED[:2], use="evaluate")).keys() == {"nats", "tokens", "right", "perplexity", "accuracy"}


# ---- bad input ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_without_a_mask_is_named_and_says_how_to_write_one(kind: str, filling: Callable[..., Pipeline]) -> None:
    other = {"[MASK]": "<mask>", "<mask>": "[MASK]"}[MASKS[kind]]
    with pytest.raises(InputError, match=rf"input 2 has no mask: .*Write {'.' + MASKS[kind][1:-1] + '.'}, as this model spells it") as caught:
        filling(kind)([f"good {MASKS[kind]}", f"good {other}"])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"targets": "☃"}, OptionError, "the target is no token, and no token begins it: '☃'"),
    ({"targets": ["good", ""]}, OptionError, "the target is no token"),
    ({"targets": []}, OptionError, "no targets are given"),
    ({"targets": [3]}, OptionError, "'targets' has the wrong type"),
    ({"top_k": 0}, OptionError, "top_k is out of range: 0"),
    ({"top_k": "3"}, OptionError, "'top_k' has the wrong type"),
    ({"topk": 3}, OptionError, "did you mean 'top_k'|Did you mean 'top_k'"),
    ({"tokenizer_kwargs": {"truncate": True}}, OptionError, "unknown key of tokenizer_kwargs: 'truncate'.*truncation"),
    ({"tokenizer_kwargs": {"max_length": 4000}}, OptionError, "max_length is out of range: 4000. Expected 1 to 48"),
])  # fmt: skip
def test_options_that_cannot_be(options: dict[str, Any], error: type[Exception], message: str, filling: Callable[..., Pipeline]) -> None:
    with pytest.raises(error, match=message):
        filling("bert")("good [MASK]", **options)


def test_a_target_that_is_no_token_warns_and_stands_for_its_first_piece(filling: Callable[..., Pipeline]) -> None:
    with pytest.warns(UserWarning, match="the target 'goodness' is no token: its first piece 'good' takes its place"):
        assert filling("bert")("[MASK]", targets=["goodness"])[0]["token_str"] == "good"


def test_more_tokens_than_there_are(filling: Callable[..., Pipeline]) -> None:
    found = filling("bert")("[MASK]", top_k=10**6)
    assert len(found) == filling("bert").tokenizer.vocab_size and sum(scores(found)) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("bad", [5, None, b"x", {"text": 3}, ["x [MASK]"]], ids=repr)
def test_what_is_no_text_is_named(bad: Any, filling: Callable[..., Pipeline]) -> None:
    with pytest.raises(InputError, match="input 2"):
        filling("bert")(["good [MASK]", bad])


def test_a_tokenizer_without_a_mask_is_refused_before_any_text(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="the tokenizer has no mask token"):
        nabi.create("bert", SIZE, "fill_mask", FillMaskSettings(), bytewise(tmp_path))


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, math.nan])
def test_a_share_that_cannot_be(share: float) -> None:
    with pytest.raises(OptionError, match="mask_probability is out of range"):
        tasks.find("masked_lm")(FillMaskSettings(mask_probability=share))


def test_an_empty_training_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 2 has no token that could be hidden"):
        fit("fill_mask", [{"text": "good"}, {"text": " "}], plan=Plan(steps=1), family="bert", size=SIZE, tokenizer=tokenizer_of("bert", tmp_path))


def test_a_family_that_writes_is_refused(tmp_path: Path) -> None:
    words = tokenizer_of("roberta", tmp_path / "words")
    with pytest.raises(OptionError, match="Gpt2 writes text, so no token sees what follows it"):
        nabi.create("gpt2", "tiny", "fill_mask", FillMaskSettings(), words)
    writer = nabi.create("gpt2", "tiny", "text_generation", tasks.find("text_generation").Settings(), words)
    nabi.save(writer, tmp_path / "gpt2")
    with pytest.raises(OptionError, match="Gpt2 writes text"):
        nabi.pipeline("fill-mask", tmp_path / "gpt2")


def test_a_checkpoint_without_the_head_is_refused_and_can_be_trained(tmp_path: Path) -> None:
    words = tokenizer_of("bert", tmp_path / "words")
    base = fit("text_classification", [{"text": "good", "label": "a"}, {"text": "bad", "label": "b"}], plan=Plan(steps=1), family="bert", size=SIZE,
               tokenizer=words, out=tmp_path / "base", progress=Progress("quiet"))  # fmt: skip
    with pytest.raises(MissingHeadError, match="no head for fill_mask.*Train one: nabi train --task fill_mask"):
        nabi.pipeline("fill-mask", tmp_path / "base")
    made = checkpoint.load_for_training(tmp_path / "base", "fill_mask", FillMaskSettings())
    assert "fresh weights for task.vocabulary.bias" in made.origin.notes[0]
    assert torch.equal(made.body.embeddings.tokens.weight, base.model.body.embeddings.tokens.weight)  # type: ignore[union-attr]
