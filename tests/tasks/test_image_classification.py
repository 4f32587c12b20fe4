"""Image classification on the command line and in Python: every form of a table, bad images that name themselves, augmentation in training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nabi
from nabi import checkpoint, fitting
from nabi.data import read_table
from nabi.data.pixels import FILE
from nabi.errors import CheckpointError, DataError, InputError, OptionError
from nabi.fitting import fit
from nabi.model import Model
from nabi.pipelines import pipeline
from nabi.predicting import predict_file
from nabi.tasks.image_classification import ImageClassification
from tasks.image_tables import COLUMNS, FORMS, archive, file_of, pictures, table
from tasks.written import command

QUICK = ("--log", "quiet", "--set", "plan.learning_rate=3e-3", "--set", "plan.batch=8", "--set", "plan.warmup=0")


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that tells dark from light."""
    base = tmp_path_factory.mktemp("saved")
    data = table(base / "data", "tar", 32)
    fit("image_classification", str(data), None, base / "model", nabi.Plan(epochs=6, learning_rate=3e-3, batch=8), family="vit", size="tiny", progress=None)
    return base / "model"


@pytest.fixture(scope="module")
def model(saved: Path) -> Model:
    return nabi.load(saved)


# ---- tables ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_table_of_each_form_is_trained_on_scored_and_answered(form: str, tmp_path: Path) -> None:
    data, dev = table(tmp_path / "train", form), table(tmp_path / "dev", form, 8, seed=1)
    columns = ("--columns", COLUMNS[form]) if form in COLUMNS else ()
    out = tmp_path / "model"
    given = ("--task", "image_classification", "--family", "vit", "--size", "tiny", "--out", out, "--set", "plan.epochs=5", *QUICK)
    code, _, said = command("train", "--data", data, "--dev", dev, *columns, *given)
    assert code == 0, said
    code, told, said = command("evaluate", out, "--data", dev, "--json", *columns)
    assert code == 0, said
    assert json.loads(told)["metrics"]["accuracy"] == 1.0 and json.loads(told)["rows"] == 8
    code, told, said = command("predict", out, "--data", dev, "--json", *columns)
    assert code == 0, said
    answers = [json.loads(line) for line in told.splitlines()]
    assert [a["label"] for a in answers] == [row["label"] for row in read_table(dev, dict(p.split("=") for p in columns[1].split(",")) if columns else None)]
    code, _, said = command("predict", out, "--data", dev, "--out", tmp_path / "answers.jsonl", "--part", 3, "--log", "quiet", *columns)
    assert code == 0, said
    assert [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()] == answers


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_picture_makes_another_table(form: str, tmp_path: Path) -> None:
    """By which encoded rows are kept in the cache."""

    def hashed() -> str:
        return str(ImageClassification.opened(read_table(path)).fingerprint)

    path = table(tmp_path / "data", form)
    before = hashed()
    assert hashed() == before
    changed = table(tmp_path / "other", form, seed=5)
    root, other = (p if p.is_dir() else p.parent for p in (path, changed))
    for file in (p for p in other.rglob("*") if p.is_file()):  # the same names, other pixels
        (root / file.relative_to(other)).write_bytes(file.read_bytes())
    assert hashed() != before


def test_kept_rows_are_not_taken_for_those_of_a_changed_picture(tmp_path: Path) -> None:
    """The same command learns the same from the rows that are kept; with another picture under the same name it learns something else."""
    data = table(tmp_path / "data", "folder")

    def losses(out: str) -> Any:
        fit("image_classification", str(data), None, tmp_path / out, nabi.Plan(epochs=1, batch=8), family="vit", size="tiny", progress=None, dev=str(data))
        return json.loads((tmp_path / out / "history.json").read_text())["history"]

    def told(history: Any) -> Any:
        return [{key: value for key, value in entry.items() if "second" not in key} for entry in history]

    first = told(losses("a"))
    assert told(losses("b")) == first
    next(data.rglob("*.png")).write_bytes(file_of(255 - pictures()[0][0]))
    assert told(losses("c")) != first


# ---- bad input, to the end ---------------------------------------------------------------------------------------------------------------------


