"""Pages of the web: crawls (.warc, .warc.gz) and saved pages (.html, .htm), one of them or a folder of them. Each page is a document: its main text.

Crawls also give what they hold as plain text, as the WET files of Common Crawl do. The main text is found by trafilatura (Apache-2.0; Barbaresi 2021,
https://aclanthology.org/2021.acl-demo.15), without its second opinions (``fast``), which halve its speed. resiliparse 2.0.1 is five times as fast and was not
taken: it needs more than a minute for 44 kB of ``<p><b id=1>x<p><b id=2>x``, and for a million ``<div>``. trafilatura's time grows with the number of tags, up
to 1 ms for each, so a page with too many of them is left out and counted.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import html
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from nabi.data.corpus.documents import Document, Origin, Trouble
from nabi.data.corpus.listing import Entry, Listed, Names, reason_of, shown, walk
from nabi.data.corpus.sources import WEB
from nabi.data.corpus.streams import HostileError, Stream, opened, packing_of
from nabi.data.corpus.warc import Unreadable, answer, records
from nabi.errors import DataError, OptionError

KINDS = frozenset(("response", "resource", "conversion"))
MARKUP = 4  # a page may be this many times as long as the text that is kept
TAGS = 20_000  # real pages have a few thousand
_PAGE, _PLAIN = frozenset(("text/html", "application/xhtml+xml")), frozenset(("text/plain",))
_META = re.compile(rb"""<meta\s[^<>]{0,200}?charset\s{0,9}=\s{0,9}["']?\s{0,9}([\w.:-]{1,40})""", re.IGNORECASE)
_CHARSET = re.compile(r"""charset\s{0,9}=\s{0,9}["']?([\w.:-]{1,40})""", re.IGNORECASE)
_DECLARED = re.compile(r"\A\s{0,99}<\?xml[^<>]{0,200}\?>")  # the parser refuses text that says how its bytes were encoded
_TITLE = re.compile(r"<title[^<>]{0,200}>([^<]{1,1000})</title", re.IGNORECASE)
# names as the web uses them (https://encoding.spec.whatwg.org/#names-and-labels), where Python's codec of that name knows fewer characters
_MEANT = {"euc-kr": "cp949", "ks_c_5601-1987": "cp949", "korean": "cp949", "iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252",
          "shift_jis": "cp932", "shift-jis": "cp932", "x-sjis": "cp932", "sjis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs",
          "iso-8859-9": "cp1254", "tis-620": "cp874", "iso-8859-11": "cp874", "windows-31j": "cp932", "windows-874": "cp874", "utf8": "utf-8"}  # fmt: skip
# the codecs for text on the web: Python has others that do no such thing (base64, punycode)
_CODECS = re.compile(r"utf-(8|16(-?[lb]e)?)|iso-8859-\d\d?|windows-125\d|cp(125\d|866|874|932|949)|koi8-[ru]|euc-jp|gb18030|big5hkscs|iso-2022-jp|macintosh")
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
# lxml's own errors are SyntaxError; the rest is what code meets in a tree that it did not foresee
_FAILURES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError, SyntaxError)


def open_origin(origin: Origin) -> Web:
    """The source of crawls and pages.

    Raises:
        OptionError: trafilatura is not installed.
        DataError: there is no such file or folder.
    """
    place = Path(origin.path)
    if not place.is_dir() and not (place.is_file() and place.name.lower().endswith(WEB)):
        raise DataError("there are no web pages", value=origin.path, expected=f"a folder, or a file that ends in {', '.join(WEB)}", fix="check the path")
    return Web(origin, _extractor())


def _extractor() -> Callable[[str], str | None]:
    try:
        import trafilatura
        from trafilatura.settings import use_config
    except ImportError as problem:
        what = f"reading web pages needs the package trafilatura ({problem.name or 'a part of it'} can't be imported)"
        raise OptionError(what, fix="install it: pip install 'nabi[web]'") from None
    # it logs each page that it finds no text in; here that is counted
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    config = use_config()
    # characters from which a text is believed to be the main one; 250 there, but a Korean sentence has half as many as an English one
    config["DEFAULT"]["MIN_EXTRACTED_SIZE"] = "60"
    return lambda page: trafilatura.extract(page, fast=True, include_comments=False, output_format="txt", config=config)


