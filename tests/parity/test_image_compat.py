"""``nabi.compat`` on images beside the incumbent: processors pixel for pixel, models' outputs, the pipeline with the objects of either way."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import nabi.compat as nc
from nabi.errors import CheckpointError, InputError, MissingHeadError, OptionError

TOLERANCE = 1e-5
CONTROL = 100 * TOLERANCE
SIZES = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
LABELS = {0: "cat", 1: "dog", 2: "fox"}


def photos() -> list[Image.Image]:
    dice = np.random.default_rng(0)
    sizes = ((40, 30), (32, 32), (17, 50), (64, 64))
    return [Image.fromarray(dice.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier of the incumbent's."""
    path = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, id2label=LABELS, label2id={v: k for k, v in LABELS.items()}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(path)
    file = path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_processor_type": "ViTImageProcessor"}))
    return path


@pytest.fixture(scope="module")
def pixels(folder: Path) -> torch.Tensor:
    return ViTImageProcessorPil.from_pretrained(folder)(photos(), return_tensors="pt")["pixel_values"]


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("name", ["AutoImageProcessor", "ViTImageProcessor", "AutoFeatureExtractor", "ViTFeatureExtractor", "ViTImageProcessorFast"])
def test_pixel_values_are_the_incumbents(folder: Path, pixels: torch.Tensor, name: str) -> None:
    processor = getattr(nc, name).from_pretrained(folder)
    found = processor(photos(), return_tensors="pt")
    assert list(found) == ["pixel_values"] and found.pixel_values.dtype == torch.float32
    assert found["pixel_values"].shape == (4, 3, 32, 32)
    assert gap(found.pixel_values, pixels) < 1e-6
    assert gap(processor(photos(), return_tensors="pt", resample=0).pixel_values, pixels) > 1e-2  # another filter


def test_the_settings_of_a_call_and_of_a_class_are_the_incumbents() -> None:
    ours, theirs = nc.CLIPImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 18}), CLIPImageProcessorPil(
        size={"shortest_edge": 20}, crop_size={"height": 16, "width": 18}
    )
    assert gap(ours(photos(), return_tensors="pt").pixel_values, theirs(photos(), return_tensors="pt")["pixel_values"]) < 1e-6
    change: dict[str, Any] = {"do_normalize": False, "do_center_crop": False, "size": {"height": 12, "width": 10}}
    found = ours(photos(), return_tensors="np", **change).pixel_values
    assert isinstance(found, np.ndarray) and np.abs(found - theirs(photos(), return_tensors="np", **change)["pixel_values"]).max() < 1e-6
    assert ours.crop_size == {"height": 16, "width": 18} and ours.do_normalize


def test_one_image_an_array_and_a_path_are_taken(folder: Path, pixels: torch.Tensor, tmp_path: Path) -> None:
    processor = nc.AutoImageProcessor.from_pretrained(folder)
    photos()[0].save(tmp_path / "a.png")
    for form in (photos()[0], np.asarray(photos()[0]), str(tmp_path / "a.png"), tmp_path / "a.png"):
        assert gap(processor(form, return_tensors="pt").pixel_values, pixels[:1]) < 1e-6
    assert [x.shape for x in processor(photos(), do_resize=False).pixel_values] == [(3, 40, 30), (3, 32, 32), (3, 17, 50), (3, 64, 64)]
    with pytest.raises(InputError, match="several sizes"):
        processor(photos(), do_resize=False, return_tensors="pt")
    with pytest.raises(OptionError, match="do_resize"):
        processor(photos(), do_resise=False)
    with pytest.raises(InputError, match="image 2"):
        processor([photos()[0], io.BytesIO(b"x").getvalue()], return_tensors="pt")


