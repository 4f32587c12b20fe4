"""The source ``web``: what of a crawl or a saved page is a document, in which characters, and what hostile or broken ones cost."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest

from nabi.data.corpus import web
from nabi.data.corpus.documents import Document, Origin, Trouble
from nabi.data.corpus.sources import open_origin
from nabi.data.corpus.streams import HostileError
from nabi.data.corpus.web import MARKUP, TAGS
from nabi.errors import DataError, OptionError

KOREAN_SENTENCES = (
    "나비는 곤충강 나비목에 속하는 곤충 가운데 낮에 활동하는 무리를 통틀어 이르는 말이다."
    " 몸은 가늘고 빛깔이 아름다운 두 쌍의 넓적한 날개가 있다."
)
KOREAN = f"{KOREAN_SENTENCES} 꽃의 꿀을 빨아 먹고, 애벌레는 풀잎을 갉아 먹는다."
ENGLISH = "Butterflies are winged insects from the lepidopteran superfamily Papilionoidea, and they have large, often brightly coloured wings."


def html(*paragraphs: str, head: str = "<title>A page</title>") -> str:
    menu = "<nav><ul>" + "".join(f"<li><a href='/{word}'>{word}</a></li>" for word in ("Home", "About", "Login")) + "</ul></nav>"
    text = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return f"<!DOCTYPE html><html><head>{head}</head><body>{menu}<article>{text}</article><footer>Copyright</footer></body></html>"


def http(body: bytes | str, kind: str = "text/html; charset=utf-8", *, status: int = 200, more: str = "") -> bytes:
    data = body.encode() if isinstance(body, str) else body
    field = f"Content-Type: {kind}\r\n" if kind else ""
    return f"HTTP/1.1 {status} OK\r\n{field}{more}\r\n".encode() + data


def record(url: str, block: bytes, *, kind: str = "response", content: str = "application/http; msgtype=response", size: int | None = None) -> bytes:
    length = len(block) if size is None else size
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nContent-Type: {content}\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + block + b"\r\n\r\n"


INFO = record("", b"software: x\r\n", kind="warcinfo", content="application/warc-fields")


def read(path: Path, **more: object) -> tuple[list[Document], Trouble]:
    trouble = Trouble()
    source = open_origin(Origin(str(path), **more))  # type: ignore[arg-type]
    return [document for unit in source.units(path.parent) for document in source.read(unit, trouble)], trouble


def crawled(folder: Path, *records: bytes, name: str = "c.warc.gz", **more: object) -> tuple[list[Document], Trouble]:
    """Documents of a crawl, packed record by record as crawlers do."""
    path = folder / name
    path.write_bytes(b"".join(map(gzip.compress, records)) if name.endswith(".gz") else b"".join(records))
    return read(path, **more)


@pytest.mark.parametrize("name", ["c.warc", "c.warc.gz"])
def test_pages_of_a_crawl_are_documents_with_their_addresses(tmp_path: Path, name: str) -> None:
    documents, trouble = crawled(
        tmp_path, INFO,
        record("http://a.b/1", http(html(ENGLISH, KOREAN))),
        record("http://a.b/1", b"GET / HTTP/1.1\r\n\r\n", kind="request", content="application/http; msgtype=request"),
        record("http://a.b/2.png", http(b"\x89PNG", "image/png")),
        record("http://a.b/3", http("gone", status=404)),
        record("http://a.b/4.txt", http("plain text", "text/plain")),
        record("http://a.b/5", KOREAN.encode(), kind="conversion", content="text/plain"),
        record("http://a.b/6", http("<html></html>")),
        record("dns:a.b", b"1.2.3.4", content="text/dns"),
        name=name, license="CC-BY-4.0",
    )  # fmt: skip
    assert [(d.path, d.text) for d in documents] == [
        (f"{name}!http://a.b/1", f"{ENGLISH}\n{KOREAN}"), (f"{name}!http://a.b/4.txt", "plain text"), (f"{name}!http://a.b/5", KOREAN),
    ]  # fmt: skip
    assert documents[0].facts == {"url": "http://a.b/1", "title": "A page", "license": "CC-BY-4.0"}
    assert trouble.counts == {"other type": 2, "no page": 1, "no text": 1}


def test_a_crawl_in_one_packed_piece_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "c.warc.gz"
    path.write_bytes(gzip.compress(INFO + record("http://a/1", http(html(ENGLISH))) + record("http://a/2", http(html(KOREAN)))))
    assert [d.text for d in read(path)[0]] == [ENGLISH, KOREAN]


def test_addresses_are_asked_for_by_pattern(tmp_path: Path) -> None:
    records = [record(f"http://{host}/x", http(host, "text/plain")) for host in ("a.kr", "b.com", "c.kr")]
    assert [d.text for d in crawled(tmp_path, *records, include=("http://*.kr/*",), exclude=("http://c*/*",))[0]] == ["a.kr"]


@pytest.mark.parametrize(
    ("body", "kind", "head"),
    [
        (KOREAN.encode("cp949"), "text/html; charset=EUC-KR", ""),
        (KOREAN.encode("cp949"), "text/html", '<meta charset="euc-kr">'),
        (KOREAN.encode("cp949"), "text/html", '<meta http-equiv="Content-Type" content="text/html; charset=ks_c_5601-1987">'),
        (KOREAN.encode(), "text/html", ""),
        (KOREAN.encode(), "text/html; charset=euc-kr", ""),
        (KOREAN.encode(), "", '<meta charset="utf-16">'),
    ],
    ids=["the server says", "the page says", "the page says by an old name", "nobody says", "the server is wrong", "the page can't be right"],
)
def test_pages_are_read_in_their_own_characters(tmp_path: Path, body: bytes, kind: str, head: str) -> None:
    before, _, after = html("@", head=f"{head}<title>x</title>").encode().partition(b"@")
    documents, trouble = crawled(tmp_path, record("http://a/1", http(before + body + after, kind)))
    assert [d.text for d in documents] == [KOREAN] and not trouble.counts


def test_marks_at_the_beginning_decide_first(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-8-sig"):
        assert [d.text for d in crawled(tmp_path, record("http://a/1", http(html(KOREAN).encode(encoding), "text/html; charset=euc-kr")))[0]] == [KOREAN]


@pytest.mark.parametrize("charset", ["punycode", "base64", "unicode_escape", "utf-7", "idna", "no-such-thing", "rot13"])
def test_codecs_that_are_no_charset_of_the_web_are_counted(tmp_path: Path, charset: str) -> None:
    documents, trouble = crawled(tmp_path, record("http://a/1", http(html(ENGLISH), f"text/html; charset={charset}")))
    assert not documents and trouble.counts == {"unknown charset": 1}


def test_wrong_bytes_are_counted_and_a_single_one_is_let_pass(tmp_path: Path) -> None:
    noise, one = b"\x80\xff\xfe" * 300, ENGLISH.encode() * 20 + b"\xff"
    documents, trouble = crawled(tmp_path, *(record("http://a/1", http(body, "text/plain; charset=utf-8")) for body in (noise, one)))
    assert [d.text for d in documents] == [ENGLISH * 20 + "\ufffd"] and trouble.counts == {"not in its charset": 1}


def test_bodies_are_unpacked_as_they_were_sent(tmp_path: Path) -> None:
    page = html(ENGLISH).encode()
    raw = zlib.compressobj(wbits=-15)
    bodies = {
        "Transfer-Encoding: chunked\r\n": b"%x;x=y\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (100, page[:100], len(page) - 100, page[100:]),
        "Transfer-Encoding:  chunked \r\n": page,  # joined already
        "Content-Encoding: gzip\r\n": gzip.compress(page),
        "Content-Encoding:  gzip \r\n": page,  # unpacked already
        "Content-Encoding: deflate\r\n": zlib.compress(page),
        "Content-Encoding:  deflate \r\n": raw.compress(page) + raw.flush(),
    }
    documents, trouble = crawled(tmp_path, *(record("http://a/1", http(body, more=more)) for more, body in bodies.items()))
    assert [d.text for d in documents] == [ENGLISH] * 6 and not trouble.counts


def test_bad_answers_are_counted_and_the_next_record_is_read(tmp_path: Path) -> None:
    packed = gzip.compress(html(*[ENGLISH + str(i) for i in range(100)]).encode())
    bad = [
        b"", b"no http", b"HTTP/1.1 OK\r\n\r\n", http(packed[:-20], more="Content-Encoding: gzip\r\n"), http(b"x", more="Content-Encoding: br\r\n"),
        http(b"x" * 4_500_000), http(gzip.compress(b" " * 50_000_000), more="Content-Encoding: gzip\r\n"), http("word " * 300_000, "text/plain"),
    ]  # fmt: skip
    documents, trouble = crawled(tmp_path, *(record("http://a/1", block) for block in bad), record("http://a/2", http(html(ENGLISH))), name="c.warc")
    assert [d.text for d in documents] == [ENGLISH]
    assert trouble.counts == {"unreadable": 4, "cut short": 1, "too long": 3}


@pytest.mark.parametrize("name", ["c.warc", "c.warc.gz"])
def test_a_crawl_that_breaks_off_gives_what_came_and_is_counted(tmp_path: Path, name: str) -> None:
    crawled(tmp_path, *(record(f"http://a/{i}", http(html(f"{ENGLISH} {i} " * 30))) for i in range(5)), name=name)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-60])
    documents, trouble = read(path)
    assert len(documents) == 4 and trouble.counts == {"cut short": 1}


@pytest.mark.parametrize(
    "bad",
    [
        b"hello world\n" * 100, record("http://a/1", b"x", size=10**15), record("http://a/1", b"x", size=-1), b"WARC/1.0\r\nWARC-Type: response\r\n\r\n",
        b"WARC/1.0\r\n" + b"a" * 1_000_000, b"WARC/1.0\r\n" + b"a: b\r\n" * 100_000, b"WARC/1.0\r\nContent-Length: 3", b"\0" * 100_000,
    ],
    ids=["other", "a length never reached", "a negative length", "no length", "a long line", "many lines", "cut off", "zeros"],
)  # fmt: skip
def test_damage_in_a_crawl_is_counted_with_its_place(tmp_path: Path, bad: bytes) -> None:
    documents, trouble = crawled(tmp_path, record("http://a/1", http(html(ENGLISH))), bad, name="c.warc")
    assert len(documents) == 1 and trouble.counts == {"cut short": 1}
    assert "at byte" in trouble.examples["cut short"][0]


def test_a_crawl_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostileError, match="unpacks without end"):
        crawled(tmp_path, record("http://a/1", http(b" " * 20_000_000)))


def test_memory_does_not_grow_with_the_crawl(tmp_path: Path) -> None:
    def most(count: int) -> int:
        path = tmp_path / f"{count}.warc"
        path.write_bytes(b"".join(record(f"http://a/{i}", http(f"{i} " * 200, "text/plain")) for i in range(count)))
        source, trouble = open_origin(Origin(str(path))), Trouble()
        tracemalloc.start()
        assert sum(1 for unit in source.units(tmp_path) for _ in source.read(unit, trouble)) == count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few = most(300)
    assert most(5000) < few + 300_000


def test_a_folder_of_pages_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    (tmp_path / "site" / "b").mkdir(parents=True)
    site = tmp_path / "site"
    for name, text in (("b/1.html", KOREAN), ("a.htm", ENGLISH), ("notes.txt", "x"), ("big.html", "x" * 5_000_000)):
        (site / name).write_text(html(text), encoding="utf-8")
    (site / "c.warc.gz").write_bytes(gzip.compress(record("http://a/1", http("crawled", "text/plain"))))
    (site / "link.html").symlink_to("a.htm")
    documents, trouble = read(site, kind="web")
    assert [(d.path, d.text) for d in documents] == [("a.htm", ENGLISH), ("b/1.html", KOREAN), ("c.warc.gz!http://a/1", "crawled")]
    assert trouble.counts == {"link": 1, "too long": 1}


@pytest.mark.parametrize(
    "page",
    ["<div>" * 15_000, "<b>" * 15_000, "<p><b id=1>x" * 9_000, "<table><tr><td>" * 6_000, "<html " + "a=b " * 200_000 + ">", "<![CDATA[" * 15_000,
     "&" * 1_000_000, "<svg><foreignObject>" * 9_000, "x<br>" * 15_000, "<select>" * 15_000, "\0" * 100_000, "<script>" * 15_000,
     "<title>" * 15_000, "<?xml version='1.0' encoding='x'?>"],
)  # fmt: skip
def test_a_hostile_page_costs_seconds_at_most(tmp_path: Path, page: str) -> None:
    path = tmp_path / "a.html"
    path.write_text(page, encoding="utf-8")
    begin = time.process_time()
    documents, trouble = read(path)
    assert len(documents) + sum(trouble.counts.values()) == 1
    assert time.process_time() - begin < 15


def test_fifty_megabytes_of_div_are_left_out_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(b"<div>" * 10_000_000)
    tracemalloc.start()
    assert read(path)[1].counts == {"too long": 1}
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    path.write_bytes(b"<div>" * (TAGS + 1))
    assert read(path)[1].counts == {"too many tags": 1}


def test_xml_pages_that_name_an_encoding_are_read(tmp_path: Path) -> None:
    kind = "application/xhtml+xml"
    page = "<?xml version='1.0' encoding='euc-kr'?>\n" + html(KOREAN)
    assert [d.text for d in crawled(tmp_path, record("http://a/1", http(page, f"{kind}; charset=utf-8")))[0]] == [KOREAN]


def test_without_its_package_the_source_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    (tmp_path / "a.html").write_text("x")
    with pytest.raises(OptionError, match=r"pip install 'nabi\[web\]'"):
        read(tmp_path / "a.html")


def test_what_is_no_page_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for path in ("a.txt", "none.html"):
        with pytest.raises(DataError, match="no web pages|no such file"):
            read(tmp_path / path, kind="web")


def test_the_sources_of_the_web_need_no_torch() -> None:
    code = "import sys; from nabi.data.corpus import github, web, wiki; assert not {'torch', 'trafilatura'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_short_korean_page_is_freed_of_its_menu_where_the_default_keeps_it(tmp_path: Path) -> None:
    import trafilatura

    path = tmp_path / "a.html"
    path.write_text(html(KOREAN_SENTENCES), encoding="utf-8")
    assert [d.text for d in read(path)[0]] == [KOREAN_SENTENCES]
    assert str(trafilatura.extract(html(KOREAN_SENTENCES), fast=True)).startswith("Home")


def test_a_page_may_be_longer_than_the_text_that_is_kept(tmp_path: Path) -> None:
    long = html(ENGLISH, head="<title>A &amp; B</title>" + "<meta name='x' content='y'>" * 60)
    most = len(ENGLISH.encode()) + 20
    assert len(long.encode()) > most
    documents, trouble = crawled(tmp_path, INFO, record("http://a.b/1", http(long)), max_bytes=max(most, len(long.encode()) // 3))
    assert [d.facts["title"] for d in documents] == ["A & B"] and not trouble.counts, "entities of a title are characters"


def test_shift_jis_is_what_japanese_pages_mean_by_it(tmp_path: Path) -> None:
    body = "①株式会社 " + "日本語の文章です。" * 12
    documents, trouble = crawled(tmp_path, INFO, record("http://a.b/1", http(body.encode("cp932"), "text/plain; charset=Shift_JIS")))
    assert [d.text for d in documents] == [body] and not trouble.counts


def test_pages_that_name_their_encoding_in_xml_or_hold_a_nul_are_read(tmp_path: Path) -> None:
    declared = '<?xml version="1.0" encoding="utf-8"?>' + html(ENGLISH)
    nul = html(ENGLISH.replace(" ", " \0", 1))
    kind = "application/xhtml+xml; charset=utf-8"
    documents, trouble = crawled(tmp_path, INFO, record("http://a.b/1", http(declared, kind)), record("http://a.b/2", http(nul)))
    assert [d.facts["url"] for d in documents] == ["http://a.b/1", "http://a.b/2"] and not trouble.counts
    assert all("\0" not in d.text for d in documents)


@pytest.mark.parametrize("more", ["", " "], ids=["even", "odd"])
@pytest.mark.parametrize("name", ["utf-16", "UTF-16LE", "utf-16be"])
def test_a_page_whose_own_bytes_call_it_utf_16_can_not_be_that(tmp_path: Path, name: str, more: str) -> None:
    page = html(ENGLISH, head=f'<meta charset="{name}"><title>x</title>')
    page += more if len(page) % 2 == 0 else "\n" * (not more)
    assert len(page) % 2 == len(more)
    documents, trouble = crawled(tmp_path, record("http://a/1", http(page, "text/html")))
    assert [d.text for d in documents] == [ENGLISH] and not trouble.counts


def test_each_mark_is_believed_and_taken_off(tmp_path: Path) -> None:
    for codec in ("utf-8", "utf-16-le", "utf-16-be"):
        data = ("\ufeff" + KOREAN).encode(codec)
        documents, trouble = crawled(tmp_path, record("http://a/1", http(data, "text/plain; charset=euc-kr")))
        assert [d.text for d in documents] == [KOREAN] and not trouble.counts, codec


def test_plain_text_with_a_nul_is_counted(tmp_path: Path) -> None:
    documents, trouble = crawled(tmp_path, record("http://a/1", http("plain\0text", "text/plain")), record("http://a/2", http("plain text", "text/plain")))
    assert [d.text for d in documents] == ["plain text"] and trouble.counts == {"binary": 1}


def test_one_wrong_character_in_a_thousand_is_let_pass_and_no_more(tmp_path: Path) -> None:
    bodies = (b"a" * 999 + b"\xff", b"b" * 998 + b"\xff")
    documents, trouble = crawled(tmp_path, *(record("http://a/1", http(body, "text/plain; charset=utf-8")) for body in bodies))
    assert [d.text for d in documents] == ["a" * 999 + "\ufffd"] and trouble.counts == {"not in its charset": 1}


def test_a_crawl_may_be_named_in_capitals(tmp_path: Path) -> None:
    assert [d.text for d in crawled(tmp_path, gzip.compress(record("http://a/1", http(KOREAN, "text/plain"))), name="C.WARC.GZ")[0]] == [KOREAN]


def test_a_page_may_say_its_characters_a_while_behind_its_beginning_and_a_text_says_nothing(tmp_path: Path) -> None:
    far = html(KOREAN, head="<title>x</title>" + "<link rel='x'>" * 200 + '<meta charset="euc-kr">').encode("cp949")
    quoted = 'a page begins with <meta charset="utf-7">'
    documents, trouble = crawled(tmp_path, record("http://a/1", http(far, "text/html")), record("http://a/2", http(quoted, "text/plain")))
    assert 2000 < far.index(b"<meta") < 4000 and [d.text for d in documents] == [KOREAN, quoted] and not trouble.counts


def test_what_is_just_as_long_as_allowed_is_read_and_one_more_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = html(ENGLISH)
    monkeypatch.setattr(web, "TAGS", page.count("<"))
    path = tmp_path / "a.html"
    most = len(ENGLISH)
    for more, counts in ((0, {}), (1, {"too long": 1})):
        path.write_text(page + " " * (most * MARKUP - len(page) + more))
        assert read(path, max_bytes=most)[1].counts == counts
    path.write_text(page)
    assert read(path, max_bytes=most - 1)[1].counts == {"too long": 1}
    path.write_text(page + "<br>")
    assert read(path, max_bytes=most)[1].counts == {"too many tags": 1}
