"""The manifest: what went in is what came out plus what it lists as left out; the card says the same, in a form that the hub reads."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.repocard import metadata_load

from data.corpus.builds import built, content, rows, text_of
from nabi.data.corpus.card import metadata, write_corpus_card
from nabi.data.corpus.cleaning import Cleaning
from nabi.data.corpus.documents import Origin
from nabi.data.corpus.languages import Languages
from nabi.data.corpus.licences import Licences
from nabi.data.corpus.manifest import read_manifest
from nabi.data.corpus.minhash import Near
from nabi.data.corpus.personal import Personal
from nabi.data.corpus.quality import Quality
from nabi.data.corpus.recipe import Recipe
from nabi.errors import DataError

MIT = "# SPDX-License-Identifier: MIT\n"


def fill(folder: Path) -> Path:
    """Files of which each step finds something."""
    for number in range(30):
        text = MIT * (number % 3 == 0) + text_of(number % 28) + f"\nwrite to someone{number % 28}@example.org" * (number % 5 == 0)
        place = folder / ("code" if number % 2 else "prose") / f"file{number:02d}{'.py' if number % 2 else '.md'}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    (folder / "code" / "broken.py").write_bytes(b"\x00\xff")
    (folder / "code" / "wide.py").write_text("x = '" + "y" * 5000 + "'\n")
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number in range(40, 50):
            file.write(json.dumps({"content": text_of(number), "repo_name": f"one/r{number % 2}", "path": "a.py", "license": "apache-2.0"}) + "\n")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus from three sources, with steps, duplicates and a dev split."""
    folder = fill(tmp_path_factory.mktemp("files"))
    sources = (Origin(str(folder / "code")), Origin(str(folder / "prose"), license="CC-BY-4.0"), Origin(str(folder / "rows.jsonl")))
    cleaning = Cleaning(licences=Licences(), quality=Quality(), personal=Personal(kinds=("mail",)))
    out = tmp_path_factory.mktemp("out") / "corpus"
    built(Recipe(sources, cleaning, near=Near(), dev=0.25, workers=1, shard=20_000), out)
    return out


@pytest.fixture(scope="module")
def manifest(corpus: Path) -> dict[str, Any]:
    return read_manifest(corpus)


def test_the_counts_add_up(manifest: dict[str, Any], corpus: Path) -> None:
    for kind in ("documents", "bytes"):
        flow = manifest[kind]
        assert flow["in"] == sum(value for name, value in flow.items() if name != "in"), flow
        assert flow["in"] == sum(source["read"][kind] for source in manifest["sources"])
        assert flow["out"] == sum(source["kept"][kind] for source in manifest["sources"]) == sum(split[kind] for split in manifest["splits"].values())
        assert flow["out"] == sum(file[kind] for file in manifest["files"])
        for name in ("languages", "licenses", "extensions"):
            assert flow["out"] == sum(each[kind] for each in manifest[name].values()), name
        for step in manifest["steps"]:
            dropped = sum(reason[kind] for reason in step["dropped"].values())
            if kind == "documents":
                assert step[kind]["in"] == step[kind]["out"] + dropped
        for one, after in zip(manifest["steps"], manifest["steps"][1:], strict=False):
            assert one[kind]["out"] == after[kind]["in"]
        assert manifest["steps"][0][kind]["in"] == flow["in"]
        assert manifest["steps"][-1][kind]["out"] == sum(source["cleaned"][kind] for source in manifest["sources"])


