"""Damaged copies of a model folder, and the worker that loads them one after another under limits of memory and time.

``python mutants.py FOLDER SCRATCH FIRST LAST`` loads mutants FIRST to LAST and prints one line each: number, file, outcome, CPU seconds, MB more than before.
A mutant is made from its number alone, so a finding can be looked at again: ``make(folder, number)``.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

FILES = ("model.safetensors", "config.json", "model.safetensors.index.json", "tokenizer.json", "nabi.json", "pytorch_model.bin", "tokenizer_config.json")
MEMORY, SECONDS = 512 << 20, 2.0
NUMBERS = (-1, 0, 1, 2, 3, 255, 65535, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**9, 10**12, 10**30, 0.5, -1.5, 1e308, float("inf"), float("nan"))
STRINGS = ("", " ", "a", "##", "\0", "한글", "\ud800", "x" * 100_000, "../../etc/passwd", "/dev/zero", "[UNK]", "(a+)+$", "(" * 200, "\\p{Lu}{1000}", "BPE")

DEEP = "stands for a value in many brackets, which json.dumps could not write"


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside a JSON value."""
    found = [here]
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found += paths(inner, (*here, key))
    return found


def changed_json(data: bytes, rng: random.Random) -> bytes:
    """One or two values of a JSON file replaced, left out, doubled, nested or exchanged with another one of the file."""
    whole = {"": json.loads(data)}
    for _ in range(rng.choice((1, 1, 2))):
        way = rng.choice(paths(whole)[1:])
        holder: Any = whole
        for key in way[:-1]:
            holder = holder[key]
        other: Any = whole
        for key in rng.choice(paths(whole)[1:]):
            other = other[key]
        old, kind = holder[way[-1]], rng.randrange(9)
        if kind == 0 and way != ("",):
            del holder[way[-1]]
            continue
        new = {
            1: rng.choice(NUMBERS), 2: rng.choice(STRINGS), 3: rng.choice((None, True, False, [], {}, [[]], {"": {}})), 4: json.loads(json.dumps(other)),
            5: [old] * rng.choice((2, 50)), 6: {"type": "Sequence", "normalizers": [old], "pretokenizers": [old], "decoders": [old]},
        }.get(kind, old)  # fmt: skip
        if kind == 7:
            new = DEEP
        if kind == 8 and isinstance(old, int | float):
            new = old + rng.choice((-1, 1, 1000, 10**6))
        holder[way[-1]] = new
        if isinstance(holder, dict) and rng.random() < 0.1:
            holder[rng.choice(STRINGS)] = other if not isinstance(other, dict | list) else old
    depth = rng.choice((10, 150, 2000, 200_000))
    text = json.dumps(whole[""], ensure_ascii=rng.random() < 0.5).replace(json.dumps(DEEP), "[" * depth + "1" + "]" * depth)
    return text.encode("utf-8", "surrogatepass")


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """A file cut off, or with bytes flipped, inserted, repeated or put in another place; more often near its head, where sizes are."""
    kind = rng.randrange(5)
    at = rng.randrange(min(len(data), rng.choice((16, 400, len(data)))))
    if kind == 0:
        return data[:at]
    held = bytearray(data)
    if kind == 1:
        for _ in range(rng.choice((1, 3, 30))):
            held[min(at + rng.randrange(50), len(held) - 1)] = rng.randrange(256)
    elif kind == 2:
        held[at : at + rng.choice((0, 8, 100))] = rng.randbytes(rng.choice((1, 8, 1000)))
    elif kind == 3:
        held[at:at] = held[at : at + rng.randrange(1, 2000)]
    else:
        held[at : at + 8] = rng.choice((0, 1, 2**31, 2**63 - 1, 2**64 - 1, len(data), 10**8)).to_bytes(8, rng.choice(("little", "big")))
    return bytes(held)


def changed_header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose JSON head says something else, with the right length before it."""
    size = int.from_bytes(data[:8], "little")
    head = changed_json(data[8 : 8 + size], rng)
    return len(head).to_bytes(8, "little") + head + data[8 + size :]


def make(folder: Path, number: int) -> tuple[str, bytes]:
    """(file name, its bytes) of a mutant: FILES in turn."""
    rng = random.Random(number)
    name = FILES[number % len(FILES)]
    data = (folder / name).read_bytes()
    if name.endswith(".json"):
        return name, changed_json(data, rng) if rng.random() < 0.8 else changed_bytes(data, rng)
    if name.endswith(".safetensors") and rng.random() < 0.6:
        return name, changed_header(data, rng)
    return name, changed_bytes(data, rng)


def lay(folder: Path, scratch: Path, name: str, data: bytes) -> None:
    """The folder with that one file changed: an index goes with shards, a .bin without safetensors."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    leave = {"model.safetensors.index.json": {"model.safetensors"}, "pytorch_model.bin": {"model.safetensors", "model.safetensors.index.json"}}
    for file in folder.iterdir():
        if file.name not in leave.get(name, {"model.safetensors.index.json"}):
            (scratch / file.name).write_bytes(data if file.name == name else file.read_bytes())
    (scratch / name).write_bytes(data)


def held() -> int:
    """The memory that this process has asked for, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def outcome(folder: Path) -> str:
    """``loads``, or the name of our error; whatever else is raised goes on. What loads must answer."""
    from nabi import load
    from nabi.errors import NabiError

    try:
        model = load(folder)
        model.predict("a b 한글")
    except NabiError as error:
        assert "\n" not in str(error), ascii(str(error))[:500]
        return type(error).__name__
    return "loads"


def work(folder: Path, scratch: Path, first: int, last: int) -> None:
    warnings.simplefilter("ignore")
    lay(folder, scratch, *make(folder, 0))
    outcome(folder)  # what is loaded once is not the mutants' cost
    for number in range(first, last):
        name, data = make(folder, number)
        lay(folder, scratch, name, data)
        print(number, name, end=" ", flush=True)
        before, began = held(), time.process_time()
        resource.setrlimit(resource.RLIMIT_AS, (before + MEMORY, resource.RLIM_INFINITY))
        try:
            found = outcome(scratch)
        except BaseException as error:  # noqa: BLE001 - what it is decides the test; a panic of the tokenizer library is no Exception
            found = f"!{type(error).__name__}:{ascii(str(error))[:300]}".replace(" ", "_")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(found, f"{time.process_time() - began:.3f}", (held() - before) >> 20, flush=True)


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
