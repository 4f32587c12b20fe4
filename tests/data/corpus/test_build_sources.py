"""A build from sources of several kinds at once; what was fetched from a server stays what it is when the build goes on."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.corpus.builds import built, content, rows, text_of
from data.corpus.github_server import GitHubServer, serving
from nabi.data.corpus import build as build_module
from nabi.data.corpus import executors
from nabi.data.corpus.documents import Origin
from nabi.data.corpus.recipe import Recipe


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHubServer]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as hub:
        monkeypatch.setenv("GITHUB_API_URL", hub.api)
        yield hub


def sources(folder: Path) -> tuple[Origin, ...]:
    (folder / "files").mkdir()
    (folder / "files" / "a.py").write_text(text_of(1))
    with zipfile.ZipFile(folder / "some.zip", "w") as archive:
        archive.writestr("inner/b.py", text_of(2))
        archive.writestr("inner/c.py", text_of(1))
    found = [{"content": text_of(n), "repo_name": "o/n", "path": f"f{n}.py", "license": "mit"} for n in (2, 3)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return (Origin(str(folder / "files")), Origin(str(folder / "some.zip")), Origin(str(folder / "rows.jsonl")), Origin("ada/engine", kind="github"))


def test_of_equal_documents_the_first_source_is_kept(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("ada/engine", {"src/d.py": text_of(3).encode(), "src/e.py": text_of(4).encode()})
    manifest = built(Recipe(sources(tmp_path), workers=2), tmp_path / "out")
    found = rows(tmp_path / "out")
    assert [row["path"].rpartition("/")[2] for row in found] == ["a.py", "b.py", "f3.py", "e.py"]
    assert [row.get("where") for row in found] == [None, "some.zip!inner/b.py", "rows.jsonl:2", "ada/engine/src/e.py"]
    assert manifest["extensions"] == {".py": {"documents": 4, "bytes": manifest["bytes"]["out"]}}
    assert [source["kind"] for source in manifest["sources"]] == ["folder", "archive", "table", "github"]
    assert [(source["read"]["documents"], source["kept"]["documents"]) for source in manifest["sources"]] == [(1, 1), (2, 1), (2, 1), (2, 1)]
    assert manifest["duplicates"]["exact"]["documents"] == 3 and rows(tmp_path / "out")[-1]["repo"] == "ada/engine"


def test_a_build_that_was_stopped_reads_the_commit_that_it_began_with(hub: GitHubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("ada/engine", {"src/d.py": text_of(3).encode(), "src/e.py": text_of(4).encode()})
    recipe = Recipe(sources(tmp_path), workers=1)
    built(recipe, tmp_path / "whole")

    class Once(executors.Local):
        def run(self, work: Any, stage: Any, tasks: Any, done: Any) -> None:
            super().run(work, stage, list(tasks)[:1], done)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "Local", Once)
        with pytest.raises(KeyboardInterrupt):
            built(recipe, tmp_path / "out")
    hub.add("ada/engine", {"src/d.py": b"new"})
    asked = len(hub.requests)
    built(recipe, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole") and len(hub.requests) == asked


def test_an_answer_that_does_not_come_leaves_what_has_come(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("ada/engine", {"src/d.py": text_of(3).encode()})
    recipe = Recipe((Origin("ada/engine", kind="github"), Origin("ada/missing", kind="github")), workers=1)
    with pytest.raises(Exception, match="ada/missing"):
        built(recipe, tmp_path / "out")
    hub.add("ada/missing", {"src/f.py": text_of(5).encode()})
    built(recipe, tmp_path / "out")
    assert len(rows(tmp_path / "out")) == 2 and sum("tarball" in r.path and "engine" in r.path for r in hub.requests if r.server == "api") == 1
