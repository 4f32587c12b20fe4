"""Repositories on GitHub, or on a server that speaks its REST API: one by name, or those that a search finds. Each file of a commit is a document.

API: https://docs.github.com/rest. Unusual: a repository costs three requests (itself, its commit, that commit's tarball), not one a file. What was found, which
commit of it, and what has come is kept in the work folder step by step, so a build that was stopped goes on with the same commits, whatever was pushed since.
A tarball is read as ``archives`` reads it, save that links are counted and not refused: repositories have them. A repository that a search found and that can't
be had, or is hostile, is counted; one that was named is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from nabi.config import read_file
from nabi.data.corpus.archives import Tar
from nabi.data.corpus.documents import Document, Origin, Trouble, Unit
from nabi.data.corpus.fetching import Api, Refused
from nabi.data.corpus.streams import HostileError
from nabi.errors import DataError, OptionError, WorkError
from nabi.files import whole

SEARCH = "search:"
FOUND, PAGE = 1000, 100  # GitHub gives no more results than that of a search, and no more on a page
TARBALL = 4 << 30  # bytes
_NAME = re.compile(r"(?!\.\.?/)[\w.-]{1,100}/(?!\.\.?$)[\w.-]{1,100}", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def open_origin(origin: Origin) -> GitHub:
    """The source of what ``origin.path`` names: ``owner/name``, ``owner/name@ref`` or ``search:WORDS``.

    The environment says where and who: GITHUB_API_URL (https://api.github.com if unset) and GITHUB_TOKEN.

    Raises:
        OptionError: the path is none of these.
    """
    name, _, ref = origin.path.partition("@")
    words = origin.path.removeprefix(SEARCH).strip() if origin.path.startswith(SEARCH) else None
    if words == "" or (words is None and (not _NAME.fullmatch(name) or (ref == "" and "@" in origin.path))):
        fix = "write the repository as in its address, without https://github.com/"
        raise OptionError("this names no repository", value=origin.path, expected="owner/name, owner/name@branch-tag-or-commit, or search:WORDS", fix=fix)
    base = os.environ.get("GITHUB_API_URL", "") or "https://api.github.com"
    return GitHub(origin, Api(base, os.environ.get("GITHUB_TOKEN", "").strip()))


class _Repository(Tar):
    """The tarball of a commit: its names begin with a folder of the server's making, which is taken off."""

    links = True

    def __init__(self, origin: Origin, facts: dict[str, str]) -> None:
        super().__init__(origin)
        self.facts |= facts

    def inside(self, name: str) -> str:
        first, _, rest = super().inside(name).partition("/")
        return rest or first

    def where(self, path: str) -> str:
        return f"{self.facts['repo']}/{path}"


class GitHub:
    """The files of one repository, or of those that a search finds."""

    def __init__(self, origin: Origin, api: Api) -> None:
        self.origin, self.api = origin, api

    def units(self, work: Path) -> Iterator[Unit]:
        """A unit for each repository; its tarball lies in ``work``, which all who read must see.

        Raises:
            OptionError, DataError, HostileError, WorkError: as ``Api`` and the archives say; start again to go on.
        """
        folder = work / f"github-{hashlib.sha256(repr((self.origin, self.api.base)).encode()).hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        some = False
        for number, item in enumerate(_kept(folder / "list.json", self._listed)["repositories"]):
            side = folder / f"{number:04}-{item['repo'].replace('/', '--')}.json"
            state = _kept(side, partial(self._pinned, item))
            tarball = _tarball(side)
            if not state["trouble"] and ("files" not in state or not tarball.exists()):
                state = self._brought(state, tarball)
                _keep(side, state)
            if state["trouble"] or state["files"]:
                some = True
                yield Unit(str(side), 0, state.get("files", 0), state.get("size", 0))
        if not some:
            raise DataError("there is nothing to read", value=self.origin.path, expected="repositories with files as asked for",
                            fix="check the words of the search, and the patterns in include and exclude")  # fmt: skip

    def read(self, unit: Unit, trouble: Trouble) -> Iterator[Document]:
        state = read_file(Path(unit.key), DataError)
        if state["trouble"]:
            trouble.add(state["trouble"], state["repo"], state["seen"])
            return
        tar = self._tar(state, _tarball(Path(unit.key)))
        yield from tar.read(Unit(tar.name, unit.start, unit.stop, unit.size), trouble)

    def _tar(self, state: dict[str, Any], tarball: Path) -> _Repository:
        facts = {name: state[name] for name in ("repo", "commit", "license") if state[name]}
        return _Repository(replace(self.origin, path=str(tarball), kind="archive"), facts)

    @property
    def _searched(self) -> bool:
        return self.origin.path.startswith(SEARCH)

    def _listed(self) -> dict[str, Any]:
        """What there is: names, branches, licences."""
        if not self._searched:
            name, _, ref = self.origin.path.partition("@")
            found = self._facts(self.api.get(f"repos/{name}")[0])
            return {"repositories": [{**found, "ref": ref or found["ref"]}]}
        words = self.origin.path.removeprefix(SEARCH).strip()
        address = f"search/repositories?{urlencode({'q': words, 'sort': 'stars', 'order': 'desc', 'per_page': PAGE})}"
        repositories: dict[str, dict[str, str]] = {}  # results move between pages while they are read
        for _ in range(FOUND // PAGE):
            page, address = self.api.get(address)
            if not isinstance(page, dict) or not isinstance(page.get("items"), list):
                raise self.api.wrong(str(page)[:60])
            if page.get("incomplete_results"):
                raise WorkError(f"{self.api.host} did not finish the search in its time; start again, or search for less")
            for item in page["items"]:
                found = self._facts(item)
                repositories.setdefault(found["repo"], found)
            if not address:
                break
        total = page.get("total_count")
        if isinstance(total, int) and total > FOUND:
            print(f"the search finds {total:,} repositories; the {len(repositories):,} with the most stars are read: no more are given", file=sys.stderr)
        if not repositories:
            raise DataError("the search finds no repository", value=words, fix="search for less: each word narrows it")
        return {"repositories": list(repositories.values())}

    def _facts(self, item: Any) -> dict[str, str]:
        """Of a repository as the API tells it."""
        said = item if isinstance(item, dict) else {}
        name, branch, licence = said.get("full_name"), said.get("default_branch"), said.get("license")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(branch, str) or not branch:
            raise self.api.wrong(str(item)[:60])
        spdx = licence.get("spdx_id") if isinstance(licence, dict) else None
        # NOASSERTION: there is a licence file, and GitHub does not know which licence it is
        known = isinstance(spdx, str) and re.fullmatch(r"[\w.+-]{1,64}", spdx, re.ASCII) and spdx != "NOASSERTION"
        return {"repo": name, "ref": branch, "license": str(spdx) if known else self.origin.license}

    def _pinned(self, item: dict[str, str]) -> dict[str, Any]:
        """The repository with the commit that will be read."""
        state = {"repo": item["repo"], "license": item["license"], "commit": "", "trouble": "", "seen": ""}
        try:
            said = self.api.get(f"repos/{item['repo']}/commits/{quote(item['ref'], safe='')}")[0]
        except Refused as problem:
            if not self._searched:
                raise
            return {**state, "trouble": "unavailable", "seen": f"status {problem.status}"}
        commit = said.get("sha") if isinstance(said, dict) else None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise self.api.wrong(str(said)[:60])
        if _COMMIT.fullmatch(item["ref"]) and commit != item["ref"]:
            raise DataError("another commit came than was asked for", value=commit, expected=item["ref"], fix="check GITHUB_API_URL")
        return {**state, "commit": commit}

    def _brought(self, state: dict[str, Any], tarball: Path) -> dict[str, Any]:
        """The state once the tarball is there and known to be harmless, with the number and bytes of what will be read of it."""
        try:
            if not tarball.exists():
                self.api.download(f"repos/{state['repo']}/tarball/{state['commit']}", tarball, TARBALL)
            files, size = self._tar(state, tarball).count()
        except (Refused, HostileError) as problem:
            if not self._searched:
                raise
            reason, seen = ("unavailable", f"status {problem.status}") if isinstance(problem, Refused) else ("hostile", str(problem))
            return {**state, "trouble": reason, "seen": seen}
        return {**state, "files": files, "size": size}


def _tarball(side: Path) -> Path:
    return side.with_name(f"{side.stem}.tar.gz")


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an earlier run wrote here, else what is made now and written."""
    if path.exists():
        return read_file(path, DataError)
    made = make()
    _keep(path, made)
    return made


def _keep(path: Path, state: dict[str, Any]) -> None:
    with whole(path) as draft:
        draft.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
