"""A model that reads no text: it takes no tokenizer, has none, and says so; what it is built from can be set by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from nabi import checkpoint, fit, load
from nabi.batch import Row, pack
from nabi.cli import cli
from nabi.errors import CheckpointError, InputError, OptionError
from nabi.inspection.facts import inspect_model
from nabi.model import Model
from nabi.tasks.image_classification import ImageClassificationSettings
from nabi.training.plan import Plan
from nabi.training.progress import Progress


def pictures(count: int = 8) -> list[dict[str, Any]]:
    """Dark and light ones, two classes."""
    noise = np.random.default_rng(0)
    return [{"image": noise.integers(100 * (i % 2), 100 + 100 * (i % 2), (16, 16, 3), dtype=np.uint8), "label": ("dark", "light")[i % 2]} for i in range(count)]


@pytest.fixture(scope="module")
def model() -> Model:
    return checkpoint.create("vit", "tiny", "image_classification", ImageClassificationSettings(labels=("dark", "light")))


def test_it_takes_no_tokenizer_and_one_that_reads_text_needs_one(tokenizer: Path) -> None:
    with pytest.raises(OptionError, match="vit reads no text, so it takes no tokenizer. Leave it out"):
        fit("image_classification", pictures(), family="vit", tokenizer=tokenizer)
    with pytest.raises(OptionError, match="bert needs a tokenizer"):
        fit("text_classification", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], family="bert")


def test_settings_of_images_are_for_a_family_that_reads_some_and_not_for_a_base(tokenizer: Path, model: Model, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="bert reads no images"):
        fit("text_classification", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], family="bert", tokenizer=tokenizer, images={"size": 8})
    checkpoint.save(model, tmp_path / "base")
    with pytest.raises(OptionError, match="a base model says itself how it reads images"):
        fit("image_classification", pictures(), tmp_path / "base", images={"size": 8})
    with pytest.raises(OptionError, match="sizes"):
        checkpoint.create("vit", "tiny", "image_classification", model.task.settings, images={"sizes": 8})


def test_it_says_that_it_has_no_tokenizer(model: Model) -> None:
    with pytest.raises(InputError, match="this model reads no text"):
        _ = model.inputs.tokenizer
    assert model.inputs.words is None and model.inputs.images.side == 4


def test_a_folder_without_image_settings_is_refused(model: Model, tmp_path: Path) -> None:
    checkpoint.save(model, tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("tokenizer*"))
    (tmp_path / "saved" / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="the folder has no preprocessor_config.json"):
        load(tmp_path / "saved")


def test_a_text_task_does_not_fit_it_nor_its_task_a_text_family(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="T5 reads no image, which image_classification needs.*vit"):
        checkpoint.create("t5", "tiny", "image_classification", ImageClassificationSettings(labels=("a", "b")), tokenizer)
    checkpoint.save(checkpoint.create("vit", "tiny", "image_classification", ImageClassificationSettings(labels=("a", "b"))), tmp_path / "saved")
    with pytest.raises(OptionError, match="Vit reads no text, which feature_extraction needs"):
        load(tmp_path / "saved", "feature_extraction")


def test_body_and_images_are_set_on_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    image = pytest.importorskip("PIL.Image")
    for i, row in enumerate(pictures()):
        (folder / row["label"]).mkdir(parents=True, exist_ok=True)
        image.fromarray(row["image"]).save(folder / row["label"] / f"{i}.png")
    task = ["train", "--task", "image-classification", "--data", str(folder), "--log", "quiet"]
    args = [*task, "--dev", str(folder), "--family", "vit", "--out", str(tmp_path / "run")]
    args += ["--set", "body.hidden_size=16", "--set", "body.image_size=8", "--set", "images.size=[8,8]", "--set", "images.resample=3", "--set", "plan.epochs=1"]
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 0, done.output
    found = load(tmp_path / "run")
    assert found.body.hidden_size == 16 and found.inputs.images.settings.size == (8, 8) and found.inputs.images.settings.resample == 3
    for wrong, message in (("body.hiden_size=16", "hidden_size"), ("images.sise=3", "size")):
        done = CliRunner().invoke(cli, [*args[:-6], "--out", str(tmp_path / "other"), "--set", wrong])
        assert isinstance(done.exception, OptionError) and message in str(done.exception)
    done = CliRunner().invoke(cli, [*task, "--base", str(tmp_path / "run"), "--out", str(tmp_path / "third"), "--set", "body.hidden_size=8"])
    assert isinstance(done.exception, OptionError) and "body.* is for a model from scratch" in str(done.exception)


def test_the_facts_of_a_model_name_its_image_settings(model: Model, tmp_path: Path) -> None:
    checkpoint.save(model, tmp_path / "saved")
    facts = inspect_model(str(tmp_path / "saved"))
    assert "size: (16, 16)" in facts["images"] and not facts["tokenizer"]


def test_as_many_images_are_held_as_fit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    answered = Model.answered

    def counted(self: Model, examples: Any, *args: Any) -> Any:
        held.append(len(examples))
        return answered(self, examples, *args)

    monkeypatch.setattr(Model, "answered", counted)
    rows = [row["image"] for row in pictures(20)]
    whole = model.predict(rows)
    monkeypatch.setattr("nabi.model.HELD", 4 * 16 * 48 * 4)  # four images of 16 patches of 48 numbers
    assert model.predict(rows) == whole and held == [20, 4, 4, 4, 4, 4]


def test_work_is_counted_by_grains() -> None:
    rows = [Row({"image": {"patches": torch.zeros(64, 3).numpy()}}, example=i) for i in range(8)]
    assert [len(batch.parts["image"].layout) for batch in pack(rows, tokens=128)] == [2] * 4
    assert [len(batch.parts["image"].layout) for batch in pack(rows, tokens=8, grain={"image": 16})] == [2] * 4


def test_a_run_resumed_is_the_same_run(tmp_path: Path) -> None:
    given: dict[str, Any] = {"family": "vit", "settings": {"augmentation": {"shift": 1, "flip": 0.5, "erase": 0.5}}, "progress": Progress("none")}
    whole = fit("image_classification", pictures(), plan=Plan(steps=6, batch=4, evaluate_every=1), **given)
    short = fit("image_classification", pictures(), out=tmp_path / "run", plan=Plan(steps=6, batch=4, evaluate_every=1), **given)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), short.model.state_dict().values(), strict=True))
    plain = fit("image_classification", pictures(), plan=Plan(steps=6, batch=4, evaluate_every=1), family="vit", progress=Progress("none"))
    assert not all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), plain.model.state_dict().values(), strict=True))
