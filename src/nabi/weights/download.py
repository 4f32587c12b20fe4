"""Models from a hub into the cache on disk.

The listing, the addresses, the headers and the client are the library huggingface-hub's. Unusual: the transfer is ours. A file that was cut
off stays under a name of its own and goes on from its last byte, in a later process too; and a file gets its final name only after its hash
was checked. All names are checked before anything is fetched.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nabi.config import read_file
from nabi.errors import CheckpointError, StorageError
from nabi.files import whole
from nabi.weights.files import WEIGHT_FILES, is_plain_name, locked

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
TOKENIZERS = (
    "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "source.spm", "target.spm",
)  # fmt: skip
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_SMALL = (
    "config.json", "nabi.json", "README.md", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    *TOKENIZERS, *PROCESSORS,
)  # fmt: skip
_POOLED = re.compile(r"modules\.json|\d+_Pooling/config\.json")  # how a sentence encoder pools: sentence-transformers' layout
_TRIES, _PAUSE, _TIMEOUT = 5, 0.5, 20.0  # attempts that bring no byte, seconds after the first of them, seconds without a byte

_token: ContextVar[str | bool | None] = ContextVar("token", default=None)


@contextmanager
def with_token(token: str | bool | None) -> Iterator[None]:
    """Talk to the hub with this token inside the block; None takes HF_TOKEN or the one that was saved on this machine, False takes none."""
    before = _token.set(token)
    try:
        yield
    finally:
        _token.reset(before)


@dataclass(frozen=True)
class _File:
    """A file on the hub: its hash is 64 digits (SHA-256 of its bytes) or 40 (git's SHA-1)."""

    name: str
    hash: str
    size: int


@dataclass(frozen=True)
class _Source:
    """One commit of one model, as its hub lists it."""

    endpoint: str
    model: str
    commit: str
    listed: dict[str, Any]

    def file(self, name: str) -> _File:
        """The listed file; where the listing has no hash (some mirrors), as its own headers say."""
        found = self.listed[name]
        digest, size = (found.lfs.sha256, found.lfs.size) if found.lfs else (found.blob_id, found.size)
        if digest is None or size is None:
            from huggingface_hub import get_hf_file_metadata

            with _spoken(self.model, self.endpoint):
                seen = get_hf_file_metadata(self.url(name), token=_token.get(), timeout=_TIMEOUT, endpoint=self.endpoint)
            digest, size = seen.etag, seen.size
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest) or not isinstance(size, int):
            what = "the hub gives no hash for a file, so nothing says whether it comes whole"
            raise CheckpointError(what, value=f"{self.model}: {name}", fix="set HF_ENDPOINT to a hub that does")
        return _File(name, digest, size)

    def url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.model, name, revision=self.commit, endpoint=self.endpoint)


def fetch(model: str, revision: str, home: Path, weights: bool) -> Path:
    """Fetch what nabi reads of a model into its folder of a cache; what is there already stays.

    Args:
        model: its id.
        revision: branch, tag or commit.
        home: CACHE/models--org--name.
        weights: False for a model of which only the tokenizer is wanted.

    Returns:
        The folder of the revision's commit.

    Raises:
        CheckpointError: no such model or revision, no access, no network, a file that differs from its hash, or a name that leaves its folder.
        StorageError: the cache can't be written.
    """
    source = _listed(model, revision)
    snapshot = home / "snapshots" / source.commit
    names = [name for name in source.listed if name in _SMALL or _POOLED.fullmatch(name)]
    try:
        for folder in (home / "blobs", snapshot):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(home):
            if revision != source.commit:
                _write(home / "refs" / revision, source.commit)
            # weights come last: where they are, all else is
            _bring([source.file(name) for name in names], source, home)
            if weights:
                _bring(_weights(source, home), source, home)
    except OSError as problem:
        raise StorageError(f"the hub's cache could not be written ({problem}); free some space there, or set HF_HUB_CACHE to another folder") from None
    return snapshot


