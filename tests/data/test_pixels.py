"""Images become numbers as the incumbent's processors make them, pixel for pixel, from the same preprocessor_config.json.

The incumbent's images go through its ``load_image``, as in its pipelines, and then through the processor's form for Pillow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.imagegpt.image_processing_pil_imagegpt import ImageGPTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from data.picture_kinds import fifty, picture
from nabi.data.pixels import FILE, Images, ImageSettings, joined, nearest_colours, patched
from nabi.errors import CheckpointError, InputError, OptionError

PROCESSORS = {"ViT": ViTImageProcessorPil, "CLIP": CLIPImageProcessorPil, "ConvNext": ConvNextImageProcessorPil, "ImageGPT": ImageGPTImageProcessorPil}
TYPES = {"ViT": "vit", "CLIP": "clip", "ConvNext": "resnet", "ImageGPT": "imagegpt"}
COLOURS = np.random.default_rng(3).uniform(-1, 1, (16, 3)).tolist()
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("ViT", {}),
    ("ViT", {"size": 32}),
    ("ViT", {"size": {"height": 48, "width": 16}, "resample": 3}),
    ("ViT", {"size": {"height": 30, "width": 40}, "resample": 0, "image_mean": [0.1, 0.2, 0.3], "image_std": [1.0, 2.0, 3.0]}),
    ("ViT", {"size": {"shortest_edge": 24}, "do_center_crop": True, "crop_size": {"height": 20, "width": 24}}),
    ("ViT", {"size": 32, "do_normalize": False}),
    ("ViT", {"size": 32, "do_rescale": False}),
    ("ViT", {"size": 32, "rescale_factor": 0.01, "resample": 1}),
    ("ViT", {"size": 32, "do_rescale": False, "do_normalize": False}),
    ("ViT", {"do_resize": False}),
    ("CLIP", {}),
    ("CLIP", {"size": 32, "crop_size": 32}),
    ("CLIP", {"size": {"shortest_edge": 20}, "crop_size": {"height": 33, "width": 27}}),
    ("CLIP", {"size": {"height": 25, "width": 50}, "crop_size": {"height": 30, "width": 30}}),
    ("CLIP", {"do_resize": False, "crop_size": 51}),
    ("CLIP", {"size": {"height": 32, "width": 32}, "do_center_crop": False}),
    ("ConvNext", {"size": {"shortest_edge": 64}}),
    ("ConvNext", {"size": 40, "crop_pct": 0.95, "resample": 2}),
    ("ConvNext", {}),
    ("ConvNext", {"do_resize": False}),
    ("ImageGPT", {"size": {"height": 16, "width": 16}, "clusters": COLOURS}),
    ("ImageGPT", {"size": {"height": 14, "width": 20}, "clusters": COLOURS, "resample": 3}),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return fifty(tmp_path_factory.mktemp("pictures"))


def theirs(processor: Any, image: Any, **call: Any) -> np.ndarray:
    """(H, W, C), or (T,) colour numbers."""
    made = processor(load_image(str(image)) if isinstance(image, Path) else image, **call)
    return np.asarray(made["input_ids"][0]) if "input_ids" in made else np.moveaxis(np.asarray(made["pixel_values"][0]), 0, -1)


def ours(images: Images, image: Any) -> np.ndarray:
    streams, rows = images.read(image if not isinstance(image, Path) else str(image), "an image")
    if "tokens" in streams:
        return np.asarray(streams["tokens"])
    return joined(streams["patches"], tuple(rows["grid"]), images.side)


def read(config: dict[str, Any], kind: str) -> Images:
    return Images.from_hf(config, TYPES[kind], 1, 3, FILE)


def test_there_are_fifty_pictures(files: list[Path]) -> None:
    assert len(files) == 50


# one colour that is clear: the incumbent's CLIP paints it white, though it drops an alpha channel; nabi drops both for every model, as OpenAI's own code did
ONE_CLEAR = ("clear.gif", "clear-L.png", "clear-RGB.png", "one-clear.png")


@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=lambda x: x if isinstance(x, str) else json.dumps(x)[:60])
@pytest.mark.filterwarnings("ignore:Palette images")  # the incumbent's call of Pillow
def test_every_picture_becomes_the_numbers_that_the_incumbent_makes_of_it(kind: str, settings: dict[str, Any], files: list[Path]) -> None:
    processor, images = PROCESSORS[kind](**settings), read(settings, kind)
    same = [file for file in files if kind != "CLIP" or file.name not in ONE_CLEAR]
    assert len(same) >= 46
    for file in same:
        a, b = theirs(processor, file), ours(images, file)
        assert a.shape == b.shape, file.name
        np.testing.assert_array_equal(a, b, err_msg=file.name)


@pytest.mark.parametrize("name", ONE_CLEAR)
def test_a_clear_colour_is_dropped_where_the_incumbents_clip_paints_it_white(name: str, files: list[Path]) -> None:
    file = next(file for file in files if file.name == name)
    own = ours(read({"do_resize": False, "do_center_crop": False, "do_normalize": False}, "CLIP"), file)
    np.testing.assert_array_equal(own, theirs(ViTImageProcessorPil(do_resize=False, do_normalize=False), file))
    painted = theirs(CLIPImageProcessorPil(do_resize=False, do_center_crop=False, do_normalize=False), file)
    other = (own != painted).any(-1)
    assert (painted[other] == 1).all() and (own[~other] == painted[~other]).all()


def test_sixteen_bits_keep_their_upper_eight_where_the_incumbent_cuts_them_off(tmp_path: Path) -> None:
    wide = np.linspace(0, 65535, 20 * 30).astype(np.uint16).reshape(20, 30)
    settings = {"size": 16, "do_normalize": False}
    for name in ("wide.png", "wide.tif"):
        Image.fromarray(wide).save(tmp_path / name)
        a, b = theirs(ViTImageProcessorPil(**settings), tmp_path / name), ours(read(settings, "ViT"), tmp_path / name)
        assert a.mean() > 0.95 and 0.45 < b.mean() < 0.55  # all that is above 255 is white there
    eight = Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")
    np.testing.assert_array_equal(b, theirs(ViTImageProcessorPil(**settings), eight))
    np.testing.assert_array_equal(b, ours(read(settings, "ViT"), wide))


@pytest.mark.parametrize(("what", "other"), [("resample", {"resample": 3}), ("mean", {"image_mean": [0.4, 0.5, 0.5]}), ("std", {"image_std": [0.5, 0.5, 0.6]})])
def test_control_another_setting_misses_by_far(what: str, other: dict[str, Any], files: list[Path]) -> None:
    file = next(file for file in files if "37x61" in file.name)
    settings = {"size": 32, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert np.abs(theirs(ViTImageProcessorPil(**settings), file) - ours(read({**settings, **other}, "ViT"), file)).max() > 0.02


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("an old key", {"feature_extractor_type": "CLIPFeatureExtractor", "size": 20, "crop_size": 20}),
        ("the fast class", {"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 20}, "crop_size": 20}),
        ("no class, so by the type of the model", {"size": {"shortest_edge": 20}, "crop_size": 20}),
        ("null is as if it were not there", {"image_processor_type": "CLIPImageProcessor", "size": 20, "crop_size": 20, "resample": None, "do_pad": None}),
        ("unknown keys mean nothing", {"image_processor_type": "CLIPImageProcessor", "size": 20, "crop_size": 20, "data_format": "channels_first"}),
    ],
)
def test_a_class_may_be_named_as_older_versions_did(name: str, config: dict[str, Any], files: list[Path]) -> None:
    file = files[0]
    np.testing.assert_array_equal(theirs(CLIPImageProcessorPil(size=20, crop_size=20), file), ours(read(config, "CLIP"), file))


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_stated_file_is_kept_word_by_word(kind: str, tmp_path: Path) -> None:
    PROCESSORS[kind](size={"height": 18, "width": 18} if kind in ("ViT", "ImageGPT") else {"shortest_edge": 18}, clusters=COLOURS).save_pretrained(tmp_path)
    stated = json.loads((tmp_path / FILE).read_text())
    assert read({**stated, "a_key_of_theirs": [1, None]}, kind).to_hf() == {**stated, "a_key_of_theirs": [1, None]}


@pytest.mark.parametrize(
    "settings",
    [
        ImageSettings(size=(20, 30)),
        ImageSettings(size=24, crop=(20, 22), resample=3, mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1)),
        ImageSettings(size=None, crop=(40, 40)),
        ImageSettings(size=(10, 10), mean=(), std=()),
        ImageSettings(size=(10, 10), mean=(), rescale=0.5),
        ImageSettings(size=(14, 14), clusters=tuple(map(tuple, COLOURS))),
    ],
    ids=str,
)
def test_a_file_that_nabi_writes_means_the_same_to_the_incumbent(settings: ImageSettings, files: list[Path], tmp_path: Path) -> None:
    images = Images(settings)
    (tmp_path / FILE).write_text(json.dumps(images.to_hf()))
    processor = PROCESSORS["ImageGPT" if settings.clusters else "CLIP"].from_pretrained(tmp_path)
    again = Images.from_hf(json.loads((tmp_path / FILE).read_text()), "vit", 1, 3, FILE)
    for file in [file for file in files if file.name not in ONE_CLEAR][::5]:
        made = ours(images, file)
        np.testing.assert_array_equal(theirs(processor, file), made)
        np.testing.assert_array_equal(ours(again, file), made)


def test_a_grey_model_reads_what_the_incumbent_reads_of_a_grey_picture(tmp_path: Path) -> None:
    images = Images(ImageSettings(size=(14, 10), mean=(0.2,), std=(0.3,), channels=1))
    (tmp_path / FILE).write_text(json.dumps(images.to_hf()))
    grey = picture("L", (31, 17))
    np.testing.assert_array_equal(theirs_unconverted(CLIPImageProcessorPil.from_pretrained(tmp_path), grey), ours(images, grey))
    np.testing.assert_array_equal(ours(images, picture("RGB", (31, 17))), ours(images, picture("RGB", (31, 17)).convert("L")))


def theirs_unconverted(processor: Any, image: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(processor(image)["pixel_values"][0]), 0, -1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_processor_type": "DetrImageProcessor"}, "unknown kind of image processor: 'DetrImageProcessor'"),
        ({"do_pad": True}, "asks for what nabi does not do to images: 'do_pad'"),
        ({"size": {"shortest_edge": 20, "longest_edge": 30}}, "asks for what nabi does not do to images: 'longest_edge'"),
        ({"image_processor_type": "ConvNextImageProcessor", "do_center_crop": True, "crop_size": 3}, "'do_center_crop'"),
        ({"size": "large"}, "preprocessor_config.json can't be used"),
        ({"size": {"max_height": 20}}, "preprocessor_config.json can't be used ('height')"),
        ({"size": 0}, "an image's size must be positive"),
        ({"size": [20]}, "preprocessor_config.json can't be used"),
        ({"resample": 9}, "unknown resample"),
        ({"resample": "bicubic"}, "preprocessor_config.json can't be used"),
        ({"image_mean": [0.5, 0.4]}, "mean has another number of channels"),
        ({"image_std": [0.5, 0, 0.5]}, "must be positive"),
        ({"image_mean": {"red": 1}}, "preprocessor_config.json can't be used"),
        ({"rescale_factor": "1/255"}, "preprocessor_config.json can't be used"),
        ({"image_processor_type": "ImageGPTImageProcessor"}, "no clusters"),
        ({"image_processor_type": "ImageGPTImageProcessor", "clusters": [[0.1, 0.2]]}, "clusters"),
    ],
    ids=lambda x: x if isinstance(x, str) else json.dumps(x),
)
def test_a_file_that_cannot_be_followed_is_refused_by_its_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as told:
        read(config, "ViT")
    assert FILE in str(told.value) and message in str(told.value)


# ---- sizes, patches, colours -------------------------------------------------------------------------------------------------------------------


def test_an_open_size_becomes_whole_patches_and_no_pixel_is_lost() -> None:
    images = Images(ImageSettings(size=None), side=4)
    for size, grid in (((17, 30), [8, 4]), ((1, 1), [1, 1]), ((16, 8), [2, 4]), ((19, 22), [6, 5])):
        streams, rows = images.read(picture("RGB", size), "an image")
        assert rows["grid"] == grid and streams["patches"].shape == (grid[0] * grid[1], 3 * 16)
    exact = np.asarray(picture("RGB", (16, 8)))
    np.testing.assert_array_equal(joined(images.read(exact, "")[0]["patches"], (2, 4), 4), images.settings.numbers(exact))
    shorter = Images(ImageSettings(size=12), side=4).read(picture("RGB", (100, 40)), "")[1]["grid"]
    assert shorter == [3, 8]  # 30 pixels are nearest to 32


def test_a_call_may_ask_for_another_size() -> None:
    images = Images(ImageSettings(size=(32, 32), crop=(28, 28)), side=4)
    assert images.sized(None) is images
    grids = {str(size): images.sized(size).read(picture("RGB", (50, 21)), "")[1]["grid"] for size in ((8, 16), 24, "own")}
    assert grids == {"(8, 16)": [2, 4], "24": [6, 14], "own": [5, 12]}
    with pytest.raises(OptionError, match="unknown size of images"):
        images.sized("largest")


def test_a_size_that_cuts_through_a_patch_is_refused() -> None:
    with pytest.raises(InputError, match=r"row 3: the size is no multiple of the model's patches: '30 x 32'. Expected multiples of 16"):
        Images(ImageSettings(size=(30, 32)), side=16).read(picture("RGB", (5, 5)), "row 3")


def test_a_line_whose_shorter_side_would_be_made_longer_is_refused_before_it_fills_the_memory() -> None:
    line = np.zeros((1, 60_000, 3), np.uint8)
    with pytest.raises(InputError, match="row 3: the image is too large: '13,440,000 x 224'"):
        Images(ImageSettings(size=224, crop=(224, 224))).read(line, "row 3")


def test_patches_are_a_convolutions_and_come_together_again() -> None:
    x = np.random.default_rng(0).normal(size=(12, 20, 3)).astype(np.float32)
    flat = patched(x, 4)
    weight = torch.randn(7, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.conv2d(torch.from_numpy(x).permute(2, 0, 1)[None], weight, stride=4)[0].flatten(1).T
    torch.testing.assert_close(torch.from_numpy(flat) @ weight.flatten(1).T, wanted, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(joined(flat, (3, 5), 4), x)


def test_each_pixel_is_the_nearest_of_the_colours() -> None:
    generator = np.random.default_rng(0)
    x, clusters = generator.normal(size=(50, 3)), generator.normal(size=(9, 3))
    wanted = ((x[:, None] - clusters[None]) ** 2).sum(-1).argmin(1)
    assert nearest_colours(x, clusters).tolist() == wanted.tolist()
