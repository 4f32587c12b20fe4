"""The command line: ``nabi train | evaluate | predict | inspect | doctor | bench``; ``cache``, ``corpus`` and ``tokenizer`` are in files of their own.

Exit codes: 0 done, 1 the work failed, 2 the input was wrong. With ``--json`` standard output holds exactly one JSON document, or JSON lines, and
everything else goes to standard error. Unusual: this file imports nothing heavy, so ``--help`` is quick.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from nabi import __version__
from nabi.cache_cli import cache
from nabi.corpus_cli import corpus
from nabi.errors import InputError, NabiError, OptionError, nearest, unknown
from nabi.files import whole
from nabi.tokenizer_cli import tokenizer

_plugin = click.option("--plugin", "plugins", multiple=True, metavar="FILE", help="A Python file with a family or a task of your own.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
_device = click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, cuda:1.")
_columns = click.option("--columns", metavar="NAME=COLUMN,...", help="What the data calls our columns, such as text=review,label=stars.")
_no_examples = click.option("--no-examples", is_flag=True, help="Leave the texts of rows out of the report.")
_task = click.option("--task", help="What to answer, where the folder does not say it (a bare encoder) or says something else.")
_set = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting; may be given again.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def cli() -> None:
    """Task transformers: from a file of examples to a model that answers.

    \b
    nabi train --task text_classification --data messages.csv --base minilm --out spam
    nabi predict spam "You have won a prize"
    """


cli.add_command(tokenizer)


@cli.command()
@click.argument("recipe", required=False, type=click.Path())
@click.option("--task", help="What to train for, such as text_classification.")
@click.option("--data", metavar="FILE", help="Labelled rows: JSONL, CSV, TSV, Parquet; .gz and .zst too.")
@click.option("--dev", metavar="FILE|FRACTION", help="Rows to evaluate on, or the share of the data to put aside, such as 0.1.")
@click.option("--base", metavar="MODEL", help="The model to start from: a folder, or minilm.")
@click.option("--family", help="An architecture to start from nothing, such as bert.")
@click.option("--size", help="Its size, such as mini.")
@click.option("--tokenizer", metavar="DIR", help="A folder with a tokenizer, for --family.")
@click.option("--out", metavar="DIR", help="Folder for the model and its checkpoints.")
@click.option("--find-rate", metavar="FILE", help="Do not train: try rising learning rates, write the curve to FILE (HTML), suggest one.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, exactly where it was.")
@click.option("--seed", type=int, help="Of order, dropout and fresh weights.")
@click.option("--processes", type=int, default=1, show_default=True, help="Processes to train with.")
@click.option("--precision", help="fp32 or bf16.")
@click.option("--license", help="For the model card: the licence's id, such as apache-2.0.")
@click.option("--language", help="For the model card: the language's code, such as ko.")
@_no_examples
@click.option("--log", type=click.Choice(["auto", "json", "quiet"]), default="auto", show_default=True, help="How progress is told, on standard error.")
@_device
@_columns
@_plugin
@_set
@_json
def train(recipe: str | None, plugins: tuple[str, ...], settings: tuple[str, ...], as_json: bool, log: str, **given: Any) -> None:
    """Train a model, by options or by RECIPE (a TOML file with the same names; options win).

    Settings are ``plan.*`` (learning_rate, epochs, ...), ``task.*`` (loss, class_weights, ...), ``options.*`` (long, max_length, ...) and ``lora.*``
    (rank, alpha, targets, ...), any of which trains adapters in place of all weights. With --family, ``body.*`` (hidden_size, num_layers, ...) changes
    the size, and ``images.*`` (size, mean, ...) how images are read.

    \b
    nabi train --task text_classification --data train.jsonl --dev dev.jsonl --base minilm --out DIR --set plan.epochs=3
    """
    from nabi.config import from_dict, read_file

    spec = _Spec(read_file(Path(recipe)) if recipe else {}, given, settings)
    processes, world = spec.values["processes"], os.environ.get("WORLD_SIZE", "1")
    if processes < 1:
        raise OptionError("--processes is out of range", value=processes, expected="1 or more")
    if world != "1" and str(processes) not in ("1", world):
        raise OptionError("--processes is not what torchrun says", value=processes, expected=world, fix="leave --processes out under torchrun")
    if processes > 1 and world == "1":
        sys.exit(_launched(processes, sys.argv[1:]))
    search = spec.values["find_rate"]
    task, data = (spec.need(name) for name in ("task", "data"))
    out = spec.values["out"] if search else spec.need("out")
    if search and (spec.values["resume"] or not search.endswith(".html")):
        raise OptionError("--find-rate takes a page to write, and goes without --resume", value=search, expected="a name that ends in .html")
    from nabi.fitting import fit
    from nabi.nn.lora import Lora
    from nabi.training.plan import Plan
    from nabi.training.progress import Progress

    values = spec.values
    fitted = fit(
        task,
        data,
        values["base"],
        out,
        from_dict(Plan, spec.sections["plan"], "the plan"),
        dev=_fraction(values["dev"]),
        family=values["family"],
        size=_size(values["family"], values["size"] or "tiny", spec.sections["body"]),
        tokenizer=values["tokenizer"],
        images=spec.sections["images"] or None,
        columns=_pairs(values["columns"]),
        settings=spec.sections["task"],
        options=spec.sections["options"],
        lora=from_dict(Lora, spec.sections["lora"], "the settings of lora") if spec.sections["lora"] else None,
        find_rate=bool(search),
        resume=values["resume"],
        device=values["device"],
        progress=Progress(log),  # type: ignore[arg-type]
        plugins=plugins,
        examples_in_report=not values["no_examples"],
        about={name: values[name] for name in ("license", "language") if values[name]},
        command=_command(),
    )
    if os.environ.get("RANK", "0") != "0":  # one of several processes says it
        return
    if fitted.rates is not None:
        fitted.rates.write(search)
        if as_json:
            _print_json({"task": task, "page": search, **fitted.rates.facts(), "seconds": fitted.seconds})
        else:
            found = fitted.rates
            click.echo(f"Try --set plan.learning_rate={found.suggestion:g} (the loss falls fastest at {found.steepest:.1e}, is lowest at {found.lowest:.1e}).")
            click.echo(f"{search} shows the curve ({fitted.seconds:.0f} s).")
        return
    facts = {"task": task, "out": str(out), "metrics": fitted.metrics, "seconds": fitted.seconds, "tokens": fitted.tokens}
    if as_json:
        _print_json(facts)
    else:
        click.echo(f"The model is in {out} ({fitted.seconds:.0f} s). Try: nabi predict {out} TEXT")


def _size(family: str | None, name: str, changes: dict[str, Any]) -> str | dict[str, Any]:
    """A named size, or its configuration with these changes."""
    if not changes:
        return name
    if family is None:
        raise OptionError("body.* is for a model from scratch", value=changes, fix="give --family, or leave it out: a base has its own size")
    from nabi import families
    from nabi.config import to_dict

    sizes = families.find(family).sizes
    if name not in sizes:
        raise unknown("size", name, sizes)
    return {**to_dict(sizes[name]), **changes}


def _launched(processes: int, command: Sequence[str]) -> int:
    """The exit code of this command run by several processes."""
    from nabi.training.launch import launch

    code, errors = launch(processes, command)
    for error in errors:
        _say(error)
    return code


@cli.command()
@click.argument("model")
@click.option("--out", required=True, metavar="DIR", help="Folder for the whole model.")
@_plugin
def merge(model: str, out: str, plugins: tuple[str, ...]) -> None:
    """Put the adapter that MODEL is into its base and write the whole model.

    \b
    nabi train --task text_classification --data train.jsonl --base minilm --out DIR --set lora.rank=8
    nabi merge DIR --out WHOLE
    """
    from nabi.adapters import merged
    from nabi.checkpoint import load, save

    if Path(out).is_file() or (Path(out).is_dir() and any(Path(out).iterdir())):
        raise OptionError("the output folder is not empty", value=out, fix="choose another")
    save(merged(load(model, plugins=plugins)), out)
    click.echo(f"The whole model is in {out}.")


@cli.command()
@click.argument("model")
@click.argument("second", required=False, metavar="[MODEL2]")
@click.option("--data", required=True, metavar="FILE", help="Labelled rows.")
@click.option("--report", metavar="FILE", help="Write a page about it here (HTML).")
@_no_examples
@_task
@_device
@_columns
@_plugin
@_set
@_json
def evaluate(
    model: str,
    second: str | None,
    data: str,
    task: str | None,
    report: str | None,
    no_examples: bool,
    device: str,
    columns: str | None,
    plugins: tuple[str, ...],
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score MODEL on labelled rows, or compare it with MODEL2 on the same rows.

    \b
    nabi evaluate DIR --data dev.jsonl --json
    nabi evaluate OLD NEW --data dev.jsonl --report comparison.html
    """
    from nabi.checkpoint import load
    from nabi.evaluation import compare
    from nabi.evaluation import evaluate as score

    options, precision = _options(settings), "fp32" if device == "cpu" else None
    loaded = load(model, task, plugins=plugins, device=device, precision=precision)
    if second is not None:
        other = load(second, task, plugins=plugins, device=device, precision=precision)
        pair = compare(loaded, other, data, columns=_pairs(columns), options=options, names=(model, second))
        if report is not None:
            from nabi.evaluation.report import comparison_report

            _write_page(report, comparison_report(pair, _command(), examples=not no_examples))
        if as_json:
            _print_json(pair.facts(examples=not no_examples))
        else:
            _print_comparison(pair)
        return
    found = score(loaded, data, columns=_pairs(columns), options=options, name=model, keep=report is not None)
    if report is not None:
        from nabi.evaluation.findings import Findings
        from nabi.evaluation.report import evaluation_report

        _write_page(report, evaluation_report(Findings(loaded, found, options), _command(), examples=not no_examples, plugins=plugins))
    if as_json:
        _print_json(found.facts())
        return
    click.echo(f"{found.task}: {model} on {found.data}, {found.rows} rows, {found.seconds:.1f} s")
    for name, value in found.metrics.items():
        click.echo(f"  {name:<24} {value:.4f}")