def bad_files(folder: Path) -> dict[str, tuple[Any, str]]:
    """Name -> what is no image, and what is told of it."""
    good = file_of(pictures(1)[0][0])
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "text.png").write_text("A text where an image should be.")
    (folder / "empty.jpg").write_bytes(b"")
    return {
        "cut": (str(folder / "cut.png"), "a damaged image"),
        "a text in a file": (str(folder / "text.png"), "not an image"),
        "empty": (str(folder / "empty.jpg"), "an empty image file"),
        "a text": ("The film was not bad at all.", "no such image file"),
        "missing": (str(folder / "none.png"), "no such image file"),
        "folder": (str(folder), "can't be opened"),
        "address": ("https://example.org/cat.jpg", "an address on the network"),
        "nothing": (None, "has no image"),
        "number": (7, "has no image"),
        "floats": (np.zeros((4, 4, 3)), "an array of pixels is of another type"),
        "shape": (np.zeros((5, 5, 7), np.uint8), "an array that is no image"),
    }


def test_one_bad_image_of_a_list_names_itself_by_its_number(model: Model, tmp_path: Path) -> None:
    good = pictures(1)[0][0]
    for bad, message in bad_files(tmp_path).values():
        with pytest.raises(InputError, match=f"input 3.*{message}"):
            model.predict([good, good, bad])
        with pytest.raises(InputError, match=f"input 2.*{message}"):
            pipeline("image-classification", model)([good, bad])
        if bad is not None and not isinstance(bad, int):
            with pytest.raises(InputError, match=f"input 1.*{message}"):
                pipeline("image-classification", model)(bad)


def test_one_bad_image_on_the_command_line_names_itself(saved: Path, tmp_path: Path) -> None:
    bad_files(tmp_path)
    (tmp_path / "a.png").write_bytes(file_of(pictures(1)[0][0]))
    code, told, said = command("predict", saved, tmp_path / "a.png", tmp_path / "cut.png")
    assert code == 2 and told == "" and "input 2: a damaged image" in said and "cut.png" in said and "Traceback" not in said
    code, told, _ = command("predict", saved, tmp_path / "a.png", tmp_path / "a.png", "--json")
    assert code == 0 and len(told.splitlines()) == 2


def test_one_bad_image_of_a_table_names_its_place_and_may_be_recorded(saved: Path, tmp_path: Path) -> None:
    good = file_of(pictures(1)[0][0])
    data = archive(tmp_path / "images.tar", {"dark/1.png": good, "dark/2.png": good[:60], "light/3.png": good})
    for args in (("evaluate", saved, "--data", data), ("predict", saved, "--data", data), ("predict", saved, "--data", data, "--out", tmp_path / "x.jsonl")):
        code, _, said = command(*args)
        assert code == 2 and "images.tar, dark/2.png: a damaged image" in said, (args, said)
    code, _, said = command("train", "--task", "image_classification", "--family", "vit", "--data", data, "--out", tmp_path / "m", *QUICK)
    assert code == 2 and "images.tar, dark/2.png: a damaged image" in said
    done = predict_file(saved, data, tmp_path / "y.jsonl", on_error="record", keep=["key"])
    lines = [json.loads(line) for line in (tmp_path / "y.jsonl").read_text().splitlines()]
    assert done.errors == 1 and [line["key"] for line in lines] == ["dark/1.png", "dark/2.png", "light/3.png"] and "a damaged image" in lines[1]["error"]


def test_a_missing_key_names_its_row(saved: Path, tmp_path: Path) -> None:
    good = file_of(pictures(1)[0][0])
    archive(tmp_path / "rows.tar", {"1.png": good, "2.png": good})
    (tmp_path / "rows.jsonl").write_text('{"image": "1", "label": "dark"}\n{"image": "3", "label": "light"}\n')
    for more in ((), ("--out", tmp_path / "x.jsonl")):
        code, _, said = command("predict", saved, "--data", tmp_path / "rows.jsonl", *more)
        assert code == 2 and "rows.jsonl, line 2: rows.tar: no member has this key: '3'" in said, said
    (tmp_path / "rows.jsonl").write_text('{"image": "here/1.png"}\n')
    (tmp_path / "rows.tar").unlink()
    code, _, said = command("predict", saved, "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "x.jsonl")
    assert code == 2 and "rows.jsonl, line 1: no such image file: 'here/1.png'" in said, said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, f"no {FILE}"),
        ("", FILE),
        ("{", "not valid JSON"),
        ("[]", FILE),
        ('{"image_processor_type": "DetrImageProcessor"}', "unknown kind of image processor"),
        ('{"size": "large"}', "can't be used"),
        ('{"image_std": [0.5, 0.0, 0.5]}', "must be positive"),
        ('{"do_pad": true}', "asks for what nabi does not do"),
    ],
)
def test_a_damaged_file_of_image_settings_is_told(content: str | None, message: str, saved: Path, tmp_path: Path) -> None:
    for file in saved.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / FILE).unlink()
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(CheckpointError) as told:
        nabi.load(tmp_path)
    assert message in str(told.value) and tmp_path.name in str(told.value)


