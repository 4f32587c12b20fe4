"""Token shards: the ids of a corpus, memory-mapped, cut to windows of constant length; ``nabi.data.sharding`` writes them.

    tokens-KEY/manifest.json     what they are made of, how many there are, the hash of each file; written last
    tokens-KEY/00000.bin ...     token ids, little-endian, of 2 bytes if the vocabulary fits, else of 4; each document ends with the end token
    tokens-KEY/00000.ends ...    where each document of that .bin ends, behind its end token: int64, little-endian

Unusual: the ids are one long stream and no window is written, so the same shards serve any length, and a document that a window cuts goes on in the next.
A window says where documents begin in it, so that whoever trains can keep them apart. What is asked for is found by bisection in the mapped files:
nothing is kept in memory that grows with the corpus.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from nabi.config import from_dict, read_file, to_dict
from nabi.errors import DataError, OptionError, TokenizerError
from nabi.text import Tokenizer

FORMAT = 1
MANIFEST, UNFINISHED = "manifest.json", "unfinished.json"
ENDS = np.dtype("<i8")
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class ShardFile:
    """One .bin and its .ends.

    Attributes:
        tokens, documents: that it holds; read: documents that were read for it, those without a token included.
        sha256: of the .bin; ends: of the .ends; texts: of the documents' texts.
    """

    tokens: int
    documents: int
    read: int
    sha256: str
    ends: str
    texts: str


@dataclass(frozen=True)
class Manifest:
    """What shards are.

    Attributes:
        format: of the folder.
        corpus: what was read, as it is called; corpus_sha256: of its content, or of the name that its owner gave it.
        tokenizer: the fingerprint of the one that made the ids; vocabulary: how many ids it has.
        end: the token that ends each document; end_id: its id.
        column: that the texts lay in.
        file_tokens: a file is closed by the document with which it has so many.
        width: bytes of an id.
        tokens, documents: in all, end tokens included; empty: documents without a token, which were left out.
        files: in order.
    """

    format: int
    corpus: str
    corpus_sha256: str
    tokenizer: str
    vocabulary: int
    end: str
    end_id: int
    column: str
    file_tokens: int
    width: int
    tokens: int = 0
    documents: int = 0
    empty: int = 0
    files: tuple[ShardFile, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the ids in the files."""
        return np.dtype(f"<u{self.width}")

    @property
    def key(self) -> str:
        """16 hex digits of what decides the bytes: corpus, tokenizer and settings."""
        deciding = (self.format, self.corpus_sha256, self.tokenizer, self.end_id, self.column, self.file_tokens)
        return hashlib.sha256(json.dumps(deciding).encode()).hexdigest()[:16]

    def written(self) -> str:
        """Its JSON, the same for the same shards."""
        return json.dumps(to_dict(self), indent=1, ensure_ascii=False) + "\n"


def names(number: int) -> tuple[str, str]:
    """The files of one number: ids, ends."""
    return f"{number:05}.bin", f"{number:05}.ends"


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        DataError: it is broken or of a newer format.
    """
    data = read_file(path, DataError)
    version = data.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise DataError("these token shards were written by a newer nabi", value=f"{path}: format {version}", expected=f"format {FORMAT} or less",
                        fix="upgrade nabi, or write the shards again")  # fmt: skip
    try:
        manifest = from_dict(Manifest, data, path.name)
    except OptionError as problem:
        raise DataError(f"the manifest of these token shards is damaged ({problem})", value=str(path), fix="write the shards again") from None
    sums = tuple(sum(getattr(file, what) for file in manifest.files) for what in ("tokens", "documents"))
    if manifest.width not in (2, 4) or manifest.format < 1 or sums != (manifest.tokens, manifest.documents):
        raise DataError("the manifest of these token shards contradicts itself", value=str(path), fix="write the shards again")
    return manifest


def is_shards(path: Any) -> bool:
    """Whether this is the path of a folder of token shards, finished or not."""
    try:
        return isinstance(path, str | Path) and any((Path(path) / name).is_file() for name in (MANIFEST, UNFINISHED))
    except (OSError, ValueError):  # no path at all: too long, or with a NUL
        return False


@dataclass(frozen=True, eq=False)
class Window:
    """A piece of the stream.

    Attributes:
        ids: (L,) token ids.
        begins: where in it a document begins, ascending; without a 0 the window goes on with the document of the one before.
        before: the id in front of it, where it goes on with a document; else None.
        end: the id that ends a document.
    """

    ids: Ids
    begins: Ids
    before: int | None
    end: int

    def fragments(self) -> list[tuple[int, int]]:
        """(start, stop) of each document's part of the window, in order; they cover it."""
        cuts = [*([] if len(self.begins) and self.begins[0] == 0 else [0]), *self.begins.tolist(), len(self.ids)]
        return list(itertools.pairwise(cuts))


