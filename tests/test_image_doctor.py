"""``nabi doctor`` on images: what can't be read, equal pixels, empty pictures, sizes and colours that differ, classes that are rare."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nabi import checkpoint
from nabi.errors import DataError
from nabi.inspection import check
from nabi.inspection.models import is_model
from nabi.tasks.image_classification import ImageClassificationSettings

Found = dict[str, dict[str, Any]]


def noise(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Two classes of six images each, nothing wrong."""
    for i in range(12):
        folder = tmp_path / "data" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise(i).save(folder / f"{i:02}.png")
    return tmp_path / "data"


def look(*args: Any) -> Found:
    return {each["code"]: each for each in check(*args)}


def test_nothing_is_found_where_nothing_is_wrong(clean: Path) -> None:
    assert list(look(str(clean))) == ["clean"]


def test_an_image_that_cannot_be_read_is_named_by_its_row(clean: Path) -> None:
    whole = (clean / "cat" / "02.png").read_bytes()
    (clean / "cat" / "02.png").write_bytes(whole[:80])
    (clean / "dog" / "03.png").write_text("hello")
    found = look(str(clean))
    assert list(found) == ["unreadable"]
    assert found["unreadable"]["severity"] == "error" and found["unreadable"]["rows"] == (1, 7)
    assert "2 of 12 images" in found["unreadable"]["message"] and "cat/02.png" in found["unreadable"]["message"]


def test_equal_pixels_are_found_in_another_format_and_under_another_label(clean: Path) -> None:
    noise(0).save(clean / "cat" / "again.bmp")
    noise(1).save(clean / "cat" / "other.png")
    found = look(str(clean))
    assert set(found) == {"duplicates", "conflicting_labels"}
    assert "an image that came before" in found["duplicates"]["message"] and "text" not in found["duplicates"]["message"]
    assert "again.bmp" in found["duplicates"]["message"]
    assert "other.png" in found["conflicting_labels"]["message"]


def test_one_other_pixel_makes_another_image(clean: Path) -> None:
    pixels = np.array(noise(0))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(clean / "cat" / "nearly.png")
    assert list(look(str(clean))) == ["clean"]


def test_equal_bytes_of_another_shape_are_another_image(clean: Path) -> None:
    Image.fromarray(np.array(noise(0)).reshape(10, 12, 3)).save(clean / "cat" / "turned.png")
    assert set(look(str(clean))) == {"image_sizes", "clean"}


def test_an_empty_picture_is_found(clean: Path) -> None:
    Image.new("RGB", (10, 12), (7, 7, 7)).save(clean / "dog" / "empty.png")
    found = look(str(clean))
    assert list(found) == ["empty_images"] and found["empty_images"]["severity"] == "warning"


def test_sizes_that_differ_are_told_and_colours_that_differ_are_a_warning(clean: Path) -> None:
    noise(20, (30, 40)).save(clean / "cat" / "wide.png")
    noise(21).convert("L").save(clean / "cat" / "grey.png")
    noise(22).convert("CMYK").save(clean / "cat" / "print.tif")
    noise(23).convert("RGBA").save(clean / "dog" / "glass.png")
    found = look(str(clean))
    assert {code: each["severity"] for code, each in found.items()} == {"image_modes": "warning", "image_sizes": "info", "image_conversions": "info"}
    assert "30 x 40 (1)" in found["image_sizes"]["message"] and "cat/wide.png" in found["image_sizes"]["message"]
    assert "RGB (13)" in found["image_modes"]["message"] and "cat/grey.png" in found["image_modes"]["message"]


def test_rare_classes_are_found(clean: Path) -> None:
    (clean / "fox").mkdir()
    noise(30).save(clean / "fox" / "one.png")
    found = look(str(clean))
    assert {"rare_labels", "imbalance"} == set(found)
    assert "'fox'" in found["rare_labels"]["message"]


def test_a_dev_image_that_is_in_train_too_is_an_error(clean: Path, tmp_path: Path) -> None:
    for name, seed in (("cat", 0), ("dog", 50)):
        (tmp_path / "dev" / name).mkdir(parents=True)
        noise(seed).save(tmp_path / "dev" / name / "x.png")
    found = look(str(clean), str(tmp_path / "dev"))
    assert list(found) == ["leakage"] and found["leakage"]["rows"] == (0,)
    assert "a dev image that is in train too" in found["leakage"]["message"]


def test_a_tar_and_a_table_beside_its_images_are_looked_at(clean: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for file in sorted(clean.rglob("*.png")):
            tar.add(file, file.relative_to(clean).as_posix())
        broken = tarfile.TarInfo("cat/zz.png")
        broken.size = 3
        tar.addfile(broken, io.BytesIO(b"abc"))
    found = look(str(tmp_path / "all.tar"))
    assert list(found) == ["unreadable"] and "cat/zz.png" in found["unreadable"]["message"]
    names = ("data/cat/00.png", "cat"), ("data/dog/nowhere.png", "dog"), ("data/dog/01.png", "dog")
    (tmp_path / "rows.jsonl").write_text("\n".join(f'{{"image": "{name}", "label": "{label}"}}' for name, label in names))
    found = look(str(tmp_path / "rows.jsonl"))
    assert found["unreadable"]["rows"] == (1,) and "line 2" in found["unreadable"]["message"]


def test_images_without_labels_are_looked_at_too(clean: Path, tmp_path: Path) -> None:
    noise(0).save(clean / "cat" / "again.png")
    assert list(look(str(clean / "cat"))) == ["duplicates"]


def test_labels_that_the_model_does_not_have_are_told(clean: Path, tmp_path: Path) -> None:
    built = checkpoint.create("vit", "tiny", "image_classification", ImageClassificationSettings(("cat", "fox")))
    checkpoint.save(built, tmp_path / "model")
    assert list(look(str(clean), None, None, (), str(tmp_path / "model"))) == ["labels_of_the_model"]
    assert is_model(str(tmp_path / "model")) and not is_model(str(clean))


def test_an_image_task_named_for_a_table_of_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(DataError, match="no column 'image'"):
        check(str(tmp_path / "texts.jsonl"), task="image_classification")
