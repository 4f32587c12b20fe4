"""Plain values to bytes and back, exactly: the records of the cache and of spooled streams. No pickle, so reading runs no code.

A value is a letter that says its type, then its content. Unusual: a list of whole numbers is one array of the narrowest type that holds them, which is what
makes a row of tokens two bytes a token and quick to read; types come back as they were (a tuple is no list, True is not 1).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from struct import pack, unpack_from
from typing import Any

WIDTHS = ((0, 1 << 8, "B"), (0, 1 << 16, "H"), (-(1 << 31), 1 << 31, "i"), (-(1 << 63), 1 << 63, "q"))
MAGIC = f"nabi 1 {sys.byteorder}"  # part of every key: the arrays lie as this machine has them


class Unstorable(TypeError):
    """A value of a type that has no bytes here."""


def to_bytes(value: Any, anchors: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of a value: None, bool, int, float, str, bytes, list, tuple, dict with string keys, NumPy arrays and scalars, nabi's dataclasses.

    Args:
        value: what to write.
        anchors: things that are named instead of written, such as a tokenizer.

    Raises:
        Unstorable: it, or something in it, is of another type.
    """
    out = bytearray()
    _write(value, out, anchors or {})
    return bytes(out)


def from_bytes(data: bytes, anchors: Mapping[str, Any] | None = None) -> Any:
    """The value that :func:`to_bytes` wrote with these ``anchors``."""
    return _read(memoryview(data), 0, anchors or {})[0]


def _write(value: Any, out: bytearray, anchors: Mapping[str, Any]) -> None:
    kind = type(value)
    if value is None or kind is bool:
        out += b"n" if value is None else b"t" if value else b"f"
    elif kind is int:
        if -(1 << 63) <= value < 1 << 63:
            out += b"i" + pack("<q", value)
        else:
            _text(b"I", f"{value:x}", out)
    elif kind is float:
        out += b"d" + pack("<d", value)
    elif kind is str:
        _text(b"s", value, out)
    elif kind is list:
        _list(value, out, anchors)
    elif kind is dict:
        out += b"m" + pack("<I", len(value))
        for key, item in value.items():
            if type(key) is not str:
                raise Unstorable(f"a dict with the key {key!r}")
            _text(b"", key, out)
            _write(item, out, anchors)
    elif kind is tuple:
        _items(b"u", value, out, anchors)
    elif kind is bytes:
        out += b"y" + pack("<Q", len(value)) + value
    elif kind.__module__ == "numpy" and hasattr(value, "tobytes") and value.dtype.kind in "biufcSUmM":
        _text(b"a" if kind.__name__ == "ndarray" else b"g", value.dtype.str, out)
        out += pack(f"<B{value.ndim}Q", value.ndim, *value.shape) + value.tobytes()
    elif (name := next((name for name, anchor in anchors.items() if value is anchor or (callable(value) and value == anchor)), None)) is not None:
        _text(b"@", name, out)
    elif is_dataclass(value) and kind.__module__.startswith("nabi.") and getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind:
        _text(b"D", f"{kind.__module__}:{kind.__name__}", out)
        _write({field.name: getattr(value, field.name) for field in fields(value)}, out, anchors)
    else:
        raise Unstorable(f"a value of type {kind.__name__}")


def _text(tag: bytes, value: str, out: bytearray) -> None:
    data = value.encode("utf-8", "surrogatepass")
    out += tag + pack("<I", len(data)) + data


def _items(tag: bytes, values: Any, out: bytearray, anchors: Mapping[str, Any]) -> None:
    out += tag + pack("<I", len(values))
    for value in values:
        _write(value, out, anchors)


def _list(values: list[Any], out: bytearray, anchors: Mapping[str, Any]) -> None:
    kinds = set(map(type, values))
    if kinds == {int}:
        low, high = min(values), max(values)
        code = next((code for least, most, code in WIDTHS if least <= low and high < most), None)
        if code is not None:
            out += b"l" + code.encode() + pack("<I", len(values)) + array(code, values).tobytes()
            return
    elif kinds == {float}:
        out += b"ld" + pack("<I", len(values)) + array("d", values).tobytes()
        return
    elif kinds == {bool}:
        out += b"b" + pack("<I", len(values)) + bytes(values)
        return
    elif kinds == {int, type(None)}:
        out += b"o"
        _write([value is not None for value in values], out, anchors)
        _write([value for value in values if value is not None], out, anchors)
        return
    elif kinds == {tuple} and all(len(value) == 2 and type(value[0]) is int and type(value[1]) is int for value in values):
        out += b"p"
        _write([number for pair in values for number in pair], out, anchors)
        return
    _items(b"L", values, out, anchors)