def test_what_is_listed_is_what_there_is(manifest: dict[str, Any], corpus: Path) -> None:
    found = rows(corpus)
    assert len(found) == manifest["documents"]["out"] and sum(len(row["text"].encode()) for row in found) == manifest["bytes"]["out"]
    for file in manifest["files"]:
        data = (corpus / file["name"]).read_bytes()
        assert (file["size"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    for name, fact in (("languages", "language"), ("licenses", "license")):
        counted = {key: sum(row.get(fact, "") == key for row in found) for key in manifest[name]}
        assert {key: each["documents"] for key, each in manifest[name].items()} == counted
    assert {row["license"] for row in found if row["path"].endswith(".md")} == {"CC-BY-4.0", "MIT"}, "what a file says is stronger than its source"


def test_each_reason_is_told_with_examples(manifest: dict[str, Any]) -> None:
    code, prose, table = manifest["sources"]
    assert (code["kind"], prose["kind"], table["kind"]) == ("folder", "folder", "table")
    (binary,) = code["unreadable"].values()
    assert binary["count"] == 1 and "broken.py" in binary["examples"][0] and not prose["unreadable"]
    quality = next(step for step in manifest["steps"] if step["name"] == "quality")
    assert any("wide.py" in path for reason in quality["dropped"].values() for path in reason["examples"])
    personal = manifest["steps"][-1]
    assert personal["name"] == "personal" and personal["changed"] == {"mail": 6}
    assert manifest["duplicates"]["exact"]["documents"] + manifest["duplicates"]["near"]["documents"] == 2
    assert sum(len(pair) for pair in manifest["duplicates"]["near_pairs"]) == 3 * manifest["duplicates"]["near"]["documents"]


def test_a_corpus_that_was_changed_is_no_corpus(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no manifest in this folder"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"files": [{"name": "train-00000.jsonl.zst", "size": 5}]}')
    with pytest.raises(DataError, match="a file of the corpus is missing or was changed"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="the manifest can't be read"):
        read_manifest(tmp_path)


def test_the_manifest_is_the_same_wherever_it_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for place in ("one", "another/place"):
        (tmp_path / place).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / place)
        fill(Path("files"))
        built(Recipe((Origin("files/code"), Origin("files/rows.jsonl")), workers=1), Path("out"))
        found.append(content(Path("out")))
    assert found[0] == found[1] and str(tmp_path) not in json.dumps(found[0]["manifest"])


def test_the_hub_reads_the_card(corpus: Path, manifest: dict[str, Any]) -> None:
    assert write_corpus_card(corpus)
    text = (corpus / "README.md").read_text(encoding="utf-8")
    data = metadata_load(corpus / "README.md")
    assert data == metadata("corpus", manifest)
    assert data["license"] == ["apache-2.0", "cc-by-4.0", "mit"] and data["size_categories"] == ["n<1K"]
    files = [{"split": "train", "path": "train-*.jsonl.zst"}, {"split": "validation", "path": "dev-*.jsonl.zst"}]
    assert data["configs"] == [{"config_name": "default", "data_files": files}]
    assert DatasetCard(text).data.to_dict() == DatasetCardData(**data).to_dict()
    for word in ("TODO", "None", "nan", "More Information", "[]"):
        assert word not in text.replace("None: every", ""), word
    for said in ("wide.py", "mail", "CC-BY-4.0", "exact duplicates", f"{manifest['documents']['out']:,}", manifest["input"]["digest"]):
        assert said in text, said


def test_a_card_of_ones_own_is_never_replaced(corpus: Path) -> None:
    (corpus / "README.md").write_text("mine")
    assert not write_corpus_card(corpus) and (corpus / "README.md").read_text() == "mine"
    (corpus / "README.md").unlink()



def test_a_corpus_of_which_nothing_is_left_is_told_so(tmp_path: Path) -> None:
    fill(tmp_path / "files")
    manifest = built(Recipe((Origin(str(tmp_path / "files" / "code")),), Cleaning(languages=Languages(keep=("ko",))), workers=1), tmp_path / "out")
    assert manifest["documents"] == {"in": 16, "dropped by steps": 16, "exact duplicates": 0, "near duplicates": 0, "out": 0}
    assert manifest["splits"] == {} and manifest["files"] == [] and rows(tmp_path / "out") == []
    assert write_corpus_card(tmp_path / "out") and "A corpus of 0 documents" in (tmp_path / "out" / "README.md").read_text()
