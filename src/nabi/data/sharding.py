"""Writing token shards: texts in, memory-mapped ids out, in bounded memory, resumable after a kill with the same bytes.

Unusual: a file is closed by the document that fills it, whatever the batches, so the bytes depend on the texts, the tokenizer and the settings alone. Each
finished file is made durable and noted with a hash of the texts in it; a build that goes on reads over these texts, checks that they are the same, and
tokenises from there. The manifest, without which nothing opens, is written last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nabi.data.shards import ENDS, FORMAT, MANIFEST, UNFINISHED, Manifest, ShardFile, TokenShards, grown, names, read_manifest
from nabi.data.texts import Texts, open_texts
from nabi.errors import DataError, OptionError, StorageError, TokenizerError
from nabi.files import whole
from nabi.text import Tokenizer

_BATCH_CHARS, _BATCH_TEXTS = 1 << 19, 1024  # tokenised at a time


def write_shards(
    source: Any,
    tokenizer: Tokenizer | str | Path,
    out: str | Path,
    *,
    column: str = "text",
    end: str | None = None,
    corpus: str | None = None,
    length: int = 1024,
    file_tokens: int = 1 << 25,
    longest: int = 1 << 23,
    say: Callable[[str], None] | None = None,
) -> TokenShards:
    """Tokenise texts into ``out/tokens-KEY``; if they are there already, nothing is tokenised, and if a build was interrupted it goes on.

    Args:
        source: a folder that ``nabi corpus build`` wrote, a file, a table, or an iterable of texts or of rows.
        tokenizer: or the folder of one.
        out: the folder that ``tokens-KEY`` is made in; KEY stands for the corpus, the tokenizer and the settings.
        column: of rows, the one with the text.
        end: the token behind each document; the tokenizer's end token if None.
        corpus: what an iterable is, such as a name with a version; a file or a table is known by its content.
        length: tokens of a window of the shards that are returned; nothing that is written depends on it.
        file_tokens: a file is closed by the document with which it has so many.
        longest: characters of a document; a longer one is refused, for it is tokenised at once.
        say: is told of each file that is done.

    Raises:
        DataError: the texts can't be read, are none, or are others than those that an interrupted build had read.
        TokenizerError: the tokenizer has no end token.
        OptionError: an unknown end token, a size below 1, or an iterable without ``corpus``.
        StorageError: a file can't be written, or another process is writing these shards; what is done is kept.
    """
    if low := [f"{name} is {value}" for name, value in (("length", length), ("file_tokens", file_tokens), ("longest", longest)) if value < 1]:
        raise OptionError("sizes must be 1 or more: " + ", ".join(low))
    tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.load(Path(tokenizer))
    end_id = _end(tokenizer, end)
    texts = open_texts(source, column, corpus)
    vocabulary = tokenizer.rows
    manifest = Manifest(
        FORMAT, texts.name, texts.sha256, tokenizer.fingerprint, vocabulary, tokenizer.token(end_id), end_id, column, file_tokens,
        width=2 if vocabulary <= 1 << 16 else 4,
    )  # fmt: skip
    folder = Path(out) / f"tokens-{manifest.key}"
    with _storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not (folder / MANIFEST).is_file():
            with _storing(folder):
                manifest = _begun(folder, manifest)
            _write(folder, manifest, texts, tokenizer, longest, say or (lambda line: None))
        with _storing(folder):
            for path in folder.iterdir():  # of a build that is done, now or before a kill
                if path.name == UNFINISHED or path.name.startswith("."):
                    path.unlink()
    return TokenShards.open(folder, tokenizer, length=length)


def _end(tokenizer: Tokenizer, end: str | None) -> int:
    found = tokenizer.eos_id if end is None else tokenizer.id(end)
    if end is not None and found is None:
        raise OptionError("the vocabulary has no such token to end a document", value=end, fix="name one that it has: end=")
    if found is None:
        raise TokenizerError("the tokenizer has no end token to join documents with", value="eos_token", expected="one in its files",
                             fix='name a token that shall end a document: end="<|endoftext|>"')  # fmt: skip
    return found


@contextlib.contextmanager
def _storing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise StorageError(f"the token shards in {folder} could not be written: {problem}; what is done is kept") from problem


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Held by one process at a time, until it ends."""
    with _storing(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"another process is writing the token shards in {folder}: wait for it") from None
        except OSError:
            pass  # some network file systems have no locks: there one writer at a time must do
        yield
    finally:
        os.close(handle)


