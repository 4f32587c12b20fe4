"""The report: one HTML page about a run, about an evaluation, or about two models.

What belongs to a task comes from its ``Detail.sections``; everything here is the same for all tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from nabi.data import Table as Rows
from nabi.errors import UserError
from nabi.evaluation.bootstrap import RESAMPLES
from nabi.evaluation.comparison import Comparison
from nabi.evaluation.findings import Findings, Made, Source, images_read, versions
from nabi.evaluation.thumbnails import IMAGE, shown, thumbnail
from nabi.pages.page import Tile, cut, render
from nabi.pages.sections import Block, Cell, Code, Lines, Section, Table
from nabi.tasks import Task

WORST = 15  # rows with the highest loss
DOUBTFUL = 30  # rows whose label may be wrong
FLIPS = 50  # of each kind
NO_TEXTS = "The texts of rows were left out on request."
NO_IMAGES = "The images of rows were left out on request."


def run_report(findings: Findings | None, made: Made, model: Any, *, examples: bool = True) -> str:
    """The page of a run.

    Args:
        findings: of the best evaluation on dev; None if there was no dev data.
        made: how the model was made.
        model: that came out.
        examples: with the texts of rows.
    """
    sections: list[Section] = []
    if findings is None:
        sections.append(Section("Figures", ["No dev rows were given, so nothing was measured."]))
    else:
        sections += [_figures(findings)]
    sections += _course(made, model.task)
    if findings is not None:
        sections += _evaluated(findings, examples)
    sections += [_how(made, model), _use(made.folder, model, made.plugins)]
    tiles = _tiles(findings) if findings else []
    parameters = sum(p.numel() for p in model.original.parameters())
    tiles += [("parameters", parameters, ""), ("training rows", made.data.rows, ""), ("seconds", f"{made.seconds:,.0f}", "training, evaluation, saving")]
    return render(f"{made.name}: {_spelt(model.task.name)}", f"Report of a training run, {_today()}", tiles, sections)


def evaluation_report(findings: Findings, command: str, *, examples: bool = True, plugins: Sequence[str] = ()) -> str:
    """The page of an evaluation.

    Args:
        findings: what was found.
        command: that made it.
        examples: with the texts of rows.
        plugins: files that the model needs.
    """
    found = findings.evaluation
    facts: list[tuple[Cell, ...]] = [("model", found.model), ("data", found.data), ("rows", f"{found.rows:,}")]
    if found.kept:
        facts.append(("sha256 of the data", found.kept.table.sha256))
    facts += [("options", _pairs(findings.options)), ("parameters", f"{findings.parameters:,}"), ("seconds", f"{found.seconds:.1f}")]
    facts += list(versions().items())
    sections = [_figures(findings), *_evaluated(findings, examples), Section("How this was made", [Code(command), Table(("", ""), facts)])]
    sections.append(_use(found.model, findings.model, plugins))
    tiles = [*_tiles(findings), ("parameters", findings.parameters, "")]
    return render(f"{found.model}: {_spelt(found.task)}", f"Evaluation on {found.data}, {_today()}", tiles, sections)


def comparison_report(found: Comparison, command: str, *, examples: bool = True) -> str:
    """The page of two models on the same rows.

    Args:
        found: what was found.
        command: that made it.
        examples: with the texts of rows.
    """
    first, second = found.first, found.second
    rows: list[tuple[Cell, ...]] = []
    for name, each in found.differences.items():
        a, b = (e.metrics[name] for e in (first, second))
        rows.append((name, a, _span(found.intervals[0][name]), b, _span(found.intervals[1][name]), each.difference, _span((each.low, each.high)), each.p))
    head = ("figure", "first", "95 % interval", "second", "95 % interval", "second minus first", "95 % interval", "p")
    note = (
        f"Intervals: percentiles of {found.resamples:,} resamples of the {first.rows:,} rows, the same for both models. p is twice the smaller share of "
        "resamples in which the difference is 0 or has the other sign. "
    )
    names = Table(("", "model", "seconds"), [("first", first.model, f"{first.seconds:.1f}"), ("second", second.model, f"{second.seconds:.1f}")])
    tables = _by_kind(rows, head)
    sections = [Section("Figures", [names, *tables, note + _calibration_note(first.metrics)])]
    if found.mcnemar is not None and found.only_first is not None and found.only_second is not None:
        counts = f"{found.only_first:,} rows are right in the first model only, {found.only_second:,} in the second only"
        told = f"{counts}; McNemar's exact test: p = {found.mcnemar:.4g}."
        sections.append(Section("Rows on which they part", [told, *(_flips(found, side, examples) for side in ("first", "second"))]))
    kept = first.kept
    facts: list[tuple[Cell, ...]] = [("data", first.data), ("rows", f"{first.rows:,}"), ("sha256 of the data", kept.table.sha256 if kept else "")]
    sections.append(Section("How this was made", [Code(command), Table(("", ""), [*facts, *versions().items()])]))
    main = [name for name in ("accuracy", "macro_f1", "pearson") if name in found.differences]
    tiles: list[Tile] = [(f"{n}, second minus first", found.differences[n].difference, _span_of(found.differences[n])) for n in main]
    tiles += [("rows", first.rows, "")]
    return render(f"{first.model} and {second.model}", f"Two models on {first.data}, {_today()}", tiles, sections)


# ---- sections ------------------------------------------------------------------------------------------------------------------------------------------


def _tiles(findings: Findings) -> list[Tile]:
    metrics = findings.evaluation.metrics
    names = dict.fromkeys(n for n in (findings.main, "accuracy", "ece", "mse") if n in metrics)
    shown_names: list[Tile] = []
    for name in names:
        span = findings.intervals.get(name)
        shown_names.append((name, metrics[name], f"95 %: {_span(span)}" if span else ""))
    return [*shown_names, ("rows", findings.evaluation.rows, findings.evaluation.data)]


def _figures(findings: Findings) -> Section:
    metrics = findings.evaluation.metrics
    kept = findings.evaluation.kept
    by_label = kept is not None and bool(kept.detail.choices)  # then these have a section of their own
    rows = [(name, value, *findings.intervals.get(name, (None, None))) for name, value in metrics.items() if not (by_label and name.startswith("f1/"))]
    if not findings.intervals:
        return Section("Figures", [Table(("figure", "value"), [row[:2] for row in rows]), "This task keeps nothing of its rows, so there are no intervals."])
    note = f"Intervals: 2.5 and 97.5 percentiles of {findings.resamples:,} bootstrap resamples of the {findings.evaluation.rows:,} rows, seed 0. "
    if findings.resamples < RESAMPLES:
        note += f"Of so many rows fewer than {RESAMPLES:,} are drawn. "
    return Section("Figures", [Table(("figure", "value", "from", "to"), rows), note + _calibration_note(metrics)])


def _by_kind(rows: Sequence[tuple[Any, ...]], head: tuple[str, ...]) -> list[Block]:
    """The figures of all rows, then those by label, folded if they are many."""
    whole, by_label = [[row for row in rows if row[0].startswith("f1/") == of_label] for of_label in (False, True)]
    blocks: list[Block] = [Table(head, whole)]
    if by_label:
        many = len(by_label) > 12
        caption = "F1 by label" if many else ""
        blocks = [Table(head, whole), Table(head, by_label, caption, folded=True)] if many else [Table(head, [*whole, *by_label])]
    return blocks


def _calibration_note(metrics: Mapping[str, float]) -> str:
    return "A resample shows a calibration error (ece) that is larger by its own noise, so its interval lies high." if "ece" in metrics else ""


def _course(made: Made, task: Task) -> list[Section]:
    if not made.curve:
        return []
    main = task.main_metric
    size = round(made.curve[0][0])
    each = "each step" if size == 1 else f"mean of {size} steps"
    means = [(float(entry["step"]), float(entry["loss"])) for entry in made.history]
    blocks: list[Block] = [Lines("Training loss", "step", "loss", {each: list(made.curve), "mean between evaluations": means}, thin=(each,))]
    names: list[str] = []
    if made.history and "metrics" in made.history[0]:
        names = list(dict.fromkeys([main, *(n for n in made.history[0]["metrics"] if not n.startswith("f1/"))]))
        bounded = [n for n in names if n == main or n in ("accuracy", "macro_f1", "mcc", "f1", "spearman")][:3]
        blocks.append(Lines("Figures on dev", "step", "value", {n: [(float(e["step"]), float(e["metrics"][n])) for e in made.history] for n in bounded}))
    rows: list[tuple[Cell, ...]] = [
        (e["step"], round(e["epoch"], 2), float(e["loss"]), *(float(e["metrics"][n]) for n in names)) for e in made.history
    ]
    best = ""
    if names:
        entry = (min if task.lower_is_better else max)(made.history, key=lambda e: e["metrics"][main])  # of equal ones the first, as in fit
        best = f"The best weights are those of step {entry['step']:,}, by {main}."
    note = f"Loss: the mean over the steps since the evaluation before. {best}"
    return [Section("Course of training", [*blocks, Table(("step", "epoch", "loss", *names), rows), note])]


def _evaluated(findings: Findings, examples: bool) -> list[Section]:
    kept, verdicts = findings.evaluation.kept, findings.verdicts
    if kept is None or verdicts is None:
        return []
    sections = kept.detail.sections(findings.intervals)
    if findings.by_length:
        rows: list[tuple[Cell, ...]] = [(s.name, s.rows, s.figure, s.low, s.high) for s in findings.by_length]
        note = "Fourths of the rows by the tokens that the model reads, special ones and the shared parts of windows included."
        if len(findings.lengths[0]) < findings.evaluation.rows:
            note += f" {len(findings.lengths[0]):,} rows were drawn by chance for this."
        sections.append(Section("By length", [Table(("length", "rows", findings.main, "from", "to"), rows, note)]))
    worst = np.argsort(-verdicts.loss, kind="stable")
    if verdicts.right is not None:
        worst = worst[~verdicts.right[worst]]
    all_of = "rows" if verdicts.right is None else "wrong rows"
    note = f"{WORST} of {len(worst):,} {all_of}" if len(worst) > WORST else f"All {len(worst)} {all_of}"
    blocks: list[Block] = ["No row is wrong."]
    if len(worst):
        blocks = [_rows(findings, worst[:WORST], examples, note)]
    sections.append(Section("Worst errors", blocks))
    if verdicts.doubtful is not None:
        doubtful = np.argsort(-verdicts.loss, kind="stable")
        doubtful = doubtful[verdicts.doubtful[doubtful]]
        told = (
            f"{len(doubtful):,} of the rows that were evaluated: the model gives another label, as surely as it gives that label to the rows that bear it. "
            "Some are errors of the model, some are errors of the data; read them before you change one. Training rows were not looked at."
        )
        blocks = [told]
        if len(doubtful):
            blocks.append(_rows(findings, doubtful[:DOUBTFUL], examples, f"The first {DOUBTFUL}" if len(doubtful) > DOUBTFUL else "All of them", folded=True))
        sections.append(Section("Labels to check", blocks))
    return sections


def _rows(findings: Findings, chosen: Any, examples: bool, which: str, *, folded: bool = False) -> Table:
    kept, verdicts = findings.evaluation.kept, findings.verdicts
    assert kept is not None and verdicts is not None
    seen, both = IMAGE in kept.detail.fields, ["truth", "answer"] if examples or not verdicts.texts else []
    ends = _ends(seen, examples)
    head = ["where", *both, *(["probability"] if verdicts.confidence is not None else []), "loss", *ends]
    rows: list[tuple[Cell, ...]] = []
    for i in chosen.tolist():
        sure = [] if verdicts.confidence is None else [float(verdicts.confidence[i])]
        given = [cut(x) if verdicts.texts else x for x in (verdicts.truth[i], verdicts.predicted[i])] if both else []
        end = [_image(kept.table, i)] * seen + [cut(shown(kept.table[i], kept.detail.fields))] if examples else []
        rows.append((_place(kept.table, i), *given, *sure, float(verdicts.loss[i]), *end))
    caption = f"{which}, the highest loss first." + _left_out(seen, examples)
    return Table(tuple(head), rows, caption, folded=folded, prose=("text", "truth", "answer") if verdicts.texts else () if seen else ("text",))


def _flips(found: Comparison, side: str, examples: bool) -> Table:
    kept, flips = found.first.kept, [flip for flip in found.flips if flip.right == side]
    assert kept is not None
    seen = IMAGE in kept.detail.fields
    rows: list[tuple[Cell, ...]] = []
    for flip in flips[:FLIPS]:
        end = [_image(kept.table, flip.row)] * seen + [cut(flip.text)] if examples else []
        rows.append((flip.where.removeprefix(f"{found.first.data}, "), flip.truth, flip.first, flip.second, *end))
    shown_of = f" (the first {FLIPS} of {len(flips):,})" if len(flips) > FLIPS else ""
    caption = f"Right in the {side} model only{shown_of}." + _left_out(seen, examples)
    return Table(("where", "truth", "first", "second", *_ends(seen, examples)), rows, caption, folded=True, prose=() if seen else ("text",))


def _ends(seen: bool, examples: bool) -> list[str]:
    """The columns that show the row itself."""
    return ["image"] * seen + ["file" if seen else "text"] if examples else []


def _left_out(seen: bool, examples: bool) -> str:
    return "" if examples else f" {NO_IMAGES if seen else NO_TEXTS}"


def _image(table: Rows, row: int) -> Cell:
    """A row's thumbnail; why it can't be shown if its file has changed since it was read."""
    where = _place(table, row)
    try:
        return thumbnail(table[row], where)
    except UserError as problem:
        return str(problem)


def _how(made: Made, model: Any) -> Section:
    rows: list[tuple[Cell, ...]] = [("base", made.base), ("family", model.origin.family_name), ("seed", str(made.seed)), *images_read(model)]
    for what, source in (("training data", made.data), ("dev data", made.dev)):
        if source is not None:
            rows += _source(what, source)
    rows += [("settings that are not the usual ones", _pairs(made.settings)), ("tokens that were computed", f"{made.tokens:,}")]
    rows += [("evaluations", str(len(made.history))), *versions().items()]
    return Section("How it was made", [Code(made.command), Table(("", ""), rows)])


def _source(what: str, source: Source) -> list[tuple[Cell, ...]]:
    how = f" ({source.how})" if source.how else ""
    return [(what, f"{source.name}{how}"), ("its rows", f"{source.rows:,}"), ("its sha256", source.sha256)]


def _use(folder: str, model: Any, plugins: Sequence[str]) -> Section:
    return Section("How to use it", [Code(usage(folder, model, plugins))])


def usage(folder: str, model: Any, plugins: Sequence[str] = ()) -> str:
    """Three lines that answer with the model in ``folder``."""
    example = {name: "photo.jpg" if name == IMAGE else value for name, value in model.task.golden_examples()[0].items()}
    item = next(iter(example.values())) if example.keys() in ({"text"}, {IMAGE}) else example
    given = f", plugins={list(plugins)!r}" if plugins else ""
    return f"from nabi import load\nmodel = load({folder!r}{given})\nprint(model.predict({item!r}))"


# ---- words ---------------------------------------------------------------------------------------------------------------------------------------------


def _place(table: Rows, row: int) -> str:
    """``line 17``: the name of the data stands above."""
    return table.where(row).removeprefix(f"{table.name}, ")


def _pairs(values: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{k}={v}" for k, v in (values or {}).items()) or "none"


def _span(span: tuple[float, float]) -> str:
    return f"{span[0]:.4f} to {span[1]:.4f}"


def _span_of(each: Any) -> str:
    return f"95 %: {_span((each.low, each.high))}, p = {each.p:.3g}"


def _spelt(task: str) -> str:
    return task.replace("_", " ")


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
