"""One image, however it comes, as 8-bit pixels: a path, the bytes of a file, an array, a Pillow image, or what ``datasets`` makes of one.

The rules, which docs/images.md states too: the picture stands upright as its EXIF says; colours are converted by Pillow, as the incumbent does it, so a palette
becomes its colours and transparency is dropped; of an animation the first frame is read; 16 bits a channel become 8. Unusual: Pillow is only let at the formats
of ``FORMATS`` (others would start programs), and an image is refused for its size before a pixel of it is unpacked.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.errors import InputError, OptionError

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")  # of Pillow; phones' MPO is opened as JPEG
MOST_PIXELS = 1 << 26  # 67 million, a quarter of a GB of colours: a file of a few KB can claim any number
LARGEST = 1 << 28  # bytes of a file
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")  # and 16 bits
WAYS = "a path, the bytes of an image file, a uint8 array (H, W) or (H, W, 3), or a Pillow image"

Pixels = NDArray[np.uint8]
_ORIENTATION = 0x0112  # of EXIF
_LOCK = threading.Lock()
_reading = 0  # threads that read an image
_muted: list[Any] = []


def pixels_of(value: Any, where: str, channels: int = 3) -> Pixels:
    """The pixels of one image, (H, W, C) with C the ``channels``: 3 for red, green and blue, 1 for grey.

    Args:
        value: see the head of this file.
        where: what to call it in an error.
        channels: 3 or 1.

    Raises:
        InputError: it is no image, damaged, too large, or of a kind without a rule.
        OptionError: Pillow is not installed.
    """
    found = picture_of(value, where, channels)
    array = np.asarray(found)
    return array if array.ndim == 3 else array[:, :, None]


def picture_of(value: Any, where: str, channels: int = 3) -> Any:
    """As :func:`pixels_of`, but what was a file or a Pillow image stays one, of mode RGB or L, so that it can be resized without being copied out and in.

    Returns:
        a Pillow image or (H, W, C) uint8.
    """
    found: Any = value if hasattr(value, "getexif") else _array(value, where) if _is_array(value) else None
    if isinstance(found, np.ndarray):
        if found.shape[2] == channels:
            return found
        found = pillow("Image").fromarray(found[:, :, 0] if found.shape[2] == 1 else found)
    data, name = (None, "") if found is not None else _bytes(value, where)
    library, shown = pillow("Image"), name or ("a Pillow image" if data is None else f"{len(data):,} bytes that begin with {data[:8]!r}")
    try:
        with _quiet():  # of its size, which is looked at here, and of metadata and transparency, which are not
            if data is not None:
                if not data:
                    raise InputError(f"{where}: an empty image file", value=name or None, fix="fetch or write it again")
                found = library.open(io.BytesIO(data), formats=FORMATS)
            fits(found.size, where)
            found.load()
            return _converted(found, where, channels)
    except library.DecompressionBombError:
        raise _too_large(where, "more than Pillow opens") from None
    except library.UnidentifiedImageError:
        known = f"one of {', '.join(FORMATS)}"
        raise InputError(f"{where}: not an image", value=shown, expected=known, fix="look what it is; another format has to be converted") from None
    except InputError:
        raise
    except Exception as problem:  # noqa: BLE001  # each of Pillow's decoders has errors of its own, struct.error and SyntaxError among them
        why = " ".join(str(problem).split()) or type(problem).__name__
        raise InputError(f"{where}: a damaged image ({why})", value=shown, expected="a whole file", fix="fetch or write it again") from None


def pillow(module: str) -> Any:
    """A module of Pillow.

    Raises:
        OptionError: it is not installed.
    """
    try:
        return __import__(f"PIL.{module}", fromlist=[module])
    except ImportError:
        raise OptionError("reading images needs the package pillow", fix="install it: pip install 'nabi[image]'") from None


def is_image(value: Any) -> bool:
    """Whether a value is one image, not its path as a str, and no list or column of them."""
    if _is_array(value):
        kind = getattr(value.dtype, "kind", "u")  # a tensor's type has none
        return kind in "uifbc" and len(value.shape) <= 3
    return isinstance(value, bytes | bytearray | memoryview | os.PathLike) or hasattr(value, "getexif")


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape") and not hasattr(value, "getexif") and not hasattr(value, "iloc")


def _array(value: Any, where: str) -> NDArray[Any] | None:
    """(H, W, C) uint8 of an array of pixels; None if it holds the bytes of a file."""
    try:
        array = np.asarray(value)
    except (TypeError, RuntimeError, ValueError) as problem:  # a tensor elsewhere, or one with a gradient
        raise InputError(f"{where}: an array that can't be read ({problem})", value=type(value).__name__, expected=WAYS) from None
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8:
        fix = "scale it to 0 ... 255 and give it as uint8: array.round().astype(numpy.uint8)"
        raise InputError(f"{where}: an array of pixels is of another type", value=str(array.dtype), expected="uint8, uint16 or bool", fix=fix)
    if array.ndim == 1:
        return None
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(f"{where}: an array that is no image", value=array.shape, expected="(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    fits((array.shape[1], array.shape[0]), where)
    return np.ascontiguousarray(array if array.ndim == 3 else array[:, :, None])


def _bytes(value: Any, where: str) -> tuple[bytes, str]:
    """The bytes of a file, and its name if it has one."""
    if isinstance(value, Mapping) and value.keys() <= {"bytes", "path"} and value:  # as `datasets` has it
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value), ""
    if _is_array(value):
        return np.asarray(value).tobytes(), ""
    if isinstance(value, str):
        return _named(value, where)
    if isinstance(value, os.PathLike):
        return _read(os.fspath(value), where)
    raise InputError(f"{where} has no image", value=None if value is None else type(value).__name__, expected=WAYS)


def _named(value: str, where: str) -> tuple[bytes, str]:
    if re.match(r"[a-z][a-z0-9+.-]*://", value, re.IGNORECASE):
        raise InputError(f"{where}: an address on the network", value=value, expected=WAYS, fix="fetch the image first: nabi opens no address")
    if value.startswith("data:"):
        data = value.partition(",")[2]
        try:
            return base64.b64decode(data, validate=True), ""
        except ValueError:
            raise InputError(f"{where}: a data address that is damaged", value=value, expected="data:image/png;base64,...") from None
    if len(value) > 64 and re.fullmatch(r"[A-Za-z0-9+/\s]+={0,2}\s*", value) and not os.access(value, os.F_OK):  # v4 takes bare base64 too
        with contextlib.suppress(binascii.Error):  # then it was a path, of a file that is not there
            return base64.b64decode(value), ""
    return _read(value, where)


def _read(path: str, where: str) -> tuple[bytes, str]:
    try:
        file = Path(path)
        found = file.stat()
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # reading a folder tells what it is
            raise InputError(f"{where}: no plain file", value=path, expected=WAYS, fix="check the path")
        if found.st_size > LARGEST:
            raise InputError(f"{where}: the image file is too large", value=f"{path}, {found.st_size:,} bytes", expected=f"at most {LARGEST:,} bytes")
        return file.read_bytes(), path
    except FileNotFoundError:
        raise InputError(f"{where}: no such image file", value=path, expected=WAYS, fix="check the path") from None
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else problem
        raise InputError(f"{where}: the image file can't be opened ({why})", value=path, fix="check the path and its permissions") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of Pillow. Images are read in several threads, and ``warnings.catch_warnings`` in one would undo what another did."""
    global _reading
    with _LOCK:
        _reading += 1
        if _reading == 1:
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _muted[:] = warnings.filters[:1]
    try:
        yield
    finally:
        with _LOCK:
            _reading -= 1
            if not _reading and _muted[0] in warnings.filters:
                warnings.filters.remove(_muted[0])  # type: ignore[attr-defined]


