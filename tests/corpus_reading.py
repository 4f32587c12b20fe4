"""Reads a whole source, unit by unit, as a build does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from nabi.data.corpus.documents import Document, Origin, Trouble, Unit
from nabi.data.corpus.sources import open_origin


def read_source(path: Path | str, **options: Any) -> tuple[list[Document], Trouble, list[Unit]]:
    """All documents, troubles and units; each unit is read by a source of its own, as another process would."""
    origin, trouble = Origin(str(path), **options), Trouble()
    with tempfile.TemporaryDirectory() as work:
        units = list(open_origin(origin).units(Path(work)))
        documents = [document for unit in units for document in open_origin(origin).read(unit, trouble)]
        assert all(file.suffix == ".jsonl" for file in Path(work).iterdir()), "scratch files are left"
    return documents, trouble, units


def paths(path: Path | str, **options: Any) -> list[str]:
    return [document.path for document in read_source(path, **options)[0]]