def _print_comparison(pair: Any) -> None:
    first, second = pair.first, pair.second
    click.echo(f"{first.task} on {first.data}, {first.rows} rows: {first.model} ({first.seconds:.1f} s), {second.model} ({second.seconds:.1f} s)")
    click.echo(f"  {'':<24} {'first':>8} {'second':>8} {'change':>8}  {'95 % interval':<20} p")
    for name, each in pair.differences.items():
        span = f"{each.low:+.4f} to {each.high:+.4f}"
        click.echo(f"  {name:<24} {first.metrics[name]:>8.4f} {second.metrics[name]:>8.4f} {each.difference:>+8.4f}  {span:<20} {each.p:.3f}")
    if pair.mcnemar is not None:
        only = f"{pair.only_first} rows are right in the first only, {pair.only_second} in the second only"
        click.echo(f"  {only}; McNemar's exact p = {pair.mcnemar:.4f}")


def _write_page(path: str, page: str) -> None:
    from nabi.pages.page import write

    write(Path(path), page)


def _command() -> str:
    """The command line as it was typed, for a report."""
    return shlex.join(["nabi", *sys.argv[1:]])


@cli.command()
@click.argument("model")
@click.argument("inputs", nargs=-1, metavar="[INPUT ... | -]")
@click.option("--data", metavar="FILE", help="Rows with the task's columns, labels not needed.")
@click.option("--out", metavar="FILE", help="Write the answers here, whole or not at all: .jsonl, .csv, .tsv, .parquet; .gz and .zst too.")
@click.option("--keep", metavar="COLUMN,...", help="With --data and --out: columns of the data that are copied to the answers.")
@click.option("--on-error", type=click.Choice(["stop", "record"]), help='At a row of --data that can\'t be read: stop, or write {"error": ...} in its place.')
@click.option("--overwrite", is_flag=True, help="Replace an --out that is there, once the new one is whole.")
@click.option("--fresh", is_flag=True, help="Throw away what an earlier command for this --out left unfinished, instead of going on with it.")
@click.option("--part", type=int, help="Rows of --data that are answered and kept at a time.")
@click.option("--processes", type=int, help="Processes that answer --data at the same time.")
@click.option("--executor", type=click.Choice(["local", "ray"]), help="Where they run: here, or on a Ray cluster.")
@click.option("--log", type=click.Choice(["auto", "json", "quiet"]), help="How progress is told, on standard error.")
@click.option("--stream", is_flag=True, help="Show a text while it is written.")
@click.option("--steps", is_flag=True, help="Show how a text is written: the most probable tokens of each step, or the beams as a tree.")
@_task
@_device
@_columns
@_plugin
@_set
@_json
def predict(
    model: str,
    task: str | None,
    inputs: tuple[str, ...],
    data: str | None,
    out: str | None,
    stream: bool,
    steps: bool,
    device: str,
    columns: str | None,
    plugins: tuple[str, ...],
    settings: tuple[str, ...],
    as_json: bool,
    keep: str | None,
    **filing: Any,
) -> None:
    """Answer for each INPUT, each line of standard input (-), or each row of --data.

    With --data and --out a command that was ended in the middle goes on where it was when it is given again.

    \b
    nabi predict DIR "You have won a prize" --json
    cat messages.txt | nabi predict DIR -
    nabi predict DIR --data messages.parquet --out answers.jsonl --keep id
    nabi predict DIR "Once upon a time" --steps --set num_beams=4
    """
    if bool(inputs) == bool(data):
        raise OptionError("give either inputs or --data", value={"inputs": len(inputs), "data": data})
    if len(given := [name for name, value in (("--stream", stream), ("--steps", steps), ("--out", out)) if value]) > 1:
        raise OptionError(f"{' and '.join(given)} exclude each other", fix="give one of them")
    filing = {name: value for name, value in {**filing, "keep": tuple(keep.split(",")) if keep else None}.items() if value not in (None, False)}
    if data is not None and out is not None:
        _predict_file(model, data, out, filing, as_json, task=task, columns=_pairs(columns), options=_options(settings), device=device, plugins=plugins)
        return
    if filing:
        raise OptionError(f"{', '.join('--' + name.replace('_', '-') for name in filing)}: only with --data and --out", fix="give both, or leave it out")
    if out is not None and Path(out).suffix.lower() not in ("", ".jsonl"):
        raise OptionError("the answers to inputs are written as JSON lines", value=out, fix="name it .jsonl, or give the inputs as --data FILE")
    from nabi.checkpoint import load

    loaded = load(model, task, plugins=plugins, device=device, precision="fp32" if device == "cpu" else None)
    options = loaded.options(_options(settings))
    items, where = _inputs(loaded, inputs, data, columns)
    if stream or steps:
        _write_along(loaded, items, where, _options(settings), steps, as_json)
        return
    answers = loaded.answers(items, options, where=where)
    if out is not None:
        _write_lines(Path(out), (json.dumps(loaded.task.plain(answer), ensure_ascii=False) for answer in answers))
        return
    for answer in answers:
        if as_json:
            _print_json(loaded.task.plain(answer))
        else:
            click.echo(loaded.task.line(answer))


