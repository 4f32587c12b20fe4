"""One image in any form becomes the pixels of Pillow; everything else has its error, and nothing but nabi's own errors ever comes out."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data.picture_kinds import ENDINGS, MODES, WRITES, fifty, picture, turned, written
from nabi.data.images import MOST_PIXELS, is_image, pixels_of
from nabi.errors import InputError, NabiError

KINDS = [(kind, mode) for kind, modes in WRITES.items() for mode in modes]


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG that claims a size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# ---- forms -------------------------------------------------------------------------------------------------------------------------------------


def test_an_image_is_the_same_in_every_form(tmp_path: Path) -> None:
    image = picture("RGB", (23, 11))
    data, wanted = written(image, "PNG"), np.asarray(image)
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    address = "data:image/png;base64," + base64.b64encode(data).decode()
    forms: dict[str, Any] = {
        "path": path, "str": str(path), "bytes": data, "bytearray": bytearray(data), "view": memoryview(data), "Pillow": image, "lazy": Image.open(path),
        "array": wanted, "C first": np.moveaxis(wanted, 2, 0), "uint16": wanted.astype(np.uint16) * 256 + 9, "tensor": torch.from_numpy(wanted.copy()),
        "bytes as array": np.frombuffer(data, np.uint8), "of datasets": {"bytes": data, "path": None}, "path of datasets": {"bytes": None, "path": str(path)},
        "data address": address, "bare base64": base64.b64encode(data).decode(), "base64 in lines": base64.encodebytes(data).decode(),
        "with alpha": np.dstack([wanted, np.full((11, 23), 9, np.uint8)]), "backwards": wanted[::-1][::-1],
    }  # fmt: skip
    for name, form in forms.items():
        found = pixels_of(form, name)
        assert found.dtype == np.uint8 and found.shape == (11, 23, 3), name
        np.testing.assert_array_equal(found, wanted, err_msg=name)
        assert is_image(form) or isinstance(form, str | dict), name
    assert is_image(torch.zeros(3, 4, 4, requires_grad=True))  # and no list of them: what it is, is told where it is read
    assert not is_image("a.png") and not is_image([image]) and not is_image(np.array(["a.png", "b.png"])) and not is_image(np.zeros((2, 4, 4, 3), np.uint8))


def test_grey_bits_and_black_and_white_become_either_number_of_channels() -> None:
    grey = np.asarray(picture("L", (9, 7)))
    for form in (grey, grey[:, :, None], grey[None]):
        assert (pixels_of(form, "x", 1)[:, :, 0] == grey).all() and (pixels_of(form, "x") == grey[:, :, None]).all()
    assert set(pixels_of(grey > 99, "x", 1).ravel()) == {0, 255}
    colours = picture("RGB", (9, 7))
    np.testing.assert_array_equal(pixels_of(colours, "x", 1)[:, :, 0], np.asarray(colours.convert("L")))


@pytest.mark.parametrize(("kind", "mode"), KINDS)
@pytest.mark.filterwarnings("error")
def test_each_format_and_mode_is_what_pillow_makes_of_it(kind: str, mode: str) -> None:
    data = written(picture(mode, (19, 13)), kind)
    for channels, target in ((3, "RGB"), (1, "L")):
        wanted = np.asarray(Image.open(io.BytesIO(data)).convert(target))
        np.testing.assert_array_equal(pixels_of(data, "x", channels).squeeze(), wanted)


@pytest.mark.parametrize("mode", MODES)
def test_a_pillow_image_of_each_mode(mode: str) -> None:
    image = picture(mode, (6, 9))
    np.testing.assert_array_equal(pixels_of(image, "x"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_stands_upright_as_its_exif_says(kind: str) -> None:
    plain = pixels_of(turned(kind, 1), "x")
    turns = {2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1], 5: lambda x: x.transpose(1, 0, 2),
             6: lambda x: x.transpose(1, 0, 2)[:, ::-1], 7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1], 8: lambda x: x.transpose(1, 0, 2)[::-1]}  # fmt: skip
    for orientation, turn in turns.items():
        found, wanted = pixels_of(turned(kind, orientation), "x").astype(int), turn(plain).astype(int)
        assert found.shape == wanted.shape, orientation
        np.testing.assert_array_equal(found, wanted, err_msg=str(orientation))
    assert not np.array_equal(pixels_of(turned(kind, 3), "x"), plain)
    wide = written(Image.fromarray((np.arange(24) * 2000).astype(np.uint16).reshape(4, 6)), "TIFF", exif=_exif(6))
    assert pixels_of(wide, "16 bits are turned too").shape == (6, 4, 3)


def _exif(orientation: int) -> Any:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_of_an_animation_the_first_frame_is_read() -> None:
    first, second = picture("P", (20, 10)), picture("P", (20, 10), 7)
    for kind in ("GIF", "WEBP"):
        moving = written(first.convert("RGB"), kind, save_all=True, append_images=[second.convert("RGB")], lossless=True)
        still = written(first.convert("RGB"), kind, lossless=True)
        np.testing.assert_array_equal(pixels_of(moving, "x"), pixels_of(still, "x"))


def test_sixteen_bits_become_their_upper_eight() -> None:
    wide = (np.arange(12).reshape(3, 4) * 5000).astype(np.uint16)
    made = Image.fromarray(wide)
    for form in (wide, made, Image.fromarray(wide.astype(np.int32)), written(made, "PNG"), written(made, "TIFF")):
        np.testing.assert_array_equal(pixels_of(form, "x", 1)[:, :, 0], wide >> 8)


# ---- what is refused ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "row 3 has no image"),
        (3.5, "row 3 has no image: 'float'"),
        ({}, "row 3 has no image: 'dict'"),
        ({"bytes": None, "path": None}, "row 3 has no image"),
        ([1, 2], "row 3 has no image: 'list'"),
        ("", "row 3: the image file can't be opened"),
        ("cat.jpg", "row 3: no such image file: 'cat.jpg'"),
        ("The film was not bad at all.", "row 3: no such image file"),
        ("x" * 5000, "row 3: "),
        ("a\0b", "row 3: "),
        ("https://example.org/cat.jpg", "row 3: an address on the network.*nabi opens no address"),
        ("FTP://example.org/cat.jpg", "row 3: an address on the network"),
        ("data:image/png;base64,####", "row 3: a data address that is damaged"),
        ("data:image/png;base64,나비", "row 3: a data address that is damaged"),
        ("data:image/png;base64,", "row 3: an empty image file"),
        ("/", "row 3: the image file can't be opened"),
        (b"", "row 3: an empty image file"),
        (b"A text where an image should be.", "row 3: not an image.*32 bytes that begin with"),
        (b"%PDF-1.4 and more of it", "row 3: not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "row 3: not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "row 3: not an image"),
        (np.zeros((4, 4, 3)), "row 3: an array of pixels is of another type: 'float64'.*uint8"),
        (np.zeros((4, 4, 3), np.int64), "row 3: an array of pixels is of another type"),
        (torch.zeros(3, 4, 4, requires_grad=True), "row 3: an array that can't be read"),
        (np.zeros((0, 4, 3), np.uint8), "row 3: an image without a pixel: '4 x 0'"),
        (np.zeros((5, 5, 2), np.uint8), "row 3: an array that is no image"),
        (np.zeros((2, 5, 5, 3), np.uint8), "row 3: an array that is no image"),
        (np.uint8(7), "row 3: an array that is no image"),
        (Image.new("RGB", (0, 5)), "row 3: an image without a pixel"),
        (Image.new("F", (4, 4)), "row 3: an image of floats"),
        (Image.new("LAB", (4, 4)), "row 3: colours of a kind that has no rule: 'LAB'"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "row 3: numbers of more than 16 bits"),
        (Image.fromarray(np.full((4, 4), -1, np.int32)), "row 3: numbers of more than 16 bits"),
        (np.broadcast_to(np.uint8(1), (9000, 9000)), "row 3: the image is too large: '9,000 x 9,000'"),
    ],
    ids=lambda x: x[:40] if isinstance(x, str | bytes) else type(x).__name__,
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_image_is_told_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pixels_of(value, "row 3")


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_file_that_is_cut_off_is_told_wherever_it_is_cut(kind: str) -> None:
    whole = written(picture("RGB", (60, 40)), kind, **({"lossless": True} if kind == "WEBP" else {}))
    wanted, refused = pixels_of(whole, "x"), 0
    for share in (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        cut = whole[: max(1, int(share * len(whole)))]
        try:
            # a format whose tables stand at its end may hold all pixels before it
            np.testing.assert_array_equal(pixels_of(cut, "row 3"), wanted)
        except InputError as problem:
            refused += 1
            assert str(problem).startswith("row 3: ")
    assert refused >= 7


def test_a_decompression_bomb_is_refused_before_it_is_unpacked() -> None:
    moving = io.BytesIO()
    Image.new("P", (1, 1)).save(moving, "GIF")
    gif = bytearray(moving.getvalue())
    gif[6:10] = struct.pack("<HH", 60000, 60000)
    many = png(60000, 60000, bytes(60000 // 8 + 1) * 2000)
    assert len(many) < 100_000
    tracemalloc.start()
    for data in (many, png(9000, 9000), bytes(gif), png(0x7FFFFFFF, 0x7FFFFFFF)):
        with pytest.raises(InputError, match="row 3: the image is too large"):
            pixels_of(data, "row 3")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    with pytest.raises(InputError, match="row 3: "):
        pixels_of(png(0, 5), "row 3")
    side = int(MOST_PIXELS**0.5)
    assert pixels_of(png(side, side, bytes(side // 8 + 1) * side), "the largest", 1).shape == (side, side, 1)


def test_a_file_that_is_not_plain_or_too_large_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="row 3: no plain file"):
        pixels_of(str(tmp_path / "pipe.png"), "row 3")
    with pytest.raises(InputError, match="row 3: no plain file"):
        pixels_of("/dev/zero", "row 3")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="row 3: the image file is too large"):
        pixels_of(tmp_path / "huge.png", "row 3")


def test_a_pillow_image_that_cannot_be_unpacked_is_told(tmp_path: Path) -> None:
    whole = written(picture("RGB", (60, 40)), "PNG")
    lazy = Image.open(io.BytesIO(whole[: len(whole) // 2]))
    with pytest.raises(InputError, match="row 3: a damaged image.*a Pillow image"):
        pixels_of(lazy, "row 3")


def test_without_pillow_the_error_names_the_extra_and_arrays_can_still_be_read() -> None:
    script = (
        "import sys; sys.modules['PIL'] = None\n"
        "import numpy as np\nfrom nabi.data.images import pixels_of\nfrom nabi.errors import OptionError\n"
        "assert pixels_of(np.zeros((2, 3, 3), np.uint8), 'x').shape == (2, 3, 3)\n"
        "try: pixels_of(b'GIF89a', 'x')\nexcept OptionError as problem: assert \"pip install 'nabi[image]'\" in str(problem), problem\n"
        "else: raise SystemExit('no error')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- noise -------------------------------------------------------------------------------------------------------------------------------------


def _tried(data: Any) -> None:
    try:
        found = pixels_of(data, "row 3")
    except NabiError as problem:
        assert "row 3" in str(problem) and "\n" not in str(problem)
    else:
        assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3 and found.size


HEADS = (
    b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\x00\x01\x00\x00WEBPVP8 ", b"BM", b"II*\x00\x08\x00\x00\x00", b"MM\x00*", b"P6\n",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(HEADS), st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_nabis_errors(head: bytes, data: bytes) -> None:
    _tried(head + data)


SEEDS = [written(picture(mode, (17, 9)), kind) for kind, mode in KINDS] + [turned("JPEG", 6), turned("WEBP", 5), turned("TIFF", 8), turned("PNG", 7)]


@settings(max_examples=1200, deadline=None)
@given(st.data())
def test_mutated_files_raise_nothing_but_nabis_errors(data: st.DataObject) -> None:
    mutated = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        what = data.draw(st.sampled_from(("set", "cut", "insert", "repeat")))
        if what == "set":
            mutated[at] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del mutated[at : at + data.draw(st.integers(1, 30))]
        elif what == "insert":
            mutated[at:at] = data.draw(st.binary(max_size=10))
        else:
            mutated[at:at] = mutated[at : at + 20]
        if not mutated:
            break
    _tried(bytes(mutated))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=300), st.none(), st.integers(), st.floats(), st.lists(st.integers(), max_size=3)))
def test_anything_else_raises_nothing_but_nabis_errors(value: Any) -> None:
    _tried(value)


@pytest.mark.filterwarnings("ignore:Palette images")  # Pillow's own call
def test_the_fifty_pictures_are_read_as_pillow_reads_them(tmp_path: Path) -> None:
    for file in fifty(tmp_path / "pictures"):
        with Image.open(file) as image:
            np.testing.assert_array_equal(pixels_of(file, file.name), np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
