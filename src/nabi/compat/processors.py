"""``AutoImageProcessor``, ``ViTImageProcessor``, ``AutoFeatureExtractor`` and the rest: images in any form become ``pixel_values`` (N, C, H, W).

What is done stands in the folder's preprocessor_config.json and is done by ``nabi.data.pixels``. Unusual: a setting that is not known is an error with the
nearest name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nabi.compat.batch_encoding import BatchEncoding
from nabi.compat.configs import without_hub
from nabi.compat.names import IMAGE_PROCESSORS
from nabi.compat.tokens import AutoTokenizer
from nabi.config import read_file
from nabi.data.images import is_image, picture_of
from nabi.data.pixels import FILE, Images
from nabi.errors import CheckpointError, InputError, OptionError, unknown
from nabi.files import whole
from nabi.weights.download import with_token
from nabi.weights.sources import resolve

_KEYS = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb",
    "crop_pct",
)  # fmt: skip
# of a checkpoint's file, which decide nothing about the pixels, or which nabi.data.pixels reads or refuses
_OTHER = ("image_processor_type", "feature_extractor_type", "processor_class", "clusters", "do_color_quantize", "do_pad")


class BatchFeature(BatchEncoding):
    """The columns that a processor makes, ``pixel_values`` above all."""


class ImageProcessor:
    """How images become what a model reads.

    Args:
        settings: under the incumbent's names, over the usual ones of the class.

    Raises:
        OptionError: an unknown setting.
    """

    stem: ClassVar[str] = ""
    model_input_names = ("pixel_values",)

    def __init__(self, **settings: Any) -> None:
        if not self.stem:
            raise OptionError("an image processor without a class", expected="ViTImageProcessor and its like, or AutoImageProcessor.from_pretrained")
        self._made({"image_processor_type": f"{self.stem}ImageProcessor", **_known(settings)}, "the settings")

    def _made(self, config: Mapping[str, Any], where: str, name: str = "") -> None:
        self._config, self._where, self.name_or_path = dict(config), where, name
        self.images = self._read(config)

    def _read(self, config: Mapping[str, Any]) -> Images:
        grey = isinstance(config.get("image_mean"), list | tuple) and len(config["image_mean"]) == 1
        return Images.from_hf(config, "", 1, 1 if grey else 3, self._where)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, token: Any = None, **settings: Any) -> ImageProcessor:
        """The processor of a model folder, or of a model of the hub, with settings over it.

        Raises:
            CheckpointError: the folder has none, or one that nabi can't follow.
            OptionError: an unknown setting.
        """
        settings = {name: value for name, value in without_hub(settings).items() if name != "use_fast"}
        with with_token(token):
            folder = resolve(pretrained_model_name_or_path, revision, weights=False, needs=(FILE,))
        if not (folder / FILE).is_file():
            what = f"the folder has no {FILE}" if folder.is_dir() else "there is no such folder"
            raise CheckpointError(what, value=str(folder), fix="check the path, or fetch the model again")
        config = read_file(folder / FILE, CheckpointError)
        path = folder / "config.json"
        kind = str(read_file(path, CheckpointError).get("model_type", "")) if path.is_file() else ""
        found = object.__new__(_class(cls, config, kind, str(folder / FILE)))
        stated = {"image_processor_type": f"{found.stem}ImageProcessor", **config, **_known(settings)}
        found._made(stated, str(folder / FILE), str(pretrained_model_name_or_path))
        return found

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write ``preprocessor_config.json`` into a folder."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / FILE) as draft:
            draft.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """The settings under the incumbent's names."""
        return {**Images(self.images.settings).to_hf(), **self._config}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "_config" not in self.__dict__:
            raise AttributeError(name)
        found = self.to_dict()
        if name not in found:
            raise AttributeError(str(unknown("setting of an image processor", name, _KEYS)))
        return found[name]

    def __call__(self, images: Any, return_tensors: Any = None, **settings: Any) -> BatchFeature:
        """Images -> ``pixel_values``, a list of (C, H, W) float32 or a tensor (N, C, H, W).

        Args:
            images: one or a list, each a Pillow image, an array or a path.
            return_tensors: ``pt``, ``np`` or None.
            settings: for this call, as of the class.

        Raises:
            InputError: an image can't be read, or images of several sizes shall become one tensor.
            OptionError: an unknown setting.
        """
        read = self._read({**self._config, **_known(settings)}) if settings else self.images
        one = isinstance(images, str) or is_image(images)
        given = [images] if one else list(images)
        s, found = read.settings, []
        for number, image in enumerate(given, 1):
            where = f"image {number}"
            found.append(np.ascontiguousarray(s.numbers(s.resized(picture_of(image, where, s.channels), 1, where)).transpose(2, 0, 1)))
        if return_tensors is None:
            return BatchFeature({"pixel_values": found})
        if len({x.shape for x in found}) != 1:
            sizes = sorted({"{} x {}".format(*x.shape[1:]) for x in found})
            fix = "leave do_resize and size as they are"
            raise InputError("images of several sizes, or none, are no tensor", value=", ".join(sizes) or "no image", fix=fix)
        return BatchFeature({"pixel_values": np.stack(found)}, tensor_type=return_tensors)

    preprocess = __call__

    def __repr__(self) -> str:
        return f"{type(self).__name__} {json.dumps(self.to_dict(), indent=2, default=str)}"


