"""``nabi cache list | prune``: what they show, what they remove, and what they never touch."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nabi import cache
from nabi.cli import cli
from nabi.errors import OptionError


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


def make(kind: str, letter: str, size: int, days: float, about: str = "something") -> str:
    """An entry of so many bytes that was used so many days ago; returns its name."""
    key = letter * 64
    with cache.writing(kind, key, about, {}) as draft:
        (draft / "data").write_bytes(b"x" * size)
    path, when = cache.folder_of(kind, key), time.time() - days * 86400
    for each in (path / cache.FACTS, path):
        os.utime(each, (when, when))
    return f"{kind}/{key[:12]}"


def model(folder: Path, name: str, size: int) -> None:
    """A model in the hub's cache."""
    root = folder.parent / "hub" / f"models--{name.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True)
    (root / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    (root / "blobs" / "b1").write_bytes(b"w" * size)
    (root / "snapshots" / ("a" * 40) / "model.safetensors").symlink_to("../../blobs/b1")


def nabi(*args: str) -> Result:
    return CliRunner().invoke(cli, ["cache", *args])


def facts(*args: str) -> Any:
    done = nabi(*args, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_list_shows_name_size_use_and_what_it_is(place: Path) -> None:
    assert nabi("list").output == f"{place}: 0 entries, 0 B\n"
    small, large = make("rows", "a", 100, 3, "text_classification, train: 5 rows of a.csv"), make("tables", "b", 5_000_000, 0)
    model(place, "some/model", 2_000_000)
    lines = nabi("list").output.splitlines()
    assert lines[0] == f"{place}: 2 entries, 5 MB" and lines[1].split()[:3] == [large, "5", "MB"]
    assert lines[2].startswith(f"  {small}") and lines[2].endswith("text_classification, train: 5 rows of a.csv")
    assert "prune leaves alone" in lines[3] and lines[4].split()[:3] == ["some/model", "2", "MB"]
    told = facts("list")
    assert told["folder"] == str(place) and [e["name"] for e in told["entries"]] == [large, small] and told["entries"][0]["bytes"] > 5_000_000
    assert [m["name"] for m in told["models"]] == ["some/model"]


def test_prune_by_age_and_by_size(place: Path) -> None:
    names = [make("rows", letter, 1_000_000, days) for letter, days in (("a", 1), ("b", 20), ("c", 40))]
    assert [e["name"] for e in facts("prune", "--older-than", "30", "--dry-run")["would_remove"]] == [names[2]] and len(cache.entries()) == 3
    assert [e["name"] for e in facts("prune", "--older-than", "30")["removed"]] == [names[2]]
    assert [e["name"] for e in facts("prune", "--keep-gb", "0.0015")["removed"]] == [names[1]]
    assert facts("prune")["removed"] == [] and [e.name for e in cache.entries()] == [names[0]]
    assert facts("prune", "--keep-gb", "0")["removed"] and not cache.entries()


def test_use_makes_an_entry_young_again() -> None:
    make("rows", "a", 10, 40)
    assert cache.find("rows", "a" * 64) is not None
    assert facts("prune", "--older-than", "30")["removed"] == []


def test_prune_by_name_and_all(place: Path) -> None:
    names = [make("rows", letter, 10, 0) for letter in "abc"]
    model(place, "some/model", 50)
    assert [e["name"] for e in facts("prune", names[1])["removed"]] == [names[1]]
    assert nabi("prune", "--all", "--dry-run").output.splitlines()[-1].startswith("2 entries, ") and len(cache.entries()) == 2
    assert len(facts("prune", "--all")["removed"]) == 2
    assert (place.parent / "hub" / "models--some--model").exists()  # never unless it is named
    assert facts("prune", "some/model", "--dry-run")["would_remove"] == [{"name": "some/model", "bytes": 50}]
    assert (place.parent / "hub" / "models--some--model").exists()
    assert facts("prune", "some/model")["removed"] == [{"name": "some/model", "bytes": 50}]
    assert not (place.parent / "hub" / "models--some--model").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("rows/aaaaaaaaaaab",), "unknown entry of the cache.*did you mean 'rows/aaaaaaaaaaaa'"),
        (("--older-than", "-1"), "--older-than is out of range"),
        (("--keep-gb", "nan"), "--keep-gb is out of range"),
        (("--all", "--older-than", "3"), "exclude each other"),
        (("../../etc",), "unknown entry of the cache"),
    ],
)
def test_wrong_options_remove_nothing(args: tuple[str, ...], said: str) -> None:
    make("rows", "a", 10, 90)
    done = nabi("prune", *args)
    with pytest.raises(OptionError, match=f"(?is){said}"):
        raise done.exception or AssertionError(done.output)
    assert len(cache.entries()) == 1


def test_a_cache_that_is_off_or_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NABI_CACHE", "off")
    assert nabi("list").output == "The cache is off (NABI_CACHE=off).\n" and nabi("prune", "--all").output == "0 entries, 0 B removed.\n"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "file"))
    assert isinstance(nabi("list").exception, OptionError)


def test_where_the_cache_is_without_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NABI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "nabi"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder() == tmp_path / "home" / ".cache" / "nabi"
