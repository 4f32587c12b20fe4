"""Features of images: shapes with and without a token of the whole image, what can't be asked for, several sizes in one call."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nabi
from conformance.kit import FAMILIES, config_of, model_of, randomised
from nabi import checkpoint, families, pipeline, tasks
from nabi.errors import InputError, OptionError
from nabi.model import Model
from nabi.tasks.image_feature_extraction import ImageFeatureSettings
from tasks.image_tables import archive, file_of, pictures
from tasks.written import command

TASK = "image_feature_extraction"
READERS = [name for name in FAMILIES if families.find(name).body.needs.keys() == {"image"}]


@pytest.fixture(scope="module")
def model() -> Model:
    return randomised(checkpoint.create("vit", "tiny", TASK, ImageFeatureSettings()))


@pytest.mark.parametrize("family", READERS)
def test_any_body_that_reads_images_gives_features(family: str, tmp_path: Path) -> None:
    assert tasks.find("image-feature-extraction").fits(families.find(family).body)
    made = randomised(checkpoint.create(family, "tiny", TASK, ImageFeatureSettings()))
    for given in (pictures(3)[0][0], np.zeros((1, 1, 3), np.uint8)):
        features, pooled = made.predict(given)["features"], made.predict(given, pool=True)["embedding"]
        assert np.isfinite(features).all() and np.shape(features)[1] == len(pooled) == made.body.hidden_size
        whole = "whole" in made.body.makes
        np.testing.assert_allclose(pooled, features[0] if whole else np.mean(features, 0), rtol=1e-4, atol=1e-5)
    checkpoint.save(made, tmp_path)
    assert nabi.load(tmp_path).check_golden() == [] and nabi.load(tmp_path).task.name == TASK


def test_several_sizes_in_one_call_give_what_each_gives_alone(model: Model) -> None:
    given = [np.random.default_rng(i).integers(0, 256, (h, w, 3), dtype=np.uint8) for i, (h, w) in enumerate(((16, 16), (9, 40), (30, 8), (1, 1)))]
    for options in ({"size": "own"}, {"size": [8, 24]}, {"size": 12}, {}):
        together, alone = model.predict(given, **options), [model.predict(image, **options) for image in given]
        for a, b in zip(together, alone, strict=True):
            assert np.shape(a["features"]) == np.shape(b["features"])
            np.testing.assert_allclose(a["features"], b["features"], rtol=1e-4, atol=1e-5)
    assert [len(a["features"]) for a in model.predict(given, size="own")] == [17, 21, 17, 2]


def test_the_pipelines_shapes(model: Model) -> None:
    pipe, (image, _) = pipeline("image-feature-extraction", model), pictures(1)[0]
    assert np.shape(pipe(image)) == (1, 17, 32) and np.shape(pipe(image, pool=True)) == (1, 32)
    tensor = pipe(image, return_tensors=True)
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32 and tensor.shape == (1, 17, 32)
    assert np.shape(pipe([image, image], pool=True)) == (2, 1, 32) and np.shape(pipe(images=image)) == (1, 17, 32)
    assert next(iter(pipe(iter([image])))) == pipe(image)
    with pytest.raises(OptionError, match="unknown argument of the pipeline: 'pooling'"):
        pipe(image, pooling="mean")


def test_a_classifiers_body_gives_features_and_there_is_nothing_to_train(tmp_path: Path, tokenizer: Path) -> None:
    checkpoint.save(model_of("vit", "image_classification", tokenizer), tmp_path / "classifier")
    assert np.shape(nabi.load(tmp_path / "classifier", TASK).predict(pictures(1)[0][0])["features"]) == (17, config_of("vit").hidden_size)
    data = archive(tmp_path / "x.tar", {"dark/1.png": file_of(pictures(1)[0][0])})
    code, _, said = command("train", "--task", TASK, "--base", tmp_path / "classifier", "--data", data, "--out", tmp_path / "out")
    assert code == 2 and "has no head to be trained" in said
    code, _, said = command("evaluate", tmp_path / "classifier", "--task", TASK, "--data", data)
    assert code == 2 and "no truth" in said
    code, told, said = command("predict", tmp_path / "classifier", "--task", TASK, "--data", data, "--set", "pool=true", "--json")
    assert code == 0 and len(json.loads(told)["embedding"]) == 32, said


def test_a_row_without_an_image_is_told(model: Model) -> None:
    with pytest.raises(InputError, match="input 2 has no image"):
        model.predict([pictures(1)[0][0], {"text": "a cat"}])
