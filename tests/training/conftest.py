"""The tiny tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from training.small import vocabulary


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vocabulary(tmp_path_factory.mktemp("tokenizer"))