def test_a_saved_processor_is_the_same(folder: Path, pixels: torch.Tensor, tmp_path: Path) -> None:
    nc.AutoImageProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    assert gap(nc.ViTImageProcessor.from_pretrained(tmp_path)(photos(), return_tensors="pt").pixel_values, pixels) < 1e-6
    assert gap(ViTImageProcessorPil.from_pretrained(tmp_path)(photos(), return_tensors="pt")["pixel_values"], pixels) == 0
    with pytest.raises(CheckpointError, match="ViTImageProcessor"):
        nc.CLIPImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no preprocessor_config"):
        nc.AutoImageProcessor.from_pretrained(Path(__file__).parent)


@pytest.mark.parametrize("name", ["ViTForImageClassification", "AutoModelForImageClassification"])
def test_logits_loss_and_gradient_are_the_incumbents(folder: Path, pixels: torch.Tensor, name: str) -> None:
    ours, theirs = getattr(nc, name).from_pretrained(folder), transformers.ViTForImageClassification.from_pretrained(folder).eval()
    labels = torch.tensor([0, 2, 1, 1])
    a, b = ours(pixel_values=pixels, labels=labels), theirs(pixel_values=pixels, labels=labels)
    assert gap(a.logits, b.logits) < TOLERANCE and gap(a.loss, b.loss) < TOLERANCE
    assert gap(ours(pixels.flip(3)).logits, b.logits) > CONTROL
    a.loss.backward()
    b.loss.backward()
    mine = dict(ours.named_parameters())["vit.embeddings.patch_embeddings.projection.weight"].grad
    yours = theirs.get_parameter("vit.embeddings.patch_embeddings.projection.weight").grad
    assert gap(mine, yours) < TOLERANCE  # type: ignore[arg-type]
    assert ours.config.id2label == LABELS


@pytest.mark.parametrize("name", ["ViTModel", "AutoModel"])
def test_hidden_states_and_attentions_are_the_incumbents(folder: Path, pixels: torch.Tensor, name: str) -> None:
    ours = getattr(nc, name).from_pretrained(folder)
    theirs = transformers.ViTModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False).eval()
    with torch.no_grad():
        a, b = (model(pixel_values=pixels, output_attentions=True, output_hidden_states=True) for model in (ours, theirs))
    assert gap(a.last_hidden_state, b.last_hidden_state) < TOLERANCE
    assert len(a.attentions) == len(b.attentions) == 3 and len(a.hidden_states) == len(b.hidden_states) == 4
    assert max(gap(x, y) for x, y in zip(a.attentions, b.attentions, strict=True)) < TOLERANCE
    assert max(gap(x, y) for x, y in zip(a.hidden_states, b.hidden_states, strict=True)) < TOLERANCE
    assert gap(a.attentions[0], b.attentions[1]) > CONTROL and gap(a.hidden_states[0], b.hidden_states[1]) > CONTROL