def _read(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[Any, int]:
    return READERS[data[at]](data, at + 1, anchors)


def _string(data: memoryview, at: int) -> tuple[str, int]:
    stop = at + 4 + unpack_from("<I", data, at)[0]
    return str(data[at + 4 : stop], "utf-8", "surrogatepass"), stop


def _array(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[list[Any], int]:
    values = array(chr(data[at]))
    stop = at + 5 + values.itemsize * unpack_from("<I", data, at + 1)[0]
    values.frombytes(data[at + 5 : stop])
    return values.tolist(), stop


def _booleans(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[list[bool], int]:
    stop = at + 4 + unpack_from("<I", data, at)[0]
    return list(map(bool, data[at + 4 : stop])), stop


def _optional(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[list[int | None], int]:
    there, at = _read(data, at, anchors)
    values, at = _read(data, at, anchors)
    given = iter(values)
    return [next(given) if known else None for known in there], at


def _pairs(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[list[tuple[int, int]], int]:
    flat, at = _read(data, at, anchors)
    return list(zip(flat[::2], flat[1::2], strict=True)), at


def _mapping(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    found, count = {}, unpack_from("<I", data, at)[0]
    at += 4
    for _ in range(count):
        key, at = _string(data, at)
        found[key], at = _read(data, at, anchors)
    return found, at


def _sequence(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[list[Any], int]:
    found, count = [], unpack_from("<I", data, at)[0]
    at += 4
    for _ in range(count):
        value, at = _read(data, at, anchors)
        found.append(value)
    return found, at


def _tuple(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[tuple[Any, ...], int]:
    values, at = _sequence(data, at, anchors)
    return tuple(values), at


def _raw(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[bytes, int]:
    stop = at + 8 + unpack_from("<Q", data, at)[0]
    return bytes(data[at + 8 : stop]), stop


def _numpy(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[Any, int]:
    import numpy as np

    name, at = _string(data, at)
    kind, dimensions = np.dtype(name), data[at]
    shape = unpack_from(f"<{dimensions}Q", data, at + 1)
    start = at + 1 + 8 * dimensions
    stop = start + kind.itemsize * int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(bytes(data[start:stop]), kind).reshape(shape).copy(), stop


def _scalar(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[Any, int]:
    value, at = _numpy(data, at, anchors)
    return value[()], at


def _anchor(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[Any, int]:
    name, at = _string(data, at)
    return anchors[name], at


def _dataclass(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[Any, int]:
    name, at = _string(data, at)
    module, _, kind = name.partition(":")
    found = getattr(sys.modules.get(module), kind, None) if module.startswith("nabi.") else None
    values, at = _mapping(data, at + 1, anchors)
    if not (isinstance(found, type) and is_dataclass(found)):
        raise Unstorable(f"{name}, which is not loaded")
    return found(**values), at


def _number(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[int, int]:
    return unpack_from("<q", data, at)[0], at + 8


def _real(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[float, int]:
    return unpack_from("<d", data, at)[0], at + 8


def _large(data: memoryview, at: int, anchors: Mapping[str, Any]) -> tuple[int, int]:
    digits, at = _string(data, at)
    return int(digits, 16), at


Reader = Callable[[memoryview, int, Mapping[str, Any]], tuple[Any, int]]
READERS: dict[int, Reader] = {
    ord(letter): reader
    for letter, reader in {
        "n": lambda data, at, anchors: (None, at), "t": lambda data, at, anchors: (True, at), "f": lambda data, at, anchors: (False, at),
        "s": lambda data, at, anchors: _string(data, at), "i": _number, "I": _large, "d": _real, "y": _raw, "l": _array, "b": _booleans, "o": _optional,
        "p": _pairs, "L": _sequence, "u": _tuple, "m": _mapping, "a": _numpy, "g": _scalar, "@": _anchor, "D": _dataclass,
    }.items()
}  # fmt: skip
