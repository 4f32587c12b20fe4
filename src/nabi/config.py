"""Frozen dataclasses to and from JSON or TOML, with dotted overrides and a hint for each misspelt key."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from nabi.errors import OptionError, UserError, nearest, shortened

T = TypeVar("T")


def from_dict(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Build the dataclass ``cls`` from plain data, each value checked against its annotation.

    Args:
        cls: a dataclass; nested dataclasses are built too.
        data: what a JSON or TOML file held.
        where: what to call ``data`` in an error, such as a file name.

    Raises:
        OptionError: unknown, missing or ill-typed keys; all of them in one error.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    problems = [f"unknown key {shortened(k)} {nearest(k, fields)}".rstrip() for k in data if k not in fields]
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            try:
                values[name] = convert(hints[name], data[name], name)
            except UserError as error:
                problems.append(str(error).rstrip("."))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"missing key '{name}'")
    if problems:
        raise OptionError(f"{where} can't be used: " + "; ".join(problems))
    return cls(**values)


def to_dict(value: Any) -> Any:
    """Plain data (dicts, lists, numbers, strings) of a dataclass, ready for ``json.dumps``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(k): to_dict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(v) for v in value]
    return value


def convert(hint: Any, value: Any, name: str) -> Any:
    """``value`` as the annotation ``hint`` wants it: whole numbers become floats, lists become tuples, nothing else is bent.

    Raises:
        OptionError: the value does not fit.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        if isinstance(value, Mapping) and len(tables := [kind for kind in args if dataclasses.is_dataclass(kind)]) == 1:
            return convert(tables[0], value, name)  # so that the error names the misspelt key
        for kind in args:
            try:
                return convert(kind, value, name)
            except OptionError:
                continue
        raise _misfit(name, value, hint)
    if origin is Literal:
        if value in args:
            return value
        raise OptionError(
            f"'{name}' has an unknown value", value=value, expected="one of " + ", ".join(map(repr, args)), fix=nearest(str(value), map(str, args))
        )
    if origin in (list, tuple, Sequence, typing.get_origin(Sequence[int])):
        if not isinstance(value, list | tuple):
            raise _misfit(name, value, hint)
        if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
            if len(args) != len(value):
                raise _misfit(name, value, hint)
            return tuple(convert(a, v, name) for a, v in zip(args, value, strict=True))
        items = [convert(args[0] if args else Any, v, name) for v in value]
        return items if origin is list else tuple(items)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _misfit(name, value, hint)
        return {convert(args[0], k, name): convert(args[1], v, name) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return from_dict(typing.cast(type, hint), value, name)
        if isinstance(value, typing.cast(type, hint)):
            return value
        raise _misfit(name, value, hint)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is type(None) or isinstance(hint, type):
        wanted = type(None) if hint is type(None) else hint
        if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
            return value
    raise _misfit(name, value, hint)


def _misfit(name: str, value: Any, hint: Any) -> OptionError:
    return OptionError(f"'{name}' has the wrong type", value=value, expected=getattr(hint, "__name__", None) or str(hint))


def override(value: T, settings: Sequence[str]) -> T:
    """A copy of the dataclass ``value`` with ``a.b=1`` settings applied; values are read as JSON, else as a string.

    Raises:
        OptionError: no ``=``, an unknown key (with the nearest), or a value of the wrong type.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise OptionError("a setting needs the form key=value", value=setting)
        value = _replaced(value, path.strip().split("."), parsed(text), setting)
    return value


def parsed(text: str) -> Any:
    """What a value on the command line means: JSON if it is JSON (numbers, true, null, lists), else the string itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _replaced(value: Any, path: Sequence[str], new: Any, setting: str) -> Any:
    names = {f.name for f in dataclasses.fields(value) if f.init}
    key = path[0]
    if key not in names:
        raise OptionError("unknown setting", value=setting, expected=f"one of {', '.join(sorted(names))}", fix=nearest(key, names))
    if len(path) == 1:
        hints = typing.get_type_hints(type(value))
        return dataclasses.replace(value, **{key: convert(hints[key], new, key)})
    inner = getattr(value, key)
    if not dataclasses.is_dataclass(inner):
        raise OptionError("this setting has nothing below it", value=setting)
    return dataclasses.replace(value, **{key: _replaced(inner, path[1:], new, setting)})


def read_file(path: Path, error: type[UserError] = OptionError) -> dict[str, Any]:
    """The object in a JSON or TOML file (by its ending).

    Raises:
        UserError: of the given class, if the file is missing, not UTF-8, not JSON or TOML, or not an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error("no such file", value=str(path)) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise error("the file can't be read", value=f"{path} ({problem})") from None
    try:
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as problem:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise error(
            f"the file is not valid {kind}", value=f"{path} ({problem})", fix="the file is cut off or was edited by hand; fetch or write it again"
        ) from None
    if not isinstance(data, dict):
        raise error("the file does not hold an object", value=str(path), expected="{...} at the top")
    return data
