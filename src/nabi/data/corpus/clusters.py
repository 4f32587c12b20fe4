"""The executors for many machines: Ray and Slurm, through datatrove's own (https://github.com/huggingface/datatrove, Apache-2.0).

One stage is one pipeline of one step, ``Tasks``: a callable, as datatrove takes them, with nothing in it but the folder, the stage's name and the numbers of
the tasks that are not done. So all machines need the same nabi and see the build's folder and the sources under the same paths.

Unusual: datatrove keeps its own record of what is done (``completions/``); it is not used, since a task is done when its file is there, whoever made it. This
process stays until the build is done; if it is killed, ``--resume`` goes on with what the machines have done meanwhile.
"""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nabi.data.corpus.executors import Told, raised
from nabi.data.corpus.recipe import Recipe
from nabi.data.corpus.stages import Stage, stage
from nabi.data.corpus.work import Work, make_folder, write_json
from nabi.errors import OptionError, WorkError
from nabi.pool import problem

ROUNDS = 4  # jobs a worker gets in a stage: starting one takes seconds, and at the end of a stage all should end at once
MOST_JOBS = 1000  # of a Slurm array
PATIENCE = 3  # looks at the queue without the job in it before it counts as gone: a file may come later than the news


@dataclass(frozen=True)
class Tasks:
    """What datatrove calls on each machine: rank R of W does every W-th task from the R-th on."""

    out: str
    stage: str
    numbers: tuple[int, ...]

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        """Do them; a problem is left as a file for the process that waits, and raised."""
        work = Work(self.out)
        what = stage(work.recipe, self.stage)
        for number in self.numbers[rank::world_size]:
            if what.output(work, number).exists():
                continue  # this rank was begun before
            try:
                what.do(work, number)
            except Exception as error:
                write_json(work.path("problems", number), {"task": number, "stage": what.name, **problem(error)})
                raise


class _Cluster:
    """What the two have in common."""

    peak = 0  # not known

    def __init__(self, recipe: Recipe, say: Callable[[str], None]) -> None:
        self.recipe, self.say = recipe, say

    def run(self, work: Work, stage: Stage, tasks: Iterable[int], done: Told) -> None:
        """Do these tasks; ``done`` is called when a task's file is seen."""
        numbers = tuple(tasks)
        for path in (work.folder / "problems").glob("*.json"):
            path.unlink()
        make_folder(work.folder / "problems")
        logs = work.folder / "logs" / stage.name.replace(" ", "-")
        make_folder(logs)
        count = min(len(numbers), MOST_JOBS, self.recipe.workers * ROUNDS or MOST_JOBS)
        self._run(work, stage, numbers, Tasks(str(work.out.absolute()), stage.name, numbers), count, logs, done)

    def _run(self, work: Work, stage: Stage, numbers: tuple[int, ...], tasks: Tasks, count: int, logs: Path, done: Told) -> None:
        raise NotImplementedError

    @property
    def gigabytes(self) -> int:
        """Memory of one job, as both count it."""
        return math.ceil(self.recipe.share / (1 << 30))

    def close(self) -> None:
        """End what runs."""

    @staticmethod
    def _check(work: Work, stage: Stage, missing: list[int], logs: Path) -> None:
        for path in sorted((work.folder / "problems").glob("*.json")):
            answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            raise raised(answer, stage, answer["task"])
        if missing:
            raise WorkError(f"{stage.name}: {len(missing)} tasks were not done, the first is {missing[0]}. What the machines said is in {logs}.")


class Ray(_Cluster):
    """Ray's workers: of the cluster at RAY_ADDRESS, else of one that is started here."""

    def _run(self, work: Work, stage: Stage, numbers: tuple[int, ...], tasks: Tasks, count: int, logs: Path, done: Told) -> None:
        ray, executor = _package("ray"), _package("datatrove.executor.ray").RayPipelineExecutor
        _package("loguru").logger.disable("datatrove")  # its log is in the folder, too
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        wanted = {"tasks": count, "workers": self.recipe.workers or -1, "mem_per_cpu_gb": self.gigabytes, "logging_dir": str(logs), "skip_completed": False}
        executor([tasks], **wanted).run()
        missing = []
        for number in numbers:
            if stage.output(work, number).exists():
                done(number)
            else:
                missing.append(number)
        self._check(work, stage, missing, logs)

    def close(self) -> None:
        """Leave the cluster."""
        _package("ray").shutdown()


class Slurm(_Cluster):
    """A job array for each stage."""

    _job = ""

    def _run(self, work: Work, stage: Stage, numbers: tuple[int, ...], tasks: Tasks, count: int, logs: Path, done: Told) -> None:
        about = self.recipe.slurm
        _package("loguru").logger.disable("datatrove")
        executor = _package("datatrove.executor.slurm").SlurmPipelineExecutor(
            [tasks], tasks=count, time=about.time, partition=about.partition, mem_per_cpu_gb=self.gigabytes, workers=self.recipe.workers or -1,
            job_name=f"nabi-{logs.name}", qos="", env_command=about.setup, sbatch_args=dict(about.options), logging_dir=str(logs),
            slurm_logs_folder=str(logs / "slurm"), skip_completed=False,
        )  # fmt: skip
        executor.launch_merge_stats = _nothing
        try:
            executor.run()
        except (OSError, subprocess.CalledProcessError) as error:
            raise WorkError(f"{stage.name}: the job could not be handed to Slurm: {error}. The script is {logs / 'launch_script.slurm'}.") from error
        self._job, missing, gone = str(executor.job_id), list(numbers), 0
        while missing and gone < PATIENCE:
            left = []
            for number in missing:
                if stage.output(work, number).exists():
                    done(number)
                else:
                    left.append(number)
            missing = left
            if missing:
                gone = 0 if self._queued() else gone + 1
                time.sleep(about.poll)
        self._check(work, stage, missing, logs)
        self._job = ""

    def _queued(self) -> bool:
        found = subprocess.run(["squeue", "-h", "-j", self._job], capture_output=True, text=True, check=False)
        return found.returncode == 0 and bool(found.stdout.strip())

    def close(self) -> None:
        """Take back a job that is not done."""
        if self._job:
            subprocess.run(["scancel", self._job], capture_output=True, check=False)


def _nothing() -> None:
    """datatrove adds a job that sums up its statistics: there are none."""


def _package(name: str) -> Any:
    """A module that is imported when it is used.

    Raises:
        OptionError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as problem:
        raise OptionError("this executor needs packages that are not installed", value=problem.name, fix="pip install 'nabi[cluster]'") from None
