"""Every table under the folder that NABI_DATA names opens. Without the folder these tests fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nabi.data import read_table

pytestmark = pytest.mark.needs_data
FOLDER = os.environ.get("NABI_DATA", "")
FILES = sorted(str(p.relative_to(FOLDER)) for p in Path(FOLDER).rglob("*.jsonl.gz")) if FOLDER else []


# a parameter is given without the folder too, since a test with none is skipped instead of failing
@pytest.mark.parametrize("name", FILES or [""])
def test_it_opens(name: str) -> None:
    assert name, "set NABI_DATA to a folder with *.jsonl.gz files"
    table = read_table(Path(FOLDER) / name)
    assert len(table) and table.columns and table.where(len(table) - 1).startswith(Path(name).name)
