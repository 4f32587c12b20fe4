"""A wiki's dump: MediaWiki's XML export, plain or packed (.bz2, .gz, .zst). Each page of the main namespace is a document; of its revisions, the last.

Format: https://www.mediawiki.org/wiki/Help:Export. Unusual: the file is read by events with no tree behind them, so memory holds one page at most. No entity is
ever expanded, since a file with a document type is refused: no export has one, and it is how XML attacks begin. A dump that breaks off is an error and not a
count: most of the wiki may be missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote
from xml.parsers import expat

from nabi.data.corpus.documents import Document, Origin, Trouble, Unit
from nabi.data.corpus.listing import Names
from nabi.data.corpus.streams import HostileError, Stream, opened, packing_of
from nabi.data.corpus.wikitext import plain
from nabi.errors import DataError

PIECE = 1 << 16
TOKEN = 1 << 20  # bytes: a longer tag or comment is an attack, as expat holds all of it
DEEPEST = 16  # elements in elements; an export has 6
MARKUP = 8  # a page's wikitext may be this many times as long as the text that is kept
FILE_SPACE, CATEGORY_SPACE = "6", "14"


def open_origin(origin: Origin) -> Wiki:
    """The source of a dump.

    Raises:
        DataError: there is no such file.
    """
    if not Path(origin.path).is_file():
        raise DataError("there is no such file", value=origin.path, expected="a wiki's dump: NAME.xml, NAME.xml.bz2", fix="check the path")
    return Wiki(origin)


@dataclass
class _Page:
    """What is known of a page; ``wikitext`` is None if it is longer than any that is kept."""

    title: str = ""
    space: str = ""
    revision: str = ""
    model: str = ""
    redirect: bool = False
    wikitext: str | None = ""


@dataclass
class _Site:
    base: str = ""
    spaces: dict[str, str] = field(default_factory=dict)


class Wiki:
    """The pages of one dump, in the dump's order. ``include`` and ``exclude`` are held against their titles."""

    def __init__(self, origin: Origin) -> None:
        self.origin, self.names, self.file = origin, Names(origin), Path(origin.path).name

    def units(self, work: Path) -> Iterator[Unit]:
        """The whole file is one: nothing tells where in a packed file a page begins."""
        yield Unit(self.file, size=Path(self.origin.path).stat().st_size)

    def read(self, unit: Unit, trouble: Trouble) -> Iterator[Document]:
        try:
            packed = opened(Path(self.origin.path), self.file, follow=True)
        except OSError as problem:
            raise DataError("the dump can't be read", value=self.origin.path, fix=str(problem)) from None
        with Stream(packed, packing_of(self.file), self.file) as stream:
            export = _Export(self.file, self.origin.max_bytes * MARKUP)
            for page in export.pages(stream):
                place = f"{self.file}!{page.title}"
                if page.space != "0":
                    trouble.add("other namespace", place)
                elif page.redirect:
                    trouble.add("redirect", place)
                elif page.model not in ("", "wikitext"):
                    trouble.add("not wikitext", place, page.model)
                elif self.names.wants(page.title):
                    yield from self._document(page, export.site, place, trouble)

    def _document(self, page: _Page, site: _Site, place: str, trouble: Trouble) -> Iterator[Document]:
        if page.wikitext is None:
            trouble.add("too long", place, f"over {self.origin.max_bytes * MARKUP:,} bytes of wikitext")
            return
        text = plain(page.wikitext, *({english, site.spaces.get(key, english)} for key, english in ((FILE_SPACE, "file"), (CATEGORY_SPACE, "category"))))
        size = len(text.encode())
        if size > self.origin.max_bytes:
            trouble.add("too long", place, f"{size:,} bytes")
        elif not text:
            trouble.add("no text", place)
        else:
            facts = {"title": page.title, "revision": page.revision, "license": self.origin.license}
            if site.base:
                facts["url"] = f"{site.base.rpartition('/')[0]}/{quote(page.title.replace(' ', '_'), safe=':/()')}"
            yield Document(text, place, {name: value for name, value in facts.items() if value})


