"""``nabi tokenizer train | show``."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import click

from nabi.errors import DataError, OptionError, StorageError

REPORT, PAGE = "tokenizer_report.json", "README.md"
KINDS = ("byte_bpe", "wordpiece", "unigram", "character")
HELD_BACK = 0.02  # share of the texts that the report is measured on, where no --dev is given
MEASURED = 2_000_000  # characters of held-back text that are measured at most


@click.group()
def tokenizer() -> None:
    """Train a tokenizer, or show what one does to a text.

    \b
    nabi tokenizer train --data corpus --kind byte_bpe --vocab-size 32768 --out DIR
    nabi tokenizer show DIR "def f(x):"
    """


@tokenizer.command()
@click.option("--data", "data", multiple=True, required=True, metavar="FILE|DIR", help="Texts: a corpus, a table, text files; may be given again.")
@click.option("--kind", help="byte_bpe (the default), wordpiece, unigram or character.")
@click.option("--vocab-size", type=int, default=32768, show_default=True, help="Tokens, the special ones included.")
@click.option("--base", metavar="DIR", help="Train the tokenizer of this folder anew: its kind, normaliser and special tokens.")
@click.option("--out", required=True, metavar="DIR", help="A folder for it; it must not hold a tokenizer.")
@click.option("--memory", default="4GB", show_default=True, help="The most memory that the process may take, such as 1GB.")
@click.option("--dev", metavar="FILE|FRACTION", help=f"Texts for the report, or the share of the data to put aside for it.  [default: {HELD_BACK}]")
@click.option("--columns", metavar="text=COLUMN", help="What the data calls the column with the texts.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="lowercase, nfc, split_digits, special_tokens, ...; may be given again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def train(
    data: tuple[str, ...],
    kind: str | None,
    vocab_size: int,
    base: str | None,
    out: str,
    memory: str,
    dev: str | None,
    columns: str | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train a tokenizer on texts, and report what it does to texts that were put aside."""
    from nabi.config import from_dict, parsed, to_dict
    from nabi.data.texts import open_files
    from nabi.text import Tokenizer
    from nabi.text.feeding import size_of
    from nabi.text.measuring import measure, page
    from nabi.text.retraining import retrained
    from nabi.text.training import TokenizerSettings, trained
    from nabi.weights.sources import resolve

    folder = Path(out)
    _check_empty(folder)
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise OptionError("--set takes KEY=VALUE", value=setting)
        given[name] = parsed(text)
    size_of(memory)
    column = _column(columns)
    source = open_files(data, column)
    held: list[str] = []
    share = _share(dev)
    read = _Aside(source, share or 0.0, held)
    if share is None:
        held = _first(open_files([str(dev)], column))
    began = time.perf_counter()
    facts: dict[str, Any]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if base is None:
            wanted = from_dict(TokenizerSettings, {"kind": kind or "byte_bpe", "vocab_size": vocab_size, **given}, "the settings")
            result = trained(read, wanted, memory=memory)
            made, fed, facts = result.tokenizer, result.fed, to_dict(wanted) | {"special_tokens": list(wanted.specials)}
        else:
            if kind is not None:
                raise OptionError("--kind and --base exclude each other", value=f"{kind}, {base}", fix="leave --kind out")
            made, fed = retrained(Tokenizer.load(resolve(base, weights=False)), read, vocab_size, memory, None, None, given)
            facts = {"base": base, "vocab_size": vocab_size, **given}
    seconds = time.perf_counter() - began
    told = [str(warning.message) for warning in caught]
    for words in told:
        click.echo(f"warning: {words}", err=True)
    figures = measure(made, held)
    report = {"out": out, "settings": facts, "trained_on": to_dict(fed), "warnings": told, "held_back": figures, "seconds": round(seconds, 1)}
    about = [f"Trained on {fed.characters:,} characters of {fed.texts:,} texts in {seconds:.0f} s.", *(f"{words[:1].upper()}{words[1:]}." for words in told)]
    _write(folder, made, report, page(figures, facts, about, shlex.join(["nabi", *sys.argv[1:]])))
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False))
        return
    for name in ("vocab_size", "characters", "tokens_per_word", "tokens_per_character", "bytes_per_token", "unknown_rate"):
        value = figures[name]
        click.echo(f"{name:<22} {'-' if value is None else f'{value:.4f}' if isinstance(value, float) else f'{value:,}'}")
    for script, value in figures["bytes_per_token_by_script"].items():
        click.echo(f"{'  ' + script:<22} {value:.4f} bytes a token")
    words_of = figures["python_keywords"]
    click.echo(f"{'keywords of Python':<22} {words_of['alone']} of {words_of['of']} are one token, {words_of['behind_a_space']} behind a space")
    click.echo(f"{'longest tokens':<22} {' '.join(figures['longest_tokens'][:5])}")
    click.echo(f"The tokenizer is in {out} ({seconds:.0f} s). Try: nabi tokenizer show {out} TEXT")


