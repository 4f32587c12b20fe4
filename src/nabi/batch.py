"""What travels from a task to a body: rows on the host, packed batches on the device, and the cache of a past.

``Row`` (lists, made by ``Task.encode``) -> ``pack`` -> ``Batch`` (tensors). A batch has parts, named by their role (text, target, image, audio,
table); parts may have different numbers of rows. Unusual: nothing is padded; rows are ordered by length and batches filled by tokens.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from nabi.errors import InputError
from nabi.layout import Layout

FILLER = -1  # the example number of a row that only fills up a rank's share


@dataclass
class Row:
    """One row of a task, on the host.

    Attributes:
        parts: part name -> stream name -> one entry a token.
        rows: part name -> values that belong to the whole row (image size, sampling rate).
        targets: what the loss reads, as the task's ``targets`` declare it.
        example: the number of the example that it came from; several rows (windows, choices) may share one.
        notes: what answering needs and no tensor does: offsets, window start, word numbers. With ``shared`` the reading depends on the row's parts alone,
            so rows that say the same are read once (the labels of a thousand images).
    """

    parts: dict[str, dict[str, Sequence[Any]]]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    targets: dict[str, Any] = field(default_factory=dict)
    example: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Hashable:
        """What rows have in common that are read once; None for a row of its own."""
        if not self.notes.get("shared"):
            return None
        return tuple((part, name, tuple(values)) for part, streams in self.parts.items() for name, values in streams.items())

    def length(self, part: str) -> int:
        """Tokens of one part."""
        return len(next(iter(self.parts[part].values())))

    @property
    def tokens(self) -> int:
        """Tokens of all parts."""
        return sum(self.length(part) for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Of the arrays that it holds."""
        return sum(getattr(values, "nbytes", 0) for streams in self.parts.values() for values in streams.values())

    def work(self, grain: Mapping[str, int]) -> int:
        """Tokens of all parts, those of a part in ``grain`` counted by so many at a time."""
        return sum(-(-self.length(part) // grain.get(part, 1)) for part in self.parts)


@dataclass(frozen=True)
class Target:
    """How rows' targets become one tensor.

    Attributes:
        per: ``token`` (one a token of ``part``), ``row`` (one a row of ``part``), ``example`` (one an example), ``ragged`` (any number a row:
            values end to end under the name, how many each row has under ``name.lengths``).
        part: the part that it goes with.
        dtype: of the tensor.
    """

    per: Literal["token", "row", "example", "ragged"]
    part: str = "text"
    dtype: torch.dtype = torch.int64


@dataclass
class Part:
    """The packed rows of one role.

    Attributes:
        layout: where the N rows lie.
        streams: (T, ...) tensors: tokens, segments, boxes, patches, samples, cells.
        rows: (N, ...) tensors: image size, sampling rate.
        example: (N,) int64, which example a row belongs to; -1 is a filler.
        size: the number of real rows.
        ids: for each row its number in the sequence that was packed (host).
    """

    layout: Layout
    streams: dict[str, Tensor]
    rows: dict[str, Tensor]
    example: Tensor
    size: int
    ids: tuple[int, ...]

    def to(self, device: torch.device | str) -> Part:
        """This part with its tensors on ``device``."""
        return Part(self.layout.to(device), _moved(self.streams, device), _moved(self.rows, device), self.example.to(device), self.size, self.ids)


@dataclass
class Batch:
    """Packed parts and the targets that go with them."""

    parts: dict[str, Part]
    targets: dict[str, Tensor] = field(default_factory=dict)

    @property
    def real(self) -> bool:
        """Whether there is a row that is no filler."""
        return any(part.size for part in self.parts.values())

    @property
    def tokens(self) -> int:
        """Tokens of all parts."""
        return sum(sum(part.layout.lengths) for part in self.parts.values())

    def to(self, device: torch.device | str) -> Batch:
        """This batch with its tensors on ``device``."""
        return Batch({name: part.to(device) for name, part in self.parts.items()}, _moved(self.targets, device))

    def tied(self, part: str, to: str) -> list[int]:
        """For each row of ``part`` its row of ``to``: the one that came from the same ``Row``, else the first of the same example.

        Raises:
            InputError: a row of ``part`` has no such row.
        """
        here, there = self.parts[part], self.parts[to]
        by_id = {number: i for i, number in enumerate(there.ids)}
        if all(number in by_id for number in here.ids):  # the usual case, which reads no tensor
            return [by_id[number] for number in here.ids]
        by_example: dict[int, int] = {}
        for i, example in enumerate(there.example.tolist()):
            by_example.setdefault(example, i)
        examples = here.example.tolist()
        lost = [i for i, number in enumerate(here.ids) if number not in by_id and examples[i] not in by_example]
        if lost:
            raise InputError(f"rows of part '{part}' without a row of part '{to}'", value=lost, fix="pack the rows of an example together")
        return [by_id.get(number, by_example.get(example, 0)) for number, example in zip(here.ids, examples, strict=True)]

    def after(self, cache: Cache) -> Batch:
        """This batch as the continuation of ``cache``: positions of its part go on where the cached rows end.

        Raises:
            InputError: the part and the cache have different numbers of rows.
        """
        part = self.parts[cache.part]
        if len(part.layout) != len(cache.lengths):
            raise InputError("a batch continues another number of rows than its cache holds", value=(len(part.layout), len(cache.lengths)))
        if not any(cache.lengths):
            return self
        start = torch.tensor(cache.lengths, dtype=torch.int64, device=part.example.device)
        return Batch({**self.parts, cache.part: replace(part, layout=part.layout.continued(start))}, self.targets)


class Cache(Protocol):
    """The past of a batch, made by ``Body.begin``; a slot a row, whatever each layer keeps in it.

    ``cache[i]`` is layer i's share: ``cache[i].self.append(k, v, at) -> (k, v, of)`` stores the new keys and values and returns all of them with
    their layout; ``cache[i].cross.read() -> (k, v, of)`` returns an encoder's. ``lengths`` advance once a forward, by :meth:`advance`. Rows are
    numbered as in the next batch, without holes: which slot a row has is the cache's own affair.
    """

    part: str

    @property
    def lengths(self) -> list[int]: ...  # tokens of each row
    @property
    def capacity(self) -> int: ...  # tokens that fit in a slot without growing
    @property
    def nbytes(self) -> int: ...
    def __getitem__(self, layer: int) -> Any: ...
    def advance(self, at: Layout) -> None: ...  # the forward over these rows is over
    def crop(self, lengths: Sequence[int]) -> None: ...  # forget what lies beyond
    def reorder(self, rows: Sequence[int]) -> None: ...  # row i becomes what row rows[i] was; there may be more rows than before, or fewer
    def admit(self, other: Any) -> None: ...  # other's rows come behind the last, in free slots
    def release(self, rows: Sequence[int]) -> None: ...  # these rows are finished, their slots free; the rows behind them move up


def pack(
    rows: Sequence[Row],
    *,
    tokens: int = 8192,
    targets: Mapping[str, Target] | None = None,
    together: bool = False,
    grain: Mapping[str, int] | None = None,
) -> Iterator[Batch]:
    """Batches of rows ordered by length and filled up to ``tokens``; ``Part.ids`` tells which row went where.

    Args:
        rows: what ``Task.encode`` made.
        tokens: the most tokens in a batch, all parts counted; a longer row (or example, if ``together``) gets a batch of its own.
        targets: how targets become tensors; without it they are left out.
        together: keep the rows of one example in one batch (multiple choice, an image with its labels).
        grain: part -> how many of its tokens count as one.
    """
    groups: list[list[int]] = [[i] for i in range(len(rows))]
    if together:
        by_example: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            by_example.setdefault(row.example, []).append(i)
        groups = list(by_example.values())
    sizes = [sum(rows[i].work(grain or {}) for i in group) for group in groups]
    chosen: list[int] = []
    filled = 0
    for g in sorted(range(len(groups)), key=sizes.__getitem__):
        if chosen and filled + sizes[g] > tokens:
            yield batch_of(rows, chosen, targets or {})
            chosen, filled = [], 0
        chosen.extend(groups[g])
        filled += sizes[g]
    if chosen:
        yield batch_of(rows, chosen, targets or {})


def batch_of(rows: Sequence[Row], ids: Sequence[int], targets: Mapping[str, Target]) -> Batch:
    """One batch of the rows with these numbers, in this order."""
    parts: dict[str, Part] = {}
    for name in dict.fromkeys(name for i in ids for name in rows[i].parts):
        here = [i for i in ids if name in rows[i].parts]
        streams = {s: _tensor([rows[i].parts[name][s] for i in here]) for s in rows[here[0]].parts[name]}
        extra = {s: _tensor([[rows[i].rows[name][s]] for i in here]) for s in rows[here[0]].rows.get(name, {}) if s != "leading"}
        example = torch.tensor([rows[i].example for i in here])
        size = sum(rows[i].example != FILLER for i in here)
        leading = [rows[i].rows.get(name, {}).get("leading") for i in here]
        marks = torch.tensor([n or 0 for n in leading]) if any(n is not None for n in leading) else None
        parts[name] = Part(Layout.of([rows[i].length(name) for i in here], leading=marks), streams, extra, example, size, tuple(here))
    return Batch(parts, dict(_targets(rows, ids, targets)))


def _targets(rows: Sequence[Row], ids: Sequence[int], targets: Mapping[str, Target]) -> Iterator[tuple[str, Tensor]]:
    for name, target in targets.items():
        here = [i for i in ids if name in rows[i].targets and target.part in rows[i].parts]
        if not here:
            continue
        lost = [i for i in ids if name not in rows[i].targets and target.part in rows[i].parts]
        if lost and target.per != "example":  # the others would move up and answer for the wrong rows
            raise InputError(f"rows without the target '{name}'", value=lost, expected=f"one a row of part '{target.part}'")
        values = [rows[i].targets[name] for i in here]
        if target.per == "row":
            yield name, torch.tensor(values, dtype=target.dtype)
        elif target.per == "example":
            once = {rows[i].example: value for i, value in zip(here, values, strict=True)}
            yield name, torch.tensor(list(once.values()), dtype=target.dtype)
        else:
            lengths = [len(value) for value in values]
            if target.per == "token" and lengths != [rows[i].length(target.part) for i in here]:
                raise InputError(f"target '{name}' has another length than its part '{target.part}'", value=lengths, expected="one entry a token")
            yield name, torch.tensor([x for value in values for x in value], dtype=target.dtype)
            if target.per == "ragged":
                yield f"{name}.lengths", torch.tensor(lengths)


def _tensor(sequences: Sequence[Sequence[Any]]) -> Tensor:
    """Sequences of lists, or NumPy arrays or tensors (n, ...), end to end; floats become float32, but for tensors, which stay as they are."""
    if isinstance(sequences[0], Tensor):
        return torch.cat([torch.as_tensor(s) for s in sequences])
    arrays = hasattr(sequences[0], "__array__")
    tensor = torch.cat([torch.as_tensor(s) for s in sequences]) if arrays else torch.tensor([x for s in sequences for x in s])
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _moved(tensors: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    return {name: x.to(device, non_blocking=True) for name, x in tensors.items()}
