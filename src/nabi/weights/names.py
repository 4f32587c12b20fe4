"""The name table between a checkpoint's tensors ("theirs") and a model's ("ours"): one list of entries, read in both directions.

    table = NameTable(
        [same("embeddings.word_embeddings", "embed.tokens"),
         stacked(("layer.*.attention.self.query", "layer.*.attention.self.key", "layer.*.attention.self.value"), "layers.*.attention.qkv"),
         tied("decoder.weight", "embed.tokens.weight")],
        legacy={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
        ignore={r"embeddings\\.position_ids": "counted, not learnt"})
    table.load(state).tensors      # ours -> tensor
    table.save(model.state_dict()) # theirs -> tensor, bit for bit

A name in an entry is a module path, which stands for its ``.weight`` and ``.bias``, or the full name of one tensor (``cls_token``,
``head.bias``). Each ``*`` is one whole part of a name and matches a layer number, the same number in all names of the entry. No order
matters: a table in which two entries could match one name is refused when it is made.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from nabi.errors import CheckpointError, OptionError, UserError, shortened

_NUMBER = re.compile(r"0|[1-9][0-9]*")
_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


@runtime_checkable
class Joins(Protocol):
    """A checkpoint that can read several tensors into one without making each first."""

    def joined(self, names: Sequence[str]) -> Tensor | None:
        """The tensors (A, ...) one behind the other, (sum of A, ...), to be used once ``filled()`` has returned; None where that can't be done."""

    def filled(self) -> None:
        """Wait until what was joined is read; raises CheckpointError where it can't be."""


@dataclass(frozen=True)
class Entry:
    """One line of a table; made by the functions below."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    flip: bool = False
    tied: bool = False
    weight_norm: bool = False
    number: bool = False


def same(theirs: str, ours: str) -> Entry:
    """The same tensor under another name."""
    return Entry((theirs,), (ours,))


def flipped(theirs: str, ours: str) -> Entry:
    """Their weight is (in, out), as in GPT-2, ours is (out, in); a bias is the same."""
    return Entry((theirs,), (ours,), flip=True)


def fused(theirs: str, *ours: str, flipped: bool = False) -> Entry:
    """Their one tensor is our several, equal parts along the output axis; ``flipped``: their weight is (in, out)."""
    return Entry((theirs,), ours, flip=flipped)


def stacked(theirs: tuple[str, ...], ours: str) -> Entry:
    """Their several tensors of one shape are our one, in this order along axis 0."""
    return Entry(theirs, (ours,))


def number(theirs: str, ours: str) -> Entry:
    """Theirs is a single number (), ours a vector of one, since no process could hold a share of a number; both are full names."""
    return Entry((theirs,), (ours,), number=True)


def tied(theirs: str, ours: str) -> Entry:
    """A second name of a tensor that another entry loads. If a checkpoint has both they must be equal; if only this one, it is loaded."""
    return Entry((theirs,), (ours,), tied=True)


def weight_normed(theirs: str, ours: str) -> Entry:
    """A module under weight normalisation (Salimans and Kingma 2016): our module keeps ``weight_g`` and ``weight_v`` as its parameters.

    A renaming, since the product of the two can't be taken apart again bit for bit: our module calls
    ``torch._weight_norm(v, g, dim)``. Theirs are read as ``parametrizations.weight.original0/1`` or ``weight_g/v``, written as the former.
    """
    return Entry((theirs,), (ours,), weight_norm=True)


@dataclass(frozen=True)
class Loaded:
    """What ``NameTable.load`` read."""

    tensors: dict[str, Tensor]
    """Our names and their tensors; those of ``same`` entries are the checkpoint's very tensors, so a memory-mapped one stays mapped."""
    unknown: tuple[str, ...]
    """Their names that no entry knows."""
    ignored: dict[str, str]
    """Their names that the table leaves out on purpose, each with the reason."""
    tied: tuple[str, ...]
    """The second names that were present; give them to ``save`` to write the same names again."""


_Numbers = tuple[str, ...]
_Index = dict[str, list[tuple[str, Entry, int]]]
_Found = dict[tuple[Entry, _Numbers], dict[int, str]]


