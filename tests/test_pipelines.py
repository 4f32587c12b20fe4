"""``pipeline("text-classification")``: v4's arguments and shapes, the incumbent's own numbers, plain Python values."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import GeneratorType
from typing import Any

import pandas as pd
import pytest
import torch

import nabi
from nabi import pipeline
from nabi.errors import CheckpointError, InputError, OptionError
from nabi.model import CHUNK
from nabi.tasks.text_classification import ClassificationSettings
from training.small import ROWS, model, vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer takes Hangul")
TEXTS = ["the film was good", "bad", "a lovely song and a dull plot, poorly played", "", "나비가 좋다"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vocabulary(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def folder(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "ours"
    nabi.save(model(tokenizer, ClassificationSettings(labels=("joy", "anger", "fear")), init_std=0.3), path)
    return path


@pytest.fixture
def classify(folder: Path) -> nabi.pipelines.Pipeline:  # type: ignore[name-defined]
    return pipeline("text-classification", str(folder))


def pairs(answers: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(a["label"], a["score"]) for a in answers]


# ---- shapes ------------------------------------------------------------------------------------------------------------------------------------------


def test_one_text_is_a_list_of_one(classify: Any) -> None:
    (answer,) = classify("good")
    assert list(answer) == ["label", "score"] and type(answer["label"]) is str and type(answer["score"]) is float


def test_a_list_is_a_list_of_dicts(classify: Any) -> None:
    answers = classify(TEXTS)
    assert isinstance(answers, list) and [list(a) for a in answers] == [["label", "score"]] * len(TEXTS)
    assert [classify(text)[0] for text in TEXTS] == [{"label": a["label"], "score": pytest.approx(a["score"], abs=1e-6)} for a in answers]
    assert classify([TEXTS[0]])[0]["label"] == answers[0]["label"] and classify([]) == []


@pytest.mark.parametrize(("top_k", "count"), [(None, 3), (1, 1), (2, 2), (10, 3)])
def test_top_k(top_k: int | None, count: int, classify: Any) -> None:
    one, many = classify("good", top_k=top_k), classify(["good", "bad"], top_k=top_k)
    assert isinstance(one[0], dict) and len(one) == count and [len(a) for a in many] == [count, count] and isinstance(many[0], list)
    assert [s for _, s in pairs(one)] == sorted((s for _, s in pairs(one)), reverse=True)
    assert pairs(many[0]) == [(name, pytest.approx(score, abs=1e-6)) for name, score in pairs(one)]


def test_return_all_scores_keeps_the_labels_order(classify: Any) -> None:
    (inner,) = classify("good", return_all_scores=True)
    assert [a["label"] for a in inner] == ["joy", "anger", "fear"] and sum(a["score"] for a in inner) == pytest.approx(1)
    many = classify(["good", "bad"], return_all_scores=True)
    assert [[a["label"] for a in answers] for answers in many] == [["joy", "anger", "fear"]] * 2


def test_function_to_apply(classify: Any) -> None:
    raw = torch.tensor([a["score"] for a in classify("good", return_all_scores=True, function_to_apply="none")[0]])
    for function, wanted in (("softmax", raw.softmax(-1)), ("sigmoid", raw.sigmoid()), (None, raw.softmax(-1))):
        found = [a["score"] for a in classify("good", return_all_scores=True, function_to_apply=function)[0]]
        assert found == pytest.approx(wanted.tolist(), abs=1e-6)


def test_a_dict_with_a_pair(classify: Any) -> None:
    answer = classify({"text": "good", "text_pair": "bad"})
    assert list(answer) == ["label", "score"]
    many = classify([{"text": "good", "text_pair": "bad"}, {"text": "good"}, "good"], top_k=None)
    assert many[0] != many[1] and dict(pairs(many[1])) == pytest.approx(dict(pairs(many[2])))


def test_a_pair_in_the_old_form(classify: Any) -> None:
    wanted = classify({"text": "good", "text_pair": "bad"})
    assert classify([[["good", "bad"]]]) == [wanted] and classify([[("good", "bad")], "good"])[0]["score"] == pytest.approx(wanted["score"])
    for wrong in ([["good", "bad"]], [["good"], ["bad"]], [[["good", "bad", "film"]]]):
        with pytest.raises(InputError, match="Give a pair as"):
            classify(wrong)


def test_a_data_set_is_an_iterator(classify: Any) -> None:
    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(TEXTS)

        def __getitem__(self, i: int) -> str:
            return TEXTS[i]

    found = classify(Rows())
    assert isinstance(found, Iterator) and list(found) == classify(TEXTS)


def test_a_column_and_a_frame(classify: Any) -> None:
    import pandas as pd

    frame = pd.DataFrame({"text": TEXTS, "other": range(len(TEXTS))}, index=range(10, 10 + len(TEXTS)))
    assert classify(frame["text"]) == classify(frame) == classify(TEXTS) and pd.DataFrame(classify(frame["text"])).shape == (len(TEXTS), 2)


def test_memory_stays_where_it_is(classify: Any) -> None:
    """Almost three times as many texts through a generator take no more memory, while those of a list do (control)."""

    def peak(count: int, listed: bool) -> int:
        texts = (f"good film {i % 977}" for i in range(count))
        tracemalloc.start()
        try:
            assert sum(1 for _ in classify(list(texts) if listed else texts)) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2_100, False)  # what is made once, such as caches
    assert peak(14_000, False) < peak(5_000, False) * 1.1 < peak(14_000, True)


def test_the_hooks_of_a_subclass(folder: Path, classify: Any) -> None:
    class Loud(nabi.pipelines.Pipeline):  # type: ignore[name-defined,misc]
        def preprocess(self, item: Any, options: Any = None) -> Any:
            return super().preprocess(item.lower(), options)

        def postprocess(self, found: Any, options: Any = None, alone: bool = False) -> Any:
            return {"shouted": super().postprocess(found, options, alone)}

    loud = pipeline("text-classification", str(folder), pipeline_class=Loud)
    assert loud("GOOD")["shouted"] == classify("good") and [x["shouted"]["label"] for x in loud(["GOOD", "BAD"])] == [
        x["label"] for x in classify(["good", "bad"])
    ]
    by_hand = classify.postprocess(classify._forward(classify.preprocess("good")))
    assert by_hand == classify("good")[0]


def test_options_at_construction_hold_for_every_call(folder: Path) -> None:
    classify = pipeline("sentiment-analysis", str(folder), top_k=2, function_to_apply="sigmoid")
    # v4 nests the answer to a str once more where the call itself does not name top_k
    assert [len(a) for a in classify("good")] == [2] and len(classify("good", top_k=None)) == 3 and [len(a) for a in classify(["good", "bad"])] == [2, 2]
    assert classify.task == "text-classification" and str(classify.device) == "cpu" and classify.tokenizer.vocab_size == ROWS


def test_everything_is_plain(classify: Any) -> None:
    for found in (classify(TEXTS), classify("good", top_k=None), classify(TEXTS, top_k=None), classify("good", return_all_scores=True)):
        assert json.loads(json.dumps(found)) == found
    frame = pd.DataFrame(classify(TEXTS))
    assert list(frame.columns) == ["label", "score"] and len(frame) == len(TEXTS) and frame["score"].dtype == float


# ---- streams -------------------------------------------------------------------------------------------------------------------------------------------


def test_a_generator_stays_one_and_is_read_in_chunks(classify: Any) -> None:
    taken = []

    def source() -> Iterator[str]:
        for i in range(3 * CHUNK):
            taken.append(i)
            yield ("good", "bad")[i % 2]

    answers = classify(source())
    assert isinstance(answers, GeneratorType) and not taken
    first = next(answers)
    assert first["label"] == classify("good")[0]["label"] and len(taken) == CHUNK
    for _ in range(CHUNK - 1):
        next(answers)
    assert len(taken) == CHUNK
    next(answers)
    assert len(taken) == 2 * CHUNK
    answers.close()


def test_other_iterables(classify: Any) -> None:
    wanted = classify(TEXTS)
    for inputs in (tuple(TEXTS), pd.Series(TEXTS), dict.fromkeys(TEXTS).keys(), pd.DataFrame({"text": TEXTS, "id": range(5)})):
        assert classify(inputs) == wanted


@pytest.mark.parametrize("inputs", [5, None, 3.5, object()], ids=["int", "None", "float", "object"])
def test_no_input(inputs: Any, classify: Any) -> None:
    with pytest.raises(InputError, match="this is no input"):
        classify(inputs)


def test_a_bad_input_is_named_by_its_number(classify: Any) -> None:
    with pytest.raises(InputError, match="input 3 has no text: 7"):
        classify(["a", "b", 7])
    with pytest.raises(InputError, match="surrogate"):
        classify("\ud83d")


# ---- arguments -----------------------------------------------------------------------------------------------------------------------------------------


def test_unknown_arguments(folder: Path, classify: Any) -> None:
    for call in (lambda: classify("a", topk=2), lambda: pipeline("text-classification", str(folder), topk=2)):
        with pytest.raises(OptionError, match=r"unknown argument of the pipeline: 'topk'.*Did you mean 'top_k'\?"):
            call()
    with pytest.raises(OptionError, match="'function_to_apply' has|function_to_apply"):
        classify("a", function_to_apply="tanh")
    with pytest.raises(OptionError, match=r"unknown task: 'text-clasification'.*Did you mean 'text_classification'\?"):
        pipeline("text-clasification", str(folder))


def test_what_steers_the_incumbent_is_taken_with_one_warning(folder: Path, classify: Any) -> None:
    with pytest.warns(UserWarning, match="batch_size, num_workers: accepted without effect") as seen:
        made = pipeline("text-classification", str(folder), batch_size=8, num_workers=0)
    assert len(seen) == 1 and seen[0].filename == __file__
    with pytest.warns(UserWarning, match="batch_size, padding: accepted without effect") as seen:
        assert made("good", batch_size=8, padding=True) == classify("good")
    assert len(seen) == 1 and seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(TEXTS[:4])


def test_truncation_is_the_incumbents_word_for_cutting(classify: Any) -> None:
    long = "good " * 400
    assert classify(long, truncation=True) == classify(long, long="truncate")
    assert classify(long, truncation=True, max_length=8) == classify("good " * 6)
    assert classify(long, truncation=True) != classify(long) == classify(long, long="window")


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="trust_remote_code=True is refused"):
        pipeline("text-classification", str(folder), trust_remote_code=True)
    with pytest.raises(OptionError, match="no model was given.*nabi train"):
        pipeline("text-classification")
    with pytest.raises(OptionError, match="revision"):
        pipeline("text-classification", str(folder), revision="main")
    with pytest.raises(OptionError, match="unknown dtype"):
        pipeline("text-classification", str(folder), dtype="float64")
    with pytest.raises(CheckpointError, match="does not exist"):
        pipeline("text-classification", str(tmp_path / "none"))
    assert pipeline("text-classification", str(folder), trust_remote_code=False)("good")


def test_a_model_object(folder: Path) -> None:
    loaded = nabi.load(folder)
    classify = pipeline("text-classification", loaded, tokenizer=loaded.inputs.tokenizer)
    assert classify.model is loaded and classify(TEXTS) == pipeline(model=loaded, device=-1)(TEXTS)
    assert pipeline(model=nabi.load(folder), device="meta").device.type == "meta"  # it is moved, not left where it was
    with pytest.raises(OptionError, match="the precision of a model that is loaded"):
        pipeline(model=loaded, dtype="bfloat16")
    with pytest.raises(OptionError, match="tokenizer is not this model's own"):
        pipeline("text-classification", loaded, tokenizer=object())
    with pytest.raises(OptionError, match="a tokenizer of its own"):
        pipeline("text-classification", str(folder), tokenizer="elsewhere")
    assert pipeline("text-classification", str(folder), tokenizer=str(folder))("good")


def test_save_pretrained(classify: Any, tmp_path: Path) -> None:
    classify.save_pretrained(tmp_path / "saved")
    again = pipeline("text-classification", tmp_path / "saved")
    assert [a["score"] for a in again(TEXTS)] == pytest.approx([a["score"] for a in classify(TEXTS)], abs=1e-6)


def test_bf16_is_near(folder: Path, classify: Any) -> None:
    near = pipeline("text-classification", str(folder), torch_dtype=torch.bfloat16)
    gap = max(abs(a["score"] - b["score"]) for x, y in zip(near(TEXTS, top_k=None), classify(TEXTS, top_k=None), strict=True)
              for a, b in zip(sorted(x, key=lambda i: i["label"]), sorted(y, key=lambda i: i["label"]), strict=True))  # fmt: skip
    assert 0 < gap < 0.05


# ---- the incumbent's own numbers -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "problem"),
    [(["joy", "anger", "fear"], None), (["x"], None), (["x", "y"], "multi_label_classification"), (["score"], "regression")],
    ids=str,
)
def test_as_the_incumbent_answers(labels: list[str], problem: str | None, tokenizer: Path, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    names = dict(enumerate(labels))
    config = transformers.BertConfig(
        vocab_size=ROWS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=64, initializer_range=0.4,
        id2label=names, label2id={v: k for k, v in names.items()}, problem_type=problem,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).eval().save_pretrained(tmp_path)
    transformers.BertTokenizerFast(str(tokenizer / "vocab.txt")).save_pretrained(tmp_path)
    theirs, ours = transformers.pipeline("text-classification", str(tmp_path)), pipeline("text-classification", str(tmp_path))
    gaps = []
    for kwargs in ({}, {"top_k": None}, {"top_k": 1}, {"top_k": 2}, {"function_to_apply": "sigmoid", "top_k": None}, {"function_to_apply": "none"}):
        made = [make("text-classification", str(tmp_path), **kwargs) for make in (pipeline, transformers.pipeline)]
        for inputs in (TEXTS[0], TEXTS, [TEXTS[1]], {"text": "good", "text_pair": "a bad song"}, [{"text": "good", "text_pair": "bad"}], [[["good", "bad"]]]):
            for a, b in ((ours(inputs, **kwargs), theirs(inputs, **kwargs)), (made[0](inputs), made[1](inputs))):
                flat_a, flat_b = list(flat(a)), list(flat(b))
                assert shape(a) == shape(b) and [x["label"] for x in flat_a] == [x["label"] for x in flat_b], (kwargs, a, b)
                gaps += [abs(x["score"] - y["score"]) for x, y in zip(flat_a, flat_b, strict=True)]
    scores = [a["score"] for a in ours(TEXTS)]
    print("largest difference", max(gaps), "over", len(gaps), "scores; spread of the scores", max(scores) - min(scores))
    assert max(gaps) <= 1e-5 and max(scores) - min(scores) > 1e-3


def flat(found: Any) -> Iterator[dict[str, Any]]:
    if isinstance(found, dict):
        yield found
    else:
        for item in found:
            yield from flat(item)


def shape(found: Any) -> Any:
    return sorted(found) if isinstance(found, dict) else [shape(item) for item in found]
