"""The commands ``nabi corpus build | stats | card | shards``. Unusual: like ``cli``, this file imports nothing heavy, so ``--help`` is quick."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from nabi.errors import DataError, OptionError, nearest

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


@click.group()
def corpus() -> None:
    """From folders, archives, repositories and dumps to clean text: build a corpus, measure it, describe it."""


@corpus.command()
@click.argument("inputs", nargs=-1, metavar="[RECIPE.toml | SOURCE ...]")
@click.option("--out", required=True, metavar="DIR", help="Folder for the corpus: new, empty, or one of a build that was begun.")
@click.option("--resume", is_flag=True, help="Go on with the build in --out, with the recipe that it was begun with.")
@click.option("--exact/--no-exact", default=None, help="Leave out exact duplicates (the default).")
@click.option("--near", type=float, metavar="JACCARD", help="Leave out near duplicates from this similarity on, such as 0.8.")
@click.option("--dev", type=float, metavar="SHARE", help="Share of documents for dev, such as 0.01.")
@click.option("--workers", type=int, help="Processes; one a core if not given.")
@click.option("--memory", metavar="SIZE", help="For all workers together, such as 1GB (the default).")
@click.option("--executor", help="Who runs it: local, ray or slurm.")
@click.option("--keep-work", is_flag=True, help="Leave the files between the stages in DIR/work.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting of the recipe, such as near.bands=20; may be given again.")
@click.option("--log", type=click.Choice(["auto", "json", "quiet"]), default="auto", show_default=True, help="How progress is told, on standard error.")
@_json
def build(inputs: tuple[str, ...], out: str, resume: bool, settings: tuple[str, ...], keep_work: bool, log: str, as_json: bool, **given: Any) -> None:
    """Build a corpus from a RECIPE, or from SOURCEs with the usual settings. A build that was stopped goes on where it was: give the same command again.

    \b
    nabi corpus build src/ dump.zip rows.parquet --out corpus --near 0.8 --dev 0.01
    nabi corpus build recipe.toml --out corpus
    nabi corpus build --out corpus --resume
    """
    from nabi.data.corpus.build import build as run
    from nabi.progress import Telling

    if resume:
        if inputs or settings or any(value is not None for value in given.values()):
            raise OptionError("--resume takes the recipe from the folder", fix="leave the other options out, or give the same command again without --resume")
        recipe = None
    else:
        recipe = _recipe(inputs, settings, given)
    manifest = run(recipe, out, keep_work=keep_work, progress=Telling(log))  # type: ignore[arg-type]
    if as_json:
        click.echo(json.dumps({"out": out, **{name: manifest[name] for name in ("documents", "bytes", "splits", "timing")}}, ensure_ascii=False))
        return
    documents, size = manifest["documents"], manifest["bytes"]
    for name, count in size.items():
        click.echo(f"{name:<20} {documents.get(name, 0):>12,} documents {count:>16,} bytes")
    lost = sum(reason["count"] for source in manifest["sources"] for reason in source["unreadable"].values())
    click.echo((f"{'unreadable':<20} {lost:>12,}\n" if lost else "") + f"The corpus is in {out}. Try: nabi corpus stats {out}")


def _recipe(inputs: tuple[str, ...], settings: tuple[str, ...], given: dict[str, Any]) -> Any:
    """The recipe file with the options over it, or one of sources."""
    from nabi.config import from_dict, override, parsed, read_file
    from nabi.data.corpus.recipe import Recipe

    recipes = [name for name in inputs if name.endswith((".toml", ".json")) and Path(name).is_file()]
    if not inputs:
        raise OptionError("there is nothing to build from", fix="give a recipe or sources, or --resume")
    if recipes and len(inputs) > 1:
        raise OptionError("give one recipe or sources, not both", value=" ".join(inputs))
    data: dict[str, Any] = read_file(Path(inputs[0])) if recipes else {"sources": [{"path": name} for name in inputs]}
    where = f"the recipe {inputs[0]}" if recipes else "the recipe"
    for name in ("exact", "dev", "workers", "executor"):
        if given[name] is not None:
            data[name] = given[name]
    if given["memory"] is not None:
        data["memory"] = size_of(given["memory"])
    if given["near"] is not None:
        data["near"] = {**(data.get("near") or {}), "threshold": given["near"]}
    if any(setting.startswith("near.") for setting in settings):
        data["near"] = data.get("near") or {}
    recipe = from_dict(Recipe, data, where)
    for setting in settings:
        name, equals, text = setting.partition("=")
        recipe = override(recipe, [f"{name}={size_of(text)}" if equals and name in ("shard", "task", "memory") and isinstance(parsed(text), str) else setting])
    return recipe


def size_of(text: str) -> int:
    """Bytes of ``1GB``, ``500 MB``, ``64MiB``, ``1000000``.

    Raises:
        OptionError: it is none of them.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].upper() not in _UNITS:
        hint = nearest(found[2], [unit for unit in _UNITS if unit]) if found else ""
        raise OptionError("this is no size", value=text, expected="bytes, or a number with KB, MB, GB, KiB, MiB or GiB, such as 1GB", fix=hint)
    return int(float(found[1]) * _UNITS[found[2].upper()])