@tokenizer.command()
@click.argument("model")
@click.argument("text")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def show(model: str, text: str, as_json: bool) -> None:
    """Show how the tokenizer of MODEL makes ids of TEXT: normalised, split, cut, and put between special tokens."""
    from nabi.text import Tokenizer
    from nabi.text.replay import readable, replay
    from nabi.weights.sources import resolve

    found = replay(Tokenizer.load(resolve(model, weights=False)), text)
    if as_json:
        click.echo(json.dumps(found.facts(), ensure_ascii=False))
        return

    def shown(piece: str) -> str:
        return readable(piece, found.by)

    click.echo("1 normalised")
    for given, normalised, id in found.parts:
        same = "as it was" if given == normalised else f"from {readable(given, '')}"
        click.echo(f"    {readable(normalised, '')}   ({same if id is None else 'an added token'})")
    click.echo(f"2 words, 3 {found.by}")
    for word in found.words:
        click.echo(f"    {word.offsets[0]:>4}-{word.offsets[1]:<4} {shown(word.text)}")
        for step in word.steps:
            note = "" if step.note is None else f"   (rank {step.note:.0f})" if step.what == "merge" else f"   (score {step.note:.3f})"
            click.echo(f"              {step.what:<8} {' · '.join(map(shown, step.pieces))}{note}")
    click.echo("4 ids, with the special tokens around")
    for token, id, (start, end), special in zip(found.tokens, found.ids, found.offsets, found.special, strict=True):
        click.echo(f"    {id:>7}  {'special' if special else f'{start}-{end}':<9} {shown(token)}")


class _Aside:
    """The texts but for a share of them, which goes to ``held`` when they are read for the first time; chosen by their hash, so copies stay together."""

    def __init__(self, texts: Any, share: float, held: list[str]) -> None:
        self._texts, self._below, self._held, self._filled = texts, int(share * 2**32), held, False

    def __call__(self) -> Any:
        from hashlib import blake2b

        size = 0
        for _, text in self._texts:
            if not self._below or int.from_bytes(blake2b(text.encode("utf-8"), digest_size=4).digest(), "little") >= self._below:
                yield text
            elif not self._filled and size < MEASURED:
                self._held.append(text)
                size += len(text)
        self._filled = True


def _first(texts: Any) -> list[str]:
    held: list[str] = []
    size = 0
    for _, text in texts:
        held.append(text)
        size += len(text)
        if size > MEASURED:
            break
    if not size:
        raise DataError("there is no text in --dev")
    return held


def _share(dev: str | None) -> float | None:
    """The share to put aside; None if ``dev`` is a file."""
    if dev is None:
        return HELD_BACK
    try:
        share = float(dev)
    except ValueError:
        return None
    if not 0 <= share < 1:
        raise OptionError("--dev is no share", value=dev, expected="a file, or a number from 0 to below 1")
    return share


def _column(columns: str | None) -> str | None:
    if columns is None:
        return None
    ours, equals, theirs = columns.partition("=")
    if ours.strip() != "text" or not equals or not theirs.strip():
        raise OptionError("--columns takes text=COLUMN here", value=columns)
    return theirs.strip()


def _check_empty(folder: Path) -> None:
    from nabi.text.files import DEFINITION
    from nabi.text.forms import FILES

    if folder.exists() and not folder.is_dir():
        raise OptionError("--out is a file", value=str(folder), expected="a folder")
    if there := [name for name in (DEFINITION, *FILES) if (folder / name).exists()]:
        raise OptionError("the folder holds a tokenizer", value=f"{folder}: {', '.join(there)}", fix="give another --out, or delete it first")


def _write(folder: Path, made: Any, report: dict[str, Any], page: str) -> None:
    """Write all files into a new folder beside it, and then put them in place, the definition last: without it there is no tokenizer."""
    from nabi.text.files import DEFINITION

    draft = folder.with_name(f".{folder.name}.draft")
    try:
        draft.mkdir(parents=True)
    except OSError as problem:
        raise StorageError(f"{draft} could not be made: {problem}") from None
    try:
        made.save(draft)
        (draft / REPORT).write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        (draft / PAGE).write_text(page, encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(draft.iterdir(), key=lambda path: path.name == DEFINITION):
            path.replace(folder / path.name)
    except OSError as problem:
        raise StorageError(f"the tokenizer could not be written to {folder}: {problem}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
