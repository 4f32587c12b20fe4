"""The tiny tokenizer; and one thread, since several cost more than they bring on models this small."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

import nabi
from tasks.written import MODELS, Pipe, folder
from training.small import vocabulary


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vocabulary(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the golden file's models."""
    base = tmp_path_factory.mktemp("written")
    return {name: folder(kind, base / name, generation=changes) for name, (kind, changes) in MODELS.items()}


@pytest.fixture(scope="session")
def pipe(models: dict[str, Path]) -> Pipe:
    """Their pipelines."""
    return cache(lambda task, name: nabi.pipeline(task, models[name]))


@pytest.fixture(scope="session")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Pipe:
    """The same with other weights: what has to miss the golden answers."""
    base = tmp_path_factory.mktemp("strange")
    folders = cache(lambda name: folder(MODELS[name][0], base / name, generation=MODELS[name][1], seed=1))
    return cache(lambda task, name: nabi.pipeline(task, folders(name)))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