@corpus.command()
@click.argument("path", metavar="DIR|FILE")
@click.option("--report", metavar="FILE", help="Write a page with tables and charts here (HTML).")
@_json
def stats(path: str, report: str | None, as_json: bool) -> None:
    """Count what is in a corpus, or in any source: documents, bytes, lines, lengths, languages, licences, endings, repositories.

    \b
    nabi corpus stats corpus --report corpus.html
    nabi corpus stats src/ --json
    """
    from nabi.data.corpus.stats import corpus_stats, page, told

    found = corpus_stats(path)
    if report is not None:
        from nabi.pages.page import write

        write(Path(report), page(found))
    if as_json:
        click.echo(json.dumps(found.facts(), ensure_ascii=False))
    else:
        click.echo("\n".join(told(found)))


@corpus.command()
@click.argument("folder", metavar="DIR")
def card(folder: str) -> None:
    """Write README.md of the corpus in DIR: a data card with the hub's metadata, filled from what was counted."""
    from nabi.data.corpus.card import write_corpus_card

    if not write_corpus_card(folder):
        raise OptionError("the README.md there was not written by nabi, so it stays", value=folder, fix="move it away, then try again")
    click.echo(f"The card is {Path(folder) / 'README.md'}")


@corpus.command()
@click.argument("source", metavar="DIR|FILE")
@click.option("--tokenizer", required=True, metavar="DIR", help="Whose ids are written: a tokenizer's folder, or a model.")
@click.option("--out", required=True, metavar="DIR", help="The folder that tokens-KEY is made in.")
@click.option("--column", default="text", show_default=True, help="The column with the text; a corpus that was built has its own.")
@click.option("--end", metavar="TOKEN", help="The token behind each document; the tokenizer's end token if not given.")
@click.option("--length", type=int, default=1024, show_default=True, help="Tokens of a window in what is printed; nothing that is written depends on it.")
@click.option("--file-tokens", type=int, default=1 << 25, show_default=True, help="Tokens a file.")
@click.option("--longest", type=int, default=1 << 23, show_default=True, help="The most characters of a document.")
@_json
def shards(source: str, tokenizer: str, out: str, as_json: bool, **options: Any) -> None:
    """Tokenise a corpus, or any texts, into memory-mapped token shards to train on. A second call tokenises nothing; one that was stopped goes on.

    \b
    nabi corpus shards corpus --tokenizer tokenizer --out shards
    nabi train --task text_generation --data shards/tokens-KEY --family gpt2 --tokenizer tokenizer --out model
    """
    from nabi.data.sharding import write_shards
    from nabi.text import Tokenizer
    from nabi.weights.sources import resolve

    if not Path(source).exists():
        raise DataError("there is no such file or folder", value=source, fix="check the path")
    made = write_shards(source, Tokenizer.load(resolve(tokenizer, weights=False)), out, say=lambda line: click.echo(line, err=True), **options)
    facts = {"out": str(made.folder), "documents": made.documents, "tokens": made.tokens, "length": made.length, "windows": len(made),
             "files": len(made.manifest.files), "empty": made.manifest.empty}  # fmt: skip
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    left_out = f", {made.manifest.empty:,} without a token left out" if made.manifest.empty else ""
    click.echo(f"{made.documents:,} documents{left_out}, {made.tokens:,} tokens, {len(made):,} windows of {made.length:,}\nThe shards are in {made.folder}")
