"""A git repository as a source: a commit's files without a checkout, and nothing of the repository is run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from corpus_reading import paths, read_source
from nabi.data.corpus import git, listing
from nabi.data.corpus.documents import Origin, Trouble
from nabi.data.corpus.sources import open_origin
from nabi.errors import DataError, OptionError

ENVIRONMENT = {
    "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.c", "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
}  # fmt: skip
FILES = {
    "b.py": b"print('b')\n", "a/z.py": b"z = 1\n", "a-b.py": "x = '안녕'\n".encode(), "a.txt": b"text",
    "한글.py": b"pass\n", "nul.bin": b"\0\1", "long.py": b"x" * 2001,
}  # fmt: skip


def run(folder: Path, *words: str, data: bytes = b"") -> str:
    done = subprocess.run(["git", "-c", "init.defaultBranch=main", *words], cwd=folder, env=ENVIRONMENT, input=data, capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    run(folder, "init", "-q")
    for name, data in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "link.py").symlink_to("/etc/passwd")
    run(folder, "add", ".")
    run(folder, "commit", "-q", "-m", "one")
    return folder


def test_the_files_of_the_commit_are_documents_in_order(repository: Path) -> None:
    commit = run(repository, "rev-parse", "HEAD")
    (repository / "b.py").write_text("changed since")
    (repository / "new.py").write_text("not committed")
    documents, trouble, _ = read_source(repository, max_bytes=2000, license="MIT")
    good = sorted(set(FILES) - {"nul.bin", "long.py"}, key=str.encode)
    assert [(d.path, d.text) for d in documents] == [(name, FILES[name].decode()) for name in good]
    assert documents[0].facts == {"license": "MIT", "repo": "project", "commit": commit, "path": good[0]}
    assert dict(trouble.counts) == {"binary": 1, "too long": 1, "link": 1}


def test_include_and_exclude(repository: Path) -> None:
    assert paths(repository, include=("*.py",), exclude=("a", "long*", "link*")) == ["a-b.py", "b.py", "한글.py"]


def test_many_units_and_packed_objects_read_the_same(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _, _ = read_source(repository)
    run(repository, "gc", "-q")
    run(repository, "pack-refs", "--all")
    monkeypatch.setattr(listing, "UNIT", 1000)
    documents, _, units = read_source(repository)
    assert documents == expected and len(units) >= 6


def test_bare_repositories_work_trees_and_clones(repository: Path, tmp_path: Path) -> None:
    expected = paths(repository)
    run(repository, "worktree", "add", "-q", str(tmp_path / "tree"))
    run(tmp_path, "clone", "-q", "--bare", "file://" + str(repository), "bare")
    assert paths(tmp_path / "tree") == expected
    documents, _, _ = read_source(tmp_path / "bare")
    assert [d.path for d in documents] == expected and documents[0].facts["repo"] == f"file://{repository}"


def test_another_commit_by_its_name(repository: Path) -> None:
    first = run(repository, "rev-parse", "HEAD")
    run(repository, "tag", "-a", "v1", "-m", "one")
    run(repository, "checkout", "-q", "-b", "topic/x")
    run(repository, "rm", "-q", "b.py")
    run(repository, "commit", "-q", "-m", "two")
    assert "b.py" not in paths(repository)
    for name in ("v1", "main", first, first[:8], "refs/heads/main"):
        assert "b.py" in paths(f"{repository}@{name}", kind="git"), name
    assert "b.py" not in paths(f"{repository}@topic/x", kind="git")


def test_the_listing_keeps_its_commit_when_head_moves(repository: Path, tmp_path: Path) -> None:
    first = run(repository, "rev-parse", "HEAD")
    (unit,) = open_origin(Origin(str(repository))).units(tmp_path)
    run(repository, "rm", "-q", "b.py")
    run(repository, "commit", "-q", "-m", "two")
    documents = list(open_origin(Origin(str(repository))).read(unit, Trouble()))
    assert "b.py" in [d.path for d in documents] and documents[0].facts["commit"] == first


@pytest.mark.parametrize(("url", "repo"), [
    ("https://user:secret@github.com/o/n.git", "https://github.com/o/n.git"), ("git@github.com:o/n.git", "git@github.com:o/n.git"),
    ("https://ghp_token@host/x", "https://host/x"),
])  # fmt: skip
def test_the_remote_is_told_without_a_password(repository: Path, url: str, repo: str) -> None:
    run(repository, "remote", "add", "origin", url)
    assert read_source(repository)[0][0].facts["repo"] == repo


def test_nothing_that_the_repository_says_is_run(repository: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    script = tmp_path / "trap.sh"
    script.write_text(f"#!/bin/sh\ntouch {trap}\ncat\n")
    script.chmod(0o755)
    for hook in ("post-checkout", "pre-commit", "post-index-change", "reference-transaction"):
        (repository / ".git" / "hooks").mkdir(exist_ok=True)
        (repository / ".git" / "hooks" / hook).symlink_to(script)
    (tmp_path / "more").write_text("[remote \"origin\"]\nurl = included\n")
    with (repository / ".git" / "config").open("a") as config:
        config.write(f'[core]\nfsmonitor = {script}\nsshCommand = {script}\npager = {script}\nalternateRefsCommand = {script}\n'
                     f'[filter "x"]\nsmudge = {script}\n'
                     f'clean = {script}\n[diff "x"]\ntextconv = {script}\n'
                     f'[extensions]\npartialClone = evil\n[remote "evil"]\nurl = ext::{script}\npromisor = true\n'
                     f'[protocol]\nallow = always\n[include]\npath = {tmp_path / "more"}\n[uploadpack]\npackObjectsHook = {script}\n')  # fmt: skip
    (repository / ".git" / "info").mkdir(exist_ok=True)
    (repository / ".git" / "info" / "attributes").write_text("* filter=x diff=x\n")
    blob = run(repository, "-c", "core.fsmonitor=", "rev-parse", "HEAD:b.py")
    (repository / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    trap.unlink(missing_ok=True)
    documents, trouble, _ = read_source(repository, max_bytes=2000)
    assert len(documents) == 4 and documents[0].facts["repo"] == "project"
    assert trouble.counts["unreadable"] == 1 and "b.py" in trouble.examples["unreadable"][0]  # it is not fetched
    assert not trap.exists()


def test_control_the_trap_works(repository: Path, tmp_path: Path) -> None:
    (repository / ".git" / "hooks").mkdir(exist_ok=True)
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    hook.chmod(0o755)
    run(repository, "commit", "-q", "--allow-empty", "-m", "two")
    assert (tmp_path / "ran").exists()


def test_objects_that_are_damaged_or_missing_are_counted_and_the_rest_is_read(repository: Path) -> None:
    for name, damage in (("a.txt", b"\x78\x9c" + b"\xff" * 30), ("a/z.py", b"")):
        blob = run(repository, "rev-parse", f"HEAD:{name}")
        file = repository / ".git" / "objects" / blob[:2] / blob[2:]
        file.chmod(0o644)
        file.write_bytes(damage)
    documents, trouble, _ = read_source(repository, max_bytes=2000)
    assert [d.path for d in documents] == ["a-b.py", "b.py", "한글.py"] and trouble.counts["unreadable"] == 2


def test_an_object_that_breaks_after_the_listing_does_not_stop_the_others(repository: Path, tmp_path: Path) -> None:
    (unit,) = open_origin(Origin(str(repository))).units(tmp_path)
    blob = run(repository, "rev-parse", "HEAD:a.txt")
    file = repository / ".git" / "objects" / blob[:2] / blob[2:]
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-6])
    trouble = Trouble()
    documents = list(open_origin(Origin(str(repository))).read(unit, trouble))
    assert [d.path for d in documents] == ["a-b.py", "a/z.py", "b.py", "long.py", "한글.py"] and trouble.counts["unreadable"] == 1


def test_a_commit_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, "init", "-q", "--bare")
    inside = run(tmp_path, "hash-object", "-w", "--stdin", data=b"x")
    kind, mode = "blob", "100644"
    for _ in range(7):  # 10 names a folder, 7 deep: 10 million files
        inside = run(tmp_path, "mktree", data="".join(f"{mode} {kind} {inside}\tf{i}\n" for i in range(10)).encode())
        kind, mode = "tree", "040000"
    commit = run(tmp_path, "commit-tree", "-m", "x", inside)
    run(tmp_path, "update-ref", "refs/heads/main", commit)
    monkeypatch.setattr(git, "FILES", 10_000)
    with pytest.raises(DataError, match="a commit without end"):
        read_source(tmp_path, kind="git")


def test_a_missing_folder_of_the_commit_is_an_error(repository: Path) -> None:
    tree = run(repository, "rev-parse", "HEAD:a")
    (repository / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(DataError, match="can't be read to the end"):
        read_source(repository)


def test_submodules_are_counted(repository: Path) -> None:
    run(repository, "update-index", "--add", "--cacheinfo", f"160000,{run(repository, 'rev-parse', 'HEAD')},sub")
    run(repository, "commit", "-q", "-m", "two")
    assert read_source(repository)[1].counts["submodule"] == 1


def test_repositories_with_sha256(tmp_path: Path) -> None:
    run(tmp_path, "init", "-q", "--object-format=sha256")
    (tmp_path / "a.py").write_text("a")
    run(tmp_path, "add", ".")
    run(tmp_path, "commit", "-q", "-m", "x")
    (document,), _, _ = read_source(tmp_path)
    assert document.text == "a" and len(document.facts["commit"]) == 64


def test_what_is_no_repository_or_has_no_commit_is_an_error(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="not a git repository"):
        open_origin(Origin(str(tmp_path), kind="git"))
    with pytest.raises(DataError, match="no such commit.*no-such-branch"):
        open_origin(Origin(f"{repository}@no-such-branch", kind="git"))
    (tmp_path / "empty").mkdir()
    run(tmp_path / "empty", "init", "-q")
    with pytest.raises(DataError, match="commit something first"):
        open_origin(Origin(str(tmp_path / "empty")))
    (repository / ".git" / "HEAD").write_text("ref: ../../../etc/passwd")
    with pytest.raises(DataError, match="no such commit"):
        open_origin(Origin(str(repository)))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OptionError, match="needs the program git"):
        open_origin(Origin(str(repository)))
