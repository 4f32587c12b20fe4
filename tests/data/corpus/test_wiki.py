"""The source ``wiki`` and its cleaner: which pages are documents, what of their wikitext is text, and dumps that break off or mean harm."""

from __future__ import annotations

import bz2
import gzip
import time
import tracemalloc
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from nabi.data.corpus.documents import Document, Origin, Trouble
from nabi.data.corpus.sources import open_origin
from nabi.data.corpus.streams import HostileError
from nabi.data.corpus.wikitext import plain
from nabi.errors import DataError

SITE = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="ko"><siteinfo><sitename>위키백과</sitename>
<base>https://ko.wikipedia.org/wiki/%EB%8C%80%EB%AC%B8</base><namespaces><namespace key="0" case="first-letter" />
<namespace key="6" case="first-letter">파일</namespace><namespace key="14" case="first-letter">분류</namespace></namespaces></siteinfo>"""


def page(title: str, *texts: str, space: int = 0, redirect: str = "", model: str = "wikitext") -> str:
    revisions = "".join(
        f"<revision><id>{number}</id><contributor><username>x</username><id>99</id></contributor><model>{model}</model>"
        f'<text bytes="1" xml:space="preserve">{escape(text)}</text></revision>'
        for number, text in enumerate(texts, 1)
    )
    return f"<page><title>{escape(title)}</title><ns>{space}</ns><id>7</id>{redirect}{revisions}</page>\n"


def read(path: Path, **more: object) -> tuple[list[Document], Trouble]:
    trouble = Trouble()
    source = open_origin(Origin(str(path), **more))  # type: ignore[arg-type]
    return [document for unit in source.units(path.parent) for document in source.read(unit, trouble)], trouble


def written(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes({".bz2": bz2.compress, ".gz": gzip.compress}.get(path.suffix, bytes)(data))
    return path


@pytest.mark.parametrize("name", ["ko.xml", "ko.xml.bz2"])
def test_pages_of_the_main_namespace_are_documents(tmp_path: Path, name: str) -> None:
    dump = SITE + page("나비 (곤충)", "옛 글", "'''나비'''는 [[곤충]]이다. [[파일:a.jpg|섬네일]] [[분류:나비]]") + page("틀:정보", "x", space=10)
    dump += page("Butterfly", "#REDIRECT", redirect='<redirect title="나비" />') + page("Code", "return 1", model="Scribunto")
    dump += page("빈", "{{틀}}") + "</mediawiki>"
    documents, trouble = read(written(tmp_path / name, dump), license="CC-BY-SA-4.0")
    assert [(d.text, d.path) for d in documents] == [("나비는 곤충이다.", f"{name}!나비 (곤충)")]
    url = "https://ko.wikipedia.org/wiki/%EB%82%98%EB%B9%84_(%EA%B3%A4%EC%B6%A9)"
    assert documents[0].facts == {"title": "나비 (곤충)", "revision": "2", "license": "CC-BY-SA-4.0", "url": url}
    assert trouble.counts == {"other namespace": 1, "redirect": 1, "not wikitext": 1, "no text": 1}


def test_titles_are_asked_for_by_pattern(tmp_path: Path) -> None:
    dump = written(tmp_path / "w.xml", SITE + page("Alpha", "a") + page("Beta", "b") + page("Gamma", "c") + "</mediawiki>")
    assert [d.text for d in read(dump, include=("*a",), exclude=("B*",))[0]] == ["a", "c"]


def test_a_long_page_is_counted_and_never_held(tmp_path: Path) -> None:
    dump = written(tmp_path / "w.xml", SITE + page("Long", "word " * 2_000_000) + page("Good", "good") + "</mediawiki>")
    tracemalloc.start()
    documents, trouble = read(dump, max_bytes=1000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [d.text for d in documents] == ["good"] and trouble.counts == {"too long": 1}
    assert most < 1_500_000  # of 10 MB


def test_memory_does_not_grow_with_the_dump(tmp_path: Path) -> None:
    def most(pages: int) -> int:
        dump = written(tmp_path / f"{pages}.xml", SITE + "".join(page(f"P{i}", f"text {i} " * 20) for i in range(pages)) + "</mediawiki>")
        source, trouble = open_origin(Origin(str(dump))), Trouble()
        tracemalloc.start()
        count = sum(1 for unit in source.units(tmp_path) for _ in source.read(unit, trouble))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == pages
        return peak

    few = most(500)
    assert most(5000) < few + 200_000


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>' + SITE + page("x", "y") + "</mediawiki>",
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><mediawiki><page><title>&e;</title></page></mediawiki>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><mediawiki></mediawiki>',
        "<mediawiki>" + "<a>" * 1000,
        "<mediawiki><page " + "a" * 4_000_000,
        "<mediawiki><!--" + "a" * 4_000_000,
    ],
    ids=["billion laughs", "external entity", "external document type", "nested", "a tag without end", "a comment without end"],
)
def test_a_hostile_dump_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(HostileError):
        read(written(tmp_path / "w.xml", text))


def test_a_dump_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    dump = written(tmp_path / "w.xml.gz", SITE + page("Long", "a" * 12_000_000) + "</mediawiki>")
    with pytest.raises(HostileError, match="unpacks without end"):
        read(dump, kind="wiki")


@pytest.mark.parametrize(("text", "message"), [("<html><body>hi</body></html>", "no wiki's dump"), ("hello", "not well-formed"), ("", "breaks off"),
                                               (SITE + page("x", "y").replace("</title>", "&nbsp;</title>"), "not well-formed")])  # fmt: skip
def test_what_is_no_dump_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(written(tmp_path / "w.xml", text))


@pytest.mark.parametrize("name", ["w.xml", "w.xml.bz2"])
def test_a_dump_that_breaks_off_is_an_error_after_what_came(tmp_path: Path, name: str) -> None:
    dump = written(tmp_path / name, SITE + "".join(page(f"P{i}", f"{i}" * 3000) for i in range(300)) + "</mediawiki>")
    dump.write_bytes(dump.read_bytes()[: -100 if name == "w.xml" else -10])
    source, trouble, came = open_origin(Origin(str(dump))), Trouble(), 0
    with pytest.raises(DataError):
        for _ in source.read(next(iter(source.units(tmp_path))), trouble):
            came += 1
    assert came > (250 if name == "w.xml" else -1)


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''굵게''' ''기울임''", "굵게 기울임"),
        ("앞 {{정보|a={{b|c}}|d=[[e]]}}뒤", "앞 뒤"),
        ("{| class=x\n! a\n|-\n| b || c\n|}\n글", "글"),
        ("{{정보\n| a = b\n|}}\n글", "글"),
        ("[[나비목|나비]] [[곤충]]들 [[:분류:곤충]] [[A|B [[C]] D]]", "나비 곤충들 분류:곤충 B C D"),
        ("[[파일:x.jpg|섬네일|왼쪽|[[나비]] 그림]]글 [[File:x.jpg]][[Image:y.png|a]][[분류:나비]][[Category:Z]]", "글"),
        ("글<ref>출처 {{x}}</ref> 둘<ref name=a /> 셋<ref name='b'>[[c]]</ref>", "글 둘 셋"),
        ("<!-- 숨은 글 -->보이는 글", "보이는 글"),
        ("== 제목 ==\n=== 소제목 ===\n글", "제목\n소제목\n글"),
        ("* 하나\n** 둘\n# 셋\n: 넷\n----\n끝", "하나\n둘\n셋\n넷\n\n끝"),
        ("[https://a.b 이름] [https://a.b] [1] [//a.b 둘]", "이름  [1] 둘".replace("  ", " ")),
        ("H<sub>2</sub>O<br />&lt;b&gt; &amp; <math>x^2</math><nowiki>[[a]]</nowiki>", "H2O\n<b> & [[a]]"),
        ("__TOC__\n글 1 < 2 {{열린 틀", "글 1 < 2 열린 틀"),
        ("글 (, ) 끝]] }} |}", "글 끝  |}".replace("  ", " ")),
    ],
)
def test_wikitext_becomes_running_text(wikitext: str, text: str) -> None:
    assert plain(wikitext, {"파일", "file", "image"}, {"분류", "category"}) == text


@pytest.mark.parametrize(
    "piece",
    ["{{", "[[", "[[a|", "{{a|", "<ref>", "{|\n", "<!--", "<a ", "<a", "[//", "''", "= ", "( ", ":", "}}", "]]", "{{[[", "&", "__A", "<nowiki>", "\n "],
)
def test_the_cleaner_s_time_is_linear_whatever_comes(piece: str) -> None:
    closing = {"[[a|": "]]", "{{a|": "}}"}.get(piece, "")

    def seconds(size: int) -> float:
        count = size // (len(piece) + len(closing))
        begin = time.process_time()
        plain(piece * count + closing * count)
        return time.process_time() - begin

    seconds(1000)
    # eight times as long: 8 if linear, 64 if quadratic; small times are noise
    assert seconds(160_000) < max(0.2, 24 * seconds(20_000))


def test_a_text_over_the_limit_is_counted_though_its_wikitext_is_read(tmp_path: Path) -> None:
    dump = written(tmp_path / "w.xml", SITE + page("Long", "word " * 300) + page("Good", "word " * 190) + "</mediawiki>")
    documents, trouble = read(dump, max_bytes=1000)
    assert [d.facts["title"] for d in documents] == ["Good"] and trouble.counts == {"too long": 1}


def test_pages_before_a_break_are_given(tmp_path: Path) -> None:
    dump = written(tmp_path / "w.xml", SITE + page("Whole", "text") + "<page><title>Half")
    source, found = open_origin(Origin(str(dump))), []
    with pytest.raises(DataError, match="breaks off"):
        for unit in source.units(tmp_path):
            found.extend(document.text for document in source.read(unit, Trouble()))
    assert found == ["text"]


def test_a_page_is_what_its_last_revision_says_it_is(tmp_path: Path) -> None:
    old = "<revision><id>1</id><model>Scribunto</model><text>return 1</text></revision>"
    new = "<revision><id>2</id><text>words</text></revision>"
    dump = written(tmp_path / "w.xml", SITE + f"<page><title>A</title><ns>0</ns>{old}{new}</page></mediawiki>")
    documents, trouble = read(dump)
    assert [d.text for d in documents] == ["words"] and not trouble.counts


def test_elements_may_bear_a_prefix(tmp_path: Path) -> None:
    dump = '<w:mediawiki xmlns:w="http://www.mediawiki.org/xml/export-0.11/"><w:page><w:title>A</w:title><w:ns>0</w:ns>'
    dump += "<w:revision><w:id>2</w:id><w:text>words</w:text></w:revision></w:page></w:mediawiki>"
    assert [d.text for d in read(written(tmp_path / "w.xml", dump))[0]] == ["words"]