def _weights(source: _Source, home: Path) -> list[_File]:
    for name in WEIGHT_FILES:
        if name in source.listed:
            return [source.file(name)]
        index = f"{name}.index.json"
        if index in source.listed:
            _bring([source.file(index)], source, home)
            path = home / "snapshots" / source.commit / index
            shards = read_file(path, CheckpointError).get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(s, str) and s in source.listed and "/" not in s for s in shards.values()):
                what = "the model's index names files that the hub does not list"
                raise CheckpointError(what, value=f"{source.model}: {index}", fix="take another revision")
            return [source.file(shard) for shard in sorted(set(shards.values()))]
    present = ", ".join(sorted(source.listed)[:12]) or "nothing"
    raise CheckpointError(f"the model has no weights that nabi reads among {present}", value=source.model, expected=f"one of {', '.join(WEIGHT_FILES)}")


def _listed(model: str, revision: str) -> _Source:
    from huggingface_hub import HfApi

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    for left in reversed(range(_TRIES)):
        try:
            with _spoken(model, endpoint):
                api = HfApi(endpoint=endpoint, token=_token.get(), library_name="nabi")
                info = api.model_info(model, revision=revision, files_metadata=True, timeout=_TIMEOUT)
                commit, files = info.sha, info.siblings or []
                listed = {file.rfilename: file for file in files}
            break
        except _Passing as problem:
            if not left:
                raise problem.told from None
            time.sleep(_PAUSE)
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise CheckpointError("the hub names no commit", value=f"{model}: {commit}", fix="HF_ENDPOINT may not be the address of a hub")
    if COMMIT.fullmatch(revision) and commit != revision:
        raise CheckpointError("the hub answers with another commit", value=f"{model}: {commit}", expected=revision, fix="take another hub")
    bad = [name for name in listed if not is_plain_name(name, folders=True)]
    if bad:
        raise CheckpointError("the model has a file name that leads out of its folder", value=f"{model}: {bad[0]}", fix="do not use this model")
    return _Source(endpoint, model, commit, listed)


def _bring(files: Iterable[_File], source: _Source, home: Path) -> None:
    """Fetch what is not there into blobs/ and link it into the snapshot."""
    missing = [file for file in files if not _linked(file, source, home)]
    if not missing:
        return
    size = sum(file.size for file in missing)
    if size > (free := shutil.disk_usage(home).free):
        raise OSError(f"{size:,} bytes to fetch, {free:,} bytes free in {home}")
    if not os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
        print(f"fetching {source.model} at {source.commit[:12]}: {', '.join(f.name for f in missing)} ({size / 1e6:.1f} MB)", file=sys.stderr)
    for file in missing:
        draft = home / "blobs" / f"{file.hash}.incomplete"
        _transfer(file, source, draft)
        found = _hash(draft, file)
        if found != file.hash:
            draft.unlink()
            fix = "load it again; if it stays so, a proxy or a mirror changes files: set HF_ENDPOINT to another one"
            raise CheckpointError("what came is not the file that the hub lists", value=f"{source.model}: {file.name}, {found}", expected=file.hash, fix=fix)
        draft.replace(home / "blobs" / file.hash)
        _linked(file, source, home)


def _linked(file: _File, source: _Source, home: Path) -> bool:
    """Whether the file is in the snapshot, after linking it to its content if that is there."""
    blob, link = home / "blobs" / file.hash, home / "snapshots" / source.commit / file.name
    if link.exists() and link.stat().st_size == file.size:
        return True
    if not blob.is_file() or blob.stat().st_size != file.size:
        return False
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(Path(*[".."] * (2 + file.name.count("/")), "blobs", file.hash))
    return True


def _transfer(file: _File, source: _Source, draft: Path) -> None:
    """Fill ``draft`` up to the file's size, from where it ends; goes on after a cut as long as bytes come."""
    left, pause, most = _TRIES, _PAUSE, 0
    draft.touch()
    while (have := draft.stat().st_size) != file.size:
        if have > file.size:
            draft.unlink()
            raise CheckpointError("more came than the hub lists", value=f"{source.model}: {file.name}", expected=f"{file.size:,} bytes", fix="load it again")
        problem = None
        try:
            _append(file, source, draft, have)
        except _Passing as error:
            problem = error.told
        # a server that always starts anew and breaks off at one place makes no progress
        now = draft.stat().st_size
        if now <= max(have, most):
            left -= 1
            if not left:
                cut = CheckpointError("the file ends too early", value=f"{source.model}: {file.name}", expected=f"{file.size:,} bytes", fix="load it again")
                raise problem or cut
            time.sleep(pause)
            pause *= 2
        else:
            left, pause, most = _TRIES, _PAUSE, now


