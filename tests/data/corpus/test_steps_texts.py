"""The steps that judge a whole text: letters, languages, licences, quality, unsafe words, test texts; and their options."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

import pytest

from nabi.config import from_dict, override
from nabi.data.corpus.cleaning import Cleaning, open_steps
from nabi.data.corpus.composed import Composed, Composing
from nabi.data.corpus.contamination import Contamination, ContaminationStep
from nabi.data.corpus.documents import Document, Origin, Trouble
from nabi.data.corpus.languages import Languages, LanguageStep, programming_language
from nabi.data.corpus.licences import Licences, LicenceStep, allowed, licence_of, normalised, spdx_id
from nabi.data.corpus.quality import Quality, QualityStep
from nabi.data.corpus.sources import open_origin
from nabi.data.corpus.unsafe import Unsafe, UnsafeStep
from nabi.errors import DataError, OptionError

ENGLISH = """The ferry left the harbour a little after six, when the fog had begun to lift from the water.
Nobody on deck spoke, for the engine was loud and most of the passengers had slept badly.
A boy counted the gulls that followed the ship, lost his place at forty, and began again."""
KOREAN = """안개가 물 위에서 걷히기 시작한 여섯 시 조금 지나 배는 항구를 떠났다.
기관 소리가 컸고 승객 대부분이 잠을 설쳤기에 갑판에서는 아무도 말하지 않았다.
한 소년이 배를 따라오는 갈매기를 세다가 마흔에서 잊어버리고 처음부터 다시 세었다.
어머니는 웃으면서 따뜻한 차를 건네주었고 멀리 섬의 등대가 천천히 가까워졌다."""
CODE = 'import os\n\n\ndef size(path: str) -> int:\n    """Bytes of a file."""\n    return os.stat(path).st_size\n\n\nprint(size(__file__))\n'
JAPANESE = "霧が水面から晴れ始めた六時過ぎに船は港を出た。機関の音が大きく乗客の多くはよく眠れなかったので甲板では誰も話さなかった。"


def test_letters_are_composed_and_counted() -> None:
    step = Composed(Composing())
    document = Document(unicodedata.normalize("NFD", "한글 café"), "a.txt")
    assert step(document) is None and document.text == "한글 café" and document.changed == {"composed": 1}
    for text in ("한글 café", CODE, "ﬁ ｆｕｌｌ"):
        document = Document(text, "a.txt")
        assert step(document) is None and document.text == text and not document.changed


@pytest.mark.parametrize(("text", "language"), [(ENGLISH, "en"), (KOREAN, "ko"), (JAPANESE, "ja"), (f"{KOREAN}\n" * 500, "ko")])
def test_natural_languages_are_told(text: str, language: str) -> None:
    document = Document(text, "a.txt")
    assert LanguageStep(Languages())(document) is None and document.facts["language"] == language
    assert LanguageStep(Languages(keep=("fr", "python")))(document) == "language"
    assert LanguageStep(Languages(keep=(language,)))(document) is None


def test_short_and_doubtful_texts_have_reasons_of_their_own() -> None:
    assert LanguageStep(Languages())(Document("ok 12345 67890 12345", "a.txt")) == "too short to tell the language"
    assert LanguageStep(Languages(confidence=1.0))(Document("Xqz vrt plmk wtr bnnq zzrt kkw", "a.txt")) == "language in doubt"
    kept = Document("ok", "a.txt")
    assert LanguageStep(Languages(keep=("en",), undecided="keep"))(kept) is None and "language" not in kept.facts


def test_programming_languages_are_told_by_name_or_first_line() -> None:
    names = {"src/a.py": "python", "x.zip!b/c.RS": "rust", "Makefile": "makefile", "rows.jsonl:17": "", "README": "", "a.b/c": ""}
    assert {name: programming_language(name, ENGLISH) for name in names} == names
    lines = {
        "#!/usr/bin/env python3\n": "python",
        "#!/bin/bash -e\n": "shell",
        "#! /usr/bin/env perl\n": "perl",
        "#!/usr/bin/env -S node --x\n": "javascript",
        "#! nothing": "",
        "# x": "",
    }
    assert {line: programming_language("run", line) for line in lines} == lines
    assert LanguageStep(Languages(keep=("en",)))(Document(ENGLISH, "a.py")) == "language"


def test_a_row_of_a_table_is_judged_by_the_path_in_it(tmp_path: Path) -> None:
    rows = [{"content": ENGLISH, "repo_name": "a/b", "path": path} for path in ("src/a.py", "README", "b.rs")] + [{"content": ENGLISH}]
    (tmp_path / "rows.csv").write_text("content,path\n" + "".join(f'"{row["content"]}",{row.get("path", "")}\n' for row in rows), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name in ("rows.csv", "rows.jsonl"):
        source = open_origin(Origin(str(tmp_path / name)))
        documents = [document for unit in source.units(tmp_path) for document in source.read(unit, Trouble())]
        assert [LanguageStep(Languages())(document) for document in documents] == [None] * 4
        assert [document.facts["language"] for document in documents] == ["python", "en", "rust", "en"]


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown language"):
        LanguageStep(Languages(keep=("pyton",)))


HEADS = {
    "MIT": "# Permission is hereby granted, free of charge, to any person obtaining a copy\n# of this software",
    "Apache-2.0": "// Licensed under the Apache License, Version 2.0",
    "BSD-2-Clause": "/* Redistribution and use in source and binary forms, with or without */",
    "BSD-3-Clause": "/* Redistribution and use in source and binary forms are permitted\n * Neither the name of the author */",
    "ISC": "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee",
    "MPL-2.0": "the Mozilla Public\n# License, v. 2.0.",
    "GPL-2.0-only": "the GNU General Public License, version 2, as published",
    "GPL-3.0-or-later": "GNU General Public License as published, either version 3 or any later version",
    "LGPL-2.1-or-later": "GNU Lesser General Public License; either version 2.1 of the License, or (at your option) any later version",
    "AGPL-3.0-only": "under the GNU Affero General Public License version 3",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/ licence",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-4.0": "Creative Commons Attribution-ShareAlike 4.0 license",
    "Unlicense": "This is free and unencumbered software released into the public domain.",
    "MIT OR Apache-2.0": "// SPDX-License-Identifier: MIT OR Apache-2.0\n",
    "Apache-2.0 AND MIT": "Licensed under the Apache License, Version 2.0; parts under the MIT license",
    "": "def licence(x):\n    '''Ask for permission.'''",
}


@pytest.mark.parametrize("licence", HEADS)
def test_licences_are_told_from_the_head(licence: str) -> None:
    assert licence_of(HEADS[licence] + "\n" + CODE) == licence
    assert licence_of(CODE * 100 + HEADS[licence]) == ""


def test_names_of_licences_are_normalised() -> None:
    names = {
        "mit": "MIT",
        "apache-2.0": "Apache-2.0",
        "gpl-3.0": "GPL-3.0-only",
        "GPLv2+": "GPL-2.0-or-later",
        "agpl-3.0": "AGPL-3.0-only",
        "bsd-3-clause": "BSD-3-Clause",
        "lgpl-2.1": "LGPL-2.1-only",
        "epl-1.0": "EPL-1.0",
        "mpl-2.0": "MPL-2.0",
        "unlicense": "Unlicense",
        "cc0-1.0": "CC0-1.0",
        "house rules": "",
    }
    assert {name: spdx_id(name) for name in names} == names
    assert normalised("(mit or gpl-2.0) and House") == "(MIT OR GPL-2.0-only) AND House"


def test_expressions_are_met_as_spdx_says() -> None:
    mine = frozenset({"MIT", "ISC"})
    met = {
        "MIT": True,
        "MIT OR GPL-2.0-only": True,
        "MIT AND GPL-2.0-only": False,
        "(X OR ISC) AND MIT": True,
        "X AND Y OR MIT": True,
        "": False,
        "MIT WITH exception": True,
        "MIT OR": False,
        "((MIT": False,
        "MIT ISC": False,
    }
    assert {expression: allowed(expression, mine) for expression in met} == met


def test_licences_are_filtered() -> None:
    step = LicenceStep(Licences(allowed=("permissive",)))
    assert step(Document(CODE, "a.py", {"license": "mit"})) is None
    assert step(Document(CODE, "a.py", {"license": "gpl-3.0"})) == "license"
    assert step(Document(HEADS["GPL-2.0-only"], "a.py", {"license": "mit"})) == "license"
    assert step(Document(CODE, "a.py")) == "license unknown"
    assert LicenceStep(Licences(("MIT",), unknown="keep"))(Document(CODE, "a.py")) is None
    with pytest.raises(OptionError, match="unknown licence"):
        LicenceStep(Licences(allowed=("MTI",)))


_draw = random.Random(0)
QUALITY = {
    "too small": ("code", "x = 1\n"),
    "lines too long": ("code", "x = '" + "ab " * 400 + "'\n"),
    "minified code": ("code", CODE),
    "encoded data": ("code", f"x = '{'aB3+' * 150}'\n" * 2 + CODE * 60),
    "generated code": ("code", "# Generated by a tool. Do not edit!\n" + CODE),
    "too few letters": ("code", "%%% $$$ &&& (((\n" * 9),
    "repetition": ("prose", f"{KOREAN}\n" * 4),
    "generated text": ("prose", "이 문서는 자동으로 생성되었습니다\n" + KOREAN),
    "placeholder text": ("prose", ENGLISH + " Lorem ipsum dolor"),
    "number of words": ("prose", "word " * 15 + "x" * 60),
    "bullets": ("prose", "\n".join("- " + "".join(_draw.choices("abcdefg", k=5)) + " and more of it" for _ in range(9))),
    "length of words": ("prose", "internationalisation-free " * 1 + "antidisestablishmentarianism " * 30),
    "unfinished lines": ("prose", "\n".join(line + " ..." for line in ENGLISH.split("\n"))),
    "too large": ("code", CODE * 20_000),
}


@pytest.mark.parametrize("reason", QUALITY)
def test_each_rule_of_quality_drops_what_it_is_for(reason: str) -> None:
    preset, text = QUALITY[reason]
    name = "a.min.js" if reason == "minified code" else "a.x"
    assert QualityStep(Quality(preset))(Document(text, name)) == reason  # type: ignore[arg-type]


@pytest.mark.parametrize(("preset", "text"), [("code", CODE), ("prose", ENGLISH), ("prose", KOREAN), ("prose", JAPANESE), ("code", f"# 한국어 주석\n{CODE}")])
def test_quality_keeps_good_texts_of_every_kind(preset: str, text: str) -> None:
    assert QualityStep(Quality(preset))(Document(text, "a.x")) is None  # type: ignore[arg-type]


def test_thresholds_are_options() -> None:
    assert QualityStep(Quality("code", longest_line=20))(Document(CODE, "a.py")) == "lines too long"
    assert QualityStep(Quality("prose", repeated_lines=1, repeated_grams=1, top_grams=1))(Document(f"{KOREAN}\n" * 4, "a.txt")) is None
    assert QualityStep(Quality("code", generated=False))(Document(QUALITY["generated code"][1], "a.py")) is None
    with pytest.raises(OptionError, match="below 0"):
        QualityStep(Quality("code", mean_line=-1))


def test_unsafe_words_are_found_on_their_borders(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("# our tiny list\nBadger\nrotten  egg\n고약\n悪党\n", encoding="utf-8")
    step = UnsafeStep(Unsafe(str(words)))
    for text in ("A BADGER!", "rotten\n egg", "고약한 냄새", "아주 고약했다", "彼は悪党だ", "é badger"):
        assert step(Document(text, "a.txt")) == "unsafe words"
    for text in (ENGLISH, KOREAN, CODE, JAPANESE, "badgers", "my_badger = 1", "rotten eggs", "참고약속"):
        assert step(Document(text, "a.txt")) is None
    assert UnsafeStep(Unsafe(str(words), hits=2))(Document("badger badger", "a.txt")) is None
    assert UnsafeStep(Unsafe(str(words), share=0.5))(Document("badger " + ENGLISH, "a.txt")) is None
    for content in ("", "# only this\n", "x" * 201):
        words.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match="list of unsafe words"):
            UnsafeStep(Unsafe(str(words)))


@pytest.fixture
def tests(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": ENGLISH, "id": "1"}) + "\n" + json.dumps({"text": "Too short to seek", "id": "2"}), encoding="utf-8")
    (tmp_path / "b.txt").write_text(f"{KOREAN}\n\nWhere do the nine old keys of the tower hang?\n\n{JAPANESE}", encoding="utf-8")
    return str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")


def test_documents_that_share_a_long_piece_with_a_test_are_dropped(tests: tuple[str, ...]) -> None:
    step = ContaminationStep(Contamination(tests))
    words = ENGLISH.split()
    assert step(Document("He said: " + " ".join(words[5:18]).upper() + "!", "a")) == "in test file a.jsonl"
    assert step(Document("x " + " ".join(words[5:17]) + " y", "a")) is None
    assert step(Document("# where do the NINE old keys of the tower hang", "a")) == "in test file b.txt"
    assert step(Document("앞말 " + KOREAN[10:55].replace(" ", "") + " 뒷말", "a")) == "in test file b.txt"
    assert step(Document("앞말 " + KOREAN[10:35] + " 뒷말", "a")) is None
    assert step(Document(f"前 {JAPANESE[5:40]} 後", "a")) == "in test file b.txt"
    assert step(Document(CODE + " Too short to seek", "a.py")) is None
    assert step.ignored["a.jsonl"] == 3


def test_contamination_can_be_counted_only_and_takes_named_columns(tests: tuple[str, ...]) -> None:
    document = Document(ENGLISH, "a")
    assert ContaminationStep(Contamination(tests[:1], columns=("text",), action="count"))(document) is None
    assert document.changed == {"in test file a.jsonl": 1}
    for options, error in (
        (Contamination(()), OptionError),
        (Contamination(tests, words=2), OptionError),
        (Contamination(tests[:1], ("id",)), DataError),
        (Contamination(tests[:1], ("txt",)), DataError),
        (Contamination(("no.txt",)), DataError),
    ):
        with pytest.raises(error):
            ContaminationStep(options)


def test_no_piece_is_found_by_chance(tests: tuple[str, ...]) -> None:
    step, draw = ContaminationStep(Contamination(tests)), random.Random(1)
    words = [*ENGLISH.split(), *KOREAN.split()]
    assert not any(step(Document(" ".join(draw.choices(words, k=2000)), "a")) for _ in range(50))


def test_cleaning_is_read_from_plain_data_and_runs_in_its_order(tests: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "w").write_text("badger", encoding="utf-8")
    data = {
        "personal": {},
        "rules": {"rules": [{"name": "a", "pattern": "b"}]},
        "contamination": {"files": list(tests)},
        "unsafe": {"words": str(tmp_path / "w")},
        "languages": {"keep": ["en"]},
        "quality": {"preset": "code", "mean_line": 90},
        "licences": {"allowed": ["MIT"]},
        "composed": {},
    }
    steps = open_steps(from_dict(Cleaning, data, "recipe"))
    assert [step.name for step in steps] == ["composed", "licences", "quality", "languages", "unsafe", "contamination", "rules", "personal"]
    assert open_steps(Cleaning()) == []
    assert override(Cleaning(quality=Quality()), ["quality.preset=code"]).quality == Quality("code")


def test_a_misspelt_key_of_a_step_is_named() -> None:
    with pytest.raises(OptionError, match="unknown key 'mean_lines'.*'mean_line'"):
        from_dict(Cleaning, {"quality": {"mean_lines": 3}}, "recipe")