class NameTable:
    """Entries, the names that older checkpoints use, and what to leave out.

    Args:
        entries: made by ``same``, ``flipped``, ``fused``, ``stacked``, ``number``, ``tied`` and ``weight_normed``.
        legacy: old ending -> new ending of a name, for loading only; whole parts of a name, ``*`` as in entries.
        ignore: regular expression for a whole name -> why such a tensor is left out; entries go first.

    Raises:
        OptionError: two entries could match one name, or an entry can't be inverted; all such problems in one error.
    """

    def __init__(self, entries: Iterable[Entry], legacy: Mapping[str, str] | None = None, ignore: Mapping[str, str] | None = None) -> None:
        self.entries, self.legacy, self.ignore = tuple(entries), dict(legacy or {}), dict(ignore or {})
        pairs = [(e.theirs, e.ours) for e in self.entries] + [((old,), (new,)) for old, new in self.legacy.items()]
        problems = [f"{a} -> {b} are not names of whole parts with equally many '*'" for a, b in pairs if not _sound(a, b)]
        normed = [e.theirs[0] for e in self.entries if e.weight_norm and e.theirs]
        self._endings = self.legacy | {f"{name}.{old}": f"{name}.{new}" for name in normed for old, new in _WEIGHT_NORM.items()}
        rules = [] if problems else [rule for entry in self.entries for rule in _rules(entry)]
        self._theirs = _index((name, rule, i) for rule in rules for i, name in enumerate(rule.theirs))
        self._ours = _index((name, rule, i) for rule in rules if not rule.tied for i, name in enumerate(rule.ours))
        for side, index in (("their", self._theirs), ("our", self._ours)):
            near = (pair for row in index.values() for pair in combinations([name for name, _, _ in row], 2))
            problems += [f"{side} '{a}' and '{b}' could be one name" for a, b in near if _overlap(a, b)]
        endings = combinations(self._endings, 2)
        problems += [f"legacy '{a}' and '{b}' could end one name" for a, b in endings if _overlap(a, b, endings=True)]
        for pattern in self.ignore:
            try:
                re.compile(pattern)
            except re.error as error:
                problems.append(f"ignore '{pattern}' is no regular expression ({error})")
        _refuse(OptionError, "the name table can't be read in both directions", problems)

    def under(self, theirs: str = "", ours: str = "") -> NameTable:
        """This table with a prefix before all their and all our names, such as ``under("bert.", "body.")``."""
        if any(prefix and not prefix.endswith(".") for prefix in (theirs, ours)):
            raise OptionError("a prefix of tensor names is a path", value=theirs or ours, expected="a full stop at its end")
        entries = [replace(e, theirs=tuple(theirs + n for n in e.theirs), ours=tuple(ours + n for n in e.ours)) for e in self.entries]
        return NameTable(entries, self.legacy, {f"{re.escape(theirs)}(?:{pattern})": reason for pattern, reason in self.ignore.items()})

    def join(self, other: NameTable) -> NameTable:
        """This table and another one beside it, such as a body's and a head's; raises OptionError where the two overlap or disagree."""
        for old in self.legacy.keys() & other.legacy.keys():
            if self.legacy[old] != other.legacy[old]:
                raise OptionError("two name tables rename one legacy ending differently", value=old)
        return NameTable(self.entries + other.entries, self.legacy | other.legacy, self.ignore | other.ignore)

    def load(self, state: Mapping[str, Tensor], prefix: str = "") -> Loaded:
        """Our tensors out of a checkpoint's; only tensors that an entry knows are taken out of ``state``.

        Args:
            state: their names -> tensors, any shapes.
            prefix: what stands before each of their names, such as ``bert.``; a name without it is unknown.

        Raises:
            CheckpointError: parts of a stacked tensor missing, two names for one tensor, shapes or dtypes that can't be split or joined, a
                tied tensor that differs; all problems in one error.
        """
        table = self.under(prefix) if prefix else self
        found: _Found = {}
        problems, unknown, ignored = [], [], {}
        for name in state:
            if hit := _find(table._theirs, name) or _find(table._theirs, table._modern(name)):
                first = found.setdefault(hit[:2], {}).setdefault(hit[2], name)
                if first != name:
                    problems.append(f"{shortened(first)} and {shortened(name)} are two names of one tensor")
            elif reasons := [why for pattern, why in table.ignore.items() if re.fullmatch(pattern, name)]:
                ignored[name] = reasons[0]
            else:
                unknown.append(name)
        seconds = {names[0]: _fill(rule.ours[0], numbers) for (rule, numbers), names in found.items() if rule.tied}
        try:
            tensors = _converted({key: names for key, names in found.items() if not key[0].tied}, state, True, problems)
        finally:
            if isinstance(state, Joins):
                state.filled()
        for name, ours in seconds.items():
            if not _equal(tensors.setdefault(ours, state[name]), state[name]):
                problems.append(f"{shortened(name)} should be a second name of our '{ours}' but differs from it")
        _refuse(CheckpointError, "the checkpoint's tensors do not fit the model", problems)
        return Loaded(tensors, tuple(unknown), ignored, tuple(seconds))

    def save(self, state: Mapping[str, Tensor], prefix: str = "", tied: Collection[str] = ()) -> dict[str, Tensor]:
        """Their tensors out of ours, contiguous and bit-equal to what ``load`` read.

        Args:
            state: our names -> tensors, any shapes.
            prefix: put before each of their names.
            tied: the second names to write too (``Loaded.tied``); without them each tensor is written once.

        Raises:
            CheckpointError: a tensor that no entry writes, parts of a fused tensor missing, shapes that can't be joined; all in one error.
        """
        table = self.under(prefix) if prefix else self
        found: _Found = {}
        problems = []
        for name in state:
            if hit := _find(table._ours, name):
                found.setdefault(hit[:2], {})[hit[2]] = name
            else:
                problems.append(f"no entry writes our {shortened(name)}")
        tensors = _converted(found, state, False, problems)
        for name in tied:
            hit = _find(table._theirs, name)
            ours = _fill(hit[0].ours[0], hit[1]) if hit and hit[0].tied else ""
            if ours in state:
                tensors[name] = state[ours]
            else:
                problems.append(f"{shortened(name)} is no second name of a tensor that is here")
        _refuse(CheckpointError, "the model's tensors can't be written under the checkpoint's names", problems)
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def _modern(self, name: str) -> str:
        parts = name.split(".")
        for old, new in self._endings.items():
            head, tail = parts[: -old.count(".") - 1], parts[-old.count(".") - 1 :]
            numbers = _numbers(old, ".".join(tail))
            if numbers is not None:
                return ".".join([*head, _fill(new, numbers)])
        return name


