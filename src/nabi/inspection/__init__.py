"""What a model is made of, how fast it is here, and what is wrong with a machine, a model or a data file: ``nabi inspect | bench | doctor``.

facts: what a model is made of. speed: throughput and latency by precision. machine, models and labelled: the three things that the doctor looks at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from nabi.errors import OptionError
from nabi.inspection.facts import inspect_model
from nabi.inspection.findings import Finding
from nabi.inspection.labelled import check_data
from nabi.inspection.machine import check_machine
from nabi.inspection.models import check_model, is_model
from nabi.inspection.speed import measure

__all__ = ["Finding", "check", "check_data", "check_machine", "check_model", "inspect_model", "measure"]


def check(
    target: str | None,
    dev: str | None = None,
    columns: Mapping[str, str] | None = None,
    plugins: Iterable[str | Path | ModuleType] = (),
    model: str | None = None,
    task: str | None = None,
) -> list[Finding]:
    """What ``nabi doctor`` finds: dicts with severity (error, warning, info), code, message and fix; of data also rows.

    Args:
        target: a model (folder, shipped name, cached id), a data file, or None for the machine.
        dev, columns, model, task: as for :func:`check_data`.
        plugins: files with families and tasks of your own.

    Raises:
        OptionError: an option of data files was given for something else.
        UserError: a file can't be read, or ``model`` can't be loaded.
    """
    if target is not None and not is_model(target):
        return check_data(target, dev, columns, model, plugins, task)
    if given := [name for name, value in (("--dev", dev), ("--columns", columns), ("--model", model), ("--task", task)) if value is not None]:
        what = "a model" if target else "no target, which is the machine,"
        raise OptionError(f"{', '.join(given)} goes with a data file, and {what} was given", value=target, fix="name the data file first")
    return check_machine() if target is None else check_model(target, plugins)
