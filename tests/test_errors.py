"""The error tree and the form of its messages."""

from __future__ import annotations

import inspect

import pytest

from nabi import errors
from nabi.errors import DataError, NabiError, OptionError, StorageError, TrainingError, UserError, WorkError, nearest, shortened, unknown


def tree(cls: type[NabiError], depth: int = 0) -> list[tuple[int, str]]:
    below = [child for child in cls.__subclasses__() if child.__module__ == "nabi.errors"]
    return [(depth, cls.__name__), *(item for child in below for item in tree(child, depth + 1))]


def test_the_drawing_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = [line for line in errors.__doc__.splitlines() if line.strip("│ ").startswith(("NabiError", "├──", "└──"))]
    found = [((len(line) - len(line.lstrip("│├└─ "))) // 4 - 1, line.lstrip("│├└─ ").split()[0]) for line in drawn]
    assert found == tree(NabiError)


def test_exit_codes() -> None:
    for _, cls in inspect.getmembers(errors, inspect.isclass):
        if issubclass(cls, NabiError):
            assert cls.exit_code == (2 if issubclass(cls, UserError) else 1)
    assert issubclass(TrainingError, WorkError) and issubclass(StorageError, WorkError)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("it is wrong"), "it is wrong."),
        (UserError("it is wrong", value=""), "it is wrong: ''."),
        (UserError("it is wrong", value=0, expected="one"), "it is wrong: 0. Expected one."),
        (UserError("it is wrong", value="x", expected="y", fix="do z"), "it is wrong: 'x'. Expected y. Do z."),
        (UserError("it is wrong", fix="did you mean 'y'?"), "it is wrong. Did you mean 'y'?"),
        (unknown("task", "text_clasification", ["text_classification", "other"]),
         "unknown task: 'text_clasification'. Expected one of other, text_classification. Did you mean 'text_classification'?"),
        (unknown("task", "zzz", ["other"]), "unknown task: 'zzz'. Expected one of other."),
        (unknown("task", "zzz", []), "unknown task: 'zzz'."),
    ],
)  # fmt: skip
def test_messages(error: UserError, message: str) -> None:
    assert str(error) == message


def test_parts_can_be_read_back() -> None:
    error = DataError("no column 'text'", value=[1], expected="a", fix="b")
    assert (error.what, error.value, error.expected, error.fix) == ("no column 'text'", [1], "a", "b")
    assert isinstance(unknown("label", "x", ["y"], error=DataError), DataError) and isinstance(unknown("x", "y", []), OptionError)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("나비", "'나비'"),
        ("a\nb", "'a\\nb'"),
        ("\ud83d", "'\\ud83d'"),
        (5, "5"),
        (b"\xff", "b'\\xff'"),
        ("it's", '"it\'s"'),
        (None, "None"),
        ("\u200b", "'\\u200b'"),
    ],
)
def test_shortened(value: object, shown: str) -> None:
    assert shortened(value) == shown


def test_long_values_are_cut_in_the_middle() -> None:
    text = shortened("a" * 100_000 + "b" * 100_000)
    assert len(text) <= 160 and text.startswith("'aaa") and text.endswith("bbb'") and " ... " in text
    assert shortened(list(range(1000)), 40).endswith("998, 999]")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("epoch", "did you mean 'epochs'?"), ("Learning-Rate", "did you mean 'learning_rate'?"), ("qqq", ""), ("", ""), ("batchsize", "")],
)
def test_nearest(name: str, hint: str) -> None:
    assert nearest(name, ["epochs", "learning_rate", "patience"]) == hint