def _rules(entry: Entry) -> list[Entry]:
    """The entry once for each kind of tensor that its module paths stand for, with full names."""
    if entry.weight_norm:
        ends = ((theirs, ours) for ours, theirs in (*_WEIGHT_NORM.items(), ("bias", "bias")))
        return [same(f"{entry.theirs[0]}.{theirs}", f"{entry.ours[0]}.{ours}") for theirs, ours in ends]
    full = entry.number or any(name.rpartition(".")[2] in ("weight", "bias") for name in entry.theirs + entry.ours)
    rules = []
    for end in ("",) if full else ("", ".weight", ".bias"):
        theirs, ours = tuple(name + end for name in entry.theirs), tuple(name + end for name in entry.ours)
        rules.append(replace(entry, theirs=theirs, ours=ours, flip=entry.flip and not theirs[0].endswith("bias")))
    return rules


def _sound(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    names = [name.split(".") for name in (*theirs, *ours)]
    whole = all(part == "*" or (part and "*" not in part) for name in names for part in name)
    return bool(theirs and ours) and whole and len({name.count("*") for name in names}) == 1


def _key(name: str) -> str:
    """The name with each number as ``*``: two patterns can match one name only if their keys are equal, so a look-up tries few patterns."""
    return ".".join("*" if _NUMBER.fullmatch(part) else part for part in name.split("."))


def _index(rows: Iterable[tuple[str, Entry, int]]) -> _Index:
    index: _Index = {}
    for row in rows:
        index.setdefault(_key(row[0]), []).append(row)
    return index


def _overlap(a: str, b: str, endings: bool = False) -> bool:
    """Whether one name could match both patterns, or end in both."""
    p, q = a.split("."), b.split(".")
    size = min(len(p), len(q)) if endings else max(len(p), len(q))
    p, q = p[-size:], q[-size:]
    return _key(".".join(p)) == _key(".".join(q)) and all(x == y or "*" in (x, y) for x, y in zip(p, q, strict=True))


def _numbers(pattern: str, name: str) -> _Numbers | None:
    """The layer numbers at the pattern's stars, or None if the name does not match."""
    wants, parts = pattern.split("."), name.split(".")
    if len(wants) != len(parts) or not all(_NUMBER.fullmatch(p) if w == "*" else w == p for w, p in zip(wants, parts, strict=True)):
        return None
    return tuple(p for w, p in zip(wants, parts, strict=True) if w == "*")


def _find(index: _Index, name: str) -> tuple[Entry, _Numbers, int] | None:
    for pattern, rule, part in index.get(_key(name), ()):
        numbers = _numbers(pattern, name)
        if numbers is not None:
            return rule, numbers, part
    return None


def _fill(pattern: str, numbers: _Numbers) -> str:
    rest = iter(numbers)
    return ".".join(next(rest) if part == "*" else part for part in pattern.split("."))


def _converted(found: _Found, state: Mapping[str, Tensor], loading: bool, problems: list[str]) -> dict[str, Tensor]:
    """All the rules that were found, applied: from their names to ours when loading, else back."""
    tensors: dict[str, Tensor] = {}
    for (rule, numbers), names in found.items():
        source, target = (rule.theirs, rule.ours) if loading else (rule.ours, rule.theirs)
        if len(names) < len(source):
            gone = ", ".join(f"'{_fill(name, numbers)}'" for i, name in enumerate(source) if i not in names)
            problems.append(f"{', '.join(map(shortened, names.values()))} came without {gone}")
            continue
        if loading and len(source) > 1 and isinstance(state, Joins) and (whole := state.joined([names[i] for i in range(len(source))])) is not None:
            tensors[_fill(target[0], numbers)] = whole  # only entries of one tensor of ours join
            continue
        values = [state[names[i]] for i in range(len(source))]
        if rule.number and values[0].numel() == 1:  # of another size it is refused where it is placed
            values = [values[0].reshape((1,) if loading else ())]
        try:
            pieces = _recut(values, len(target), rule.flip)
        except ValueError as error:
            problems.append(f"{error}: " + ", ".join(f"{shortened(names[i])} {tuple(v.shape)} {v.dtype}" for i, v in enumerate(values)))
        else:
            tensors |= {_fill(name, numbers): piece for name, piece in zip(target, pieces, strict=True)}
    return tensors


def _recut(values: Sequence[Tensor], pieces: int, flip: bool) -> Sequence[Tensor]:
    """Joined along axis 0, flipped, split along axis 0. As no entry both flips and stacks, the same order serves both directions."""
    whole = values[0]
    if any(v.shape != whole.shape or v.dtype != whole.dtype for v in values):
        raise ValueError("tensors to be joined differ in shape or dtype")
    if flip and whole.ndim != 2:
        raise ValueError("a weight to be flipped needs two axes")
    if len(values) > 1 or pieces > 1:
        if whole.ndim == 0 or len(values) * whole.shape[-1 if flip and pieces > 1 else 0] % pieces:
            raise ValueError(f"can't be joined or split into {pieces} equal parts along the output axis")
        whole = _joined(values) if len(values) > 1 else whole
    whole = whole.t().contiguous() if flip else whole
    return whole.tensor_split(pieces) if pieces > 1 else [whole]


def _joined(values: Sequence[Tensor]) -> Tensor:
    """(A, ...) each -> (sum of A, ...)."""
    if values[0].nbytes < 1 << 16 or any(v.device.type != "cpu" or v.requires_grad or not v.is_contiguous() for v in values):
        return torch.cat(list(values))
    # by NumPy, because torch's threads wait for each other longer than these copies take; as bytes, since NumPy has no bfloat16
    joined = np.concatenate([v.reshape(-1).view(torch.uint8).numpy() for v in values])
    return torch.from_numpy(joined).view(values[0].dtype).reshape(-1, *values[0].shape[1:])


def _equal(a: Tensor, b: Tensor) -> bool:
    # by bytes, since NaN is not equal to itself
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def _refuse(error: type[UserError], what: str, problems: Sequence[str], limit: int = 20) -> None:
    if problems:
        rest = [f"and {len(problems) - limit} more"] if len(problems) > limit else []
        raise error(f"{what}: " + "; ".join([*problems[:limit], *rest]))
