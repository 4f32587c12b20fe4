"""Image classification on the command line and in Python: every form of a table, bad images that name themselves, augmentation in training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nabi
from nabi import checkpoint
from nabi.data import read_table
from nabi.data.pixels import FILE
from nabi.errors import CheckpointError, DataError, InputError, OptionError
from nabi.fitting import fit
from nabi.model import Model
from nabi.pipelines import pipeline
from nabi.predicting import predict_file
from nabi.tasks.image_classification import ImageClassificationSettings
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
