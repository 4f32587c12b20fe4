"""No text of a megabyte makes a step take a second."""

from __future__ import annotations

import time

import pytest

from nabi.data.corpus.cleaning import Cleaning, open_steps
from nabi.data.corpus.composed import Composing
from nabi.data.corpus.contamination import Contamination
from nabi.data.corpus.documents import Document
from nabi.data.corpus.languages import Languages
from nabi.data.corpus.licences import Licences
from nabi.data.corpus.personal import Personal
from nabi.data.corpus.quality import Quality
from nabi.data.corpus.unsafe import Unsafe

SIZE = 1 << 20
PIECES = {
    "letters": "a",
    "digits": "1",
    "at signs": "a@",
    "domains": "@a.a",
    "labels": "@" + "a." * 7,
    "hyphens": "@a-",
    "plus": "+1",
    "plus spaced": "+1 2 ",
    "dots": "1.",
    "octets": "1.1.1.1.",
    "colons": "2001:",
    "hex": "2001:a:",
    "blocks": "-----BEGIN PRIVATE " + "KEY-----",
    "quotes": "='a",
    "assignments": 'token="' + "a1" * 20,
    "tokens": "eyJ" + "a" * 2000,
    "dates": "900101-",
    "cards": "4111 1111 ",
    "hashes": "sk-",
    "base64": "QUJD",
    "escapes": "\\x00",
    "bytes": "0x00,",
    "spaces": " ",
    "lines": "\n",
    "lines of spaces": " \n",
    "stars": "* ",
    "gnu": "gnu general public license ",
    "mit": "permission is hereby granted free of charge to any person ",
    "spdx": "SPDX-License-Identifier: (",
    "shebang": "#!/a",
    "marks": "\u0300\u0316",
    "marks apart": "a" + "\u0316\u0300" * 30,
    "jamo": "\u1112\u1161\u11ab",
    "hangul": "가나 다",
    "kana": "あ",
    "phrases": "bad ",
    "phrases of spaces": "bad        ",
    "do not": "do not edit ",
    "upper": "A",
    "emoji": "😀",
    "dots at ends": "...\n",
}


@pytest.fixture(scope="module")
def cleaning(tmp_path_factory: pytest.TempPathFactory) -> Cleaning:
    folder = tmp_path_factory.mktemp("lists")
    (folder / "words.txt").write_text("bad bad worse\n" + "a" * 150 + "b\n나쁜\n悪\nbad bad bad bad bad x\n", encoding="utf-8")
    (folder / "test.txt").write_text(
        "one two three four five six seven eight nine ten\n\n" + "한국어 시험 문장이다 " * 9 + "\n\n" + "x " * 13, encoding="utf-8"
    )
    return Cleaning(
        composed=Composing(),
        licences=Licences(("MIT",)),
        languages=Languages(("en",)),
        unsafe=Unsafe(str(folder / "words.txt")),
        contamination=Contamination((str(folder / "test.txt"),)),
        personal=Personal(),
    )


@pytest.mark.parametrize("piece", PIECES)
def test_each_step_ends_within_a_second(piece: str, cleaning: Cleaning) -> None:
    text = PIECES[piece] * (SIZE // len(PIECES[piece].encode()) + 1)
    steps = [
        *open_steps(cleaning),
        *open_steps(Cleaning(quality=Quality("code", longest_line=1e9, mean_line=1e9, most_bytes=1e9, repeated_grams=0.5, top_grams=0.5))),
        *open_steps(Cleaning(quality=Quality("prose", longest_line=1e9, most_bytes=1e9, repeated_lines=1, most_words=1e9, longest_word=1e9))),
    ]
    open_steps(cleaning)[0](Document("é", "warm"))  # tables that are made once
    for step in steps:
        for whole in (text, "#!/bin/x\n한 " + text):
            # of this process alone: others may keep the machine busy
            start = time.process_time()
            step(Document(whole, "hostile"))
            assert time.process_time() - start < 1, step.name


def test_a_text_with_marks_without_end_is_dropped_and_writing_with_marks_is_not() -> None:
    (step,) = open_steps(Cleaning(composed=Composing()))
    assert step(Document("a" + "\u0300\u0316" * 40, "a.txt")) == "combining marks without end"
    for text in ("สวัสดีครับ" * 50, "בְּרֵאשִׁית בָּרָא" * 50, "नमस्ते दुनिया" * 50, "Z̸̢a̷l̵g̶o̴" * 20):
        assert step(Document(text, "a.txt")) is None
