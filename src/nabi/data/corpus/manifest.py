"""The manifest of a build: what was read, what each step and the search for duplicates did with it, what came out. Gathered from what the tasks counted.

What went in is what came out plus what is listed as dropped, at each step and in all. All but ``timing`` depends on the recipe and the input alone.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from nabi.config import to_dict
from nabi.data.corpus import writing
from nabi.data.corpus.counts import StepCount, Tally, add_trouble, tally
from nabi.data.corpus.documents import Trouble
from nabi.data.corpus.duplicates import EXACT, NEAR, dropped, summary
from nabi.data.corpus.marks import ShardReader
from nabi.data.corpus.recipe import HOW
from nabi.data.corpus.work import MANIFEST, VERSION, Work
from nabi.errors import DataError

FORMAT = 1
PACKAGES = ("numpy", "zstandard")


def gather(work: Work) -> dict[str, Any]:
    """The manifest of a build whose stages are done, without its timing."""
    recipe = work.recipe
    sources: list[dict[str, Any]] = [
        {"path": origin.path, "kind": kind, "read": [0, 0], "cleaned": [0, 0], "kept": [0, 0], "unreadable": Trouble()}
        for origin, kind in zip(work.given.sources, work.plan.kinds, strict=True)
    ]
    steps: list[StepCount] = []
    same = {"exact": [0, 0], "near": [0, 0]}
    searched = recipe.exact or recipe.near is not None
    for number in range(work.plan.tasks):
        facts = work.facts("read", number)
        source = sources[facts["source"]]
        _add(source["read"], facts["read"])
        _add(source["cleaned"], facts["kept"])
        add_trouble(source["unreadable"], facts["unreadable"])
        for i, each in enumerate(facts["steps"]):
            if i == len(steps):
                steps.append(StepCount(each["name"]))
            steps[i].add(each)
        if searched:
            reasons, sizes = dropped(work.job, number)["reason"], writing.sizes(work, number)
            for name, reason in (("exact", EXACT), ("near", NEAR)):
                _add(same[name], (int(np.count_nonzero(reasons == reason)), int(sizes[reasons == reason].sum())))
    shards, tables = [], {name: dict[str, list[int]]() for name in (*writing.FACTS, "extension")}
    for number, _ in enumerate(work.facts("place", 0)["files"]):
        facts = work.facts("write", number)
        shards.append(facts["shard"])
        for index, pair in facts["sources"].items():
            _add(sources[int(index)]["kept"], pair)
        for name, table in tables.items():
            for value, (documents, size) in facts["tables"][name].items():
                tally(table, value, documents, size)
    total = {key: [sum(source[key][i] for source in sources) for i in (0, 1)] for key in ("read", "cleaned", "kept")}
    return {
        "format": FORMAT,
        "documents": _flow(total, steps, same, 0),
        "bytes": _flow(total, steps, same, 1),
        "sources": [_source(source) for source in sources],
        "steps": [_step(step) for step in steps],
        "duplicates": {**{name: _pair(pair) for name, pair in same.items()}, **(_search(work) if searched else {})},
        "splits": {name: _split(shards, name) for name in writing.SPLITS if _split(shards, name)["files"]},
        "languages": _table(tables["language"]),
        "licenses": _table(tables["license"]),
        "extensions": _table(tables["extension"]),
        "files": shards,
        "input": {"tasks": work.plan.tasks, "units": work.plan.units, "bytes": work.plan.size, "digest": work.plan.digest},
        "recipe": {name: value for name, value in to_dict(work.given).items() if name not in HOW},
        "versions": {"nabi": VERSION, "python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    }


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a finished build, its files looked at.

    Raises:
        DataError: there is none, it is no manifest, or a file that it names is missing or has another size.
    """
    path = out / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        files = [(out / file["name"], file["size"]) for file in manifest["files"]]
    except FileNotFoundError:
        fix = "build it, or go on: nabi corpus build --resume"
        raise DataError("there is no manifest in this folder, so it holds no finished corpus", value=str(out), fix=fix) from None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise DataError("the manifest can't be read", value=f"{path} ({problem})", fix="build the corpus again") from None
    for file, size in files:
        if not file.is_file() or file.stat().st_size != size:
            raise DataError("a file of the corpus is missing or was changed", value=str(file), expected=f"{size:,} bytes", fix="build the corpus again")
    return manifest


def _add(total: list[int], more: Any) -> None:
    total[0] += more[0]
    total[1] += more[1]


def _pair(pair: list[int]) -> dict[str, int]:
    return {"documents": pair[0], "bytes": pair[1]}


def _flow(total: Mapping[str, list[int]], steps: list[StepCount], same: Mapping[str, list[int]], i: int) -> dict[str, int]:
    """``in`` is the sum of all others."""
    read, cleaned, kept = (total[key][i] for key in ("read", "cleaned", "kept"))
    dropped = sum(pair[i] for step in steps for pair in step.dropped.values())
    assert cleaned == kept + same["exact"][i] + same["near"][i], (total, same)
    # a step that writes something else changes the bytes; it makes no documents
    assert i == 1 or read - cleaned == dropped, (total, steps)
    changed = {"taken off by changes": read - cleaned - dropped} if i == 1 else {}
    return {"in": read, "dropped by steps": dropped, **changed, "exact duplicates": same["exact"][i], "near duplicates": same["near"][i], "out": kept}


def _source(source: dict[str, Any]) -> dict[str, Any]:
    trouble = source.pop("unreadable")
    told = {reason: {"count": trouble.counts[reason], "examples": trouble.examples.get(reason, [])} for reason in sorted(trouble.counts)}
    return {**{key: _pair(value) if isinstance(value, list) else value for key, value in source.items()}, "unreadable": told}


def _step(step: StepCount) -> dict[str, Any]:
    told = {reason: {**_pair(pair), "examples": step.examples.get(reason, [])} for reason, pair in sorted(step.dropped.items())}
    flow = {name: {"in": pair[0], "out": pair[1]} for name, pair in (("documents", step.documents), ("bytes", step.bytes))}
    return {"name": step.name, **flow, "dropped": told, "changed": dict(sorted(step.changed.items()))}


def _split(shards: list[dict[str, Any]], name: str) -> dict[str, int]:
    mine = [shard for shard in shards if shard["split"] == name]
    return {"documents": sum(s["documents"] for s in mine), "bytes": sum(s["bytes"] for s in mine), "files": len(mine)}


def _table(table: Tally, most: int = 200) -> dict[str, dict[str, int]]:
    """The most frequent first."""
    ordered = sorted(table.items(), key=lambda item: (-item[1][0], item[0]))
    rest = [sum(pair[i] for _, pair in ordered[most:]) for i in (0, 1)]
    return {name: _pair(pair) for name, pair in [*ordered[:most], *([("(other)", rest)] if rest[0] else [])]}


def _search(work: Work) -> dict[str, Any]:
    found = summary(work.job)
    pairs = [{"path": _path(work, *pair["document"]), "like": _path(work, *pair["of"]), "jaccard": pair["jaccard"]} for pair in found["near_pairs"]]
    return {"compared": found["compared"], "capped": found["capped"], "near_pairs": pairs}


def _path(work: Work, shard: int, row: int) -> str:
    with ShardReader(work.docs, shard) as reader:
        found: dict[str, str] = json.loads(reader.line(row))
    return found.get("where", found["path"])