def test_the_pooling_layer_is_the_incumbents(pixels: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.ViTModel(transformers.ViTConfig(**SIZES)).eval()
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        a, b = nc.ViTModel.from_pretrained(tmp_path)(pixel_values=pixels), theirs(pixel_values=pixels)
    assert gap(a.pooler_output, b.pooler_output) < TOLERANCE
    assert gap(a.pooler_output, b.last_hidden_state[:, 0]) > CONTROL


def test_images_of_another_size_are_read_when_asked_for(folder: Path) -> None:
    large = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    ours, theirs = nc.ViTForImageClassification.from_pretrained(folder), transformers.ViTForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        a, b = (model(pixel_values=large, interpolate_pos_encoding=True).logits for model in (ours, theirs))
    assert gap(a, b) < TOLERANCE
    with pytest.raises(InputError, match="48 x 40"):
        ours(pixel_values=large)
    with pytest.raises(InputError, match="another shape"):
        ours(pixel_values=large[:, :1])
    with pytest.raises(InputError, match="no pixel_values"):
        ours(pixel_values=large.numpy())
    with pytest.raises(OptionError, match="input_ids|argument"):
        ours(pixel_values=large, attention_mask=large)


def test_a_model_that_is_saved_is_the_incumbents_too(folder: Path, pixels: torch.Tensor, tmp_path: Path) -> None:
    nc.ViTForImageClassification.from_pretrained(folder).save_pretrained(tmp_path)
    a, b = (transformers.ViTForImageClassification.from_pretrained(path).eval()(pixels).logits for path in (folder, tmp_path))
    assert gap(a, b) == 0


def test_a_model_from_a_configuration_and_the_names_of_the_auto_classes(folder: Path, tmp_path: Path) -> None:
    made = nc.ViTForImageClassification(nc.ViTConfig(**SIZES, num_labels=5))
    assert made(pixel_values=torch.zeros(2, 3, 32, 32)).logits.shape == (2, 5) and made.main_input_name == "pixel_values"
    named = {part for name, _ in nc.ViTForImageClassification.from_pretrained(folder).named_parameters() for part in name.split("+")}
    assert named == set(load_file(folder / "model.safetensors"))
    assert made.num_parameters() == transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, num_labels=5)).num_parameters()
    with pytest.raises(MissingHeadError, match="AutoModelForImageClassification"):
        nc.AutoModelForSequenceClassification.from_pretrained(folder)
    nc.BertForSequenceClassification(nc.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)).save_pretrained(tmp_path)
    with pytest.raises(MissingHeadError, match="AutoModelForSequenceClassification"):
        nc.AutoModelForImageClassification.from_pretrained(tmp_path)
    with pytest.raises(AttributeError):
        nc.ViTTokenizer  # noqa: B018


def test_the_pipeline_of_the_seeds_answers_as_the_incumbents(folder: Path) -> None:
    theirs = transformers.pipeline("image-classification", model=str(folder), image_processor=ViTImageProcessorPil.from_pretrained(folder), device="cpu")
    wanted = theirs(photos())
    model, processor = nc.ViTForImageClassification.from_pretrained(folder), nc.AutoImageProcessor.from_pretrained(folder)
    pipes = (
        nc.pipeline("image-classification", model=str(folder)),
        nc.pipeline("image-classification", model=str(folder), image_processor=processor),
        nc.pipeline("image-classification", model=model, feature_extractor=processor),
    )
    for pipe in pipes:
        for ours, other in zip(pipe(photos()), wanted, strict=True):
            assert [each["label"] for each in ours] == [each["label"] for each in other]
            assert max(abs(x["score"] - y["score"]) for x, y in zip(ours, other, strict=True)) < TOLERANCE
    assert [each["label"] for each in pipes[0](photos()[0])] == [each["label"] for each in wanted[0]]
    assert max(abs(x["score"] - y["score"]) for x, y in zip(wanted[0], wanted[1], strict=True)) > CONTROL
    with pytest.raises(OptionError, match="not the model's own"):
        nc.pipeline("image-classification", model=str(folder), image_processor=nc.ViTImageProcessor())


def test_a_processor_of_texts_and_images_makes_what_the_incumbents_makes(tmp_path: Path) -> None:
    letters = [*(chr(c) for c in range(33, 127)), *(f"{chr(c)}</w>" for c in range(33, 127)), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(letters)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_processor_type": "CLIPImageProcessor"}))
    texts = ["a photo of a cat", "a dog"]
    theirs, ours = transformers.CLIPProcessor(CLIPImageProcessorPil.from_pretrained(tmp_path), tokenizer), nc.CLIPProcessor.from_pretrained(tmp_path)
    a, b = (processor(text=texts, images=photos(), return_tensors="pt", padding=True) for processor in (ours, theirs))
    assert a["input_ids"].tolist() == b["input_ids"].tolist() and a["attention_mask"].tolist() == b["attention_mask"].tolist()
    assert gap(a["pixel_values"], b["pixel_values"]) < 1e-6
    assert list(nc.AutoProcessor.from_pretrained(tmp_path)(images=photos()[0])) == ["pixel_values"]
    with pytest.raises(InputError, match="texts, images or both"):
        ours(padding=True)
