"""The public names are pinned, and each is the object whatever was imported before it: no module or folder of ours may bear such a name."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import nabi

NAMES = ["Lora", "Model", "NabiError", "Plan", "__version__", "create", "evaluate", "fit", "load", "pipeline", "predict_file", "save", "train"]
FOLDERS = ["nabi.training", "nabi.pipelines", "nabi.fitting", "nabi.evaluation", "nabi.predicting"]
ORDERS = {"the name first": [], "after the folders": FOLDERS, "after the folders in reverse": FOLDERS[::-1]}
# torch is imported once; each forked child then meets a nabi that nobody has imported from
SCRIPT = """
import importlib, json, os, sys, torch
names, modules = json.loads(sys.argv[1])
for name in names:
    if os.fork() == 0:
        for module in modules:
            importlib.import_module(module)
        scope = {}
        exec(f"from nabi import {name} as value; import nabi", scope)
        value = scope["value"]
        same = getattr(scope["nabi"], name) is value
        print(json.dumps([name, type(value).__name__, getattr(value, "__name__", ""), getattr(value, "__module__", ""), same]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""


def test_the_list_is_pinned() -> None:
    assert nabi.__all__ == dir(nabi) == NAMES


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = nabi.trian


@pytest.mark.parametrize("order", ORDERS)
def test_each_name_is_the_object(order: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps([NAMES, ORDERS[order]])], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}
    assert list(found) == NAMES
    assert found.pop("__version__")[0] == "str"
    for name, (kind, own_name, module, same) in found.items():
        assert kind in ("function", "type") and own_name == name and module.startswith("nabi.") and same, (name, kind, own_name, module, same)
