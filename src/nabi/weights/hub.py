"""The hub: a model's id and revision -> its folder in the cache on disk, fetched into it (``download``) if no cache has it whole.

    CACHE/models--org--name/refs/main                    the commit that a branch or tag stood for
                            snapshots/COMMIT/config.json a link to the file's content
                            blobs/HASH                   that content, under its SHA-256 (large files) or git's SHA-1

This is the layout of the library huggingface-hub, so models that other programs fetched are found. Nothing goes online for a model that lies
there whole.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection
from pathlib import Path

from nabi.config import read_file
from nabi.errors import CheckpointError, OptionError, nearest, shortened
from nabi.weights import download
from nabi.weights.download import COMMIT, PROCESSORS, TOKENIZERS
from nabi.weights.files import WEIGHT_FILES

_ID = re.compile(r"(?=.{1,96}$)(?:\w(?:[\w.-]*\w)?/)?\w(?:[\w.-]*\w)?", re.ASCII)
_REVISION = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")


def offline() -> bool:
    """Whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network."""
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def caches() -> list[Path]:
    """The folders that are searched for models, each of them once; the first one takes what is fetched.

    HF_HUB_CACHE, the older HUGGINGFACE_HUB_CACHE and TRANSFORMERS_CACHE, and HF_HOME/hub, as far as they are set; else ~/.cache/huggingface/hub.
    """
    env = os.environ
    found = [env[name] for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE") if env.get(name)]
    if env.get("HF_HOME"):
        found.append(os.path.join(env["HF_HOME"], "hub"))  # noqa: PTH118 - a variable in it is not yet expanded
    if not found:
        found.append(f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface/hub")
    return list(dict.fromkeys(Path(os.path.expandvars(path)).expanduser() for path in found))


def cached() -> list[str]:
    """The ids of all models in the caches, sorted, half-fetched ones too."""
    return sorted({p.name.removeprefix("models--").replace("--", "/") for cache in caches() if cache.is_dir() for p in cache.glob("models--*")})


def split(name: str) -> tuple[str, str | None] | None:
    """``org/name@revision`` as (id, revision or None); None if this can't be an id of a hub."""
    model, at, revision = name.partition("@")
    if not _ID.fullmatch(model) or "--" in model or ".." in model or (at and not revision):
        return None
    return model, revision or None


def find(
    model: str, revision: str | None = None, *, weights: bool = True, needs: Collection[str] = TOKENIZERS, ships: Collection[str] = (),
    folders: Collection[str] = (),
) -> Path:
    """The folder of a model of the hub, fetched if no cache has it whole.

    Args:
        model: its id.
        revision: a branch, a tag or a commit; ``main`` if None.
        weights: False for a folder of which only small files are used.
        needs: of these one has to be there then.
        ships, folders: other names of models, which a misspelt one may have meant.

    Raises:
        OptionError: the revision can't be the name of one.
        CheckpointError: offline, and it is not cached or only in part; or it can't be fetched.
        StorageError: the cache can't be written.
    """
    wanted = revision or "main"
    if not _REVISION.fullmatch(wanted) or ".." in wanted:
        raise OptionError("this can't be a revision", value=wanted, expected="a branch, a tag or a commit")
    partial = None
    for cache in caches():
        home = cache / _folder_name(model)
        commit = _commit(home, wanted)
        if commit is not None:
            lacking = _lacking(home / "snapshots" / commit, weights, needs)
            if not lacking:
                return home / "snapshots" / commit
            partial = partial or (home, commit, lacking)
    if not offline():
        return download.fetch(model, wanted, caches()[0] / _folder_name(model), weights)
    if partial:
        home, commit, lacking = partial
        cut = " (its download was cut off)" if list(home.glob("blobs/*.incomplete")) else ""
        fix = f"unset HF_HUB_OFFLINE and load it again, which fetches the rest, or delete {home}"
        raise CheckpointError(f"the cached copy of {model} is not whole: {', '.join(lacking)}{cut}", value=str(home / "snapshots" / commit), fix=fix)
    raise _not_cached(model, wanted, ships, folders)


