"""The errors that nabi raises, as one tree.

    NabiError
    ├── UserError                 the input was wrong: exit code 2
    │   ├── DataError             a data file, a row or a column
    │   ├── InputError            one text given to a model
    │   ├── TokenizerError        a tokenizer file
    │   ├── CheckpointError       a model folder
    │   │   └── MissingHeadError  the folder has a body but not the head that the task reads
    │   └── OptionError           an unknown name or an impossible value: task, option, setting, family
    │       └── PluginError       a user's own family or task that can't be taken in
    └── WorkError                 the work failed although the input was right: exit code 1
        ├── TrainingError         a loss or a gradient that is not finite
        └── StorageError          a file that could not be written

Each user error says what is wrong, shows the value, says what was expected and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NabiError(Exception):
    """Base of everything that nabi raises on purpose; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class UserError(NabiError):
    """The input was wrong.

    Args:
        what: what is wrong, as a phrase without a full stop.
        value: the offending value as it was seen; shown shortened.
        expected: what would have been right.
        fix: what the reader can do now.
    """

    exit_code = 2

    def __init__(self, what: str, *, value: object = None, expected: str = "", fix: str = "") -> None:
        self.what, self.value, self.expected, self.fix = what, value, expected, fix
        parts = [what if value is None else f"{what}: {shortened(value)}"]
        if expected:
            parts.append(f"expected {expected}")
        if fix:
            parts.append(fix)
        sentences = [part[:1].upper() + part[1:] if i else part for i, part in enumerate(parts)]
        super().__init__(" ".join(part if part.endswith(("?", ".")) else part + "." for part in sentences))


class DataError(UserError):
    """A data file, a row or a column is not what the task reads."""


class InputError(UserError):
    """One input given to a model can't be used."""


class TokenizerError(UserError):
    """A tokenizer file is missing, broken or does not fit the model."""


class CheckpointError(UserError):
    """A model folder is missing, incomplete, broken or of an unknown kind."""


class MissingHeadError(CheckpointError):
    """A checkpoint holds the body but not the head that the task needs to answer."""


class OptionError(UserError):
    """A name or a value that nabi does not know, with the nearest one that it does."""


class PluginError(OptionError):
    """A plugin file can't be loaded, or takes a name that is in use."""


class WorkError(NabiError):
    """The work failed although the input was right."""


class TrainingError(WorkError):
    """Training met a loss or a gradient that is not finite."""


class StorageError(WorkError):
    """A file could not be written; what was there before is still there."""


def shortened(value: object, limit: int = 160) -> str:
    """The value on one printable line: strings quoted and escaped, cut to ``limit`` characters in the middle."""
    # ascii-escape only what can't be printed (lone surrogates, controls), so Korean stays readable
    text = repr(value) if isinstance(value, str | bytes) else str(value)
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint ``did you mean 'x'?`` for a misspelt name, or an empty string if nothing is near."""
    folded = {k.lower().replace("-", "_"): k for k in sorted(known)}
    hits = difflib.get_close_matches(str(name).lower().replace("-", "_"), folded, n=1, cutoff=0.6)
    return f"did you mean '{folded[hits[0]]}'?" if hits else ""


def unknown(kind: str, name: object, known: Iterable[str], *, error: type[UserError] = OptionError) -> UserError:
    """The error for a name that is not among ``known``: shows the name, the nearest one and the whole list."""
    names = sorted(known)
    return error(f"unknown {kind}", value=name, expected=f"one of {', '.join(names)}" if names else "", fix=nearest(str(name), names))
