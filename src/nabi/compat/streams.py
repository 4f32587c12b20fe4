"""The streams that the seeds' loader for a code model is made of: ``load_dataset`` of local files, ``shuffle`` with a buffer, sequences of constant length.

Unusual: what the seeds' loader would do without end (an empty data set, or one that can't be read twice) is an error. A row that ``shuffle`` holds in its
buffer is lost where a run stops; ``nabi.data.order`` and ``nabi.data.shards`` have no buffer, and keep documents apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from nabi.data.streams import Stream, stream_files
from nabi.errors import DataError, OptionError, nearest

_ENDINGS = tuple(ending + packed for ending in (".jsonl", ".json") for packed in ("", ".gz", ".zst"))


class RowStream(IterableDataset[dict[str, Any]]):
    """Rows that are read one after another, again for each pass.

    Args:
        stream: the rows.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._stream)

    def shuffle(self, seed: int | None = None, *, buffer_size: int = 1000) -> RowStream:
        """These rows, each drawn from a buffer of the next ones.

        Args:
            seed: of the draws; 0 if None, so that a script prints the same twice. Each pass has the same order.
            buffer_size: rows that are held.

        Raises:
            OptionError: a buffer of no rows.
        """
        return RowStream(self._stream.shuffle(buffer_size, seed or 0))

    def take(self, n: int) -> RowStream:
        """The first ``n`` rows."""
        return RowStream(self._stream.take(n))

    def skip(self, n: int) -> RowStream:
        """The rows behind the first ``n``."""
        return RowStream(self._stream.skip(n))


def load_dataset(path: str | Path, *, split: str | None = None, data_files: Any = None, streaming: bool = False) -> RowStream:
    """The rows of local files of JSON lines, as they are or packed, streamed.

    Args:
        path: a file; or a folder, whose files are read in the order of their names; or ``"json"`` with ``data_files``.
        split: of a folder whose files' names begin with it (``train-00000.jsonl.zst``), these alone; where no name does, all are its split.
        data_files: a path or a list of paths, in a folder if ``path`` is one.
        streaming: must be True: tables in memory are read by ``nabi.data.read_table``.

    Raises:
        DataError: there are no such files.
        OptionError: not streaming.
    """
    if not streaming:
        fix = "for a table in memory take nabi.data.read_table"
        raise OptionError("load_dataset streams here", value="streaming=False", expected="streaming=True", fix=fix)
    folder = Path() if str(path) == "json" and data_files is not None else Path(path)
    if data_files is not None:
        given = [data_files] if isinstance(data_files, str | Path) else data_files
        if not isinstance(given, Sequence):
            raise OptionError("data_files are paths", value=given, expected="a path or a list of paths")
        files = [folder / name for name in given]
    elif folder.is_dir():
        files = sorted(file for file in folder.iterdir() if file.name.lower().endswith(_ENDINGS))
        files = [file for file in files if split is None or file.name.startswith(split)] or files
    else:
        files = [folder]
    if missing := [str(file) for file in files if not file.is_file()] or ([] if files else [f"{folder}/*.jsonl"]):
        near = nearest(folder.name, [other.name for other in folder.parent.iterdir()]) if folder.parent.is_dir() else ""
        raise DataError("there are no such files of JSON lines", value=", ".join(missing), expected="local files; nothing is fetched", fix=near)
    return RowStream(stream_files(files, folder.name, ".jsonl"))


class ConstantLengthDataset(IterableDataset[Tensor]):
    """Sequences of ``seq_length`` tokens: as many characters of documents as hold ``num_of_sequences`` of them are tokenised at a time, joined by the end
    token, and cut; what is left over is dropped, and the data set begins anew when it is over. It never ends, and says how its buffer fills.

    Args:
        tokenizer: of this package; its end token joins documents.
        dataset: rows, to be read more than once.
        seq_length: tokens of a sequence.
        num_of_sequences: about how many are made from one buffer.
        chars_per_token: that are expected.
        column: of the rows, the one with the text.

    Raises:
        OptionError: a number is not above 0, or the tokenizer has no end token.
    """

    def __init__(
        self, tokenizer: Any, dataset: Iterable[Mapping[str, Any]], seq_length: int = 1024, num_of_sequences: int = 1024, chars_per_token: float = 3.6,
        column: str = "content",
    ) -> None:  # fmt: skip
        if min(seq_length, num_of_sequences, chars_per_token) <= 0:
            raise OptionError("these can't make sequences", value=(seq_length, num_of_sequences, chars_per_token), expected="numbers above 0")
        if tokenizer.eos_token_id is None:
            raise OptionError("the tokenizer has no end token to join documents with", value=tokenizer.name_or_path, fix="tokenizer.eos_token = '...'")
        self.tokenizer, self.dataset, self.column = tokenizer, dataset, column
        self.concat_token_id = tokenizer.eos_token_id
        self.seq_length = seq_length
        self.input_characters = seq_length * chars_per_token * num_of_sequences

    def __iter__(self) -> Iterator[Tensor]:
        """(seq_length,) int64 each.

        Raises:
            OptionError: several workers of a DataLoader, each of which would read the same.
            DataError: a pass over the data set gives no text.
        """
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise OptionError("each worker would read the same documents", value=f"num_workers={worker.num_workers}", expected="0 or 1")
        return self._sequences()

    def _sequences(self) -> Iterator[Tensor]:
        rows, found = iter(self.dataset), True  # found: some text since the data set began
        while True:
            buffer: list[str] = []
            size = 0
            while size < self.input_characters:
                print(f"Fill buffer: {size}<{self.input_characters:.0f}")
                try:
                    row = next(rows)
                except StopIteration:
                    if not found:
                        raise DataError("a pass over the data set gives no text", value=type(self.dataset).__name__,
                                        fix="give rows that can be read again, such as a list") from None  # fmt: skip
                    rows, found = iter(self.dataset), False
                    continue
                if not isinstance(row, Mapping) or not isinstance(row.get(self.column), str):
                    raise DataError(f"a row has no text in '{self.column}'", value=row, expected=f'{{"{self.column}": "..."}}', fix="name its column: column=")
                buffer.append(row[self.column])
                size += len(buffer[-1])
                found = found or bool(buffer[-1])
            print(f"Buffer full: {size}>={self.input_characters:.0f}")
            ids: list[int] = []
            for encoded in self.tokenizer(buffer, truncation=False)["input_ids"]:
                ids += [*encoded, self.concat_token_id]
            for i in range(0, len(ids) - self.seq_length + 1, self.seq_length):
                yield torch.tensor(ids[i : i + self.seq_length])
