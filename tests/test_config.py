"""Dataclasses to and from plain data, and settings over them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nabi.config import convert, from_dict, override, parsed, read_file, to_dict
from nabi.errors import CheckpointError, OptionError
from nabi.training.plan import Plan


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    count: int
    kind: Literal["a", "b"] = "a"
    inner: Inner = field(default_factory=Inner)
    limit: int | None = None
    table: Mapping[str, float] = field(default_factory=dict)
    pair: tuple[int, str] = (1, "x")
    flag: bool = False
    many: Sequence[int] = ()
    anything: Any = None


FULL = {
    "count": 3, "kind": "b", "inner": {"rate": 2, "names": ["x", "y"]}, "limit": None, "table": {"k": 1}, "pair": [2, "나비"], "flag": True, "many": [1, 2],
    "anything": {"deep": [1]},
}  # fmt: skip


def test_there_and_back() -> None:
    value = from_dict(Outer, FULL, "here")
    assert value == Outer(3, "b", Inner(2.0, ("x", "y")), None, {"k": 1.0}, (2, "나비"), True, (1, 2), {"deep": [1]})
    assert isinstance(value.inner.rate, float) and isinstance(value.table["k"], float)
    assert from_dict(Outer, json.loads(json.dumps(to_dict(value))), "here") == value


@given(
    st.builds(Plan, epochs=st.floats(0.1, 100), batch=st.integers(1, 99), schedule=st.sampled_from(["linear", "cosine"]), seed=st.integers(0, 2**40))
)
def test_a_plan_there_and_back(plan: Plan) -> None:
    assert from_dict(Plan, json.loads(json.dumps(to_dict(plan))), "the plan") == plan


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, ["missing key 'count'"]),
        ({"count": 1, "knd": "a"}, ["unknown key 'knd' did you mean 'kind'?"]),
        ({"count": 1.5}, ["'count' has the wrong type: 1.5", "Expected int"]),
        ({"count": True}, ["'count' has the wrong type: True"]),
        ({"count": "1"}, ["'count' has the wrong type: '1'"]),
        ({"count": 1, "kind": "c"}, ["'kind' has an unknown value: 'c'", "'a', 'b'"]),
        ({"count": 1, "inner": {"rat": 1}}, ["inner can't be used", "unknown key 'rat' did you mean 'rate'?"]),
        ({"count": 1, "inner": 5}, ["'inner' has the wrong type: 5"]),
        ({"count": 1, "inner": {"names": ["a", 5]}}, ["'names' has the wrong type: 5"]),
        ({"count": 1, "pair": [1]}, ["'pair' has the wrong type"]),
        ({"count": 1, "limit": 1.5}, ["'limit' has the wrong type: 1.5"]),
        ({"count": 1, "table": [1]}, ["'table' has the wrong type"]),
        ({"count": 1, "table": {"k": "x"}}, ["'table' has the wrong type: 'x'"]),
        ({"count": 1, "many": "ab"}, ["'many' has the wrong type: 'ab'"]),
        ({"count": 1, "flag": 1}, ["'flag' has the wrong type: 1"]),
        (
            {"kount": 1, "kind": "z", "flag": 0},
            ["unknown key 'kount'", "missing key 'count'", "'kind' has an unknown value", "'flag' has the wrong type"],
        ),
    ],
    ids=str,
)
def test_problems_are_told_together(data: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(OptionError) as caught:
        from_dict(Outer, data, "recipe.toml")
    message = str(caught.value)
    assert message.startswith("recipe.toml can't be used: ") and all(word in message for word in words), message


def test_settings() -> None:
    value = Outer(1)
    changed = override(value, ["count=7", "inner.rate=3", "kind=b", "limit=4", 'table={"a": 2}', 'inner.names=["x"]', "flag=true", "limit=null"])
    assert changed == Outer(7, "b", Inner(3.0, ("x",)), None, {"a": 2.0}, flag=True) and value == Outer(1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("count", "a setting needs the form key=value: 'count'"),
        ("cuont=1", "unknown setting: 'cuont=1'.*Did you mean 'count'"),
        ("inner.rat=1", "unknown setting: 'inner.rat=1'.*Did you mean 'rate'"),
        ("count.x=1", "nothing below it"),
        ("count=x", "'count' has the wrong type: 'x'"),
        ("kind=c", "unknown value: 'c'"),
        ("=1", "unknown setting"),
    ],
)
def test_settings_that_cannot_be(setting: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        override(Outer(1), [setting])


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("1e-3", 1e-3), ("true", True), ("null", None), ("[1]", [1]), ("window", "window"), ("", ""), ("1 2", "1 2")]
)
def test_parsed(text: str, value: Any) -> None:
    assert parsed(text) == value


def test_union_takes_the_first_that_fits() -> None:
    assert convert(int | str, "5", "x") == "5" and convert(int | None, None, "x") is None and convert(float | None, 2, "x") == 2.0
    assert convert(int | Literal["best"] | None, "best", "x") == "best"
    with pytest.raises(OptionError):
        convert(int | Literal["best"] | None, "worst", "x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"a": ', "the file is not valid JSON"),
        ("a.json", b"[1]", "does not hold an object"),
        ("a.toml", b"a = ", "the file is not valid TOML"),
        ("a.toml", b"\xff", "the file can't be read"),
        ("a.json", b"[" * 100_000, "the file is not valid JSON"),
        ("a.json", None, "no such file"),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_file(tmp_path / name, CheckpointError)
    with pytest.raises(OptionError):
        read_file(tmp_path / name)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('a = 1\n[b]\nc = "나비"\n', encoding="utf-8")
    (tmp_path / "a.json").write_text('{"a": 1, "b": {"c": "나비"}}', encoding="utf-8")
    assert read_file(tmp_path / "a.toml") == read_file(tmp_path / "a.json") == {"a": 1, "b": {"c": "나비"}}