def test_settings_that_do_not_fit_the_patches_are_told_by_the_first_image(saved: Path, tmp_path: Path) -> None:
    model = nabi.load(saved)
    with pytest.raises(InputError, match="no multiple of the model's patches: '10 x 16'"):
        model.predict(pictures(1)[0][0], size=[10, 16])
    assert model.predict(pictures(1)[0][0], size="own")["label"] in ("dark", "light")
    with pytest.raises(OptionError, match="size"):
        model.predict(pictures(1)[0][0], size="largest")
    with pytest.raises(OptionError, match="must be positive"):
        model.predict(pictures(1)[0][0], size=0)


def test_labels_of_another_set_and_a_single_class_are_told(saved: Path, tmp_path: Path) -> None:
    good = file_of(pictures(1)[0][0])
    data = archive(tmp_path / "one.tar", {"cat/1.png": good, "cat/2.png": good})
    code, _, said = command("train", "--task", "image_classification", "--family", "vit", "--data", data, "--out", tmp_path / "m", *QUICK)
    assert code == 2 and "there is only one class" in said
    with pytest.raises(DataError, match=r"one.tar, cat/1.png.*'cat'"):
        nabi.evaluate(nabi.load(saved), str(data))


# ---- augmentation ------------------------------------------------------------------------------------------------------------------------------


def test_augmentation_is_set_on_the_command_line_by_its_parts_or_whole(tmp_path: Path) -> None:
    data, wanted = table(tmp_path / "data", "tar"), {"shift": 2, "flip": 0.5, "crop": 1.0, "erase": 0.0}
    for number, how in enumerate((("task.augmentation.shift=2", "task.augmentation.flip=0.5"), ('task.augmentation={"shift": 2, "flip": 0.5}',))):
        out = tmp_path / str(number)
        given = ("--task", "image_classification", "--family", "vit", "--size", "tiny", "--data", data, "--out", out, "--set", "plan.epochs=1", *QUICK)
        code, _, said = command("train", *given, *(x for setting in how for x in ("--set", setting)))
        assert code == 0, said
        assert json.loads((out / "nabi.json").read_text())["settings"]["augmentation"] == wanted
        assert nabi.load(out).task.settings.augmentation.shift == 2
    code, _, said = command("train", *given, "--set", "task.augmentation.shfit=2")
    assert code == 2 and "shfit" in said and "shift" in said
    code, _, said = command("train", *given, "--set", "task.augmentation.flip=2")
    assert code == 2 and "flip is a probability" in said
    code, _, said = command("train", *given, "--set", "task.loss=focal", "--set", "task.loss.gamma=2")
    assert code == 2 and "has no parts" in said


def test_a_run_with_augmentation_that_was_broken_off_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, real = str(table(tmp_path / "data", "tar")), fitting.train

    def run(name: str, augmented: bool = True, **more: Any) -> dict[str, Any]:
        settings = {"augmentation": {"shift": 2, "flip": 0.5, "crop": 0.7, "erase": 0.5} if augmented else {}}
        plan = nabi.Plan(epochs=4, learning_rate=1e-3, batch=8, warmup=0)
        fit("image_classification", data, None, tmp_path / name, plan, family="vit", size="tiny", progress=None, settings=settings, **more)
        return checkpoint.load(tmp_path / name).state_dict()

    def broken(*args: Any, **given: Any) -> Any:
        for step in real(*args, **given):
            yield step
            if step.number == 5:
                raise RuntimeError("broken off")

    whole = run("whole")
    monkeypatch.setattr(fitting, "train", broken)
    with pytest.raises(RuntimeError, match="broken off"):
        run("other")
    monkeypatch.setattr(fitting, "train", real)
    resumed, plain = run("other", resume=True), run("plain", augmented=False)
    assert all((resumed[name] == x).all() for name, x in whole.items())
    assert any((plain[name] != x).any() for name, x in whole.items())
