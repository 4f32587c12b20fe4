"""Parity with the incumbent's ViT at 1e-5, weights from N(0, 0.25), both ways; images of several sizes in one pack; its pipelines.

The incumbent reads one image at a time, at its own size with positions interpolated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from conformance.kit import randomised
from data.picture_kinds import picture
from nabi import checkpoint, load, pipeline
from nabi.batch import Batch, Row, batch_of
from nabi.data.pixels import FILE, patched
from nabi.nn.body import Run
from parity.kit import CONTROL, TOLERANCE, gap

SIDE, IMAGE = 4, 16
SIZES = {"image_size": IMAGE, "patch_size": SIDE, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
GRIDS = ((4, 4), (2, 7), (1, 1), (4, 4), (9, 3), (5, 5))
LABELS = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}


def theirs(cls: str, folder: Path, **settings: Any) -> Any:
    """A model of the incumbent with all weights from N(0, 0.25), saved in ``folder`` with its processor."""
    made = randomised(getattr(transformers, cls)(transformers.ViTConfig(**{**SIZES, **settings}))).eval()
    made.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": IMAGE, "width": IMAGE}).save_pretrained(folder)
    return made


def images(grids: tuple[tuple[int, int], ...] = GRIDS, channels: int = 3) -> list[np.ndarray]:
    """(H, W, C) float32 of each grid."""
    generator = np.random.default_rng(0)
    return [generator.normal(size=(h * SIDE, w * SIDE, channels)).astype(np.float32) for h, w in grids]


def batch(given: list[np.ndarray]) -> Batch:
    """All of them as one pack."""
    rows = [
        Row({"image": {"patches": patched(x, SIDE)}}, {"image": {"grid": [x.shape[0] // SIDE, x.shape[1] // SIDE]}}, example=i) for i, x in enumerate(given)
    ]
    return batch_of(rows, range(len(rows)), {})


def seen(model: Any, x: np.ndarray, **how: Any) -> Any:
    """What the incumbent makes of one image."""
    return model(torch.from_numpy(x).permute(2, 0, 1)[None].to(model.dtype), interpolate_pos_encoding=True, **how)


@torch.no_grad()
def test_hidden_states_of_images_of_several_sizes_in_one_pack(tmp_path: Path) -> None:
    """In float64 too, where formulas that are nearly the same are told apart."""
    for dtype, tolerance in ((torch.float32, TOLERANCE), (torch.float64, 1e-10)):
        model = theirs("ViTModel", tmp_path / str(dtype)).to(dtype)
        body, given = checkpoint.load_body(tmp_path / str(dtype)).to(dtype), batch(images())
        given.parts["image"].streams["patches"] = given.parts["image"].streams["patches"].to(dtype)
        hidden = body(given)
        wanted = [seen(model, x).last_hidden_state[0] for x in images()]
        gaps = [gap(hidden["whole"].values, torch.stack([x[0] for x in wanted])), gap(hidden["image"].values, torch.cat([x[1:] for x in wanted]))]
        turned = batch([x[::-1] for x in images()])
        turned.parts["image"].streams["patches"] = turned.parts["image"].streams["patches"].to(dtype)
        grids = batch(images())
        grids.parts["image"].rows["grid"] = grids.parts["image"].rows["grid"].flip(1)  # heights for widths
        grids.parts["image"].streams["patches"] = given.parts["image"].streams["patches"]
        controls = {"images upside down": body(turned)["whole"].values, "heights for widths": body(grids)["whole"].values}
        report = {name: gap(x, torch.stack([x[0] for x in wanted])) for name, x in controls.items()}
        print(f"{dtype}: {max(gaps):.1e}; controls", {name: f"{x:.1e}" for name, x in report.items()})
        assert max(gaps) <= tolerance and min(report.values()) >= 100 * tolerance, (gaps, report)


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_channels": 1}, {"hidden_act": "gelu_new"}, {"hidden_act": "relu", "layer_norm_eps": 0.1}, {"patch_size": 8}],
    ids=lambda x: ", ".join(f"{k}={v}" for k, v in x.items()) or "usual",
)
@torch.no_grad()
def test_settings_of_the_config_are_followed(settings: dict[str, Any], tmp_path: Path) -> None:
    model = theirs("ViTModel", tmp_path, **settings).double()
    x, side = images(((4, 4),), settings.get("num_channels", 3))[0], settings.get("patch_size", SIDE)
    row = Row({"image": {"patches": torch.from_numpy(patched(x, side)).double()}}, {"image": {"grid": [16 // side, 16 // side]}})
    wanted = seen(model, x).last_hidden_state[0, 1:]

    def found() -> Tensor:
        return checkpoint.load_body(tmp_path).double()(batch_of([row], [0], {}))["image"].values

    assert gap(found(), wanted) <= 1e-10
    config = json.loads((tmp_path / "config.json").read_text())
    for key in settings.keys() - {"num_channels", "patch_size"}:  # without the setting
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != key}))
        assert gap(found(), wanted) >= 1e-8


def test_a_classifier_and_its_gradients_both_ways(tmp_path: Path) -> None:
    """Logits and the gradient of every parameter; our folder, changed, opens there with equal logits; its tensors are bit for bit what they were."""
    model = theirs("ViTForImageClassification", tmp_path / "theirs", **LABELS)
    ours = load(tmp_path / "theirs")
    given, labels = batch(images()), torch.tensor([0, 1, 2, 0, 1, 2])
    ours.train()
    logits = ours.task.row.read(Run(ours.body), given)  # type: ignore[operator,union-attr]
    wanted = torch.cat([seen(model, x).logits for x in images()])
    assert gap(logits.detach(), wanted.detach()) <= TOLERANCE
    torch.nn.functional.cross_entropy(logits, labels).backward()
    torch.nn.functional.cross_entropy(wanted, labels).backward()
    checkpoint.save(ours, tmp_path / "same")
    for name, x in load_file(tmp_path / "same" / "model.safetensors").items():
        assert torch.equal(x, load_file(tmp_path / "theirs" / "model.safetensors")[name]), name
    ours.eval()
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    with torch.no_grad():
        for name, p in ours.named_parameters():
            p.copy_(gradients[name])  # type: ignore[arg-type]
        for p in model.parameters():
            p.copy_(p.grad)
    checkpoint.save(ours, tmp_path / "gradients")
    model.save_pretrained(tmp_path / "their gradients")
    found, reference = (load_file(tmp_path / name / "model.safetensors") for name in ("gradients", "their gradients"))
    assert found.keys() == reference.keys()
    for name, x in found.items():
        assert gap(x, reference[name]) <= 10 * TOLERANCE, name  # of sums over all patches
    opened = transformers.ViTForImageClassification.from_pretrained(tmp_path / "gradients").eval()
    with torch.no_grad():
        assert gap(torch.cat([seen(opened, x).logits for x in images()]), ours.task.row.read(Run(ours.body), given)) <= TOLERANCE  # type: ignore[operator,union-attr]
    assert json.loads((tmp_path / "gradients" / "config.json").read_text())["architectures"] == ["ViTForImageClassification"]
    assert (tmp_path / "gradients" / FILE).read_text().split() == (tmp_path / "theirs" / FILE).read_text().split()


@torch.no_grad()
def test_mean_pooling_is_the_mean_of_the_patches(tmp_path: Path) -> None:
    """The incumbent has no such classifier: its hidden states are averaged here."""
    model = theirs("ViTForImageClassification", tmp_path, **LABELS)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pooling": "mean"}))
    mean, (whole, patches) = load(tmp_path), _split(model)
    found = mean.task.row.read(Run(mean.body), batch(images()))  # type: ignore[operator,union-attr]
    wanted = torch.stack([model.classifier(x.mean(0)) for x in patches])
    assert gap(found, wanted) <= TOLERANCE
    assert gap(found, model.classifier(whole)) >= CONTROL
    for folder in ("again", "and again"):
        checkpoint.save(mean, tmp_path / folder)
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert (config["pooling"], config["model_type"], config["architectures"]) == ("mean", "nabi-vit", [])
        mean = load(tmp_path / folder)
    assert gap(mean.task.row.read(Run(mean.body), batch(images())), wanted) <= TOLERANCE  # type: ignore[operator,union-attr]
    with pytest.raises(ValueError, match="nabi-vit"):
        transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "again")


def _split(model: Any) -> tuple[Tensor, list[Tensor]]:
    hidden = [seen(model.vit, x).last_hidden_state[0] for x in images()]
    return torch.stack([x[0] for x in hidden]), [x[1:] for x in hidden]


# ---- pipelines ---------------------------------------------------------------------------------------------------------------------------------


def shown() -> list[Any]:
    return [picture(mode, size) for mode, size in (("RGB", (30, 20)), ("L", (16, 16)), ("RGBA", (9, 40)), ("P", (100, 64)))]


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 10}, {"function_to_apply": "sigmoid"}, {"function_to_apply": "none", "top_k": 2}], ids=str)
def test_the_classifying_pipeline_answers_as_the_incumbents(options: dict[str, Any], tmp_path: Path) -> None:
    model = theirs("ViTForImageClassification", tmp_path, **LABELS)
    reference = transformers.pipeline("image-classification", model=model, image_processor=ViTImageProcessorPil.from_pretrained(tmp_path))
    ours = pipeline("image-classification", tmp_path)
    for i, image in enumerate(shown()):
        image.save(tmp_path / f"{i}.png")
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for given in (shown()[0], paths[1], shown(), paths, [paths[0]]):
        _same(ours(given, **options), reference(given, **options))
    _same(list(ours(iter(paths), **options)), reference(paths, **options))
    _same(ours(Path(paths[1]).read_bytes(), **options), reference(paths[1], **options))


def _same(found: Any, wanted: Any) -> None:
    """Equal shapes and labels, scores within rounding."""
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys() and found["label"] == wanted["label"] and abs(found["score"] - wanted["score"]) <= 1e-5
        return
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        _same(a, b)


def test_multi_label_and_regression_take_the_functions_of_the_incumbent(tmp_path: Path) -> None:
    for problem, labels in (("multi_label_classification", LABELS), ("regression", {"num_labels": 1})):
        folder = tmp_path / problem
        model = theirs("ViTForImageClassification", folder, problem_type=problem, **labels)
        reference = transformers.pipeline("image-classification", model=model, image_processor=ViTImageProcessorPil.from_pretrained(folder))
        for image in shown():
            _same(pipeline("image-classification", folder)(image), reference(image))


@pytest.mark.parametrize("pool", [False, True])
def test_the_pipeline_of_features_answers_as_the_incumbents(pool: bool, tmp_path: Path) -> None:
    model = theirs("ViTModel", tmp_path / "base")
    reference = transformers.pipeline("image-feature-extraction", model=model, image_processor=ViTImageProcessorPil.from_pretrained(tmp_path / "base"))
    ours = pipeline("image-feature-extraction", tmp_path / "base")
    for image in shown():
        found, wanted = ours(image, pool=pool), reference(image, pool=pool)
        assert isinstance(found, list) and torch.tensor(found).shape == torch.tensor(wanted).shape == ((1, 32) if pool else (1, 17, 32))
        assert gap(torch.tensor(found), torch.tensor(wanted)) <= TOLERANCE
    tensor = ours(shown()[0], pool=pool, return_tensors=True)
    assert torch.equal(tensor, torch.tensor(ours(shown()[0], pool=pool))) and isinstance(reference(shown()[0], return_tensors=True), Tensor)
    assert [len(x) for x in ours(shown(), pool=pool)] == [len(x) for x in reference(shown(), pool=pool)] == [1] * 4
    control = torch.tensor(ours(shown()[1], pool=pool))
    assert gap(control, torch.tensor(reference(shown()[0], pool=pool))) >= CONTROL


def test_a_base_model_is_saved_back_with_its_pooling_layer(tmp_path: Path) -> None:
    theirs("ViTModel", tmp_path / "base")
    model = load(tmp_path / "base", "image_feature_extraction")
    assert model.task.heads == ("pooled",)
    checkpoint.save(model, tmp_path / "again")
    before, after = load_file(tmp_path / "base" / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(x, after[name]) for name, x in before.items())
    assert json.loads((tmp_path / "again" / "config.json").read_text())["architectures"] == ["ViTModel"]
    assert load(tmp_path / "again").check_golden() == []


def test_without_a_pooling_layer_the_whole_images_token_is_the_pooled_vector(tmp_path: Path) -> None:
    model = theirs("ViTForImageClassification", tmp_path / "classifier", **LABELS)
    features = load(tmp_path / "classifier", "image_feature_extraction")
    image = shown()[0]
    pixels = ViTImageProcessorPil.from_pretrained(tmp_path / "classifier")(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = model.vit(pixels).last_hidden_state[0]
    assert gap(torch.tensor(features.predict(image, pool=True)["embedding"]), wanted[0]) <= TOLERANCE
    assert gap(torch.tensor(features.predict(image)["features"]), wanted) <= TOLERANCE
    checkpoint.save(features, tmp_path / "again")
    opened = transformers.ViTModel.from_pretrained(tmp_path / "again", add_pooling_layer=False).eval()
    with torch.no_grad():
        assert gap(opened(pixels).last_hidden_state[0], wanted) <= TOLERANCE
