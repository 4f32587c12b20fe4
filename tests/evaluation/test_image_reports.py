"""Reports, cards and comparisons of tasks that read images: thumbnails of a bounded size, nothing from outside, no bytes in JSON."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.cases import Page
from nabi import checkpoint
from nabi.evaluation import compare, evaluate
from nabi.evaluation import report as pages
from nabi.evaluation.card import CardOptions, card
from nabi.evaluation.findings import Findings, Made, Source
from nabi.evaluation.report import DOUBTFUL, FLIPS, WORST, comparison_report, evaluation_report, run_report
from nabi.evaluation.thumbnails import MOST, SIDE, shown, thumbnail
from nabi.model import Model
from nabi.tasks.image_classification import ImageClassificationSettings

ROWS = 90
ROOM = 64 << 10  # bytes of a page of images without its thumbnails


def noise(seed: int, height: int = 120, width: int = 160) -> np.ndarray[Any, Any]:
    """What compresses worst."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def address(pixels: np.ndarray[Any, Any]) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"


def model(seed: int = 0) -> Model:
    return checkpoint.create("vit", "tiny", "image_classification", ImageClassificationSettings(("cat", "dog", "fox")), seed=seed)


@pytest.fixture(scope="module")
def table() -> list[dict[str, Any]]:
    """Rows in all the forms that an image has in memory."""
    forms = (lambda x: x, png, Image.fromarray, lambda x: {"bytes": png(x), "path": None}, address)
    return [{"image": forms[i % 5](noise(i)), "label": ("cat", "dog", "fox")[i % 3]} for i in range(ROWS)]


@pytest.fixture(scope="module")
def found(table: list[dict[str, Any]]) -> Findings:
    built = model()
    return Findings(built, evaluate(built, table, name="tiny", keep=True))


def pictures(page: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(r'<img src="data:image/(?:png|jpeg);base64,([^"]+)"', page)]


def test_the_worst_errors_are_shown_as_thumbnails(found: Findings) -> None:
    page = evaluation_report(found, "nabi evaluate")
    wrong = int((~found.verdicts.right).sum())  # type: ignore[union-attr,operator]
    assert wrong > WORST
    assert len(pictures(page)) >= WORST
    for data in pictures(page):
        image = Image.open(io.BytesIO(data))
        image.load()
        assert max(image.size) == SIDE
        assert image.size[0] > image.size[1]  # as wide as the image was
    assert "\\x" not in page and "array(" not in page


def test_the_page_of_images_is_bounded_and_asks_for_nothing(found: Findings) -> None:
    page = evaluation_report(found, "nabi evaluate")
    assert len(page) <= ROOM + (WORST + DOUBTFUL) * MOST * 4 / 3
    seen = Page(page)
    outside = [value for name, value in seen.attributes if name in ("src", "href") and value and not value.startswith(("data:image/", "#"))]
    assert outside == []
    assert "img-src data:" in page and "script" not in seen.tags


@pytest.mark.parametrize("size", [(3, 2), (28, 28), (500, 375), (5000, 2)])
def test_no_thumbnail_is_larger_than_said(size: tuple[int, int]) -> None:
    picture = thumbnail({"image": noise(0, *size)}, "row 1")
    assert picture is not None
    assert len(picture.data) <= MOST
    assert max(Image.open(io.BytesIO(picture.data)).size) == min(SIDE, max(size))


def test_without_a_limit_noise_would_be_larger() -> None:
    image = Image.fromarray(noise(0))
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    assert len(file.getvalue()) > 2 * MOST


def test_a_small_image_is_shown_pixel_for_pixel() -> None:
    digit = noise(1, 28, 28)
    picture = thumbnail({"image": digit}, "row 1")
    assert picture is not None
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture.data))), digit)
    assert picture.width == picture.height == 48


def test_examples_are_left_out_on_request(found: Findings) -> None:
    page = evaluation_report(found, "nabi evaluate", examples=False)
    assert pictures(page) == []
    assert pages.NO_IMAGES in page and pages.NO_TEXTS not in page


def test_an_image_that_is_gone_is_said_in_its_place(tmp_path: Path) -> None:
    rows = []
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(png(noise(i)))
        rows.append({"image": str(tmp_path / f"{i}.png"), "label": ("cat", "dog", "fox")[i % 3]})
    built = model()
    findings = Findings(built, evaluate(built, rows, keep=True))
    for i in range(8):
        (tmp_path / f"{i}.png").unlink()
    page = evaluation_report(findings, "nabi evaluate")
    assert "no such image file" in page and pictures(page) == []


def made(found: Findings) -> Made:
    source = Source("images", ROWS, "0" * 64)
    history = [{"step": 10, "epoch": 1.0, "loss": 0.5, "metrics": found.evaluation.metrics}]
    return Made("digits", "runs/digits", "nabi train", "vit, tiny", None, source, source, {}, 0, 1.0, 10, history, [(1.0, 0.5), (2.0, 0.4)])


def test_report_and_card_say_how_images_are_read(found: Findings) -> None:
    how = "16 x 16 pixels (bilinear), in colour, times 1/255, mean 0.5, deviation 0.5; read as patches of 4 x 4"
    assert how in run_report(found, made(found), found.model)
    text = card(found, made(found), found.model, CardOptions())
    assert how in text
    assert "photo.jpg" in text and "base64" not in text


def test_the_card_names_the_settings_that_the_model_has(found: Findings) -> None:
    other = model()
    other.inputs = dataclasses.replace(other.inputs, pictures=other.inputs.images.sized((24, 32)))
    assert "24 x 32 pixels" in card(found, made(found), other, CardOptions())


def facts_hold_no_pixels(facts: Any) -> None:
    text = json.dumps(facts)  # raw bytes and arrays could not be written
    assert "base64" not in text and "\\u00" not in text and "PNG" not in text


def test_a_comparison_shows_images_and_tells_places(table: list[dict[str, Any]]) -> None:
    pair = compare(model(0), model(3), table)
    assert pair.flips
    facts_hold_no_pixels(pair.facts())
    assert {flip.text for flip in pair.flips} == {""}
    assert all(flip.where.startswith("list, row ") for flip in pair.flips)
    page = comparison_report(pair, "nabi evaluate")
    assert len(pictures(page)) == sum(min(FLIPS, sum(flip.right == side for flip in pair.flips)) for side in ("first", "second"))
    assert len(page) <= ROOM + 2 * FLIPS * MOST * 4 / 3
    assert pictures(comparison_report(pair, "nabi evaluate", examples=False)) == []


@pytest.mark.parametrize(
    ("row", "fields", "text"),
    [
        ({"image": "cats/1.png"}, ("image",), "cats/1.png"),
        ({"image": Path("cats/1.png")}, ("image",), "cats/1.png"),
        ({"image": {"bytes": b"x", "path": "cats/1.png"}}, ("image",), "cats/1.png"),
        ({"image": "data:image/png;base64,AAAA"}, ("image",), ""),
        ({"image": "A" * 4000}, ("image",), ""),
        ({"image": b"\x89PNG", "text": "a cat"}, ("image", "text"), "a cat"),
        ({"text": "data: a word"}, ("text",), "data: a word"),
        ({"text": "A" * 4000}, ("text",), "A" * 4000),
        ({"text": "one", "text_pair": "two"}, ("text", "text_pair"), "one / two"),
    ],
)
def test_what_is_told_of_a_row(row: dict[str, Any], fields: Sequence[str], text: str) -> None:
    assert shown(row, tuple(fields)) == text