class TokenShards(Sequence[Window]):
    """Token ids of a corpus as a sequence of windows, made by :meth:`open`.

    Args:
        folder: of the shards.
        manifest: what it says.
        length: tokens of a window; the last one holds what is left.

    Attributes:
        tokens, documents: how many there are, end tokens included.
        columns: what a table with the same texts would have.
    """

    columns = ("text",)

    def __init__(self, folder: Path, manifest: Manifest, length: int) -> None:
        if length < 1:
            raise OptionError("windows can't be so short", value=length, expected="1 token or more")
        self.folder, self.manifest, self.length = folder, manifest, length
        self.tokens, self.documents = manifest.tokens, manifest.documents
        ids, ends = zip(*(names(i) for i in range(len(manifest.files))), strict=True)
        self._ids = [np.memmap(folder / name, manifest.dtype, "r") for name in ids]
        self._ends = [np.memmap(folder / name, ENDS, "r") for name in ends]
        self._from = np.cumsum([0, *(file.tokens for file in manifest.files)])  # the place of each file's first token, and where the last one ends
        self._document = np.cumsum([0, *(file.documents for file in manifest.files)])

    @classmethod
    def open(cls, folder: str | Path, tokenizer: Tokenizer | None = None, *, length: int = 1024, verify: bool = False) -> TokenShards:
        """The shards in a folder.

        Args:
            folder: ``tokens-KEY``.
            tokenizer: the one that will read or write with these ids; checked if it is given.
            length: tokens of a window.
            verify: read every byte and hold it against its hash; else the sizes alone are checked.

        Raises:
            DataError: the folder, a file or the manifest is missing, cut off, edited (with ``verify``), not finished, or of a newer format.
            TokenizerError: another tokenizer made the ids.
            OptionError: windows of no length.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            unfinished = (folder / UNFINISHED).is_file()
            what = "these token shards are not finished" if unfinished else "there are no token shards in this folder"
            fix = "write them again with the same source: what is there is kept" if unfinished else "give a folder tokens-KEY, as write_shards makes it"
            raise DataError(what, value=str(folder), expected=f"a {MANIFEST} in it", fix=fix)
        manifest = read_manifest(folder / MANIFEST)
        if not manifest.files:
            raise DataError("these token shards are empty", value=str(folder), fix="write them again")
        check_tokenizer(manifest, tokenizer, folder)
        for number, file in enumerate(manifest.files):
            sizes = (file.tokens * manifest.width, file.documents * ENDS.itemsize)
            for name, size, sha256 in zip(names(number), sizes, (file.sha256, file.ends), strict=True):
                _check_file(folder / name, size, sha256 if verify else None)
        return cls(folder, manifest, length)

    def with_length(self, length: int) -> TokenShards:
        """The same shards in windows of another length.

        Raises:
            OptionError: of no length.
        """
        return TokenShards(self.folder, self.manifest, length)

    @property
    def name(self) -> str:
        """What was read, and the folder."""
        return f"{self.manifest.corpus} ({self.folder.name})"

    @cached_property
    def sha256(self) -> str:
        """Of the manifest, and so of all that its hashes stand for."""
        return hashlib.sha256(self.manifest.written().encode()).hexdigest()

    # ---- windows -------------------------------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return -(-self.tokens // self.length)

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> list[Window]: ...
    def __getitem__(self, index: int | slice) -> Window | list[Window]:
        chosen = range(len(self))[index]  # raises IndexError as a list does
        return self._window(chosen) if isinstance(chosen, int) else [self._window(i) for i in chosen]

    def __reduce__(self) -> Any:
        return TokenShards, (self.folder, self.manifest, self.length)  # a mapped array would be copied

    def __repr__(self) -> str:
        return f"TokenShards({self.name!r}, {self.documents} documents, {self.tokens} tokens, {len(self)} windows of {self.length})"

    def _window(self, index: int) -> Window:
        start = index * self.length
        stop = min(start + self.length, self.tokens)
        begins = self.begins(start, stop) - start
        goes_on = not (len(begins) and begins[0] == 0)
        ids = self.ids(start - goes_on, stop)
        return Window(ids[int(goes_on) :], begins, int(ids[0]) if goes_on else None, self.manifest.end_id)

    def where(self, index: int) -> str:
        """What to call a window in an error."""
        return f"{self.folder.name}, window {index}"

    # ---- tokens and documents ------------------------------------------------------------------------------------------------------------------

    def ids(self, start: int, stop: int) -> Ids:
        """(stop - start,) token ids of a piece of the stream.

        Raises:
            OptionError: it does not lie inside.
        """
        self._check(start, stop)
        pieces = [self._ids[f][max(start - at, 0) : stop - at].astype(np.int64) for f, at in self._touched(start, stop)]
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

    def begins(self, start: int, stop: int) -> Ids:
        """The places in ``start`` to ``stop - 1`` of the stream where a document begins, ascending.

        Raises:
            OptionError: the piece does not lie inside.
        """
        self._check(start, stop)
        found: list[Ids] = []
        for f, at in self._touched(start, stop):
            if start <= at:
                found.append(np.array([at]))  # a file begins with a document
            ends = self._ends[f]
            inside = ends[np.searchsorted(ends, max(start - at, 0), "left") : np.searchsorted(ends, min(stop - at, len(self._ids[f])), "left")]
            found.append(np.asarray(inside, np.int64) + at)
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def document_at(self, places: Any) -> Ids:
        """The number of the document that each of these places of the stream lies in.

        Args:
            places: whole numbers, 0 to tokens - 1, in an array of any shape.

        Raises:
            OptionError: a place lies outside.
        """
        wanted = np.asarray(places, np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.tokens:
            raise OptionError("a place lies outside of the shards", value=f"{wanted.min()} to {wanted.max()}", expected=f"0 to {self.tokens - 1}")
        of_file = np.searchsorted(self._from, wanted, "right") - 1
        found = np.empty(wanted.shape, np.int64)
        for f in np.unique(of_file).tolist():
            here = of_file == f
            found[here] = self._document[f] + np.searchsorted(self._ends[f], wanted[here] - self._from[f], "right")
        return found

    def bounds(self, documents: Any) -> tuple[Ids, Ids]:
        """Where in the stream these documents begin and end, behind their end tokens.

        Args:
            documents: whole numbers, 0 to documents - 1, in an array of any shape.

        Raises:
            OptionError: there is no such document.
        """
        wanted = np.asarray(documents, np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.documents:
            raise OptionError("there is no such document", value=f"{wanted.min()} to {wanted.max()}", expected=f"0 to {self.documents - 1}")
        of_file = np.searchsorted(self._document, wanted, "right") - 1
        starts, stops = np.empty(wanted.shape, np.int64), np.empty(wanted.shape, np.int64)
        for f in np.unique(of_file).tolist():
            here = of_file == f
            number, ends = wanted[here] - self._document[f], self._ends[f]
            stops[here] = self._from[f] + ends[number]
            starts[here] = self._from[f] + np.where(number > 0, ends[np.maximum(number - 1, 0)], 0)
        return starts, stops

    def _touched(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(file, place of its first token) of the files that a piece lies in."""
        if start == stop:
            return []
        first, last = np.searchsorted(self._from, [start, stop - 1], "right").tolist()
        return [(f, int(self._from[f])) for f in range(first - 1, last)]

    def _check(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.tokens:
            raise OptionError("the piece does not lie in the shards", value=f"{start} to {stop}", expected=f"0 to {self.tokens}")


def check_tokenizer(manifest: Manifest, tokenizer: Tokenizer | None, folder: Path) -> None:
    """Check that a tokenizer, if one is given, is the one that made the ids.

    Raises:
        TokenizerError: it is another one.
    """
    if tokenizer is not None and tokenizer.fingerprint != manifest.tokenizer:
        raise TokenizerError(
            f"another tokenizer made the token shards in {folder}", value=f"fingerprint {tokenizer.fingerprint[:16]}, {tokenizer.vocab_size} tokens",
            expected=f"{manifest.tokenizer[:16]}, {manifest.vocabulary} ids", fix="take the tokenizer that they were written with, or write them again",
        )  # fmt: skip


def _check_file(path: Path, size: int, sha256: str | None) -> None:
    try:
        found = path.stat().st_size
        if found != size:
            raise DataError("a file of the token shards was cut off or edited", value=f"{path}: {found:,} bytes", expected=f"{size:,} bytes",
                            fix="delete the folder and write the shards again")  # fmt: skip
        if sha256 is None:
            return
        with path.open("rb") as file:
            hashed = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise DataError("a file of the token shards is missing", value=str(path), fix="delete the folder and write the shards again") from None
    except OSError as problem:
        raise DataError("a file of the token shards can't be read", value=f"{path} ({problem.strerror})", fix="check its permissions") from None
    if hashed != sha256:
        raise DataError("a file of the token shards was edited", value=f"{path}: sha256 {hashed[:16]}", expected=sha256[:16],
                        fix="delete the folder and write the shards again")  # fmt: skip


def grown(manifest: Manifest, file: ShardFile) -> Manifest:
    """The manifest with one file more."""
    return dataclasses.replace(
        manifest, files=(*manifest.files, file), tokens=manifest.tokens + file.tokens, documents=manifest.documents + file.documents,
        empty=manifest.empty + file.read - file.documents,
    )  # fmt: skip
