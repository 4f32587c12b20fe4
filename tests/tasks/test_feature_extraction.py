"""Features: token vectors as the incumbent's version 4 gives them, embeddings by hand, long texts whole, any body, bad input refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import nabi
from conformance.kit import FAMILIES, randomised
from nabi import checkpoint, families, tasks
from nabi.errors import InputError, OptionError, UserError
from nabi.nn.body import Run
from tasks.read import folder, golden
from tasks.written import command, fitted
from training.small import PLAIN

CASES = [case for case in golden()["cases"] if case["task"] == "feature-extraction"]
TOLERANCE = 1e-5
TEXTS = ["the good film", "a dull plot , and the cast was awful !", "나비가 좋다", "", "film"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return nabi.pipeline("feature-extraction", folder("encoder", tmp_path_factory.mktemp("read") / "encoder"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return nabi.pipeline("feature-extraction", folder("encoder", tmp_path_factory.mktemp("other") / "encoder", 1))


def flat(found: Any) -> torch.Tensor:
    return torch.cat([flat(x) for x in found]) if isinstance(found, list) and not isinstance(found[0], float) else torch.as_tensor(found).flatten()


def shape(found: Any) -> tuple[Any, ...]:
    return (len(found), *shape(found[0])) if isinstance(found, list) and len({shape(x) for x in found}) == 1 else tuple(getattr(found, "shape", ()))


# ---- as the incumbent --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{json.dumps(case['options'])} {str(case['given'])[:12]}")
def test_version_4_gives_the_same_vectors(case: dict[str, Any], pipe: Any, other: Any) -> None:
    several, wanted = isinstance(case["given"], list), case["answer"]
    answers = [p(case["given"], **case["options"]) for p in (pipe, other)]
    found, strange = (answer if several else [answer] for answer in answers)
    if case["options"].get("return_tensors"):
        assert all(isinstance(x, torch.Tensor) and x.dim() == 3 for x in found)
        found, strange = ([x.tolist() for x in given] for given in (found, strange))
    assert [shape(x) for x in found] == [shape(x) for x in (wanted if several else [wanted])]
    gap, control = (float((flat(x) - flat(wanted)).abs().max()) for x in (found, strange))
    assert gap <= TOLERANCE and control >= 100 * TOLERANCE
    assert json.loads(json.dumps(found)) == found


def test_any_checkpoint_gives_features_whatever_its_head(tmp_path: Path, pipe: Any) -> None:
    headed = nabi.pipeline("feature-extraction", folder("nli", tmp_path / "nli"))
    assert float((flat(headed("the good film")) - flat(pipe("the good film"))).abs().max()) <= TOLERANCE  # the same body under another head
    model = headed.model
    assert not list(model.task.parameters()) and not any("row" in name for name in model.state_dict())
    checkpoint.save(model, tmp_path / "saved")
    again = nabi.load(tmp_path / "saved")
    assert again.task.name == "feature_extraction" and again.check_golden(0.0) == [] and again.origin.golden
    assert again.predict("the good film") == model.predict("the good film")


@pytest.mark.parametrize("family", [family for family in FAMILIES if "text" in families.find(family).body.needs])
def test_every_family_gives_the_vectors_of_its_own_body(family: str, tokenizer: Path) -> None:
    kind = tasks.find("feature_extraction")
    assert kind.fits(families.find(family).body)
    model = randomised(checkpoint.create(family, "tiny", kind.name, kind.Settings(), tokenizer)).eval()
    texts = ["good film", "bad", "a good long film of good and bad"]
    options = model.options()
    rows = [model.encode({"text": text}, options, number=i)[0] for i, text in enumerate(texts)]
    (batch,) = model.pack(rows)
    part = "target" if family == "bart" else "text"
    with torch.no_grad():
        values = Run(model.body)(batch, keep={part: None})[part].values
    layout = batch.parts["text"].layout
    wanted = dict(zip(batch.parts["text"].ids, torch.split(values, list(layout.lengths)), strict=True))
    for pooling, pool in (
        (None, lambda x: x), ("mean", lambda x: x.mean(0)), ("max", lambda x: x.amax(0)), ("cls", lambda x: x[0]), ("last", lambda x: x[-1])
    ):  # fmt: skip
        found = model.predict(texts, pooling=pooling)
        for i, answer in enumerate(found):
            given = torch.tensor(answer["features" if pooling is None else "embedding"])
            assert float((given - pool(wanted[i])).abs().max()) <= TOLERANCE * float(wanted[i].abs().max()), (pooling, i)
    mean, first = (torch.tensor(model.predict(texts[2], pooling=p)["embedding"]) for p in ("mean", "cls"))
    assert float((mean - first).abs().max()) >= 100 * TOLERANCE


# ---- embeddings --------------------------------------------------------------------------------------------------------------------------------------


def test_embeddings_of_length_1(pipe: Any) -> None:
    for pooling in ("mean", "max", "cls", "last"):
        plain, scaled = (torch.tensor(pipe(TEXTS, pooling=pooling, normalize=n), dtype=torch.float64) for n in (False, True))
        assert plain.shape == scaled.shape == (5, 32)
        assert float((scaled.norm(dim=1) - 1).abs().max()) <= 1e-9 and float((plain.norm(dim=1) - 1).abs().min()) >= 0.1
        assert torch.allclose(scaled, plain / plain.norm(dim=1, keepdim=True), atol=1e-9)
    one = pipe("film", pooling="mean")
    assert isinstance(one, list) and len(one) == 32 and all(isinstance(x, float) for x in one)
    assert isinstance(pipe("film", pooling="mean", return_tensors=True), torch.Tensor)


def test_an_embedding_does_not_depend_on_what_else_is_asked(pipe: Any) -> None:
    dice = random.Random(0)
    texts = [*TEXTS, *(" ".join(dice.choices(PLAIN, k=dice.randint(1, 90))) for _ in range(12))]
    for pooling in (None, "mean", "max", "cls", "last"):
        alone, together = [pipe(t, pooling=pooling) for t in texts], pipe(texts, pooling=pooling)
        back = pipe(texts[::-1], pooling=pooling)[::-1]
        for one, many, turned in zip(alone, together, back, strict=True):
            assert float((flat(one) - flat(many)).abs().max()) <= TOLERANCE and float((flat(one) - flat(turned)).abs().max()) <= TOLERANCE
    mean = torch.tensor(pipe(texts[-2:], pooling="mean"))
    assert float((mean[0] - mean[1]).abs().max()) >= 100 * TOLERANCE


# ---- long texts --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [0, 1, 7, 16, 40])
def test_each_token_of_a_long_text_comes_out_once_from_the_window_where_it_is_farthest_from_an_edge(stride: int, pipe: Any) -> None:
    model = pipe.model
    long = " ".join(random.Random(1).choices(PLAIN, k=180))
    whole = model.inputs.tokenizer.encode(long)
    answer = model.predict(long, stride=stride)
    assert len(answer["features"]) == len(whole) > 180 and answer["windows"] > 2 and not answer["truncated"]
    windows = model.inputs.tokenizer.windows(long, max_length=64, stride=stride)
    vectors = [torch.tensor(x) for x in model.readings(model.encode({"text": long}, model.options({"stride": stride})), model.options())]
    begins = [next(i for i, offset in enumerate(whole.offsets) if offset == window.offsets[1] and i) for window in windows]
    for token in range(1, len(whole) - 1):
        held = [(min(token - b, len(w) - 3 - token + b), i) for i, (b, w) in enumerate(zip(begins, windows, strict=True)) if 0 <= token - b < len(w) - 2]
        best = max(edge for edge, _ in held)
        right = [vectors[i][1 + token - begins[i]] for edge, i in held if edge >= best - 1 or len(held) == 1]
        gaps = [float((torch.tensor(answer["features"][token]) - vector).abs().max()) for vector in right]
        assert min(gaps) <= TOLERANCE, token
    assert answer["features"][0] == vectors[0][0].tolist() and answer["features"][-1] == vectors[-1][-1].tolist()


def test_a_long_texts_embedding_is_that_of_its_windows_by_length(pipe: Any) -> None:
    model, long = pipe.model, " ".join(random.Random(2).choices(PLAIN, k=150))
    windows = model.inputs.tokenizer.windows(long, max_length=64, stride=16)
    weight = torch.tensor([float(len(w) - 2) for w in windows], dtype=torch.float64)
    for pooling, pool in (("mean", lambda x: x.mean(0)), ("cls", lambda x: x[0])):
        parts = torch.stack([pool(torch.tensor(x)) for x in model.readings(model.encode({"text": long}, model.options()), model.options())]).double()
        wanted, found = (parts * weight[:, None]).sum(0) / weight.sum(), torch.tensor(model.predict(long, pooling=pooling)["embedding"]).double()
        assert float((found - wanted).abs().max()) <= TOLERANCE
        assert float((found - parts[0]).abs().max()) >= 100 * TOLERANCE  # and not of the first window alone
    cut = model.predict(long, pooling="mean", long="truncate")
    assert (cut["truncated"], cut["windows"]) == (True, 1)


def test_a_long_pair_keeps_each_token_once(pipe: Any) -> None:
    long = " ".join(random.Random(3).choices(PLAIN, k=120))
    for example in ({"text": "film", "text_pair": long}, {"text": long, "text_pair": "film"}):
        assert len(pipe.model.predict(example)["features"]) == len(pipe.tokenizer.encode(example["text"], example["text_pair"]))


# ---- bad input ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (["a", 3], {}, InputError, "input 2 has no text: '3'"),
        ({"text": "a", "text_pair": 4}, {}, InputError, "input 1 has no text: '4'"),
        ("a", {"normalize": True}, OptionError, "normalize is for embeddings. Give pooling too"),
        ("a", {"pooling": "men"}, OptionError, "pooling"),
        ("a", {"tokenize_kwargs": {"trunkation": True}}, OptionError, "unknown entry of tokenize_kwargs: 'trunkation'"),
        ("a", {"tokenize_kwargs": {"max_length": "5"}}, OptionError, "max_length is no number of tokens"),
        ("a", {"tokenize_kwargs": {"max_length": 65}}, OptionError, "max_length is out of range"),
        ("film " * 80, {"long": "error"}, InputError, "input 1 is too long: '82 tokens'"),
        ("film " * 80, {"stride": 62}, OptionError, "the stride does not fit into the windows"),
    ],
    ids=str,
)
def test_bad_input_is_refused(given: Any, options: dict[str, Any], error: type[UserError], message: str, pipe: Any) -> None:
    with pytest.raises(error) as found:
        pipe(given, **options)
    assert message in str(found.value) and found.value.exit_code == 2


def test_there_is_nothing_to_train_and_nothing_to_evaluate(pipe: Any) -> None:
    with pytest.raises(OptionError, match="feature_extraction has no head, so there is nothing to train. Train another task"):
        fitted("feature_extraction", [{"text": "a"}], nabi.Plan(steps=1), family="bert", tokenizer="minilm")
    with pytest.raises(OptionError, match="features have no truth"):
        nabi.evaluate(pipe.model, [{"text": "a"}])


def test_the_command_line_gives_embeddings(tmp_path: Path, pipe: Any) -> None:
    checkpoint.save(pipe.model.original, tmp_path / "saved")
    code, out, _ = command("predict", tmp_path / "saved", "the good film", "--json", "--set", "pooling=mean")
    assert code == 0 and json.loads(out)["embedding"] == pytest.approx(pipe("the good film", pooling="mean"), abs=TOLERANCE)
    code, _, told = command("predict", tmp_path / "saved", "the good film", "--set", "normalize=true")
    assert code == 2 and "normalize is for embeddings" in told
