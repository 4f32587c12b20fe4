"""Tables of images: a folder with a folder a class, a TAR, what a table names beside itself; read row by row, in memory that does not grow."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nabi import checkpoint, load
from nabi.data import read_table, stream_table
from nabi.data.images import pixels_of
from nabi.data.opening import holds_images
from nabi.data.pictures import finder, with_images
from nabi.errors import DataError, InputError, UserError
from nabi.predicting import predict_file
from nabi.predicting.source import Reader, Source
from nabi.tasks.image_classification import ImageClassificationSettings
from tasks.image_tables import FORMS, archive, file_of, pictures, table

LISTED = [form for form in FORMS if "beside" in form]


def test_a_folder_a_class_and_a_tar_are_the_same_table(tmp_path: Path) -> None:
    folder, tar = (read_table(table(tmp_path / form, form, 6)) for form in ("folder", "tar"))
    assert folder.columns == ("image", "label") and tar.columns == ("image", "key", "label") and len(folder) == len(tar) == 6
    seen = [sorted((row["label"], pixels_of(row["image"], "x").tobytes()) for row in found) for found in (folder, tar)]
    assert seen[0] == seen[1] == sorted((label, array.tobytes()) for array, label in pictures(6))
    assert folder.where(0) == "images, dark/000.png" and tar.where(1) == "images.tar, light/001.png"
    assert isinstance(folder[0]["image"], str) and isinstance(tar[0]["image"], bytes) and tar[1]["key"] == "light/001.png"


def test_pictures_that_lie_in_no_folder_have_no_label(tmp_path: Path) -> None:
    good = file_of(pictures(1)[0][0])
    assert read_table(archive(tmp_path / "a.tar", {"1.png": good, "2.png": good, "notes.txt": b"x"})).columns == ("image", "key")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.JPG").write_bytes(good)
    (tmp_path / "folder" / ".2.jpg").write_bytes(good)
    found = read_table(tmp_path / "folder")
    assert found.columns == ("image",) and len(found) == 1


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"dark/1.png": b"x", "2.png": b"x"}, r"x.tar: an image that lies in no class's folder: '2.png'"),
        ({"notes.txt": b"x"}, "x.tar: an archive without an image"),
        ({"../1.png": b"x"}, r"x.tar: .*'../1.png'"),
    ],
)
def test_archives_that_are_no_table_are_refused(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_table(archive(tmp_path / "x.tar", members))


def test_folders_and_archives_that_are_damaged_or_empty_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    with pytest.raises(DataError, match="empty: a folder, not a file"):
        read_table(tmp_path / "empty")
    whole = archive(tmp_path / "x.tar", {"dark/1.png": file_of(pictures(1)[0][0])})
    whole.write_bytes(whole.read_bytes()[:700])
    with pytest.raises(DataError, match="x.tar: not a whole TAR archive"):
        read_table(whole)
    with pytest.raises(DataError, match="none.tar"):
        read_table(tmp_path / "none.tar")


@pytest.mark.parametrize("form", LISTED)
def test_a_table_finds_its_pictures_beside_itself_whole_or_row_by_row(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "data", form, 6)
    monkeypatch.chdir(tmp_path)
    found, find = with_images(read_table(path)), finder(path)
    for i, (array, label) in enumerate(pictures(6)):
        one = find(read_table(path)[i], "here")
        assert found[i]["label"] == one["label"] == label
        for row in (found[i], one):
            np.testing.assert_array_equal(pixels_of(row["image"], "x"), array)


def test_what_is_an_image_already_is_left_alone() -> None:
    for value in (np.zeros((2, 2, 3), np.uint8), b"...", "https://example.org/cat.jpg", "data:image/png;base64,", None, True, {"bytes": b"", "path": None}):
        given = read_table([{"image": value, "label": 1}])
        assert with_images(given) is given and finder(Path("x.jsonl"))(given[0], "here") == given[0]


def test_a_place_that_is_not_clear_is_told_with_the_row(tmp_path: Path) -> None:
    path = table(tmp_path / "data", "tar beside jsonl", 4)
    (path.parent / "rows-more.tar").write_bytes((path.parent / "rows_images.tar").read_bytes())
    with pytest.raises(DataError, match="several places of members beside the table"):
        with_images(read_table(path))
    (tmp_path / "numbers.jsonl").write_text('{"image": 3}\n')
    with pytest.raises(DataError, match="no place of members beside the table"):
        with_images(read_table(tmp_path / "numbers.jsonl"))
    with pytest.raises(DataError, match="no place of members beside the table"):
        finder(tmp_path / "numbers.jsonl")({"image": 3}, "here")


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_a_source_of_pictures_is_read_forwards_and_from_any_part(form: str, tmp_path: Path) -> None:
    path = table(tmp_path / "data", form, 10)
    assert holds_images(path) and not holds_images(table(tmp_path / "other", "npz of both"))
    source, whole = Source(path), [row["image"] for row in read_table(path.absolute())]
    assert source.count() == 10 and [row["image"] for row in stream_table(path.absolute())] == whole
    identity = source.identity()
    reader = Reader(source, 4)
    for number in (0, 1, 2, 1, 0, 2, 3):
        assert [row["image"] for _, row in reader.part(number)] == whole[4 * number : 4 * number + 4]
    source.check()
    changed = path if form == "tar" else next(path.rglob("*.png"))
    changed.write_bytes(changed.read_bytes() + bytes(512))
    with pytest.raises(DataError, match="changed while it was in use"):
        source.check()
    assert Source(path).identity() != identity


def test_base64_and_paths_of_files_that_are_not_there_are_left_for_reading(tmp_path: Path) -> None:
    for size in (8, 60):
        array = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
        (tmp_path / "rows.jsonl").write_text(json.dumps({"image": base64.b64encode(file_of(array)).decode()}) + "\n")
        for row in (with_images(read_table(tmp_path / "rows.jsonl"))[0], finder(tmp_path / "rows.jsonl")(read_table(tmp_path / "rows.jsonl")[0], "here")):
            np.testing.assert_array_equal(pixels_of(row["image"], "x"), array)
    (tmp_path / "rows.jsonl").write_text('{"image": "here/1.png"}\n')
    with pytest.raises(InputError, match="no such image file: 'here/1.png'"):
        pixels_of(with_images(read_table(tmp_path / "rows.jsonl"))[0]["image"], "x")


PEAK = """
import resource, sys
import nabi
from nabi.predicting import predict_file
done = predict_file(nabi.load(sys.argv[1]), sys.argv[2], sys.argv[3])
print(done.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(model: Path, rows: int, folder: Path) -> int:
    """The most memory, in KiB, of answering so many images of a TAR."""
    generator = np.random.default_rng(0)
    noise = [file_of(generator.integers(0, 256, (48, 48, 3), dtype=np.uint8)) for _ in range(50)]
    data = archive(folder / f"{rows}.tar", {f"{i:06}.png": noise[i % 50] for i in range(rows)})
    command: list[Any] = [sys.executable, "-c", PEAK, model, data, folder / f"{rows}.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, used = map(int, done.stdout.split())
    assert count == rows == sum(1 for _ in (folder / f"{rows}.jsonl").open())
    return used


def saved(folder: Path) -> Path:
    made = checkpoint.create("vit", "tiny", "image_classification", ImageClassificationSettings(labels=("dark", "light")))
    checkpoint.save(made, folder)
    return folder


@pytest.mark.slow
def test_ten_thousand_images_of_a_tar_need_no_more_memory_than_a_thousand(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    few, many = peak(model, 1_000, tmp_path), peak(model, 10_000, tmp_path)
    print(f"1,000 images: {few / 1024:.0f} MiB; 10,000 images, {(tmp_path / '10000.tar').stat().st_size >> 20} MiB: {many / 1024:.0f} MiB")
    assert many <= 1.2 * few


def test_answers_to_a_tar_are_those_of_its_pictures_one_by_one(tmp_path: Path) -> None:
    model, data = load(saved(tmp_path / "model")), table(tmp_path / "data", "tar", 10)
    predict_file(model, data, tmp_path / "out.jsonl", part=3, keep=("key",))
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, answer in zip(read_table(data), answers, strict=True):
        alone = model.predict(row["image"])
        assert answer["key"] == row["key"] and answer["scores"].keys() == alone["scores"].keys()
        assert all(abs(answer["scores"][name] - score) < 1e-5 for name, score in alone["scores"].items())
