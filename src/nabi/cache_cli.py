"""``nabi cache list | prune``: what is kept on this disk, and how to be rid of it.

The models of the hub's own cache are listed too, since they are the largest, but they go only if they are named.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click

from nabi import cache as kept
from nabi.errors import OptionError, unknown

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


@click.group("cache")
def cache() -> None:
    """What is kept so that a second run need not work it out again: encoded rows, the places of rows in large files."""


@cache.command("list")
@_json
def list_(as_json: bool) -> None:
    """List what is kept: name, size, last use, what it is. The hub's models are listed below."""
    found, models = kept.entries(), _models()
    if as_json:
        rows = [{"name": e.name, "about": e.about, "bytes": e.size, "used": _time(e.used)} for e in found]
        place = kept.folder()
        click.echo(json.dumps({"folder": None if place is None else str(place), "entries": rows, "models": models}, ensure_ascii=False))
        return
    place = kept.folder()
    click.echo("The cache is off (NABI_CACHE=off)." if place is None else f"{place}: {len(found)} entries, {_size(sum(e.size for e in found))}")
    for entry in found:
        click.echo(f"  {entry.name:<20} {_size(entry.size):>9}  {_time(entry.used)}  {entry.about}")
    if models:
        click.echo(f"Models of the hub, which prune leaves alone unless they are named: {_size(sum(m['bytes'] for m in models))}")
        for model in models:
            click.echo(f"  {model['name']:<40} {_size(model['bytes']):>9}  {model['used']}")


@cache.command()
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@click.option("--older-than", type=float, metavar="DAYS", help="What was not used for so many days.")
@click.option("--keep-gb", type=float, metavar="N", help="The longest unused, until this much is left.")
@click.option("--all", "everything", is_flag=True, help="All of it, but for the hub's models.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and let it stay.")
@_json
def prune(names: tuple[str, ...], older_than: float | None, keep_gb: float | None, everything: bool, dry_run: bool, as_json: bool) -> None:
    """Remove entries: those that NAME, as `nabi cache list` shows them, or an option chooses; always what killed runs left behind.

    \b
    nabi cache prune --older-than 30
    nabi cache prune --keep-gb 5 --dry-run
    """
    for name, value in (("--older-than", older_than), ("--keep-gb", keep_gb)):
        if value is not None and not value >= 0:
            raise OptionError(f"{name} is out of range", value=value, expected="0 or more")
    if (bool(names) + everything + (older_than is not None or keep_gb is not None)) > 1:
        raise OptionError("names, --all and the other options exclude each other", value=list(names) or "--all", fix="give one of them")
    found = kept.entries()
    models = {model["name"]: model for model in _models()} if names else {}
    if strange := [name for name in names if name not in models and all(name != e.name for e in found)]:
        raise unknown("entry of the cache", strange[0], [*(e.name for e in found), *models])
    chosen = found if everything else [e for e in found if e.name in names]
    if not names and not everything:
        chosen = kept.prunable(
            found, older_than=None if older_than is None else older_than * 86400, keep_bytes=None if keep_gb is None else keep_gb * 1e9
        )
    gone: list[dict[str, Any]] = [{"name": e.name, "bytes": e.size if dry_run else kept.discard(e.path)} for e in chosen]
    gone += [{"name": name, "bytes": models[name]["bytes"]} for name in names if name in models]
    if not dry_run:
        _delete_models([models[name]["revisions"] for name in names if name in models])
    if as_json:
        click.echo(json.dumps({"removed": [] if dry_run else gone, "would_remove": gone if dry_run else []}, ensure_ascii=False))
        return
    for each in gone:
        click.echo(f"  {each['name']:<20} {_size(each['bytes']):>9}")
    click.echo(f"{len(gone)} entries, {_size(sum(each['bytes'] for each in gone))}{' would be removed' if dry_run else ' removed'}.")


def _models() -> list[dict[str, Any]]:
    """What lies in the hub's cache."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):  # there is none, or its variable names a file
        return []
    facts = [
        {"name": r.repo_id, "bytes": r.size_on_disk, "used": _time(r.last_accessed), "revisions": sorted(v.commit_hash for v in r.revisions)}
        for r in repositories
    ]
    return sorted(facts, key=lambda model: (-model["bytes"], model["name"]))


def _delete_models(revisions: Iterable[list[str]]) -> None:
    from huggingface_hub import constants, scan_cache_dir

    for hashes in revisions:
        scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(*hashes).execute()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(min(seconds, time.time()), UTC).strftime("%Y-%m-%d %H:%M")


def _size(amount: float) -> str:
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:,.0f} {unit}"
        amount /= 1000
    return f"{amount:,.1f} GB"
