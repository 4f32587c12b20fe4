"""Which families and tasks there are: the listing of a folder, plus what users bring in files of their own.

A plugin is a Python file that ends with ``FAMILY = Family(...)`` or ``TASK = ...`` (or both); its file name, without .py, is the name. Plugins come only from
the caller's own command line or code: nothing that is downloaded can name one.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from nabi.errors import PluginError

_ATTRIBUTE = {"families": "FAMILY", "tasks": "TASK"}
_CLASS = {"families": "Family", "tasks": "Task"}
_added: dict[str, dict[str, ModuleType]] = {"families": {}, "tasks": {}}


def names(kind: str) -> list[str]:
    """Names of one kind, ``families`` or ``tasks``: the folder's files and the plugins."""
    return sorted({*_shipped(kind), *_added[kind]})


def find(kind: str, name: str) -> object | None:
    """What the file ``name`` of this kind ends with, or None if there is no such file."""
    attribute = _ATTRIBUTE[kind]
    if name in _added[kind]:
        found: object = getattr(_added[kind][name], attribute)
        return found
    if name in _shipped(kind):
        found = getattr(importlib.import_module(f"nabi.{kind}.{name}"), attribute)
        return found
    return None


def add(plugins: Iterable[str | Path | ModuleType]) -> None:
    """Take in plugin files or modules; the same one twice is fine.

    Raises:
        PluginError: no such file, it fails to import, it defines neither a family nor a task, its name is taken, its task has another name.
    """
    for plugin in plugins:
        module = plugin if isinstance(plugin, ModuleType) else _imported(Path(plugin))
        name = module.__name__.rpartition(".")[2]
        kinds = [kind for kind, attribute in _ATTRIBUTE.items() if hasattr(module, attribute)]
        if not kinds:
            raise PluginError("the plugin defines neither FAMILY nor TASK", value=name, fix="end the file with FAMILY = Family(...) or TASK = YourTask")
        for kind in kinds:
            taken = _added[kind].get(name)
            if name in _shipped(kind) or (taken is not None and taken.__file__ != module.__file__):
                raise PluginError(f"the name is taken by another of the {kind}", value=name, fix="rename the plugin's file")
            _check(kind, name, getattr(module, _ATTRIBUTE[kind]))
        for kind in kinds:
            _added[kind].setdefault(name, module)


def table() -> str:
    """All families and tasks as two Markdown tables, the ones in docs/plugins.md."""
    families: dict[str, Any] = {name: find("families", name) for name in names("families")}
    tasks: dict[str, Any] = {name: find("tasks", name) for name in names("tasks")}
    lines = ["| family | source | sizes | heads |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {f.paper} | {', '.join(f.sizes)} | {', '.join(f.body.heads)} |" for name, f in families.items()]
    lines += ["", "| task | other names | columns | heads | families |", "| --- | --- | --- | --- | --- |"]
    for name, task in tasks.items():
        fitting = ", ".join(n for n, f in families.items() if task.fits(f.body))
        lines.append(f"| {name} | {', '.join(task.aliases)} | {', '.join(task.columns)} | {', '.join((*task.heads, *task.optional_heads))} | {fitting} |")
    return "\n".join(lines)


def _check(kind: str, name: str, thing: Any) -> None:
    wanted = getattr(importlib.import_module(f"nabi.{kind}"), _CLASS[kind])
    if not (isinstance(thing, wanted) if kind == "families" else isinstance(thing, type) and issubclass(thing, wanted)):
        raise PluginError(f"the plugin's {_ATTRIBUTE[kind]} is no {_CLASS[kind]}", value=thing, fix="see docs/plugins.md")
    if kind == "families":
        if "tiny" not in thing.sizes:
            raise PluginError("the family has no size 'tiny', which every test starts from", value=name, expected="sizes={'tiny': ...}")
        return
    if thing.name != name:
        raise PluginError("a task bears the name of its file", value=f"{thing.name} in {name}.py", fix=f"rename the file to {thing.name}.py")
    for other in names(kind):
        taken = {other, *getattr(find(kind, other), "aliases", ())} if other != name else set()
        if taken & {name, *thing.aliases}:
            raise PluginError(f"the name is taken by {other}", value=", ".join(sorted(taken & {name, *thing.aliases})), fix="choose another alias")


def _shipped(kind: str) -> list[str]:
    package = importlib.import_module(f"nabi.{kind}")
    return [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]


def _imported(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError("no such plugin file", value=str(path))
    name = f"nabi_plugin.{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path.resolve()):
        return known
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise PluginError("the plugin is not a Python file", value=str(path), expected="a file that ends with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as problem:  # whatever the user's own code raises is shown to them, with the file's name
        del sys.modules[name]
        raise PluginError(f"the plugin fails to import ({type(problem).__name__}: {problem})", value=str(path)) from problem
    return module