class ProcessorMixin:
    """A tokenizer and an image processor that are called as one.

    Args:
        image_processor: of this package.
        tokenizer: of this package.
    """

    def __init__(self, image_processor: ImageProcessor, tokenizer: Any) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, token: Any = None) -> ProcessorMixin:
        """Both of a model folder, or of a model of the hub.

        Raises:
            CheckpointError: the folder lacks one of them.
        """
        images = class_named("AutoImageProcessor").from_pretrained(pretrained_model_name_or_path, revision=revision, token=token)
        return cls(images, AutoTokenizer.from_pretrained(pretrained_model_name_or_path, revision=revision, token=token))

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the files of both into a folder."""
        self.image_processor.save_pretrained(save_directory)
        self.tokenizer.save_pretrained(save_directory)

    def __call__(self, text: Any = None, images: Any = None, return_tensors: Any = None, **settings: Any) -> BatchEncoding:
        """What the tokenizer makes of the texts, and ``pixel_values`` of the images.

        Args:
            text: as for the tokenizer.
            images: as for the image processor.
            return_tensors: ``pt``, ``np`` or None.
            settings: of the tokenizer, such as ``padding``.

        Raises:
            InputError: there is neither.
        """
        if text is None and images is None:
            raise InputError("a processor is called with texts, images or both", expected="text=..., images=...")
        found = BatchEncoding({}) if text is None else self.tokenizer(text, return_tensors=return_tensors, **settings)
        if images is not None:
            found["pixel_values"] = self.image_processor(images, return_tensors=return_tensors)["pixel_values"]
        return found

    def batch_decode(self, *args: Any, **settings: Any) -> Any:
        """As the tokenizer's."""
        return self.tokenizer.batch_decode(*args, **settings)

    def decode(self, *args: Any, **settings: Any) -> Any:
        """As the tokenizer's."""
        return self.tokenizer.decode(*args, **settings)


@cache
def processor_named(name: str) -> type[ProcessorMixin]:
    """``CLIPProcessor`` or ``AutoProcessor``."""
    return type(name, (ProcessorMixin,), {"__doc__": f"Version 4's {name}.", "__module__": __name__})


@cache
def class_named(name: str) -> type[ImageProcessor]:
    """The class of this name, such as ``ViTImageProcessor`` or ``AutoFeatureExtractor``."""
    return type(name, (ImageProcessor,), {"stem": IMAGE_PROCESSORS[name], "__doc__": f"Version 4's {name}.", "__module__": __name__})


def _class(cls: type[ImageProcessor], config: Mapping[str, Any], kind: str, where: str) -> type[ImageProcessor]:
    """The class that a folder's file stands for.

    Raises:
        CheckpointError: it is another one.
    """
    stems = {stem: name for name, stem in IMAGE_PROCESSORS.items() if stem and name.endswith("ImageProcessor")}
    named = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    by_model = {"vit": "ViT", "clip": "CLIP", "resnet": "ConvNext", "imagegpt": "ImageGPT"}.get(kind, "ViT")
    stem = next((stem for stem in stems if named.startswith(stem)), None) if named else by_model
    if stem is None:
        raise CheckpointError(f"{where}: unknown kind of image processor", value=named, expected=f"one of {', '.join(stems.values())}")
    if cls.stem and cls.stem != stem:
        raise CheckpointError(f"this is no processor for {cls.__name__}", value=stems[stem], fix="take that one or AutoImageProcessor")
    return cls if cls.stem else class_named(stems[stem])


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    for name in settings:
        if name not in (*_KEYS, *_OTHER):
            raise unknown("setting of an image processor", name, _KEYS)
    if settings.get("do_convert_rgb") is False:
        raise OptionError("images are always converted to the colours that the model reads", value="do_convert_rgb=False", fix="leave it out")
    return {name: value for name, value in settings.items() if value is not None}
