"""Sentence similarity: the incumbent's vectors and outputs, loss by hand, long texts, any order, it learns, what a folder opens as, bad rows refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import transformers

import nabi
from conformance.kit import randomised
from nabi import Plan, checkpoint, evaluate, tasks
from nabi.batch import FILLER, Batch, batch_of
from nabi.errors import DataError, InputError, MissingHeadError, OptionError, UserError
from nabi.model import Model
from nabi.training.feed import Feed
from nabi.weights.sources import resolve
from tasks.read import folder
from tasks.written import command, edit, fitted
from training.small import BAD, GOOD, PLAIN, SIZE, text, vocabulary

TOLERANCE = 1e-5
SENTENCES = [
    "A cat sleeps on the sofa.", "A kitten is asleep on the couch.", "Shares fell sharply on Monday!", "나비가 꽃에 앉았다.",
    "나비 한 마리가 꽃 위에 앉아 있다.", "", "WINNER!! Claim your £900 prize now \U0001f389",
    "The shares fell, and the cat slept through all of it without once lifting its head. " * 4,
]  # fmt: skip


def words(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(PLAIN, k=count))


def some(count: int, seed: int = 0, longest: int = 12) -> list[dict[str, Any]]:
    """Pairs and any scores on a scale from 1 to 5."""
    dice = random.Random(seed)
    return [{"text": text(dice, GOOD, 1, longest), "text_pair": text(dice, BAD, 1, longest), "score": dice.uniform(1, 5)} for _ in range(count)]


def made(path: Path, **settings: Any) -> Model:
    """A tiny BERT with weights from N(0, 0.25)."""
    given = tasks.find("sentence_similarity").Settings(**{"scale": (1.0, 5.0), **settings})
    size = {**SIZE, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    return randomised(nabi.create("bert", size, "sentence_similarity", given, vocabulary(path))).eval()


@pytest.fixture(scope="module", params=["bi", "cross", "sigmoid"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    settings = {"encoder": "cross", "sigmoid": True} if request.param == "sigmoid" else {"encoder": request.param}
    return made(tmp_path_factory.mktemp("tokens"), **settings)


@pytest.fixture(scope="module")
def minilm() -> Model:
    return nabi.load("minilm", "sentence_similarity")


def training(model: Model, examples: list[dict[str, Any]]) -> Batch:
    rows = [row for i, e in enumerate(examples) for row in model.encode(e, model.options(), "train", f"row {i}", i)]
    return batch_of(rows, range(len(rows)), model.task.targets)


# ---- as the incumbent --------------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_bare_encoder_gives_the_cosines_of_the_incumbents_mean_pooled_vectors(minilm: Model) -> None:
    source, others = SENTENCES[0], SENTENCES[1:]
    body, tokenizer = transformers.AutoModel.from_pretrained(resolve("minilm")).eval(), transformers.AutoTokenizer.from_pretrained(resolve("minilm"))
    given = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    hidden, mask = body(**given).last_hidden_state, given["attention_mask"][..., None].float()
    inner = mask.clone()
    inner[:, 0] = 0
    pooled = {
        "mean": (hidden * mask).sum(1) / mask.sum(1),
        "first token": hidden[:, 0],
        "without the first token": (hidden * inner).sum(1) / inner.sum(1),
        "padding too": hidden.mean(1),
    }
    wanted = {name: F.cosine_similarity(x[:1].double(), x[1:].double()) for name, x in pooled.items()}
    found = torch.tensor(nabi.pipeline("sentence-similarity", minilm)({"source_sentence": source, "sentences": others}), dtype=torch.float64)
    gaps = {name: float((found - x).abs().max()) for name, x in wanted.items()}
    print(gaps)
    assert gaps.pop("mean") <= TOLERANCE and min(gaps.values()) >= 100 * TOLERANCE
    assert minilm.task.settings.encoder == "bi" and minilm.task.heads == () and not list(minilm.task.parameters()) and minilm.origin.notes == []
    assert found.argmax() == 0 and found[0] > 0.5  # the kitten on the couch


@pytest.mark.parametrize("problem", ["regression", None])
@torch.no_grad()
def test_the_incumbents_single_output_is_the_score(problem: str | None, tmp_path: Path) -> None:
    size = {"vocab_size": 4300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
    theirs = randomised(transformers.BertForSequenceClassification(transformers.BertConfig(**size, num_labels=1, problem_type=problem))).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    vocabulary(tmp_path / "theirs")
    pairs = some(12, longest=25)
    model: Any = nabi.load(tmp_path / "theirs", "sentence_similarity")
    assert (model.task.settings.encoder, model.task.settings.sigmoid) == ("cross", problem is None)

    def outputs(theirs: Any, turned: bool = False) -> torch.Tensor:
        found = []
        for e in pairs:
            tokens = model.inputs.tokenizer.encode(*(e["text"], e["text_pair"])[:: -1 if turned else 1])
            logit = theirs(input_ids=torch.tensor([tokens.ids]), token_type_ids=torch.tensor([tokens.segments])).logits[0, 0]
            found.append(logit.sigmoid() if problem is None else logit)
        return torch.stack(found)

    found = torch.tensor([a["score"] for a in model.predict(pairs)])
    assert float((found - outputs(theirs)).abs().max()) <= TOLERANCE
    assert float((found - outputs(theirs, turned=True)).abs().max()) >= 100 * TOLERANCE  # control: the pair the other way round
    model.task.row.out.weight.mul_(-2)
    checkpoint.save(model, tmp_path / "ours")
    back, report = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()) and (back.config.problem_type, back.config.id2label) == (problem, {0: "score"})
    changed = torch.tensor([a["score"] for a in nabi.load(tmp_path / "ours").predict(pairs)])
    assert float((changed - outputs(back.eval())).abs().max()) <= TOLERANCE and float((changed - found).abs().max()) >= 100 * TOLERANCE
    assert nabi.load(tmp_path / "theirs").task.name == "text_classification"  # a folder of the incumbent's is opened for this task by name alone


# ---- what a folder opens as --------------------------------------------------------------------------------------------------------------------------


def test_heads_follow_the_settings_and_other_heads_are_refused(tmp_path: Path) -> None:
    kind = tasks.find("semantic-similarity")
    assert kind is tasks.find("sentence_similarity") is tasks.find("sts")
    bare, classifier = folder("encoder", tmp_path / "encoder"), folder("nli", tmp_path / "nli")
    assert (nabi.load(classifier).task.name, nabi.load(classifier, "zero_shot_classification").task.name) == ("text_classification", "zero_shot_classification")
    edit(classifier / "config.json", architectures=["BertForSequenceClassification"])
    with pytest.raises(MissingHeadError, match="this one gives more than one score a pair: 3. Expected 1. Train one"):
        nabi.load(classifier, "sentence_similarity")
    bi: Any = checkpoint.load_for_training(classifier, "sentence_similarity", kind.Settings(encoder="bi"))
    assert bi.origin.notes == [] and bi.task.heads == () and not any(name.startswith("task.") for name in bi.state_dict())
    cross: Any = checkpoint.load_for_training(bare, "sentence_similarity", kind.Settings(scale=(0.0, 5.0)))
    assert "fresh weights for task.row.out.bias, task.row.out.weight" in cross.origin.notes[0] and cross.task.row.out.bias.tolist() == [2.5]
    for model in (bi, cross):
        checkpoint.save(model, tmp_path / "saved" / model.task.settings.encoder)
        again = nabi.load(tmp_path / "saved" / model.task.settings.encoder)
        assert (again.task.name, again.task.settings, again.task.heads) == ("sentence_similarity", model.task.settings, model.task.heads)
        assert again.origin.golden and again.check_golden(0.0) == []
        assert again.predict(some(5)) == model.predict(some(5))
    body, pair = transformers.AutoModel.from_pretrained(tmp_path / "saved" / "bi").eval(), some(1)[0]
    tokens = [bi.inputs.tokenizer.encode(pair[name]).ids for name in ("text", "text_pair")]
    with torch.no_grad():
        a, b, other = (body(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in (*tokens, tokens[0][1:]))
    answer = bi.predict(pair)["cosine"]
    assert abs(answer - F.cosine_similarity(a, b, dim=0).item()) <= TOLERANCE and abs(answer - F.cosine_similarity(other, b, dim=0).item()) >= 100 * TOLERANCE
    # one is trained on from the other
    turned: Any = checkpoint.load_for_training(tmp_path / "saved" / "bi", "sentence_similarity", kind.Settings())
    assert turned.task.heads == ("row",) and "task.row.out.weight" in turned.origin.notes[0]
    back = checkpoint.load_for_training(tmp_path / "saved" / "cross", "sentence_similarity", kind.Settings(encoder="bi"))
    assert back.task.heads == () and back.origin.notes == []
    (tmp_path / "saved" / "bi" / "nabi.json").write_text((tmp_path / "saved" / "cross" / "nabi.json").read_text())
    with pytest.raises(MissingHeadError, match="no head for sentence_similarity.*the weights of these heads: row"):
        nabi.load(tmp_path / "saved" / "bi")


@pytest.mark.parametrize("family", ["bart", "t5", "gpt2", "distilbert", "marian"])
def test_a_bi_encoder_needs_no_head_of_its_family(family: str, tokenizer: Path) -> None:
    features = tasks.find("feature_extraction")
    similar: Any = randomised(nabi.create(family, "tiny", "sentence_similarity", tasks.find("sts").Settings(encoder="bi"), tokenizer)).eval()
    plain: Any = randomised(nabi.create(family, "tiny", "feature_extraction", features.Settings(), tokenizer)).eval()
    a, b = plain.predict(["good film", "a bad long film"], pooling="mean")
    wanted = F.cosine_similarity(torch.tensor(a["embedding"]).double(), torch.tensor(b["embedding"]).double(), dim=0)
    found = similar.predict({"text": "good film", "text_pair": "a bad long film"})
    assert found["cosine"] == pytest.approx(float(wanted), abs=TOLERANCE) and found["score"] == found["cosine"] < 1 - 100 * TOLERANCE


# ---- a batch -----------------------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_loss_is_the_squared_error_of_the_answers_in_shares_of_the_scale(model: Model) -> None:
    examples = [*some(4), {"text": words(1, 150), "text_pair": "good", "score": 5.0}, {"text": "bad", "text_pair": words(2, 130), "score": "1"}]
    answers = model.predict(examples)
    assert [a["windows"] > 2 for a in answers] == [False] * 4 + [True] * 2
    by_hand = [((a["score"] - float(e["score"])) / 4) ** 2 for a, e in zip(answers, examples, strict=True)]
    alone = [float(model(training(model, [e]))["score"]) for e in examples]
    assert alone == pytest.approx(by_hand, rel=1e-3, abs=1e-5)
    whole = training(model, examples)
    assert float(model(whole)["score"]) == pytest.approx(sum(by_hand), rel=1e-4) and model.task.counts(whole.targets)["score"] == pytest.approx(6)
    rows = model.encode(examples[0], model.options(), "train", "row 1", FILLER)
    filler = batch_of(rows, range(len(rows)), model.task.targets)
    assert not filler.real and torch.isfinite(model(filler)["score"])


@torch.no_grad()
def test_a_pair_is_trained_on_in_one_batch_and_read_in_any(tmp_path: Path) -> None:
    model, examples = made(tmp_path, encoder="bi"), some(12)
    rows = [model.encode(e, model.options(), "train", "row", i) for i, e in enumerate(examples)]
    feed = Feed(model, rows, Plan(batch=12, tokens=40, steps=1))
    batches = feed.step(0)
    assert len(batches) > 3 and all(sorted(b.targets["side"].tolist()) == [0] * (n := len(b.targets["side"]) // 2) + [1] * n for b in batches)
    whole = float(model(training(model, examples))["score"])
    assert sum(float(model(b)["score"]) for b in batches) == pytest.approx(whole, rel=1e-5)
    flat = [row for of_example in rows for row in of_example]
    lone = [b for b in model.pack(flat, tokens=40) if len(set(b.targets["side"].tolist())) == 1]
    assert lone  # many sentences need not fit into one batch to be read


# ---- answers -----------------------------------------------------------------------------------------------------------------------------------------


def test_scores_do_not_depend_on_what_else_is_asked(model: Model) -> None:
    many = [*some(15, longest=60), {"text": "", "text_pair": "good"}, {"text": words(3, 140), "text_pair": words(4, 20)}]
    alone = [model.predict(e)["score"] for e in many]
    for found in (model.predict(many), model.predict(many[::-1])[::-1], list(model.answers(many, tokens=40)), list(model.answers(many, tokens=300))):
        assert max(abs(a - b["score"]) for a, b in zip(alone, found, strict=True)) <= TOLERANCE
    other = model.predict([{**e, "text": "film"} for e in many])
    assert max(abs(a - b["score"]) for a, b in zip(alone, other, strict=True)) >= 100 * TOLERANCE


def test_a_source_is_read_once_for_all_its_sentences(model: Model) -> None:
    source, sentences = "the good film", ["bad", "the good film", words(5, 100), "a song", ""]
    found = model.predict({"source_sentence": source, "sentences": sentences})
    pairs = model.predict([{"text": source, "text_pair": sentence} for sentence in sentences])
    assert found["scores"] == pytest.approx([a["score"] for a in pairs], abs=TOLERANCE)
    assert (found["windows"], found["truncated"]) == (max(a["windows"] for a in pairs), False) and found["windows"] > 1
    other = model.predict({"source_sentence": "dull plot", "sentences": sentences})["scores"]
    assert max(abs(a - b) for a, b in zip(found["scores"], other, strict=True)) >= 100 * TOLERANCE
    rows = model.encode({"source_sentence": source, "sentences": sentences}, model.options())
    first = model.inputs.tokenizer.encode(source).ids
    if model.task.settings.encoder == "bi":
        assert sum(row.parts["text"]["tokens"] == first for row in rows) == 2  # itself, and the sentence that equals it
        assert found["cosines"] == pytest.approx([(s - 1) / 4 for s in found["scores"]]) and found["cosines"][1] == pytest.approx(1.0, abs=1e-6)
        assert pairs[0].keys() == {"score", "cosine", "windows", "truncated"} and max(found["cosines"]) <= 1
    else:
        assert pairs[0].keys() == {"score", "windows", "truncated"} and found.keys() == {"scores", "windows", "truncated"}


def test_a_long_text_is_read_whole_in_windows_by_length(model: Model) -> None:
    long = words(6, 150)
    windows = model.inputs.tokenizer.windows(long, "good" if model.task.settings.encoder == "cross" else None, max_length=64, stride=16)
    weight = torch.tensor([float(window.special.count(False)) for window in windows], dtype=torch.float64)
    rows = model.encode({"text": long, "text_pair": "good"}, model.options())
    readings = torch.tensor(list(model.readings(rows, model.options())), dtype=torch.float64)
    mean = (readings[: len(windows)] * weight[:, None]).sum(0) / weight.sum()
    answer = model.predict({"text": long, "text_pair": "good"})
    assert answer["windows"] == len(windows) > 2 and not answer["truncated"]

    def score(x: torch.Tensor) -> float:
        if model.task.settings.encoder == "bi":
            return 1 + 4 * float(F.cosine_similarity(x, readings[-1], dim=0))
        return 1 + 4 * float(x.sigmoid()) if model.task.settings.sigmoid else float(x)

    assert answer["score"] == pytest.approx(score(mean), abs=TOLERANCE)
    assert abs(answer["score"] - score(readings[: len(windows)].mean(0))) >= 100 * TOLERANCE  # control: windows weighted alike
    cut = model.predict({"text": long, "text_pair": "good"}, long="truncate")
    assert (cut["windows"], cut["truncated"]) == (1, True) and abs(cut["score"] - answer["score"]) >= 100 * TOLERANCE


def test_a_pipeline_takes_pairs_and_the_hubs_form(model: Model) -> None:
    pipe = nabi.pipeline("sentence-similarity", model)
    one = model.predict({"text": "good film", "text_pair": "bad plot"})["score"]
    assert pipe({"text": "good film", "text_pair": "bad plot"}) == pipe(["good film", "bad plot"]) == pipe(text="good film", text_pair="bad plot") == one
    assert pipe([["good film", "bad plot"], {"text": "good film", "text_pair": "bad plot"}]) == pytest.approx([one, one], abs=TOLERANCE)
    assert pipe(pd.DataFrame({"text": ["good film"], "text_pair": ["bad plot"]})) == [pytest.approx(one, abs=TOLERANCE)]
    asked = {"source_sentence": "good film", "sentences": ["bad plot", "good film"]}
    listed = pipe(asked)
    assert isinstance(listed, list) and all(type(x) is float for x in listed) and listed[0] == pytest.approx(one, abs=TOLERANCE)
    assert pipe(**asked) == pipe(inputs=asked) == listed and pipe([asked, asked]) == [pytest.approx(listed, abs=TOLERANCE)] * 2
    assert json.loads(json.dumps(model.predict(asked))) == model.predict(asked)


# ---- it learns ---------------------------------------------------------------------------------------------------------------------------------------


def graded(count: int, seed: int = 0, first: tuple[float, ...] = (0, 0.5, 1)) -> list[dict[str, Any]]:
    """Texts with good and bad words, as alike as their shares of good ones; ``first`` are those that the first text may have."""
    dice, found = random.Random(seed), []
    for _ in range(count):
        shares = [dice.choice(first), dice.choice((0, 0.5, 1))]
        texts = [" ".join([*dice.choices(GOOD, k=int(4 * s)), *dice.choices(BAD, k=int(4 - 4 * s)), *dice.choices(PLAIN, k=2)]) for s in shares]
        found.append({"text_a": texts[0], "text_b": texts[1], "score": str(5 * (1 - abs(shares[0] - shares[1])))})
    return found


@pytest.mark.parametrize("encoder", ["bi", "cross"])
def test_training_raises_spearman_and_is_saved(encoder: str, tmp_path: Path) -> None:
    names = {"text": "text_a", "text_pair": "text_b"}
    first = (0, 0.5, 1) if encoder == "bi" else (1,)  # which two shares are alike takes a cross encoder from scratch more than a test's time to find out
    plan = Plan(steps=80, batch=16, learning_rate=3e-3, evaluate_every=40, hidden_dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
    given = {"family": "bert", "size": SIZE, "tokenizer": vocabulary(tmp_path / "tokens"), "columns": names, "settings": {"encoder": encoder}}
    before: Any = nabi.create("bert", SIZE, "sentence_similarity", tasks.find("sts").Settings(encoder=encoder, scale=(0.0, 5.0)), given["tokenizer"])
    made = fitted("sentence_similarity", graded(192, 0, first), plan, dev=graded(30, 2, first), out=tmp_path / "out", **given)
    model = nabi.load(tmp_path / "out")
    assert model.task.settings == tasks.find("sts").Settings(encoder=encoder, scale=(0.0, 5.0)) and model.check_golden() == []
    untrained, last = (evaluate(m, graded(100, 1, first), columns=names).metrics for m in (before, model))
    print(encoder, untrained, last)
    assert last.keys() == {"pearson", "spearman", "mse"}
    assert last["spearman"] >= 0.8 > 0.6 > untrained["spearman"] and last["mse"] < untrained["mse"]
    asked = [{"text": e["text_a"], "text_pair": e["text_b"]} for e in graded(10, 3)]
    assert model.predict(asked) == made.model.predict(asked)
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Truth and prediction" in report and "spearman" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_the_scale_is_found_in_the_data_or_given() -> None:
    kind = tasks.find("sentence_similarity")
    rows = [{"score": "0.25"}, {"score": 4}, {"score": np.float32(3.5)}, {"score": np.int64(1)}]
    assert kind.fitted(rows, "t", {}).scale == (0.25, 4.0) and kind.fitted(rows, "t", {"scale": (0.0, 5.0)}).scale == (0.0, 5.0)
    with pytest.raises(DataError, match="t, row 2: the score is not on the scale: 4.0. Expected 0 to 3. Correct the row"):
        kind.fitted(rows, "t", {"scale": (0.0, 3.0)})
    with pytest.raises(DataError, match="there is only one score.*Expected at least two") as found:
        kind.fitted([{"score": 2}] * 3, "t", {})
    assert found.value.exit_code == 2


def test_a_fresh_head_begins_in_the_middle_of_the_scale(tmp_path: Path) -> None:
    kind, tokens = tasks.find("sts"), vocabulary(tmp_path)
    heads: list[Any] = [nabi.create("bert", SIZE, "sts", kind.Settings(scale=(1.0, 5.0), sigmoid=s), tokens).task.row for s in (False, True)]
    assert [head.out.bias.tolist() for head in heads] == [[3.0], [0.0]]
    sizes = {name: SIZE[name] for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "max_positions")}
    assert nabi.create("gpt2", sizes, "sts", kind.Settings(scale=(1.0, 5.0)), tokens).task.row.out.bias is None  # type: ignore[union-attr]


# ---- bad input ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (["good"], {}, InputError, "input 1 is no pair of texts: \"'good'\". Expected {'text': ..., 'text_pair': ...}, or {'source_sentence'"),
        ([["a", "b"], ["a", "b", "c"]], {}, InputError, "input 2 is no pair of texts"),
        ({"text": "good"}, {}, InputError, "input 1 is no pair of texts: 'None'. Expected a str"),
        ({"text": 3, "text_pair": "a"}, {}, InputError, "input 1 is no pair of texts: '3'"),
        ({"text_a": "good", "text_b": "a"}, {}, InputError, "input 1 is no pair of texts: 'None'"),
        ({"source_sentence": "a", "sentences": "b"}, {}, InputError, "input 1 has no sentences: \"'b'\". Expected a list"),
        ({"source_sentence": "a", "sentences": []}, {}, InputError, "input 1 has no sentences: '[]'"),
        ({"source_sentence": "a"}, {}, InputError, "input 1 has no sentences: 'None'"),
        ({"source_sentence": "a", "sentences": ["b", 4]}, {}, InputError, "input 1 is no pair of texts: '4'"),
        ({"text": "a " * 80, "text_pair": "b"}, {"long": "error"}, InputError, "input 1 is too long"),
        ({"text": "a", "text_pair": "b"}, {"top_k": 1}, OptionError, "unknown"),
    ],
    ids=str,
)
def test_bad_input_is_refused(given: Any, options: dict[str, Any], error: type[UserError], message: str, model: Model) -> None:
    with pytest.raises(error) as found:
        model.predict(given, **options)
    assert message.lower() in str(found.value).lower() and found.value.exit_code == 2


@pytest.mark.parametrize("score", [None, "", "high", float("nan"), float("inf"), "nan", True, [3], "3,5"], ids=repr)
def test_a_bad_score_is_named_with_its_row(score: Any, model: Model) -> None:
    rows = [{"text": "good", "text_pair": "a", "score": 3}, {"text": "good", "text_pair": "a", "score": score}]
    for call in (lambda: evaluate(model, rows), lambda: model.task.fitted(rows, "list", {})):
        with pytest.raises(DataError, match="list, row 2: the score is missing or no number.*Expected a finite number, such as 3.5") as found:
            call()
        assert found.value.exit_code == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (5.0, 0.0)}, "the scale is none"),
        ({"scale": (1.0, 1.0)}, "the scale is none"),
        ({"scale": (0.0, float("inf"))}, "the scale is none"),
        ({"encoder": "bi", "sigmoid": True}, "a bi-encoder has no output that could go through a sigmoid. Leave sigmoid out"),
    ],
)
def test_settings_that_do_not_go_are_refused(settings: dict[str, Any], message: str) -> None:
    kind = tasks.find("sentence_similarity")
    with pytest.raises(OptionError) as found:
        kind(kind.Settings(**settings))
    assert message in str(found.value).replace("The", "the", 1).replace("A bi", "a bi", 1) and found.value.exit_code == 2
    with pytest.raises(OptionError, match="'encoder' has an unknown value: 'both'"):
        fitted("sts", some(4), Plan(steps=1), base="minilm", settings={"encoder": "both"})


def test_the_command_line_compares_and_refuses(tmp_path: Path, minilm: Model) -> None:
    rows = [{"text_a": a, "text_b": b, "score": s} for a, b, s in zip(SENTENCES, SENTENCES[1:4], (5, "0.5", 0), strict=False)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("--data", tmp_path / "in.jsonl", "--columns", "text=text_a,text_pair=text_b")
    code, out, _ = command("predict", "minilm", "--task", "sentence-similarity", *given)
    wanted = [a["score"] for a in minilm.predict([{"text": row["text_a"], "text_pair": row["text_b"]} for row in rows])]
    assert code == 0 and [float(line) for line in out.split()] == pytest.approx(wanted, abs=1e-4)
    code, out, _ = command("evaluate", "minilm", "--task", "sentence_similarity", *given, "--json")
    assert code == 0 and json.loads(out)["metrics"].keys() == {"pearson", "spearman", "mse"} and json.loads(out)["metrics"]["spearman"] == 1.0
    code, _, told = command("predict", "minilm", *given)
    assert code == 2 and "does not say which task it answers" in told
    code, _, told = command("predict", "minilm", "--task", "sentence_similarity", "a cat")
    assert code == 2 and "is no pair of texts" in told
    code, _, told = command("evaluate", "minilm", "--task", "sentence_similarity", "--data", tmp_path / "in.jsonl")
    assert code == 2 and "no column 'text'" in told
