"""Which file reads an origin: by its kind, or by what its path is."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from nabi.data.corpus.documents import Origin, Source
from nabi.errors import DataError, unknown

# kind -> the module whose ``open_origin(origin)`` makes the source; one file a kind, imported when it is used
KINDS = {"folder": "folders", "git": "git", "archive": "archives", "table": "rows", "text": "lines", "github": "github", "web": "web", "wiki": "wiki"}
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
TABLES = (".jsonl", ".csv", ".tsv", ".parquet")
WEB = (".warc", ".warc.gz", ".html", ".htm")
WIKI = (".xml", ".xml.bz2")
PACKED = ("", ".gz", ".zst")


def kind_of(path: str) -> str:
    """The kind of a source that is given by its path alone.

    Raises:
        DataError: there is no such file or folder, or its ending says nothing.
    """
    place, name = Path(path), path.lower()
    if place.is_dir():
        return "git" if (place / ".git").exists() or ((place / "HEAD").is_file() and (place / "objects").is_dir()) else "folder"
    if not place.exists():
        raise DataError("there is no such file or folder", value=path, fix="check the path; for GitHub give kind = \"github\"")
    for kind, endings in (("archive", ARCHIVES), ("web", WEB), ("wiki", WIKI)):
        if name.endswith(endings):
            return kind
    if name.endswith(tuple(table + packed for table in TABLES for packed in PACKED)):
        return "table"
    if name.endswith(tuple(".txt" + packed for packed in PACKED)):
        return "text"
    raise DataError("what this file holds can't be seen from its name", value=path, expected="one of " + ", ".join((*ARCHIVES, *TABLES, ".txt", *WEB, *WIKI)),
                    fix='say it: kind = "table", "text", "archive", "web" or "wiki"')  # fmt: skip


def open_origin(origin: Origin) -> Source:
    """The source of an origin.

    Raises:
        OptionError: an unknown kind, or a package that it needs is not installed.
        DataError: there is nothing at the path, or what is there can't be a source.
    """
    kind = origin.kind or kind_of(origin.path)
    if kind not in KINDS:
        raise unknown("kind of source", kind, KINDS)
    source: Source = import_module(f"nabi.data.corpus.{KINDS[kind]}").open_origin(origin)
    return source