class Web(Listed):
    """The pages of a folder or file. ``include`` and ``exclude`` are held against a page's address, or its path if it is a file."""

    def __init__(self, origin: Origin, extract: Callable[[str], str | None]) -> None:
        super().__init__(origin)
        self.extract, self.most = extract, origin.max_bytes * MARKUP
        place = Path(origin.path)
        self.root = place if place.is_dir() else place.parent
        self.names = Names(origin)

    def entries(self, scratch: Path) -> Iterator[Entry]:
        place = Path(self.origin.path)
        if place.is_dir():
            found = walk(str(self.root), Names(replace(self.origin, include=()), WEB), scratch)
            yield from (entry for entry in found if _is_crawl(entry.path) or self.names.wants(entry.path))
        elif _is_crawl(place.name) or self.names.wants(place.name):
            yield Entry(place.name, size=place.stat().st_size)

    def documents(self, entry: Entry, trouble: Trouble) -> Iterator[Document]:
        path = shown(entry.path)
        try:
            file = opened(self.root / entry.path, path, follow=not Path(self.origin.path).is_dir())
        except OSError as problem:
            trouble.add("link" if problem.errno == errno.ELOOP else reason_of(problem), path, problem.strerror or str(problem))
            return
        with Stream(file, packing_of(path), path) as stream:
            if _is_crawl(path):
                yield from self._crawled(stream, path, trouble)
                return
            page = stream.read(self.most + 1)
        if len(page) > self.most:
            trouble.add("too long", path, f"over {self.most:,} bytes")
        else:
            yield from self._document(page, "", True, path, {}, trouble)

    def _crawled(self, stream: Stream, path: str, trouble: Trouble) -> Iterator[Document]:
        try:
            for record in records(stream, KINDS, self.most + (1 << 17)):
                url = record.headers.get("warc-target-uri", "").strip("<>")
                place = f"{path}!{url}"
                if not self.names.wants(url):
                    continue
                try:
                    if record.block is None:
                        raise Unreadable("too long", f"{record.size:,} bytes")
                    kind, body = self._body(record.headers, record.block)
                except Unreadable as problem:
                    trouble.add(problem.reason, place, problem.seen)
                    continue
                charset = _CHARSET.search(kind)
                yield from self._document(body, charset[1] if charset else "", _is_page(kind, body), place, {"url": url}, trouble)
        except HostileError:
            raise
        except DataError as problem:
            # crawlers are stopped, files break off: what came before is whole
            trouble.add("cut short", path, str(problem))

    def _body(self, headers: dict[str, str], block: bytes) -> tuple[str, bytes]:
        """The type of what a record holds, and its bytes."""
        kind = headers.get("content-type", "")
        if headers["warc-type"].lower() == "response":
            if not kind.lower().replace(" ", "").startswith("application/http"):
                raise Unreadable("other type", kind)
            seen = answer(block, self.most)
            if seen.status != 200:
                raise Unreadable("no page", f"status {seen.status}")
            kind, block = seen.headers.get("content-type", ""), seen.body
        if len(block) > self.most:
            raise Unreadable("too long", f"{len(block):,} bytes")
        word = kind.partition(";")[0].strip().lower()
        if word and word not in _PAGE | _PLAIN:
            raise Unreadable("other type", kind)
        return kind, block

    def _document(self, data: bytes, charset: str, page: bool, place: str, facts: dict[str, str], trouble: Trouble) -> Iterator[Document]:
        """The document that a page or a text makes, or none, which is counted."""
        text = _decoded(data, charset, page, place, trouble)
        if text is None:
            return
        if page:
            if (tags := text.count("<")) > TAGS:
                trouble.add("too many tags", place, f"{tags:,}")
                return
            if (title := _TITLE.search(text)) is not None and (words := " ".join(html.unescape(title[1]).split())):
                facts = {**facts, "title": words}
            try:
                text = self.extract(_DECLARED.sub("", text.replace("\0", ""), count=1)) or ""
            except _FAILURES as problem:
                trouble.add("unreadable", place, type(problem).__name__)
                return
        text = text.strip()
        size = len(text.encode(errors="replace"))
        if not text:
            trouble.add("no text", place)
        elif size > self.origin.max_bytes:
            trouble.add("too long", place, f"{size:,} bytes")
        elif "\0" in text:
            trouble.add("binary", place, "a NUL byte")
        else:
            yield Document(text, place, {**self.facts, **facts})


def _is_crawl(path: str) -> bool:
    return path.lower().endswith((".warc", ".warc.gz"))


def _is_page(kind: str, body: bytes) -> bool:
    word = kind.partition(";")[0].strip().lower()
    return word in _PAGE or (not word and body[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")))


def _decoded(data: bytes, charset: str, page: bool, place: str, trouble: Trouble) -> str | None:
    """The text of a page as a browser would decode it: by its mark, its server, itself, as UTF-8; None if that fails, which is counted.

    A byte in a thousand may be wrong, as browsers let it pass: it becomes U+FFFD.
    """
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            data, charset = data[len(mark) :], name
            break
    else:
        if not charset and page and (meta := _META.search(data, 0, 4096)) is not None:
            charset = meta[1].decode("ascii", "replace")
            charset = "utf-8" if charset.lower().startswith("utf-16") else charset  # else it could not have been read
    name = _MEANT.get(charset.lower(), charset.lower() or "utf-8")
    if not _CODECS.fullmatch(name):
        trouble.add("unknown charset", place, charset)
        return None
    for codec in dict.fromkeys((name, "utf-8")):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(codec)
    text = data.decode(name, "replace")
    if (wrong := text.count("\ufffd")) * 1000 <= len(text):
        return text
    trouble.add("not in its charset", place, f"{wrong:,} bytes are not {charset or name}")
    return None