def _predict_file(model: str, data: str, out: str, filing: dict[str, Any], as_json: bool, **given: Any) -> None:
    from dataclasses import asdict

    from nabi.predicting import predict_file
    from nabi.progress import Telling

    telling = Telling(filing.pop("log", "auto"))
    with _terminated():
        done = predict_file(model, data, out, progress=telling, **filing, **given)
    if as_json:
        _print_json({"task": done.task, "model": model, "data": data, **asdict(done)})
    else:
        errors = f", {done.errors:,} of them could not be answered and are recorded" if done.errors else ""
        telling.say(f"{done.rows:,} rows{errors}: {out} ({done.seconds:.1f} s)")


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """In the block SIGTERM ends the command as Ctrl-C does, with exit code 143."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_along(model: Any, items: Iterable[Any], where: Sequence[str] | None, options: dict[str, Any], steps: bool, as_json: bool) -> None:
    """Each answer while it is written: its text, how it came about, or the records themselves."""
    from nabi.inspection.writing import in_order, view

    if steps and hasattr(model.task.Options, "top_alternatives"):
        options.setdefault("top_alternatives", 5)
    width = shutil.get_terminal_size().columns
    for number, item in enumerate(items):
        records = model.stream(item, watch=steps, where=where[number] if where else f"input {number + 1}", **options)
        if as_json:
            for record in records:
                _print_json(record)
        elif steps:
            for line in view(records, model.task.line, width):
                click.echo(line)
        else:
            index = 0
            for record in in_order(records):
                if record.get("index", index) != index:
                    index = record["index"]
                    click.echo()
                click.echo(record["text"], nl=False)
            click.echo()


@cli.command()
@click.argument("model")
@click.option("--objective", metavar="TEXT", help="Show TEXT under each pretraining objective that the tokenizer allows: inputs, targets, what is counted.")
@click.option("--seed", type=int, help="Of what --objective hides.  [default: 0]")
@click.option("--image", "images", multiple=True, metavar="FILE", help="Draw what the model does with an image: patches, attention, positions, completions.")
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="Hold this against each --image, in a model of images and texts; may be given again.")
@click.option("--out", metavar="FILE", help="The page for --image (HTML).")
@_plugin
@_json
def inspect(
    model: str,
    objective: str | None,
    seed: int | None,
    images: tuple[str, ...],
    texts: tuple[str, ...],
    out: str | None,
    plugins: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say what MODEL is made of: parameters by group, kernels chosen and refused, tokenizer, golden vectors.

    \b
    nabi inspect DIR
    nabi inspect DIR --objective "The butterfly sat on a flower. It flew away." --seed 1
    nabi inspect DIR --image photo.jpg --out inside.html
    nabi inspect DIR --image cat.jpg --image dog.jpg --text "a cat" --text "a dog" --out matrix.html
    """
    if texts and not images:
        raise OptionError("--text is held against images, and none is given", value=", ".join(texts), expected="--image FILE --text TEXT --out PAGE.html")
    if bool(images) != (out is not None) or (images and objective is not None):
        given = [name for name, value in (("--image", images), ("--text", texts), ("--out", out), ("--objective", objective)) if value]
        raise OptionError("--image and --out go together, and without --objective", value=", ".join(given), expected="--image FILE --out PAGE.html")
    if objective is not None:
        from nabi.inspection.objectives import lines as told
        from nabi.inspection.objectives import objectives

        found = objectives(model, objective, seed or 0, plugins)
        if as_json:
            _print_json(found)
        else:
            click.echo("\n".join(told(found, shutil.get_terminal_size().columns)))
        return
    if seed is not None:
        raise OptionError("--seed goes with --objective", value=seed, fix="give --objective TEXT")
    if out is not None:
        from nabi.inspection.galleries import drawn

        html, facts = drawn(model, images, texts, plugins)
        _write_page(out, html)
        if as_json:
            _print_json({"model": model, "images": images, "page": out, **facts})
        else:
            click.echo(f"{out} shows what {model} does with {', '.join(images)}.")
        return
    from nabi.inspection import inspect_model

    facts = inspect_model(model, plugins)
    if as_json:
        _print_json(facts)
        return
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        click.echo(f"{name:<12} {lines[0] if lines else '-'}")
        for line in lines[1:]:
            click.echo(f"{'':<12} {line}")


