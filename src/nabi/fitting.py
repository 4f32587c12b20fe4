"""One call from labelled data to a trained, evaluated and saved model: ``fit``, which the command line calls.

It is a caller of the loop like any other, with the usual choices: evaluate on dev, keep best and last, stop early, resume exactly, leave a report.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import time
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nabi import adapters, checkpoint, plugins, tasks
from nabi.batch import Row
from nabi.config import convert, from_dict, to_dict
from nabi.data import Table, read_table
from nabi.data.shards import TokenShards
from nabi.data.split import split
from nabi.errors import DataError, OptionError, StorageError, TrainingError, nearest
from nabi.evaluation import Evaluation, evaluate
from nabi.evaluation.card import CardOptions, card, hub_id
from nabi.evaluation.curve import Curve
from nabi.evaluation.findings import Findings, Made, Source
from nabi.evaluation.report import run_report
from nabi.model import Model
from nabi.nn.convolution import freeze_statistics
from nabi.nn.heads import Head
from nabi.nn.lora import Lora
from nabi.pages.markdown import write_card
from nabi.pages.page import write
from nabi.ranks import Ranks
from nabi.ranks import found as found_ranks
from nabi.tasks import Task
from nabi.training import finder
from nabi.training.encoded import code, encoded
from nabi.training.faults import Spikes, Stopping
from nabi.training.feed import Feed
from nabi.training.finder import Rates
from nabi.training.loop import State, Step, train
from nabi.training.plan import Plan
from nabi.training.progress import Progress
from nabi.training.runs import RunFolder
from nabi.training.windows import Windows, open_shards


@dataclass
class Fitted:
    """What a run left.

    Attributes:
        model: with the best weights.
        metrics: of the best evaluation, empty without dev data.
        history: one entry an evaluation: step, mean training loss since the one before, metrics.
        out: its folder, or None.
        seconds: of training, evaluation and saving in this process.
        tokens: trained on in this process.
        rates: what the search for a learning rate saw, where that was asked for in place of training.
    """

    model: Model
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    out: Path | None
    seconds: float
    tokens: int
    rates: Rates | None = None


def fit(
    task: str,
    data: Any,
    base: str | Path | None = None,
    out: str | Path | None = None,
    plan: Plan | None = None,
    *,
    dev: Any = None,
    family: str | None = None,
    size: str | Mapping[str, Any] = "tiny",
    tokenizer: str | Path | None = None,
    images: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    lora: Lora | None = None,
    find_rate: bool = False,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
    plugins: Iterable[str | Path | ModuleType] = (),
    examples_in_report: bool = True,
    about: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> Fitted:
    """Train a model for a task.

    Args:
        task: its name, such as ``text_classification``.
        data: labelled rows: a path, a DataFrame, a list of dicts; or token shards, or the path of their folder, which is read in windows of the
            model's length.
        base: a model folder or shipped name to start from; or give ``family``, ``size`` and ``tokenizer`` to start from nothing.
        out: folder for the model and its checkpoints; nothing is written if None.
        plan: how to train.
        dev: rows to evaluate on, or the share of ``data`` to put aside, such as 0.1.
        images: of a model from scratch how it reads images: what of ``ImageSettings`` differs from the family's.
        columns: our column name -> the data's.
        settings: of the task: class weights, loss, label names.
        options: of the task: how long texts are read.
        lora: train adapters and heads alone; what is saved then holds no more than these and needs ``base`` to be loaded.
        find_rate: do not train, but try learning rates in a short run that nothing is kept of; they are in ``rates`` of what is returned.
        resume: go on with the run in ``out``, exactly.
        progress: who is told.
        plugins: files or modules with families and tasks of your own.
        examples_in_report: whether ``report.html`` shows texts of rows; say no to data that may not be passed on.
        about: what only you know, for the model card: ``license``, ``language``, ``tags``.
        command: what made this run, for report and card; this call if None.

    Raises:
        DataError: the data can't be learnt from.
        OptionError: a name or value is unknown, or the choices do not go together.
        TrainingError: a loss or gradient is not finite, or the loss leaps up and stays there.
        StorageError: a checkpoint could not be written; those before it are whole.
        SystemExit: with 143, after SIGTERM; what was done is saved.
    """
    began, call = time.monotonic(), dict(locals())
    plugins = tuple(plugins)
    _add(plugins)
    ranks = found_ranks()
    plan, progress = plan or Plan(), progress or Progress() if ranks.first else Progress("none")
    if ranks.world > 1 and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', ranks.rank)}"
    resume = resume or ranks.attempt > 0  # begun again after a process died
    described = from_dict(CardOptions, about or {}, "the card's facts")
    kind = tasks.find(task)
    table: Table | TokenShards
    if (shards := open_shards(data, kind, dev, columns)) is None:
        table, held_out = _tables(data, dev, columns, plan.seed, kind)
        if table.spooled:
            progress.say(f"The data is a stream: its {len(table):,} rows were written to disk first ({table.spooled / 1e6:,.0f} MB), to be read in any order.")
    else:
        table, held_out = shards, None if dev is None else _held_out(dev, columns, kind)
    wanted = kind.fitted([] if isinstance(table, TokenShards) else table, table.name, _settings(kind, settings or {}))
    if (base is None) == (family is None):
        raise OptionError("give either a base model or a family", value={"base": base, "family": family})
    if images and base is not None:
        raise OptionError("a base model says itself how it reads images", value=dict(images), fix="leave their settings out")
    if lora is not None and base is None:
        raise OptionError("adapters need a base model to belong to", value=family, fix="give one as base (--base), or leave lora out")
    with contextlib.ExitStack() as held:
        folder = None
        if out is not None and not find_rate:
            folder = held.enter_context(RunFolder(out, resume=resume, ranks=ranks, behind=ranks.another()))
        given: dict[str, Any] = {
            "task": kind.name, "data": table.sha256, "dev": held_out.sha256 if held_out else None, "columns": dict(columns or {}),
            "options": dict(options or {}), "settings": to_dict(wanted), "lora": to_dict(lora), "base": base and str(base),
            "family": family, "size": to_dict(size) if family else None, "windows": data.length if isinstance(data, TokenShards) else None,
            **({"images": dict(images)} if images else {}),
        }  # fmt: skip
        settings_of_plan = {f"plan.{name}": value for name, value in to_dict(plan).items()}
        ranks.agree({**given, **settings_of_plan, "out": out and str(out), "torch": torch.__version__, "nabi's code": code()})
        state: State | None = None
        if folder and resume and folder.finished:
            raise OptionError("this run is over", value=str(out), fix="load it, or begin a new run in another folder")
        if folder and resume and folder.begun:
            state = folder.load_last(plan, given)
            for note in folder.notes:
                progress.say(note)
            model = checkpoint.load_for_training(folder.source, kind.name, wanted, seed=plan.seed, device=device)
        elif base is not None:
            model = checkpoint.load_for_training(base, kind.name, wanted, seed=plan.seed, device=device)
            if lora is not None:
                adapters.adapt(model, lora, str(base), plan.seed)
        else:
            seen = table if isinstance(table, Table) else None
            model = checkpoint.create(str(family), size, kind.name, wanted, tokenizer, images=images, examples=seen, seed=plan.seed, device=device)
        for note in model.origin.notes:
            progress.say(note)
        _set_dropout(model, plan)
        freeze_statistics(model, base is not None if plan.batch_statistics is None else not plan.batch_statistics)
        opts = model.options(options)
        rows: Sequence[Sequence[Row]]
        if shards is not None:
            rows = windows = Windows(model, shards) if isinstance(data, TokenShards) else Windows.fitted(model, shards)
            table = windows.shards
        else:
            assert isinstance(table, Table)
            rows = ranks.in_turn(lambda: encoded(model, table, opts, "train", progress.say))
        if find_rate:
            rates = finder.find_rate(model, Feed(model, rows, plan), plan)
            return Fitted(model, {}, [], None, time.monotonic() - began, 0, rates)
        dev_rows = None
        if held_out is not None:  # refused now and not after an epoch
            for i, example in enumerate(held_out):
                model.task.truth(example, held_out.where(i))
            dev_rows = ranks.in_turn(lambda: encoded(model, held_out, opts, "evaluate", progress.say))
        ranks.agree({"the sum of the weights": sum(float(p.detach().double().sum()) for p in model.parameters()) if ranks.world > 1 else 0})
        run = _Run(model, Feed(model, rows, plan), plan, progress, folder, held_out, options, given, state, dev_rows, ranks)
        if folder:
            folder.make()
        run.go()
        if folder and ranks.first:
            adapted = {} if lora is None else {"lora.rank": lora.rank, **_changed("lora", lora, Lora())}
            settings = {**_changed("plan", plan, Plan()), **adapted, **{f"task.{k}": v for k, v in (settings or {}).items()}}
            made = Made(
                name=folder.path.resolve().name,
                folder=str(out),
                command=command or _shown_call({**call, "plugins": plugins}),
                base=f"{base}" if base is not None else f"nothing (size {size if isinstance(size, str) else 'of its own'})",
                hub=hub_id(str(base)) if base is not None else None,
                data=Source.of(table),
                dev=Source.of(held_out, f"{dev:g} of the rows, put aside" if isinstance(dev, int | float) else "") if held_out else None,
                settings={**settings, **{f"options.{k}": v for k, v in (options or {}).items()}},
                seed=plan.seed,
                seconds=run.seconds,
                tokens=run.tokens_in_all,
                history=run.history,
                curve=run.curve.points(),
                plugins=[str(p) for p in plugins if not isinstance(p, ModuleType)],
            )
            findings = run.findings()
            _write_report(folder.path, made, findings, model, described, progress, examples=examples_in_report)
            _write_history(folder.path, run.history, plan, table, held_out, run.curve, findings)
        if folder:
            folder.publish()
        return Fitted(model, run.best, run.history, folder.path if folder else None, time.monotonic() - began, run.tokens)


class _Run:
    """The course of one run: evaluations, checkpoints, early stopping."""

    def __init__(
        self,
        model: Model,
        feed: Feed,
        plan: Plan,
        progress: Progress,
        folder: RunFolder | None,
        dev: Table | None,
        options: Any,
        given: Mapping[str, Any],
        state: State | None,
        dev_rows: Sequence[Sequence[Row]] | None,
        ranks: Ranks,
    ) -> None:
        self.ranks = ranks
        self.model, self.feed, self.plan, self.progress, self.folder = model, feed, plan, progress, folder
        self.dev, self.options, self.given, self.state, self.dev_rows = dev, options, given, state, dev_rows
        self.history: list[dict[str, Any]] = list(state.extra["history"]) if state else []
        self.best: dict[str, float] = dict(state.extra["best"]) if state else {}
        self.since_best = int(state.extra["since_best"]) if state else 0
        self.tokens, self._losses = 0, [float(x) for x in state.extra["losses"]] if state else []
        self.curve = Curve(state.extra.get("curve") if state else None)
        self._began = time.monotonic()
        # of the run so far, by earlier processes
        self._seconds, self._tokens = (float(state.extra.get("seconds", 0)), int(state.extra.get("tokens", 0))) if state else (0.0, 0)
        self.spikes = Spikes(plan.spike, state.extra.get("spikes") if state else None)
        self._weights: dict[str, Any] | None = None
        self._settings: Any = None  # of the task, which may fit some of them on dev rows
        self._best: Evaluation | None = None  # with its rows, if it was made in this process

    @property
    def seconds(self) -> float:
        """Of the whole run, earlier processes included."""
        return self._seconds + time.monotonic() - self._began

    @property
    def tokens_in_all(self) -> int:
        """Trained on in the whole run, earlier processes included."""
        return self._tokens + self.tokens

    def findings(self) -> Findings | None:
        """What a report says of the best evaluation; it is made again only if an earlier process made it."""
        if self.dev is None:
            return None
        found = self._best or evaluate(self.model, self.dev, options=self.options, keep=True, rows=self.dev_rows)
        return Findings(self.model, found, self.options)

    def go(self) -> None:
        """Train to the end or until no evaluation is better.

        Raises:
            TrainingError: a loss or gradient is not finite, or the loss has leapt up; names the last good checkpoint.
            SystemExit, KeyboardInterrupt: a signal asked for it, and what was done is saved.
        """
        try:
            with Stopping() as stopping:
                self._train(stopping)
        except TrainingError as problem:
            raise TrainingError(f"{problem} {self._way_back()}") from problem
        if self._weights is not None:
            self.model.load_state_dict(self._weights)
            self.model.task.settings = self._settings
        elif self.folder and (best := self.folder.load_best()) and self.best:
            loaded = checkpoint.load(best, self.model.task.name)
            self.model.load_state_dict(loaded.state_dict())
            self.model.task.settings = loaded.task.settings

    def _train(self, stopping: Stopping) -> None:
        every, plan = self.plan.between(self.feed.steps_per_epoch), self.plan
        over = self.state is not None and self._stopped()
        due = best = False  # what the next save is for
        for step in () if over else train(self.model, self.feed, plan, self.state, ranks=self.ranks, asked=lambda: stopping.asked):
            self.tokens += step.tokens
            self._losses.append(step.loss)
            self.curve.add(step.loss)
            self.progress.step(step)
            if leap := self.spikes.add(step.loss):
                first = step.number - len(self.spikes.high)  # counted from 0, the first step that was too high
                raise TrainingError(f"step {step.number}: {leap}; it began at step {first + 1}, with examples {self.feed.examples(first)[:8]}.")
            better, ends = False, step.number == step.total
            if evaluated := step.number % every == 0 or ends:
                better = self._milestone(step)
                ends |= self._stopped()
            best |= better
            due |= better or ends or step.stop or (step.number % plan.save_every == 0 if plan.save_every else evaluated)
            due |= plan.keep_every is not None and step.number % plan.keep_every == 0
            # what may be the beginning of a spike takes no good checkpoint's place, unless the figure on dev says that it is good
            if due and (ends or not self.spikes.high or (better and self.dev is not None)):
                self._save(step, best)
                due = best = False
            if self._stopped():
                self.progress.say(f"Stopped: {self.since_best} evaluations without a better {self.model.task.main_metric}.")
                break
            if step.stop:
                self._stop(step, stopping)

    def _stopped(self) -> bool:
        return self.plan.patience is not None and self.since_best >= self.plan.patience

    def _milestone(self, step: Step) -> bool:
        """Evaluate; whether nothing before was better."""
        loss = sum(self._losses) / len(self._losses)
        self._losses = []
        entry: dict[str, Any] = {"step": step.number, "epoch": step.epoch, "loss": loss}
        name = self.model.task.main_metric
        better = True
        step.refresh()
        if self.dev is not None:
            keep = self.folder is not None
            found = evaluate(self.model, self.dev, options=self.options, keep=keep, calibrate=True, rows=self.dev_rows, ranks=self.ranks)
            metrics = found.metrics
            entry["metrics"] = metrics
            better = not self.best or (metrics[name] < self.best[name] if self.model.task.lower_is_better else metrics[name] > self.best[name])
            self.since_best = 0 if better else self.since_best + 1
            if better:
                self.best, self._best = metrics, found
        self.history.append(entry)
        shown = "".join(f"  {k} {v:.4f}" for k, v in list(entry.get("metrics", {}).items())[:4])
        self.progress.say(f"epoch {step.epoch:.2f}  loss {loss:.4f}{shown}", **entry)
        if self.folder is None and better and self.dev is not None:
            self._weights = {k: v.clone() for k, v in self.model.state_dict().items()}
            self._settings = self.model.task.settings
        return better

    def _save(self, step: Step, best: bool) -> None:
        if self.folder is None:
            return
        extra = {"history": self.history, "best": self.best, "since_best": self.since_best, "losses": self._losses}
        extra |= {"curve": self.curve.state(), "seconds": self.seconds, "tokens": self.tokens_in_all, "spikes": self.spikes.state()}
        step.refresh()
        self.folder.save_last(self.model, step.state(**extra), self.plan, self.given, best, self.plan.save_waits)

    def _stop(self, step: Step, stopping: Stopping) -> None:
        """End as the signal would have, with a sentence about what is left."""
        if self.folder:
            self.folder.wait()
        saved = self.folder.saved if self.folder else None
        left = f"step {saved[1]} is saved in {saved[0]}: go on with --resume, or resume=True" if saved else "nothing is saved, since the run has no folder"
        why = f"by {stopping.signal.name}" if stopping.signal else "because another process was asked to"
        self.progress.say(f"Stopped {why} after step {step.number}; {left}.")
        stopping.end()

    def _way_back(self) -> str:
        """What a run that failed has left to go back to."""
        if self.folder is None:
            return "Nothing was saved, since the run has no folder."
        try:
            self.folder.wait()
        except StorageError as problem:
            return f"The checkpoint before it could not be written either: {problem}."
        if self.folder.saved is None:
            return "No checkpoint had been saved yet."
        return f"The last good checkpoint is {self.folder.saved[0]}, of step {self.folder.saved[1]}."


def _tables(data: Any, dev: Any, columns: Mapping[str, str] | None, seed: int, kind: type[Task]) -> tuple[Table, Table | None]:
    table = kind.opened(data if isinstance(data, Table) and not columns else read_table(data, columns))
    table.require(kind.required(table.columns))
    if dev is None:
        return table, None
    if isinstance(dev, int | float):
        return split(table, float(dev), seed, key=kind.required(table.columns)[0])
    return table, _held_out(dev, columns, kind)


def _held_out(dev: Any, columns: Mapping[str, str] | None, kind: type[Task]) -> Table:
    held_out = kind.opened(dev if isinstance(dev, Table) and not columns else read_table(dev, columns))
    held_out.require(kind.required(held_out.columns))
    if not len(held_out):
        raise DataError("the dev data is empty", value=held_out.name)
    return held_out


def _settings(kind: type[Task], given: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(kind.Settings)}
    hints = typing.get_type_hints(kind.Settings)
    for name in given:
        if name not in known:
            raise OptionError(f"{kind.name} has no such setting", value=name, expected=f"one of {', '.join(sorted(known))}", fix=nearest(name, known))
    return {name: convert(hints[name], value, name) for name, value in given.items()}


def _set_dropout(model: Model, plan: Plan) -> None:
    """Put the plan's dropout in place of the model's own, in every leaf that has one."""
    for module in model.modules():
        own = (("dropout", plan.hidden_dropout), ("inner_dropout", plan.hidden_dropout), ("attention_dropout", plan.attention_dropout))
        for name, value in own:
            if value is not None and isinstance(getattr(module, name, None), float):
                setattr(module, name, value)
    if plan.head_dropout is not None:
        for module in model.task.children():
            if isinstance(module, Head):
                module.dropout = plan.head_dropout


def _write_history(
    folder: Path, history: list[dict[str, Any]], plan: Plan, table: Table | TokenShards, dev: Table | None, curve: Curve, findings: Findings | None
) -> None:
    facts = {
        "plan": to_dict(plan),
        "data": {"name": table.name, "rows": len(table), "sha256": table.sha256},
        "dev": None if dev is None else {"name": dev.name, "rows": len(dev), "sha256": dev.sha256},
        "history": history,
        "curve": {"each": curve.each, "loss": curve.values},
        "intervals": findings.intervals if findings else {},
        "facts": findings.facts if findings else {},
    }
    write(folder / "history.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def _write_report(
    folder: Path, made: Made, findings: Findings | None, model: Model, about: CardOptions, progress: Progress, *, examples: bool
) -> None:
    began = time.monotonic()
    write(folder / "report.html", run_report(findings, made, model, examples=examples))
    written = write_card(folder / "README.md", card(findings, made, model, about))
    progress.say(f"{folder / 'report.html'} and README.md say how it went ({time.monotonic() - began:.1f} s)." if written else
                 f"{folder / 'report.html'} says how it went; README.md is your own and was left as it is.")  # fmt: skip


def _changed(name: str, value: Any, usual: Any) -> dict[str, Any]:
    """The fields that differ, under dotted names."""
    return {f"{name}.{f.name}": getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != getattr(usual, f.name)}


def _shown_call(given: Mapping[str, Any]) -> str:
    """The call of :func:`fit` with what differs from the usual values; data in memory is named, not written out."""
    shown = []
    for name, parameter in inspect.signature(fit).parameters.items():
        value = given[name]
        if name == "progress" or value is parameter.default or (isinstance(value, str | int | tuple) and value == parameter.default):
            continue
        if isinstance(value, Plan | Lora):
            chosen = [f"{key.removeprefix('.')}={choice!r}" for key, choice in _changed("", value, type(value)()).items()]
            text = f"{type(value).__name__}({', '.join(chosen)})"
        elif isinstance(value, str | Path | int | float | Mapping) or name == "plugins":
            text = repr(str(value) if isinstance(value, Path) else value)
        else:
            text = f"<{type(value).__name__}{f' of {len(value):,} rows' if hasattr(value, '__len__') else ''}>"
        shown.append(text if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name in ("task", "data") else f"{name}={text}")
    return f"nabi.fit({', '.join(shown)})"


def _add(files: Iterable[str | Path | ModuleType]) -> None:
    plugins.add(files)