class _Export:
    """What expat sees, as pages."""

    def __init__(self, name: str, most: int) -> None:
        self.name, self.most, self.site = name, most, _Site()
        self._page = _Page()
        self._done: list[_Page] = []
        self._path: list[str] = []
        self._said: list[str] = []  # the text of the element that is open
        self._size = 0
        self._space = ""  # the number of the namespace whose name comes
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text, parser.buffer_size = True, PIECE
        parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = self._begin, self._end, self._text
        parser.StartDoctypeDeclHandler = self._refuse

    def pages(self, stream: Stream) -> Iterator[_Page]:
        """Each page as soon as its element ends.

        Raises:
            DataError: not an export, broken or cut off; pages before the break have been given.
            HostileError: it declares a document type, is nested without end, or holds a tag that never ends.
        """
        try:
            while piece := stream.some(PIECE):
                self._parser.Parse(piece, False)
                if stream.tell() - self._parser.CurrentByteIndex > TOKEN + PIECE:
                    raise HostileError(f"{self.name}: a tag or comment is longer than {TOKEN:,} bytes", expected="a wiki's dump", fix="do not use this file")
                yield from self._taken()
            self._parser.Parse(b"", True)
        except expat.ExpatError as problem:
            yield from self._taken()
            cut = problem.code in (expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS], expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN])
            what = "the dump breaks off" if cut else "the dump is not well-formed XML"
            fix = "fetch it again, and compare its hash with the one that its wiki gives"
            raise DataError(f"{self.name}: {what}", value=f"{expat.ErrorString(problem.code)}, line {problem.lineno}", fix=fix) from None
        yield from self._taken()

    def _taken(self) -> list[_Page]:
        done, self._done = self._done, []
        return done

    def _refuse(self, name: str, *_: object) -> None:
        what = f"{self.name}: the file declares a document type, which no wiki's dump does"
        raise HostileError(what, value=f"<!DOCTYPE {name}", expected="<mediawiki> at its beginning", fix="do not use this file")

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
        word = tag.rpartition(":")[2]
        if not self._path and word != "mediawiki":
            raise DataError(f"{self.name}: the file is no wiki's dump", value=f"<{tag}>", expected="<mediawiki>", fix="give MediaWiki's XML export")
        self._path.append(word)
        if len(self._path) > DEEPEST:
            what = f"{self.name}: elements lie in one another without end"
            raise HostileError(what, value=f"<{tag}>", expected=f"at most {DEEPEST}", fix="do not use this file")
        self._said.clear()
        self._size = 0
        if self._path[1:] == ["page"]:
            self._page = _Page()
        elif self._path[1:] == ["page", "revision"]:
            self._page.model = ""
        elif self._path[1:] == ["page", "redirect"]:
            self._page.redirect = True
        elif word == "namespace":
            self._space = attributes.get("key", "")

    def _text(self, text: str) -> None:
        self._size += len(text.encode())
        if self._size <= self.most:
            self._said.append(text)

    def _end(self, tag: str) -> None:
        whole = self._size <= self.most
        said = "".join(self._said) if whole else ""
        match self._path[1:]:
            case ["siteinfo", "base"]:
                self.site.base = said.strip()
            case ["siteinfo", "namespaces", "namespace"] if self._space in (FILE_SPACE, CATEGORY_SPACE):
                self.site.spaces[self._space] = said.strip().lower()
            case ["page", "title"]:
                self._page.title = said.strip()
            case ["page", "ns"]:
                self._page.space = said.strip()
            case ["page", "revision", "id"]:
                self._page.revision = said.strip()
            case ["page", "revision", "model"]:
                self._page.model = said.strip()
            case ["page", "revision", "text"]:
                self._page.wikitext = said if whole else None
            case ["page"]:
                self._done.append(self._page)
        self._path.pop()
        self._said.clear()
        self._size = 0