def _append(file: _File, source: _Source, draft: Path, have: int) -> None:
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # a public name that the library re-exports lazily

    # identity: a range of a packed answer would be a range of other bytes
    headers = {**build_hf_headers(token=_token.get(), library_name="nabi"), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with (
        _spoken(source.model, source.endpoint, file.name),
        get_session().stream("GET", source.url(file.name), headers=headers, timeout=_TIMEOUT) as answer,
        draft.open("ab") as out,
    ):
        if answer.status_code == 416:
            out.truncate(0)
            return
        answer.raise_for_status()
        if have and answer.status_code != 206:
            out.truncate(0)  # the server sends all of it again
        for chunk in answer.iter_bytes():
            out.write(chunk)
            if out.tell() > file.size:
                break
        out.flush()
        os.fsync(out.fileno())


class _Passing(Exception):
    """A failure that may be over at the next attempt."""

    def __init__(self, told: CheckpointError) -> None:
        super().__init__(str(told))
        self.told = told


@contextmanager
def _spoken(model: str, endpoint: str, file: str = "") -> Iterator[None]:
    """Whatever the library raises while it talks to a hub, as our error: no text of theirs is repeated, since it may hold a signed address or a token."""
    import httpx2
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    address = urlsplit(endpoint)
    host = f"{address.scheme}://{address.hostname}" + (f":{address.port}" if address.port else "")
    what = f"{model}: {file}" if file else model
    try:
        yield
    except OfflineModeIsEnabled:
        told = CheckpointError("the model is not cached, and the network is switched off", value=what, fix="start again without HF_HUB_OFFLINE")
        raise told from None
    except GatedRepoError:
        fix = f"accept them on the model's page at {host}, then set HF_TOKEN to a token of your account"
        raise CheckpointError("the model is given only to those who accept its terms", value=what, fix=fix) from None
    except RevisionNotFoundError:
        raise CheckpointError("the hub has no such revision of this model", value=what, fix="look at the branches and tags on its page") from None
    except RepositoryNotFoundError:
        fix = "check the spelling; for a private model set HF_TOKEN to a token that may read it"
        raise CheckpointError(f"no such model folder here, and no such model on {host}", value=what, fix=fix) from None
    except (HfHubHTTPError, httpx2.HTTPStatusError) as problem:
        code = problem.response.status_code
        if code in (401, 403):
            fix = "check the spelling (some hubs answer so to an id that they do not have), or set HF_TOKEN to a token that may read this model"
            raise CheckpointError(f"{host} refuses access ({code})", value=what, fix=fix) from None
        if code in (404, 410):
            raise CheckpointError(f"{host} does not have this", value=what, fix="take another revision, or load it again") from None
        told = CheckpointError(f"{host} answers with an error ({code})", value=what, fix="wait and load it again: it goes on where it stopped")
        raise (_Passing(told) if code in (408, 429) or code >= 500 else told) from None
    except (httpx2.TimeoutException, httpx2.TransportError) as problem:
        kind = "does not answer in time" if isinstance(problem, httpx2.TimeoutException) else "can't be reached, or cut the connection"
        fix = "check the network and HF_ENDPOINT, then load it again: it goes on where it stopped"
        raise _Passing(CheckpointError(f"{host} {kind} ({type(problem).__name__})", value=what, fix=fix)) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, AttributeError, KeyError, TypeError, ValueError) as problem:
        fix = "HF_ENDPOINT may not be the address of a hub"
        raise CheckpointError(f"{host} gives no answer of a hub ({type(problem).__name__})", value=what, fix=fix) from None


def _hash(path: Path, file: _File) -> str:
    digest = hashlib.sha256() if len(file.hash) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as data:
        while chunk := data.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")
