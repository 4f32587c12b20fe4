"""Every set under the folder that NABI_DATA names opens, with its task's columns and no broken row. Without the folder these tests fail."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import pytest

from nabi.data import read_table
from nabi.data.images import pixels_of
from nabi.data.members import members_beside, open_members
from nabi.errors import DataError
from nabi.inspection import check_data

pytestmark = pytest.mark.needs_data
FOLDER = os.environ.get("NABI_DATA", "")
PAIR, NLI = {"text": "text_a", "text_pair": "text_b"}, {"text": "premise", "text_pair": "hypothesis"}
# set -> (its task, or empty where that task comes later; our columns -> the set's)
SETS: dict[str, tuple[str, dict[str, str]]] = {
    **{name: ("text_classification", {}) for name in ("sms_spam", "sst2", "ag_news", "emotion", "movie_reviews_long", "banking77", "clinc150", "trec", "cola")},
    **{name: ("text_classification", {}) for name in ("nsmc", "korean_3i4k")},
    "mrpc": ("text_classification", PAIR), "stsb_en": ("sentence_similarity", PAIR), "korsts": ("sentence_similarity", PAIR),
    **dict.fromkeys(("rte", "klue_nli", "xnli_ko"), ("text_classification", NLI)),
    "korean_hate_speech": ("text_classification", {"text": "comments", "label": "hate"}),
    **{name: ("token_classification", {}) for name in ("klue_ner", "conll2003_en", "conll2002_es", "conll2002_nl", "wnut17")},
    **{f"{name}": ("question_answering", {}) for name in ("squad2", "korquad1", "jaquad", "covid_qa_long")},
    **{f"subjqa_{name}": ("question_answering", {}) for name in ("electronics", "grocery", "restaurants")},
    "korean_chat": ("text2text_generation", {"source": "question", "target": "answer"}),
    "multi30k": ("translation", {"source": "en", "target": "de"}),
    **{f"koen_{name}": ("translation", {"source": "ko", "target": "en"}) for name in ("news", "jhe", "tatoeba")},
    "scitldr": ("", {"source": "source", "target": "targets"}),  # several references a row
    "dialogsum": ("summarization", {"source": "dialogue", "target": "summary"}),
    "naughty_strings": ("text_generation", {}),
    **{name: ("text_generation", {}) for name in ("korean_docs", "wikitext2_valid", "tiny_shakespeare", "books_en", "botchan", "wagahai_ja")},
    "korean_reviews_unlabelled": ("text_generation", {}), "winobias": ("text_generation", {"text": "sentence"}), "gap": ("text_generation", {}),
    "seat": ("", {}),
    "wikitablequestions": ("", {}), "sroie_receipts": ("", {"words": "lines"}), "fsdd": ("", {"label": "digit"}), "yesno": ("", {"label": "words"}),
    "mnist": ("", {"image": "images", "label": "labels"}), "cifar10": ("", {"image": "jpeg", "label": "labels"}),
    "emoji_captions": ("", {"text": "caption"}), "nlvr": ("", {"text": "sentence"}),
}  # fmt: skip
# the files that are no tables: what lies beside an index, sounds, vocabularies, and vectors for other tests
NO_TABLES = re.compile(r"README\.md|sroie_receipts/.*\.tar|speech_samples/.*|tokenizers/.*|reference_vectors/.*")
# folders of no table, and how many files each holds
OTHERS = {"speech_samples": 1, "tokenizers": 7, "reference_vectors": 14}
BESIDE = {"emoji_captions": "_images", "nlvr": "_images"}  # pictures by the row's index
# rows that are known to be odd and are meant to be: what the doctor says of them as an error
KNOWN: dict[str, set[str]] = {}
FILES = [str(p.relative_to(FOLDER)) for p in Path(FOLDER).rglob("*") if p.is_file()] if FOLDER else []
TABLES = sorted(name for name in FILES if not NO_TABLES.fullmatch(name))


# a parameter is given without the folder too, since a test with none is skipped instead of failing
@pytest.mark.parametrize("name", TABLES or [""])
def test_it_opens_with_its_task_s_columns(name: str) -> None:
    assert name, "set NABI_DATA to the folder of the sets"
    path, (folder, _, file) = Path(FOLDER) / name, name.partition("/")
    _, columns = SETS[folder]
    pictures = folder in BESIDE and BESIDE[folder] in file
    tables = folder == "wikitablequestions" and file.startswith("tables")
    table = read_table(path, None if pictures else columns, required=[] if pictures or tables else list(columns))
    assert sum(1 for _ in table) == len(table) > 0
    assert table.where(len(table) - 1).startswith(path.name) and len(table.sha256) == 64
    assert len(table.to_numpy(table.columns[:1])[table.columns[0]]) == len(table)


def test_the_readme_counts_the_same_rows() -> None:
    assert FOLDER, "set NABI_DATA to the folder of the sets"
    readme = (Path(FOLDER) / "README.md").read_text(encoding="utf-8")
    checked = 0
    for section in re.split(r"^### ", readme, flags=re.MULTILINE)[1:]:
        folder = section.partition("\n")[0].strip()
        for side, count in re.findall(r"\b(train|dev|extra|tests|tables) ([\d,]+) (?:rows|paragraphs)", section):
            file = Path(FOLDER) / folder / f"{side}.jsonl.gz"
            assert len(read_table(file)) == int(count.replace(",", "")), file
            checked += 1
    assert checked > 80


@pytest.mark.parametrize("name", [name for name in TABLES if SETS[name.partition("/")[0]][0]] or [""])
def test_the_doctor_finds_nothing_broken(name: str) -> None:
    assert name, "set NABI_DATA to the folder of the sets"
    folder = name.partition("/")[0]
    task, columns = SETS[folder]
    found = check_data(str(Path(FOLDER) / name), columns=columns, task=task)
    broken = [f for f in found if f["severity"] == "error" and f["code"] not in KNOWN.get(folder, ())]
    assert not broken, broken


@pytest.mark.parametrize(("name", "column"), [
    ("sroie_receipts/train", "id"), ("sroie_receipts/dev", "id"),
    ("emoji_captions/train", "index"), ("emoji_captions/dev", "index"), ("nlvr/train", "index"),
])  # fmt: skip
def test_each_row_s_picture_lies_beside_the_table(name: str, column: str) -> None:
    assert FOLDER, "set NABI_DATA to the folder of the sets"
    table = read_table(Path(FOLDER) / f"{name}.jsonl.gz")
    pictures = members_beside(Path(FOLDER) / f"{name}.jsonl.gz")
    found = [pictures.of(row, column, table.where(i)) for i, row in enumerate(table)]
    if name.startswith("sroie"):
        assert all(data.startswith(b"\xff\xd8\xff") and data.endswith(b"\xff\xd9") for data in found)
        assert len({row[column] for row in table}) == len(pictures)
    else:
        assert {picture.shape[-1] for picture in found} == {3} and len({picture.tobytes() for picture in found}) > len(pictures) // 2
        assert len(pictures) == len(table)


@pytest.mark.parametrize("folder", sorted(OTHERS))
def test_files_that_are_no_tables_are_members_of_their_folder(folder: str) -> None:
    assert FOLDER, "set NABI_DATA to the folder of the sets"
    files = open_members(Path(FOLDER) / folder)
    assert len(files) == OTHERS[folder]
    for name, data in files.items():
        data = gzip.decompress(data) if name.endswith(".gz") else data
        assert data
        if name.removesuffix(".gz").endswith(".json"):
            assert json.loads(data)
        if name.endswith(".flac"):
            assert data.startswith(b"fLaC")


def test_every_set_is_in_the_table_or_is_said_to_be_none() -> None:
    assert FOLDER, "set NABI_DATA to the folder of the sets"
    assert {p.name for p in Path(FOLDER).iterdir() if p.is_dir()} == {*SETS, *OTHERS}
    assert {name.partition("/")[0] for name in TABLES} == {*SETS}
    with pytest.raises(DataError, match="unknown file ending"):
        read_table(Path(FOLDER) / "speech_samples/jfk.flac")


def test_an_archive_of_pictures_is_a_table_by_itself() -> None:
    assert FOLDER, "set NABI_DATA to the folder of the sets"
    table = read_table(Path(FOLDER) / "sroie_receipts/train_images.tar")
    pictures = members_beside(Path(FOLDER) / "sroie_receipts/train.jsonl.gz")
    assert len(table) == len(pictures) and "image" in table.columns
    assert {data[:3] for data in pictures.values()} == {b"\xff\xd8\xff"} and pixels_of(table[0]["image"], "a receipt").ndim == 3