@cli.command()
@click.argument("target", required=False, metavar="[MODEL | DATA]")
@click.option("--dev", metavar="FILE", help="Dev rows, to find those that also stand in DATA.")
@click.option("--model", metavar="MODEL", help="Measure the texts of DATA in the tokens of this model.")
@click.option("--task", metavar="NAME", help="What DATA is for; the model's task, or what its columns tell, if not given.")
@_columns
@_plugin
@_json
def doctor(
    target: str | None, dev: str | None, model: str | None, task: str | None, columns: str | None, plugins: tuple[str, ...], as_json: bool
) -> None:
    """Look for trouble: in the machine, in a MODEL folder, or in a DATA file; exit code 1 if an error was found."""
    from nabi.inspection import check

    findings = check(target, dev, _pairs(columns), plugins, model, task)
    if as_json:
        _print_json({"target": target or "machine", "findings": findings})
    else:
        for finding in findings:
            click.echo(f"{finding['severity']:<8} {finding['message']}" + (f"\n{'':<8} -> {finding['fix']}" if finding["fix"] else ""))
    if any(finding["severity"] == "error" for finding in findings):
        sys.exit(1)


@cli.command()
@click.argument("model")
@click.option("--data", metavar="FILE", help="Rows to answer; the score by precision too where they are labelled. Without it sentences of our own.")
@click.option("--seconds", type=float, default=20.0, show_default=True, help="About how long to measure.")
@_columns
@_plugin
@_json
def bench(model: str, data: str | None, seconds: float, columns: str | None, plugins: tuple[str, ...], as_json: bool) -> None:
    """Measure MODEL on this CPU at each precision: rows and tokens a second, latency, memory, and what a faster precision changes."""
    from nabi.inspection.speed import lines, measure

    found = measure(model, data, _pairs(columns), plugins, seconds)
    if as_json:
        _print_json(found)
    else:
        click.echo("\n".join(lines(found)))


