"""A folder: each file under it is a document, in the order of the paths' bytes.

Links are not followed, nor are pipes and devices opened, not even if one takes a file's place between listing and reading.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from nabi.data.corpus.documents import Document, Origin, Trouble
from nabi.data.corpus.listing import Entry, Listed, Names, reason_of, shown, walk
from nabi.data.corpus.streams import opened, text_of_bytes
from nabi.errors import DataError


def open_origin(origin: Origin) -> Folder:
    """The source of a folder.

    Raises:
        DataError: there is no such folder.
    """
    if not Path(origin.path).is_dir():
        raise DataError("there is no such folder", value=origin.path, fix="check the path; for a file leave the kind out")
    return Folder(origin)


class Folder(Listed):
    """The files of a folder and of the folders in it."""

    def entries(self, scratch: Path) -> Iterator[Entry]:
        for entry in walk(self.origin.path, Names(self.origin), scratch):
            too_long = entry.size > self.origin.max_bytes
            yield Entry(entry.path, reason="too long", note=f"{entry.size:,} bytes") if too_long else entry

    def documents(self, entry: Entry, trouble: Trouble) -> Iterator[Document]:
        path = shown(entry.path)
        try:
            with opened(Path(self.origin.path, entry.path), path) as file:
                # it may have grown since
                data = file.read(self.origin.max_bytes + 1)
        except OSError as problem:
            trouble.add("link" if problem.errno == errno.ELOOP else reason_of(problem), path, problem.strerror or str(problem))
            return
        if len(data) > self.origin.max_bytes:
            trouble.add("too long", path, f"over {self.origin.max_bytes:,} bytes")
        elif (text := text_of_bytes(data, path, trouble)) is not None:
            yield Document(text, path, {**self.facts, "path": path})
