"""From an image's pixels to what a body reads: resized, cropped, scaled, as the checkpoint's preprocessor_config.json says; then patches, or colour clusters.

The numbers are the incumbent's, since both resize with Pillow: resize, crop around the middle, rescale, subtract a mean, divide by a deviation. Unusual: where
the settings leave a size open, each side becomes the nearest multiple of the patch's side, so that no pixel is lost at an edge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.data.images import Pixels, fits, picture_of, pillow
from nabi.errors import CheckpointError, InputError, OptionError

Floats = NDArray[np.float32]
FILE = "preprocessor_config.json"
RESAMPLES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers, which checkpoints use
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's, of CLIP's training images
# what the incumbent's classes take where the file says nothing, by the stem of the class
_USUAL: dict[str, dict[str, Any]] = {
    "ViT": {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3, "do_center_crop": False},
    "CLIP": {"size": {"shortest_edge": 224}, "resample": 3, "image_mean": _MEAN, "image_std": _STD, "do_center_crop": True, "crop_size": 224},
    "ConvNext": {
        "size": {"shortest_edge": 384}, "resample": 3, "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3, "do_center_crop": False, "crop_pct": 224 / 256,
    },
    "ImageGPT": {"size": {"height": 256, "width": 256}, "resample": 2, "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3, "do_center_crop": False},
}  # fmt: skip


@dataclass(frozen=True)
class ImageSettings:
    """How an image's pixels become numbers.

    Attributes:
        size: (height, width), or the length of the shorter side, the other in proportion; None leaves an image as it is.
        crop: (height, width) cut out of the middle, with black around what is smaller; none if None.
        resample: Pillow's number of the filter; 2 is bilinear, 3 bicubic.
        rescale: what a pixel of 0 ... 255 is multiplied with.
        mean, std: a channel each, subtracted and divided by; empty for none.
        channels: 3 for colours, 1 for grey.
        clusters: (K, 3) colours in the scale of what comes out, each pixel being the number of the nearest (Chen et al. 2020, section 3.2); none if empty.
    """

    size: tuple[int, int] | int | None = (224, 224)
    crop: tuple[int, int] | None = None
    resample: int = 2
    rescale: float = 1 / 255
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    channels: int = 3
    clusters: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        sides = [self.size] if isinstance(self.size, int) else [*(self.size or ()), *(self.crop or ())]
        if any(side < 1 for side in sides):
            raise OptionError("an image's size must be positive", value=[self.size, self.crop])
        if self.resample not in RESAMPLES:
            raise OptionError("unknown resample", value=self.resample, expected=", ".join(f"{n} ({name})" for n, name in RESAMPLES.items()))
        if self.channels not in (1, 3):
            raise OptionError("an image has one channel or three", value=self.channels)
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, self.channels):
                raise OptionError(f"{name} has another number of channels than the image", value=getattr(self, name), expected=f"{self.channels} numbers")
        if any(len(colour) != self.channels for colour in self.clusters):
            raise OptionError("a colour of the clusters has another number of channels than the image", expected=f"{self.channels} numbers each")
        if not all(x > 0 for x in self.std) or not self.rescale > 0:
            raise OptionError("std and rescale must be positive", value=[self.std, self.rescale])

    def resized(self, picture: Any, side: int = 1, where: str = "an image") -> Pixels:
        """An image, (H, W, C) or as Pillow has it -> (H, W, C) resized and cropped; sides that the settings leave open become multiples of ``side``.

        Raises:
            InputError: it would become too large, as a line does whose shorter side is made longer; ``where`` is what to call it.
        """
        height, width = picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]
        if isinstance(self.size, tuple):
            wanted = self.size
        elif self.size is not None:
            short, long = min(height, width), max(height, width)
            other = int(self.size * long / short)
            wanted = (self.size, other) if height <= width else (other, self.size)
        else:
            wanted = (height, width)
        if self.crop is None:
            wanted = (max(1, round(wanted[0] / side)) * side, max(1, round(wanted[1] / side)) * side) if not isinstance(self.size, tuple) else wanted
        if wanted != (height, width):
            fits(wanted[::-1], where)
            image = pillow("Image").fromarray(picture if self.channels == 3 else picture[:, :, 0]) if isinstance(picture, np.ndarray) else picture
            picture = image.resize(wanted[::-1], resample=self.resample)
        pixels: Pixels = np.asarray(picture).reshape(*wanted, self.channels)
        return pixels if self.crop is None else _cropped(pixels, *self.crop)

    def numbers(self, pixels: Pixels | NDArray[np.float64]) -> Floats:
        """(H, W, C) -> float32: rescaled and normalised."""
        x: Floats = (pixels * self.rescale).astype(np.float32)
        if self.mean:
            x = x - np.asarray(self.mean, dtype=np.float32)
        if self.std:
            x /= np.asarray(self.std, dtype=np.float32)
        return x

    @property
    def palette(self) -> Pixels:
        """(K, C): the clusters as colours of 0 ... 255."""
        colours = np.asarray(self.clusters) * np.asarray(self.std or 1.0) + np.asarray(self.mean or 0.0)
        found: Pixels = np.clip(np.rint(colours / self.rescale), 0, 255).astype(np.uint8)
        return found


def _cropped(pixels: Pixels, height: int, width: int) -> Pixels:
    tall, wide = pixels.shape[:2]
    top, left = (tall - height) // 2, (wide - width) // 2
    if top >= 0 and left >= 0:
        return pixels[top : top + height, left : left + width]
    # the incumbent's way: black around it, then the middle
    over = np.zeros((max(height, tall), max(width, wide), pixels.shape[2]), dtype=pixels.dtype)
    down, right = math.ceil((over.shape[0] - tall) / 2), math.ceil((over.shape[1] - wide) / 2)
    over[down : down + tall, right : right + wide] = pixels
    top, left = max(0, top + down), max(0, left + right)
    return over[top : top + height, left : left + width]


@dataclass(frozen=True)
class Images:
    """How a model reads images.

    Attributes:
        settings: of the checkpoint.
        side: of the body's patches in pixels; 1 where it reads pixels.
        stated: the preprocessor_config.json as it was found, kept verbatim for saving; empty for a model from scratch.
    """

    settings: ImageSettings
    side: int = 1
    stated: Mapping[str, Any] = field(default_factory=dict)

    def sized(self, size: tuple[int, int] | int | str | None) -> Images:
        """The same for images of another size: as of ``ImageSettings``, or ``own`` for the size that each has; None changes nothing."""
        if size is None:
            return self
        if isinstance(size, str) and size != "own":
            raise OptionError("unknown size of images", value=size, expected="[height, width], the length of the shorter side, or own")
        return replace(self, settings=replace(self.settings, size=None if isinstance(size, str) else size, crop=None))

    def read(self, value: Any, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """One image as a row's part ``image``: its streams, and what belongs to the whole row.

        Returns:
            ``patches`` (T, C * side * side) float32, each channel by channel, or ``tokens`` (T,) if there are clusters; and ``grid``, rows and columns of them.

        Raises:
            InputError: it can't be read, or does not divide into patches.
        """
        s = self.settings
        pixels = s.resized(picture_of(value, where, s.channels), self.side, where)
        height, width = pixels.shape[:2]
        if height % self.side or width % self.side:
            what = f"{where}: the size is no multiple of the model's patches"
            raise InputError(what, value=f"{height} x {width}", expected=f"multiples of {self.side}", fix=f"give a size that {self.side} divides, or size=own")
        x = s.numbers(pixels)
        if s.clusters:
            return {"tokens": nearest_colours(x.reshape(-1, s.channels), np.asarray(s.clusters)).tolist()}, {"grid": [height, width]}
        return {"patches": patched(x, self.side)}, {"grid": [height // self.side, width // self.side]}

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], model_type: str, side: int, channels: int, where: str) -> Images:
        """From a preprocessor_config.json.

        Args:
            config: its content.
            model_type: of the model, which says what a file without ``image_processor_type`` means.
            side: of the body's patches.
            channels: that the body reads.
            where: what to call it in an error.

        Raises:
            CheckpointError: it says what nabi does not do.
        """
        named = str(config.get("image_processor_type") or config.get("feature_extractor_type") or _MODELS.get(model_type, "ViT"))
        stem = next((stem for stem in _USUAL if named.startswith(stem)), None)
        if stem is None:
            raise CheckpointError(f"{where}: unknown kind of image processor", value=named, expected=f"one of {', '.join(_USUAL)}ImageProcessor")
        c = {**_USUAL[stem], **{key: value for key, value in config.items() if value is not None}}
        size = c["size"] if isinstance(c["size"], Mapping) else {}
        # what pads; a crop after the one that ConvNext makes by itself; a limit of the longer side
        refused = {"do_pad": c.get("do_pad"), "do_center_crop": c.get("do_center_crop") and stem == "ConvNext", "longest_edge": "longest_edge" in size}
        if strange := [key for key, asked in refused.items() if asked]:
            fix = "remove the key if the model can do without"
            raise CheckpointError(f"{where} asks for what nabi does not do to images", value=strange[0], fix=fix)
        try:
            wanted, crop = _size(c["size"], square=stem in ("ViT", "ImageGPT")), None
            if c.get("do_center_crop"):
                crop = _pair(c.get("crop_size", wanted))
            if stem == "ConvNext" and isinstance(wanted, int) and c.get("do_resize", True):  # below 384 a margin is cut away
                wanted, crop = (int(wanted / c["crop_pct"]), (wanted, wanted)) if wanted < 384 else ((wanted, wanted), None)
            quantized = c.get("do_color_quantize", stem == "ImageGPT")
            if quantized and not c.get("clusters"):
                raise ValueError("no clusters, which each pixel is compared with")
            scaled, shifted = c.get("do_rescale", True), c.get("do_normalize", True)
            settings = ImageSettings(
                size=wanted if c.get("do_resize", True) else None,
                crop=crop,
                resample=int(c["resample"]),
                rescale=float(c.get("rescale_factor", 1 / 255)) if scaled else 1.0,
                mean=_channels(c["image_mean"], channels) if shifted else (),
                std=_channels(c["image_std"], channels) if shifted else (),
                channels=channels,
                clusters=tuple(tuple(map(float, colour)) for colour in c["clusters"]) if quantized else (),
            )
        except (KeyError, IndexError, TypeError, ValueError, OptionError) as problem:
            raise CheckpointError(f"{where} can't be used ({str(problem).rstrip('.')})", fix="it was edited, or is of another kind of model") from None
        return cls(settings, side, dict(config))

    def to_hf(self) -> dict[str, Any]:
        """The preprocessor_config.json, which the incumbent opens too."""
        if self.stated:
            return dict(self.stated)
        s = self.settings
        size = {"shortest_edge": s.size} if isinstance(s.size, int) else dict(zip(("height", "width"), s.size or (224, 224), strict=True))
        return {
            "image_processor_type": "ImageGPTImageProcessor" if s.clusters else "CLIPImageProcessor",
            "do_resize": s.size is not None, "size": size, "resample": s.resample,
            "do_center_crop": s.crop is not None, **({"crop_size": dict(zip(("height", "width"), s.crop, strict=True))} if s.crop else {}),
            "do_rescale": True, "rescale_factor": s.rescale, "do_normalize": bool(s.mean or s.std),
            "image_mean": list(s.mean or (0.0,) * s.channels), "image_std": list(s.std or (1.0,) * s.channels), "do_convert_rgb": s.channels == 3,
            **({"do_color_quantize": True, "clusters": [list(colour) for colour in s.clusters]} if s.clusters else {}),
        }  # fmt: skip


_MODELS = {"vit": "ViT", "clip": "CLIP", "resnet": "ConvNext", "imagegpt": "ImageGPT"}


def patched(x: Floats, side: int) -> Floats:
    """(H, W, C) -> (T, C * side * side): patches from the upper left, row by row; in each one channel after the other, as a convolution's weight has it."""
    height, width, channels = x.shape
    cut = x.reshape(height // side, side, width // side, side, channels).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(cut.reshape(-1, channels * side * side))


def joined(patches: Floats, grid: tuple[int, int], side: int) -> Floats:
    """(T, C * side * side) -> (H, W, C), the inverse of :func:`patched`."""
    rows, columns = grid
    channels = patches.shape[1] // (side * side)
    whole = patches.reshape(rows, columns, channels, side, side).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(whole.reshape(rows * side, columns * side, channels))


def nearest_colours(x: NDArray[Any], clusters: NDArray[Any]) -> NDArray[np.int64]:
    """(T, 3), (K, 3) -> (T,): the number of the nearest cluster by squared distance, in the incumbent's order of sums."""
    clusters = clusters.T
    distance = np.sum(np.square(x), axis=1)[:, None] - 2 * np.matmul(x, clusters) + np.sum(np.square(clusters), axis=0)[None, :]
    found: NDArray[np.int64] = np.argmin(distance, axis=1)
    return found


def greys(count: int) -> tuple[tuple[float, ...], ...]:
    """So many clusters, evenly from black to white, in the scale of -1 ... 1 that images have by default."""
    return tuple((float(level),) * 3 for level in np.linspace(-1, 1, count))


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        return int(value["height"]), int(value["width"])
    return (int(value), int(value)) if not isinstance(value, list | tuple) else (int(value[0]), int(value[1]))


def _size(value: Any, square: bool) -> tuple[int, int] | int:
    """Of a mapping what it says; a bare number is a square or the shorter side, by the kind of processor."""
    if isinstance(value, Mapping):
        return int(value["shortest_edge"]) if "shortest_edge" in value else _pair(value)
    return _pair(value) if square or isinstance(value, list | tuple) else int(value)


def _channels(value: Any, channels: int) -> tuple[float, ...]:
    found = tuple(map(float, value)) if isinstance(value, list | tuple) else (float(value),) * channels
    return found[:1] * channels if len(set(found)) == 1 else found