cli.add_command(cache)
cli.add_command(corpus)

# of --set -> of a recipe, where `task` is the task's name
_SECTIONS = {name: name for name in ("plan", "options", "lora", "body", "images")} | {"task": "settings"}


class _Spec:
    """A recipe with the command line over it: ``values`` by option name, and the ``sections`` of settings."""

    def __init__(self, recipe: dict[str, Any], given: dict[str, Any], settings: Iterable[str]) -> None:
        from nabi.config import convert, parsed

        kinds = {"resume": bool, "no_examples": bool, "seed": int, "processes": int, "dev": str | float, "columns": str | dict[str, str]}
        self.sections = {name: convert(dict[str, Any], recipe.pop(key, {}), key) for name, key in _SECTIONS.items()}
        for name, value in recipe.items():
            if name not in given:
                raise unknown("key in the recipe", name, [*given, *_SECTIONS.values()])
            convert(kinds.get(name, str), value, name)
        for setting in settings:
            path, equals, text = setting.partition("=")
            section, dot, key = path.partition(".")
            if not equals or not dot or section not in self.sections:
                hint = nearest(section, self.sections) if dot else ""
                taken = ", ".join(f"{name}.KEY=VALUE" for name in self.sections)
                raise OptionError("unknown setting", value=setting, expected=f"one of {taken}", fix=hint)
            place, (*outer, last) = self.sections[section], key.split(".")
            for number, name in enumerate(outer, 1):
                place = place.setdefault(name, {})
                if not isinstance(place, dict):
                    path = ".".join((section, *outer[:number]))
                    raise OptionError("a setting has no parts", value=setting, fix=f"{path} is {place!r}; give it whole")
            place[last] = parsed(text)
        source = click.get_current_context().get_parameter_source
        typed = {name for name in given if (s := source(name)) is not None and s.name == "COMMANDLINE"}
        self.values = {**given, **recipe, **{name: given[name] for name in typed}}
        for name in ("seed", "precision"):
            if self.values[name] is not None:
                self.sections["plan"][name] = self.values[name]

    def need(self, name: str) -> Any:
        """The value of an option that must be there."""
        if self.values[name] is None:
            raise OptionError(f"--{name} is missing", fix=f"give --{name}, or a line {name} = ... in the recipe")
        return self.values[name]