def _converted(image: Any, where: str, channels: int) -> Any:
    if image.getexif().get(_ORIENTATION, 1) != 1:  # else it would be copied as it is
        image = pillow("ImageOps").exif_transpose(image)
    fits(image.size, where)
    if image.mode.startswith("I"):  # 16 bits, of which Pillow would keep what fits into 8 and cut the rest
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise InputError(f"{where}: numbers of more than 16 bits", value=f"{wide.min()} to {wide.max()}", expected="0 to 65535", fix="scale it to 8 bits")
        image = pillow("Image").fromarray((wide >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise InputError(f"{where}: an image of floats, whose range is not stated", value=image.mode, expected="8 or 16 bits", fix="scale it to 8 bits")
    elif image.mode not in MODES:
        raise InputError(f"{where}: colours of a kind that has no rule", value=image.mode, expected=f"one of {', '.join(MODES)}", fix="convert it to RGB")
    mode = "RGB" if channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)


def fits(size: tuple[int, int], where: str) -> None:
    width, height = size
    if not width or not height:
        raise InputError(f"{where}: an image without a pixel", value=f"{width} x {height}", expected="at least 1 x 1")
    if width * height > MOST_PIXELS:
        raise _too_large(where, f"{width:,} x {height:,}")


def _too_large(where: str, size: str) -> InputError:
    return InputError(f"{where}: the image is too large", value=size, expected=f"at most {MOST_PIXELS:,} pixels", fix="make it smaller first")


def mode_of(value: Any, where: str) -> str:
    """How an image that :func:`pixels_of` reads has its colours, in Pillow's words: ``RGB``, ``L`` for grey, ``P`` for a palette, ``CMYK`` ..."""
    if _is_array(value) and len(value.shape) > 1:
        return "L" if len(value.shape) == 2 else {1: "L", 3: "RGB"}.get(value.shape[2], "RGBA")
    if hasattr(value, "getexif"):
        return str(value.mode)
    with _quiet(), pillow("Image").open(io.BytesIO(_bytes(value, where)[0]), formats=FORMATS) as image:  # of a file the head alone is looked at
        return str(image.mode)
