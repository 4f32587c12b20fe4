"""``predict_file``: from a model and a file of rows to a file of answers; killed at any moment, the same call goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from nabi.checkpoint import load
from nabi.config import to_dict
from nabi.errors import DataError, OptionError, UserError
from nabi.model import CHUNK, Model
from nabi.pool import Pool, raised
from nabi.predicting.answering import Answerer, Told
from nabi.predicting.source import Reader, Source, digest_of
from nabi.predicting.work import Work, refuse
from nabi.predicting.writing import join, kind_of
from nabi.progress import Telling, clock

VERSION: str = sys.modules[__name__.partition(".")[0]].__version__
Facts = dict[str, Any]


@dataclass(frozen=True)
class Predicted:
    """What a run did.

    Attributes:
        task: what was answered; out: the file.
        rows: that were read; answers: lines of the file, more than rows where a row holds several examples.
        errors: rows that could not be answered and are recorded as such.
        resumed: rows that an earlier run had answered.
        seconds: of this run.
    """

    task: str
    out: str
    rows: int
    answers: int
    errors: int
    resumed: int
    seconds: float


@dataclass(frozen=True)
class Call:
    """What a worker must know: plain data, with absolute paths.

    Attributes:
        model, task, plugins, device: for ``load``.
        data, columns, options, keep, record, part: as for :func:`predict_file`.
    """

    model: str
    task: str | None
    plugins: tuple[str, ...]
    device: str
    data: str
    columns: dict[str, str]
    options: dict[str, Any]
    keep: tuple[str, ...]
    record: bool
    part: int

    def load(self) -> Model:
        """The model."""
        return load(self.model, self.task, plugins=self.plugins, device=self.device, precision="fp32" if self.device == "cpu" else None)


def predict_file(
    model: Model | str | Path,
    data: Any,
    out: str | Path,
    *,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    keep: Sequence[str] = (),
    on_error: Literal["stop", "record"] = "stop",
    part: int = CHUNK,
    overwrite: bool = False,
    fresh: bool = False,
    processes: int = 1,
    executor: Literal["local", "ray"] = "local",
    device: str = "cpu",
    plugins: Iterable[str | Path | ModuleType] = (),
    progress: Telling | None = None,
) -> Predicted:
    """Answer each row of the data and write the answers to a file, in the rows' order: all of them, or none yet.

    Rows are answered in parts, which are kept in a hidden folder beside ``out`` until all are done. A call that was ended in the middle, by whatever, goes on
    behind the parts that are done when it is made again, and the file has the bytes of a call that was not.

    Args:
        model: a model, or for ``load`` a folder, a name or an id.
        data: what ``stream_table`` reads: a file, a folder of files, a pattern; or rows in Python. Files are never held whole.
        out: the file: ``.jsonl``, ``.csv``, ``.tsv``, ``.parquet``, packed with ``.gz`` or ``.zst``.
        task: for ``load``.
        columns: our column name -> the data's.
        options: of the task.
        keep: columns of the data that are copied to the answers.
        on_error: at a row that can't be read ``stop``, or ``record`` ``{"error": ...}`` in its place.
        part: rows that are answered and kept at a time.
        overwrite: replace a file that is there, when the new one is whole.
        fresh: throw away what an earlier call left unfinished.
        processes: that answer at the same time, each with a model of its own; ``model`` and ``data`` must then be names.
        executor: ``local``, or ``ray`` for the machines of a cluster, which must see the same files.
        device: for ``load``.
        plugins: for ``load``.
        progress: how it is told.

    Raises:
        DataError, InputError: a row can't be read, or a file changed meanwhile; the parts before it are kept.
        OptionError: a setting that can't be; the file is there already; another run writes it; another job left its answers beside it.
        StorageError: a file could not be written (disk full); what is done is kept.
        WorkError: a worker was lost twice.
    """
    began, out, telling = time.monotonic(), Path(out), progress or Telling("quiet")
    kind_of(out)
    for name, number in (("part", part), ("processes", processes)):
        if number < 1:
            raise OptionError(f"{name} is too small", value=number, expected="1 or more")
    for name, value, known in (("on_error", on_error, ("stop", "record")), ("executor", executor, ("local", "ray"))):
        if value not in known:
            raise OptionError(f"unknown {name}", value=value, expected=" or ".join(known))
    work, plugins = Work(out), tuple(plugins)
    work.tidy()
    if not work.folder.exists():
        refuse(out, overwrite)
    source = Source(data, on_error == "record")
    spread = processes > 1 or executor == "ray"
    if spread and (source.files is None or isinstance(model, Model) or not all(isinstance(p, str | Path) for p in plugins)):
        raise OptionError("several processes read the model and the data themselves", expected="the names of a model, of data files and of plugins",
                          fix="save the model and the data, or leave out processes and executor")  # fmt: skip
    given = None if isinstance(model, Model) else _located(str(model))
    loaded = model if isinstance(model, Model) else load(model, task, plugins=plugins, device=device, precision="fp32" if device == "cpu" else None)
    opts = loaded.options(options)
    answerer = Answerer(loaded, opts, columns or {}, keep, on_error == "record", source.name, source.table)
    job = {
        "nabi": VERSION, "model": digest_of_model(loaded), "plugins": [_digest(p) for p in plugins], "task": loaded.task.name, "device": loaded.device.type,
        "settings": to_dict(loaded.task.settings), "options": to_dict(opts), "data": source.identity(), "columns": dict(columns or {}), "keep": list(keep),
        "part": part,
    }  # fmt: skip
    with work.alone():
        try:
            work.begin(json.loads(json.dumps(job, default=str)), fresh, telling.say)
            if not work.marked or work.joined.exists():
                refuse(out, overwrite)
            run = _Run(work, source, part, on_error == "record", telling)
            if not work.marked:
                if not spread:
                    run.here(answerer)
                else:
                    assert given is not None and source.files is not None
                    call = Call(given, task, tuple(str(Path(str(p)).absolute()) for p in plugins), device, str(Path(data).absolute()), dict(columns or {}),
                                dict(options or {}), tuple(keep), on_error == "record", part)  # fmt: skip
                    run.spread(call, processes, executor)
                join(work, run.complete())
            result = Predicted(loaded.task.name, str(out), run.rows, run.sum("answers"), run.sum("errors"), run.resumed, time.monotonic() - began)
            work.finish(overwrite)
        except BaseException:
            rows = sum(facts["rows"] for facts in work.done.values())
            if not work.begun:
                with contextlib.suppress(OSError):  # it is another job's
                    work.folder.rmdir()
            elif not rows:
                shutil.rmtree(work.folder, ignore_errors=True)  # nothing was done, so nothing is left behind
            elif work.folder.exists():
                telling.say(f"{rows:,} rows are answered and kept; the same command goes on behind them", rows=rows)
            raise
    return result


class _Run:
    """One run over the parts that are not done."""

    def __init__(self, work: Work, source: Source, part: int, record: bool, telling: Telling) -> None:
        self.work, self.source, self.part, self.telling = work, source, part, telling
        self.rows = self.resumed = self.sum("rows")
        self.began, self.total = time.monotonic(), None if work.marked else source.count()
        self._last = next((number for number, facts in work.done.items() if facts["rows"] < part), None)  # parts from there on are known to be done or empty
        if not record and (errors := self.sum("errors")):
            raise OptionError("the run that was begun recorded rows that can't be read", value=f"{errors:,} rows",
                              fix="go on with --on-error record, or --fresh to begin anew")  # fmt: skip
        if self.resumed:
            telling.say(f"going on behind {self.resumed:,} rows that are answered already ({len(work.done):,} parts)", rows=self.resumed, parts=len(work.done))

    def sum(self, name: str) -> int:
        """Of what the journal says of all parts."""
        return sum(facts[name] for facts in self.work.done.values())

    def here(self, answerer: Answerer) -> None:
        """Answer in this process."""
        do = Parts(self.work, self.source, self.part, answerer)
        for number in self.missing():
            do.compare(number)
            self.take(number, do(number))
        do.compare(max(self.work.done, default=-1) + 1)

    def spread(self, call: Call, processes: int, executor: str) -> None:
        """Answer in several."""
        if executor == "ray":
            from nabi.predicting.cluster import answers

            total = self.source.count(exact=True)
            assert total is not None
            numbers = [number for number in range(-(-total // self.part)) if number not in self.work.done]
            for number, facts in answers(self.work, call, numbers, processes):
                self.take(number, facts)
            return
        threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, torch.get_num_threads() // processes))
        pool = Pool("nabi.predicting.worker", [str(self.work.out.absolute()), json.dumps(asdict(call))], processes, self.telling.say, threads)
        try:
            for (number,), facts in pool.run(([number] for number in self.missing()), lambda order: f"part {order[0]}"):
                self.take(number, facts)
        finally:
            pool.close()

    def missing(self) -> Iterator[int]:
        """The parts that are not done, until one of them turns out to be the last."""
        number = 0
        while self._last is None or number < self._last:
            if number not in self.work.done:
                yield number
            number += 1

    def take(self, number: int, facts: Facts) -> None:
        """A part was answered: it is done from now on.

        Raises:
            DataError: the data changed meanwhile, so it is not.
            NabiError: what its worker raised.
        """
        self.source.check()
        if "error" in facts:
            raise raised(facts, f"part {number}")
        if facts["rows"] < self.part:
            self._last = number if self._last is None else min(number, self._last)
        if not facts["rows"]:
            return
        self.work.commit(number, facts)
        self.rows += facts["rows"]
        self._tell()

    def complete(self) -> list[int]:
        """The numbers of all parts.

        Raises:
            DataError: there are no rows.
        """
        parts = sorted(self.work.done)
        if not parts:
            raise DataError(f"{self.source.name}: no rows; the file is empty, or only names its columns", expected="at least one row",
                            fix="fetch or write it again")  # fmt: skip
        short = [number for number in parts if self.work.done[number]["rows"] < self.part]
        assert parts == list(range(len(parts))) and short in ([], parts[-1:]), "each part once, and only the last one short"
        self._tell(last=True)
        return parts

    def _tell(self, last: bool = False) -> None:
        if not self.telling.due(last and self.telling.moving):
            return
        seconds = max(time.monotonic() - self.began, 1e-9)
        rate = (self.rows - self.resumed) / seconds
        left = None if self.total is None or not rate else max(self.total - self.rows, 0) / rate
        if self.telling.style == "json":
            self.telling.event("part", rows=self.rows, total=self.total, errors=self.sum("errors"), rows_per_second=rate, seconds_left=left)
            return
        of = "" if self.total is None else f" of {self.total:,}"
        self.telling.tell(f"{self.rows:,}{of} rows  {rate:,.0f} rows/s" + ("" if left is None else f"  {clock(left)} left"))


class Parts:
    """What answers a part, wherever it runs: reads its rows, writes its file, gives what the journal says of it.

    Args:
        work: where answers go.
        source: where rows come from.
        part: rows in one.
        answerer: the model.
    """

    def __init__(self, work: Work, source: Source, part: int, answerer: Answerer) -> None:
        self.work, self.source, self.answerer = work, source, answerer
        self._reader, self._compared = Reader(source, part), 0

    def __call__(self, number: int) -> Facts:
        """Answer a part; a part behind the end has no rows and no file.

        Raises:
            UserError: a row can't be read.
            StorageError: its file could not be written.
        """
        try:
            rows = self._reader.part(number)
            told, facts = Told(), {}
            if rows:
                facts = self.work.write(number, self.answerer.lines(number, rows, told))
        except UserError:
            self.source.check()  # the reason may be that somebody wrote to the file
            raise
        found = {"rows": len(rows), "answers": told.answers, "errors": told.errors, "columns": list(told.columns), **facts}
        return found if self.source.files is not None else {**found, "read": digest_of(rows)}

    def compare(self, number: int) -> None:
        """Look whether the rows of the parts before this one are those that were answered: for rows in memory, of which no hash is known beforehand.

        Raises:
            DataError: they are not.
        """
        for before in range(self._compared, number) if self.source.files is None else ():
            if before in self.work.done and digest_of(self._reader.part(before)) != self.work.done[before].get("read"):
                raise DataError(f"{self.source.name}: the rows are not those that were answered before", value=f"part {before}",
                                fix="give the same rows, or fresh=True to begin anew")  # fmt: skip
        self._compared = number + 1


def digest_of_model(model: Model) -> str:
    """The hash of a model: its architecture, its weights, its tokenizer, its precision."""
    digest, whole = hashlib.sha256(), model.original
    parts = [whole.origin.family_name, to_dict(whole.origin.config), whole.inputs.max_length, whole.inputs.fingerprint, model is whole]
    digest.update(repr(parts).encode())
    for name, tensor in sorted(whole.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"\0{name} {plain.dtype} {tuple(plain.shape)}\0".encode())
        digest.update(memoryview(plain.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def _located(model: str) -> str:
    """A folder by its absolute path; another name as it is."""
    return str(Path(model).absolute()) if Path(model).exists() else model


def _digest(plugin: str | Path | ModuleType) -> str:
    path = Path(str(plugin.__file__ if isinstance(plugin, ModuleType) else plugin))
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(plugin)