def _pairs(text: Any) -> dict[str, str] | None:
    """``text=review,label=stars`` or a TOML table."""
    if text is None or isinstance(text, dict):
        return text
    pairs = {}
    for item in text.split(","):
        ours, equals, theirs = item.partition("=")
        if not equals or not ours.strip() or not theirs.strip():
            raise OptionError("--columns takes NAME=COLUMN,...", value=text)
        pairs[ours.strip()] = theirs.strip()
    return pairs


def _fraction(dev: Any) -> Any:
    """``0.1`` is a share, anything else a file."""
    try:
        return float(dev) if dev is not None and not Path(str(dev)).exists() else dev
    except ValueError:
        return dev


def _options(settings: Iterable[str]) -> dict[str, Any]:
    from nabi.config import parsed

    options = {}
    for setting in settings:
        name, equals, text = setting.removeprefix("options.").partition("=")
        if not equals:
            raise OptionError("--set takes KEY=VALUE", value=setting)
        options[name] = parsed(text)
    return options


def _inputs(model: Any, inputs: tuple[str, ...], data: str | None, columns: str | None) -> tuple[Iterable[Any], Sequence[str] | None]:
    if data is not None:
        from nabi.data import read_table

        table = read_table(data, _pairs(columns))
        table = model.task.opened(table)
        table.require(model.task.required(table.columns)[:1])
        return table, table.places
    return (_stdin_lines() if inputs == ("-",) else inputs), None


def _stdin_lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as problem:
            raise InputError("standard input is not UTF-8", value=f"line {number} ({problem})", fix="convert it: iconv -f CP949 -t UTF-8") from None


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    """Write a file, a line each; a call that fails leaves nothing half-written."""
    with whole(path) as draft, draft.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(line + "\n")


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    said: list[str] = []
    launched = "NABI_OUTCOME" in os.environ  # one of several processes, whose end is told once
    code = _run(lambda: cli.main(args=args, prog_name="nabi", standalone_mode=False), said.append if launched else _say)
    if launched:
        from nabi.training.launch import leave

        code = leave(code, "\n".join(said))
    sys.exit(code)


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)


def _run(command: Callable[[], Any], say: Callable[[str], None] = _say) -> int:
    """The exit code of a command; what went wrong is said."""
    try:
        command()
    except NabiError as error:
        say(f"error: {error}")
        return error.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        say("stopped")
        return 130
    except BrokenPipeError:
        # the reader of our output went away (head, less); nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