def _begun(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest so far: with the files that an interrupted build finished, if they are whole; everything else in the folder is removed."""
    if (folder / UNFINISHED).is_file():
        for number, file in enumerate(read_manifest(folder / UNFINISHED).files):
            sizes = (file.tokens * manifest.width, file.documents * ENDS.itemsize)
            if any(not (folder / name).is_file() or (folder / name).stat().st_size != size for name, size in zip(names(number), sizes, strict=True)):
                break
            manifest = grown(manifest, file)
    kept = {UNFINISHED, *(name for number in range(len(manifest.files)) for name in names(number))}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    return manifest


def _write(folder: Path, manifest: Manifest, texts: Texts, tokenizer: Tokenizer, longest: int, say: Callable[[str], None]) -> None:
    documents = _encoded(texts, longest)
    for number, file in enumerate(manifest.files):
        _read_over(documents, file, folder / names(number)[0])
    draft: _Draft | None = None
    try:
        for batch in _batches(documents):
            ids, done = tokenizer.ids_of([text for text, _ in batch]), 0
            while done < len(batch):
                with _storing(folder):
                    draft = draft or _Draft(folder, len(manifest.files), manifest)
                    done += draft.add([raw for _, raw in batch[done:]], ids[done:])
                    if draft.tokens >= manifest.file_tokens:
                        manifest, draft = _closed(folder, manifest, draft, say), None
        if draft is not None and draft.tokens:
            with _storing(folder):
                manifest, draft = _closed(folder, manifest, draft, say), None
    finally:
        if draft is not None:
            draft.abandon()
    empty = manifest.empty + (0 if draft is None else draft.read)  # the last documents may all be without a token
    if not manifest.files:
        raise DataError(f"{texts.name}: there is no text to write", value=f"{empty} documents, all without a token", fix="give other texts")
    with whole(folder / MANIFEST) as path:
        path.write_text(dataclasses.replace(manifest, empty=empty).written(), encoding="utf-8")


def _encoded(texts: Iterable[tuple[str, str]], longest: int) -> Iterator[tuple[str, bytes]]:
    """(text, its UTF-8) of each document."""
    for where, text in texts:
        if len(text) > longest:
            raise DataError(f"{where}: the document is too long", value=f"{len(text):,} characters", expected=f"at most {longest:,}",
                            fix="cut it up, or raise longest= if there is memory for it")  # fmt: skip
        try:
            yield text, text.encode()
        except UnicodeEncodeError as problem:
            raise DataError(f"{where}: half of a surrogate pair, which is no character", value=text[max(0, problem.start - 20) : problem.start + 20],
                            expected="whole characters", fix="write the text again, or leave it out") from None  # fmt: skip


def _batches(documents: Iterator[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    batch: list[tuple[str, bytes]] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document[0])
        if size >= _BATCH_CHARS or len(batch) >= _BATCH_TEXTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _told(hashed: Any, raw: bytes) -> None:
    """Add one text to a hash of texts, so that no other cut of the same bytes has it."""
    hashed.update(len(raw).to_bytes(8, "little"))
    hashed.update(raw)


def _read_over(documents: Iterator[tuple[str, bytes]], file: ShardFile, path: Path) -> None:
    hashed, count = hashlib.sha256(), 0
    for _, raw in documents:
        _told(hashed, raw)
        count += 1
        if count == file.read:
            break
    if count < file.read or hashed.hexdigest() != file.texts:
        raise DataError("these are not the texts that the interrupted build had read", value=str(path),
                        fix=f"give the same ones, name these otherwise with corpus=, or delete {path.parent}")  # fmt: skip


class _Draft:
    """One file that is being written, under a hidden name."""

    def __init__(self, folder: Path, number: int, manifest: Manifest) -> None:
        self.folder, self.number, self.dtype = folder, number, manifest.dtype
        self.end_id, self.most = manifest.end_id, manifest.file_tokens
        self.tokens = self.read = 0
        self._ends = array("q")
        self._hash, self._texts = hashlib.sha256(), hashlib.sha256()
        self._file: BinaryIO = self._hidden(0).open("wb")

    def abandon(self) -> None:
        """Write no more; what is there is removed by the next build, or at the end of this one."""
        with contextlib.suppress(OSError):  # of a full disk, which was told already
            self._file.close()

    def _hidden(self, which: int) -> Path:
        return self.folder / f".{names(self.number)[which]}"

    def add(self, raws: Sequence[bytes], ids: Sequence[Sequence[int]]) -> int:
        """Add documents until the file is full; returns how many."""
        sizes = np.array([len(row) + 1 if row else 0 for row in ids], np.int64)  # one without a token has no end token either
        ends = self.tokens + np.cumsum(sizes)
        taken = min(int(np.searchsorted(ends, self.most, "left")) + 1, len(ids))
        chosen = [row for row in ids[:taken] if row]
        flat = np.fromiter(chain.from_iterable(chain(row, (self.end_id,)) for row in chosen), self.dtype, int(sizes[:taken].sum()))
        data = flat.tobytes()
        self._file.write(data)
        self._hash.update(data)
        for raw in raws[:taken]:
            _told(self._texts, raw)
        self._ends.frombytes(ends[:taken][sizes[:taken] > 0].astype(np.int64).tobytes())
        self.tokens, self.read = int(ends[taken - 1]), self.read + taken
        return taken

    def close(self) -> ShardFile:
        """Make both files durable and give them their names."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        ends = np.frombuffer(self._ends, np.int64).astype(ENDS).tobytes()
        with self._hidden(1).open("wb") as file:
            file.write(ends)
            file.flush()
            os.fsync(file.fileno())
        for which, name in enumerate(names(self.number)):
            self._hidden(which).replace(self.folder / name)
        return ShardFile(self.tokens, len(self._ends), self.read, self._hash.hexdigest(), hashlib.sha256(ends).hexdigest(), self._texts.hexdigest())


def _closed(folder: Path, manifest: Manifest, draft: _Draft, say: Callable[[str], None]) -> Manifest:
    manifest = grown(manifest, draft.close())
    with whole(folder / UNFINISHED) as path:
        path.write_text(manifest.written(), encoding="utf-8")
    say(f"{folder.name}: {manifest.documents:,} documents, {manifest.tokens:,} tokens in {len(manifest.files)} files")
    return manifest