def _not_cached(model: str, wanted: str, ships: Collection[str], folders: Collection[str]) -> CheckpointError:
    near = _nearest_cached(model)
    if model in near:
        homes = [cache / _folder_name(model) for cache in caches()]
        there = sorted(p.name for home in homes for p in home.glob("snapshots/*"))
        refs = sorted(str(p.relative_to(home / "refs")) for home in homes for p in home.glob("refs/**/*") if p.is_file())
        known = ", ".join([*refs, *there]) or "none"
        fix = "name one of these, or unset HF_HUB_OFFLINE to fetch it"
        raise CheckpointError(f"the cache has {model}, but not this revision", value=wanted, expected=f"one of {known}", fix=fix)
    places = [f"one of {', '.join(ships)}"] if ships else []
    places += [f"an id in the cache (nearest: {', '.join(near)})"] if near else []
    hint = nearest(model, [*ships, *folders])
    fix = f"{hint} Or unset HF_HUB_OFFLINE to look on the hub" if hint else "check the name, or unset HF_HUB_OFFLINE to look on the hub"
    what = "no such model folder, and no such model in the hub's cache"
    return CheckpointError(what, value=model, expected=", or ".join(["a folder", *places]), fix=fix)


def _nearest_cached(model: str) -> list[str]:
    def likeness(other: str) -> float:
        a, b = model.lower(), other.lower()
        pairs = ((a, b), (a.rpartition("/")[2], b.rpartition("/")[2]))
        return max(difflib.SequenceMatcher(None, x, y).ratio() for x, y in pairs)

    return sorted(cached(), key=lambda other: (other != model, -likeness(other)))[:3]


def _folder_name(model: str) -> str:
    return f"models--{model.replace('/', '--')}"


def _commit(home: Path, revision: str) -> str | None:
    """The commit that a revision stands for in this cache, if the cache has it."""
    try:
        commit = (home / "refs" / revision).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        commit = revision
        if _SHORT_COMMIT.fullmatch(revision):
            whole = [p.name for p in home.glob(f"snapshots/{revision}*")]
            commit = whole[0] if len(whole) == 1 else revision
    except (OSError, UnicodeDecodeError) as problem:
        raise CheckpointError("the cache can't be read", value=f"{home / 'refs' / revision} ({problem})", fix=f"delete {home}") from None
    else:
        if not COMMIT.fullmatch(commit):
            what = "the cache is damaged: a revision names no commit"
            raise CheckpointError(what, value=f"{home / 'refs' / revision}: {commit!r}", fix=f"delete {home} and load the model again")
    return commit if COMMIT.fullmatch(commit) and (home / "snapshots" / commit).is_dir() else None


def _lacking(snapshot: Path, weights: bool, needs: Collection[str]) -> list[str]:
    """What a snapshot lacks to be loaded, in words."""
    there = {p.name for p in snapshot.iterdir()}
    links = [f"{name} is a link to nothing" for name in sorted(there) if not (snapshot / name).exists()]
    if not weights:
        return links or ([] if there & set(needs) else ["there is no tokenizer" if needs is TOKENIZERS else f"there is no {' or '.join(needs)}"])
    lacking = [] if "config.json" in there else ["config.json is missing"]
    for name in WEIGHT_FILES:
        if name in there:
            break
        if (index := f"{name}.index.json") in there and (snapshot / index).exists():
            shards = read_file(snapshot / index, CheckpointError).get("weight_map")
            names = {s for s in shards.values() if isinstance(s, str)} if isinstance(shards, dict) else set()
            lacking += [f"{shortened(shard)} is missing" for shard in sorted(names - there)]
            break
    else:
        lacking.append("there are no weights")
    # a model is often cached without its tokenizer; of one that has none the hub is asked at each load, so this counts only where it may be
    if not lacking and not offline() and not there & {*TOKENIZERS, *PROCESSORS}:
        lacking.append("there is no tokenizer")
    return links + lacking
