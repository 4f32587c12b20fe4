"""Runs scripts one after another, each with names of its own, and says what each of them made: a JSON document.

    HF_HUB_CACHE=DIR python run.py SCRIPT ... [--meta SCRIPT ...]

Unusual: the value of a last line is kept, as a notebook shows it; the incumbent can't be imported; behind ``--meta`` tensors have shapes alone.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
import traceback
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

sys.modules["transformers"] = None  # type: ignore[assignment] # what the scripts import is nabi alone


def told(value: Any) -> Any:
    """A value for JSON: plain data as it is, tables and tensors by what they hold, all else by its type."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [told(item) for item in value]
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a data frame
        return {"columns": [*value.columns], "rows": value.to_dict("records")}
    if hasattr(value, "detach") and not isinstance(value, ModuleType):
        return {"type": "Tensor", "dtype": str(value.dtype), "shape": [*value.shape], "values": value.detach().tolist()}
    if hasattr(value, "items") and not isinstance(value, type):
        return {str(key): told(item) for key, item in value.items()}
    return {"type": f"{type(value).__module__}.{type(value).__qualname__}"}


def run(script: Path) -> dict[str, Any]:
    """One script: its names, what it printed, the value of its last line, and how it failed or None."""
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(script)}
    tree = ast.parse(script.read_text(encoding="utf-8"), str(script))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    value, failed, out, err = None, None, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            exec(compile(tree, str(script), "exec"), names)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), str(script), "eval"), names)
        except Exception:  # noqa: BLE001 - whatever it is, it is told
            failed = traceback.format_exc()
    own = {name: told(found) for name, found in names.items() if not name.startswith("__")}
    return {
        "names": own, "value": told(value), "printed": out.getvalue(), "said": err.getvalue(), "failed": failed, "warned": [str(w.message) for w in warned],
    }  # fmt: skip


if __name__ == "__main__":
    found, device = {}, "cpu"
    for argument in sys.argv[1:]:
        if argument == "--meta":
            device = "meta"
            continue
        with torch.device(device):
            found[Path(argument).name] = run(Path(argument))
    print(json.dumps(found, ensure_ascii=False))
