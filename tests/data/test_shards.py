"""Token shards: what is written is what the tokenizer gives, whatever happens on the way; what is opened is what was written, or it is refused."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zstandard

from nabi.data import read_table, stream_table
from nabi.data.sharding import write_shards
from nabi.data.shards import MANIFEST, UNFINISHED, TokenShards, is_shards
from nabi.errors import DataError, OptionError, StorageError, TokenizerError, UserError
from nabi.text import Tokenizer
from tasks.written import tokenizer as written_tokenizer

Killed = dict[int, tuple[int, Path, frozenset[str]]]
WORDS = ("the", "cat", "sat", "on", "a", "mat", "in", "나비는", "꽃에", "앉았다", "def f(x):\n    return x\n")


def some(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    dice = random.Random(seed)
    return [" ".join(dice.choices(WORDS, k=dice.randint(0, longest))) for _ in range(count)]


DOCUMENTS = some(300)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(written_tokenizer("gpt2", tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def shards(words: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    return write_shards(DOCUMENTS, words, tmp_path_factory.mktemp("shards"), corpus="some", file_tokens=5000, length=64)


@pytest.fixture
def copied(shards: TokenShards, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards.folder, tmp_path / shards.folder.name))


def stream(words: Tokenizer, documents: list[str] = DOCUMENTS) -> list[list[int]]:
    """What the tokenizer itself gives, a document at a time."""
    encoded = [words.encode(text, special=False).ids for text in documents]
    return [[*ids, words.eos_id] for ids in encoded if ids]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- what is in them -----------------------------------------------------------------------------------------------------------------------------


def test_the_stream_is_what_the_tokenizer_gives_with_the_end_token_behind_each_document(words: Tokenizer, shards: TokenShards) -> None:
    wanted = stream(words)
    flat = [i for ids in wanted for i in ids]
    assert len(shards.manifest.files) > 3 and shards.manifest.empty == len(DOCUMENTS) - len(wanted) > 0
    assert (shards.documents, shards.tokens) == (len(wanted), len(flat))
    assert shards.ids(0, shards.tokens).tolist() == flat
    starts, stops = shards.bounds(np.arange(shards.documents))
    assert [shards.ids(a, b).tolist() for a, b in zip(starts.tolist(), stops.tolist(), strict=True)] == wanted
    assert starts.tolist() == [0, *np.cumsum([len(ids) for ids in wanted])[:-1].tolist()]
    assert shards.begins(0, shards.tokens).tolist() == starts.tolist()
    owners = np.repeat(np.arange(len(wanted)), [len(ids) for ids in wanted])
    assert (shards.document_at(np.arange(shards.tokens)) == owners).all()
    assert shards.document_at([[0, shards.tokens - 1]]).shape == (1, 2)


def test_any_piece_is_that_piece(words: Tokenizer, shards: TokenShards) -> None:
    flat = np.array([i for ids in stream(words) for i in ids])
    begins = shards.bounds(np.arange(shards.documents))[0]
    dice = random.Random(1)
    edges = np.cumsum([file.tokens for file in shards.manifest.files])[:-1].tolist()  # where one file follows another
    for start in [0, *edges, *(e - 1 for e in edges), *(dice.randrange(shards.tokens) for _ in range(200))]:
        stop = min(start + dice.choice((0, 1, 2, 64, 12_000)), shards.tokens)
        assert (shards.ids(start, stop) == flat[start:stop]).all()
        assert shards.begins(start, stop).tolist() == begins[(begins >= start) & (begins < stop)].tolist()


@pytest.mark.parametrize("length", [1, 7, 64, 10**6])
def test_windows_cover_the_stream_and_say_where_documents_begin(shards: TokenShards, length: int) -> None:
    cut = shards.with_length(length)
    some_windows = range(len(cut)) if length > 1 else range(0, len(cut), 97)
    begins = set(shards.bounds(np.arange(shards.documents))[0].tolist())
    for i in some_windows:
        window, start = cut[i], i * length
        assert window.ids.tolist() == shards.ids(start, min(start + length, shards.tokens)).tolist()
        assert {start + b for b in window.begins.tolist()} == {place for place in range(start, start + len(window.ids)) if place in begins}
        assert window.before == (None if start in begins else shards.ids(start - 1, start)[0])
        fragments = window.fragments()
        assert [a for a, _ in fragments][1:] == [b for _, b in fragments][:-1] and fragments[0][0] == 0 and fragments[-1][1] == len(window.ids)
        assert all(len(set(shards.document_at(np.arange(start + a, start + b)).tolist())) == 1 for a, b in fragments), "a fragment is of one document"
    assert len(cut) == -(-shards.tokens // length) and len(cut[-1].ids) == (shards.tokens - 1) % length + 1
    assert [w.ids.tolist() for w in cut[1:4]] == [cut[i].ids.tolist() for i in range(1, min(4, len(cut)))]
    with pytest.raises(IndexError):
        cut[len(cut)]


def test_they_are_mapped_and_travel_to_workers_without_their_data(shards: TokenShards) -> None:
    assert all(isinstance(array, np.memmap) for array in (*shards._ids, *shards._ends))
    sent = pickle.dumps(shards)
    assert len(sent) < 500 * len(shards.manifest.files) + 1000 < shards.tokens * 2
    assert pickle.loads(sent)[5].ids.tolist() == shards[5].ids.tolist()


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(65_540))]
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(names) + "\n")
    made = write_shards(["w65539 w1", "w65530"], tmp_path / "words", tmp_path, corpus="x", end="[SEP]")
    assert made.manifest.width == 4 and made.ids(0, made.tokens).tolist() == [65_544, 6, 3, 65_535, 3]
    names = names[:65_536]
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(names) + "\n")
    made = write_shards(["w65530 w1"], tmp_path / "words", tmp_path, corpus="x", end="[SEP]")
    assert made.manifest.width == 2 and made.ids(0, made.tokens).tolist() == [65_535, 6, 3], "an id of 65,535 fits into two bytes"


def test_the_bytes_do_not_depend_on_the_batches(words: Tokenizer, shards: TokenShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nabi.data.sharding._BATCH_TEXTS", 7)
    other = write_shards(iter(DOCUMENTS), words, tmp_path, corpus="some", file_tokens=5000)
    assert other.folder.name == shards.folder.name and files(other.folder) == files(shards.folder)
    assert write_shards(DOCUMENTS, words, tmp_path, corpus="some", file_tokens=4000).folder.name != shards.folder.name


def test_documents_without_a_token_at_the_very_end_are_counted(words: Tokenizer, tmp_path: Path) -> None:
    made = write_shards(["", "the cat", "", ""], words, tmp_path, corpus="x", file_tokens=3)
    assert (made.documents, made.manifest.empty) == (1, 3) and set(files(made.folder)) == {MANIFEST, "00000.bin", "00000.ends"}


def test_ids_of_many_texts_are_those_of_each(words: Tokenizer, tmp_path: Path) -> None:
    odd = [*DOCUMENTS[:30], "", " the", "\u1102\u1161\u1107\u1175 in letters", "<|endoftext|>"]
    for one in (words, *(Tokenizer.load(written_tokenizer(kind, tmp_path / kind)) for kind in ("t5", "bart", "marian"))):
        assert one.ids_of(odd) == [one.encode(text, special=False).ids for text in odd]
    with pytest.raises(UserError, match=r"text 1"):
        words.ids_of(["a", 3])  # type: ignore[list-item]


# ---- where the texts come from -------------------------------------------------------------------------------------------------------------------


def lines(documents: list[str], column: str = "text") -> bytes:
    return b"".join(json.dumps({column: text, "path": "x"}, ensure_ascii=False).encode() + b"\n" for text in documents)


def test_every_source_gives_the_same_ids(words: Tokenizer, shards: TokenShards, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    half = len(DOCUMENTS) // 2
    pack = zstandard.ZstdCompressor().compress
    (corpus / "train-00000.jsonl.zst").write_bytes(pack(lines(DOCUMENTS[:100])) + pack(lines(DOCUMENTS[100:half])))  # two frames
    (corpus / "train-00001.jsonl.zst").write_bytes(pack(lines(DOCUMENTS[half:])))
    (corpus / "dev-00000.jsonl.zst").write_bytes(pack(lines(["left out"])))
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(DOCUMENTS[:3]) + b"\n \n" + lines(DOCUMENTS[3:]).rstrip(b"\n"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines(DOCUMENTS, "content")))
    frame = pd.DataFrame({"text": DOCUMENTS})
    frame.to_json(tmp_path / "c.json", orient="records", force_ascii=False)
    sources: list[tuple[Any, dict[str, Any]]] = [
        (corpus, {}), (tmp_path / "a.jsonl", {}), (str(tmp_path / "b.jsonl.gz"), {"column": "content"}), (tmp_path / "c.json", {}), (frame, {}),
        (read_table(tmp_path / "a.jsonl"), {}), (({"text": text} for text in DOCUMENTS), {"corpus": "rows"}),
        (lambda: iter(DOCUMENTS), {"corpus": "function"}), (stream_table(frame), {"corpus": "stream"}),
    ]  # fmt: skip
    found = [write_shards(source, words, tmp_path / "out", file_tokens=5000, **how) for source, how in sources]
    # the file and the table read from it are told by different hashes; all the others are different corpora as well
    assert len({one.folder for one in found}) == len(found)
    assert all(one.ids(0, one.tokens).tolist() == shards.ids(0, shards.tokens).tolist() for one in found)
    assert [file.sha256 for file in found[0].manifest.files] == [file.sha256 for file in shards.manifest.files]


def _corpus(data: bytes, name: str = "train-0.jsonl.zst") -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder

    return made


def _lines(data: bytes, name: str = "a.jsonl") -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return made


ZST = zstandard.ZstdCompressor().compress(lines(some(50)))
BAD_SOURCES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a folder without a corpus": (_corpus(b"", "a.txt"), "this folder holds no corpus.*train-"),
    "a packed file cut off": (_corpus(ZST[:-9]), r"train-0.jsonl.zst: the zstd data is cut off"),
    "a packed file damaged": (_corpus(ZST[:40] + b"\xff" * 40 + ZST[80:]), r"the zstd data is (damaged|cut off)"),
    "gzip cut off": (_lines(gzip.compress(lines(DOCUMENTS))[:-5], "a.jsonl.gz"), "a.jsonl.gz: the gzip data is cut off"),
    "gzip damaged": (_lines(gzip.compress(lines(DOCUMENTS))[:-8] + b"12345678", "a.jsonl.gz"), "the gzip data is damaged"),
    "not gzip": (_lines(lines(["a"]), "a.jsonl.gz"), "not a gzip file, although its name ends in .gz"),
    "no JSON": (_lines(lines(["a"]) + b"{'text': 1}\n"), "a.jsonl, line 2: not JSON"),
    "JSON without end": (_lines(b'{"text": ' + b"[" * 100_000), "a.jsonl, line 1: JSON that can't be held"),
    "no object": (_lines(lines(["a"]) + b"\n[1]\n"), "a.jsonl, line 3: not a JSON object"),
    "not UTF-8": (_lines('{"text": "나"}\n'.encode("cp949")), "a.jsonl, line 1: not UTF-8"),
    "no such column": (_lines(lines(["a"], "content")), r"line 1: no column 'text': .*content, path.*column="),
    "no text": (_lines(b'{"text": 3}\n'), "line 1: the text is a number"),
    "half a character": (_lines(b'{"text": "a"}\n{"text": "\\ud83d"}\n'), "line 2: half of a surrogate pair"),
    "a line too long": (_lines(b'{"text": "' + b"a" * 3_000_000 + b'"}\n'), "line 1: longer than 1 MB"),
    "nothing": (_lines(b""), "there is no text to write"),
    "nothing with a token": (_lines(lines(["", ""])), "there is no text to write.*2 documents"),
    "no file": (lambda folder: folder / "b.jsonl", "no such file"),
    "a number": (lambda folder: 3, "no source of texts"),
    "rows that are none": (lambda folder: [1, 2], "list, row 1: not a dict with string keys"),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_a_source_that_can_t_be_read_is_refused(case: str, words: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, message = BAD_SOURCES[case]
    monkeypatch.setattr("nabi.data.lines.LONGEST", 2_000_000)
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=message):
        write_shards(made(tmp_path / "in"), words, tmp_path / "out", corpus="x")
    assert not list((tmp_path / "out").rglob(MANIFEST)), "nothing half-written counts as done"


def test_what_can_t_be_chosen_is_refused(words: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"what these texts are.*corpus="):
        write_shards(DOCUMENTS, words, tmp_path)
    with pytest.raises(OptionError, match="no such token to end a document: '<eod>'"):
        write_shards(DOCUMENTS, words, tmp_path, corpus="x", end="<eod>")
    with pytest.raises(OptionError, match="length is 0, file_tokens is -1"):
        write_shards(DOCUMENTS, words, tmp_path, corpus="x", length=0, file_tokens=-1)
    with pytest.raises(DataError, match=r"row 2: the document is too long: '?3 characters'?.*longest="):
        write_shards(["ab", "abc"], words, tmp_path, corpus="x", longest=2)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n")
    with pytest.raises(TokenizerError, match=r"no end token to join documents with.*end="):
        write_shards(DOCUMENTS, tmp_path / "plain", tmp_path, corpus="x")


# ---- interrupted, twice, two at once -------------------------------------------------------------------------------------------------------------

KILLED = """
import json, os, signal, sys
from pathlib import Path
from nabi.data import sharding
documents, words, out = (Path(name) for name in sys.argv[1:4])
documents = json.loads(documents.read_text())
sharding._BATCH_TEXTS = 50
def counted(real):
    def call(*args):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)
    return call
os.fsync, Path.replace, Path.unlink = counted(os.fsync), counted(Path.replace), counted(Path.unlink)
for moment in map(int, sys.argv[4:]):
    left = moment
    child = os.fork()
    if not child:
        sharding.write_shards(documents, words, out / str(moment), corpus="some", file_tokens=5000)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
MOMENTS = (0, 1, 3, 4, 5, 6, 9, 13, 18, 24, 26, 33, 35, 36, 37, 38, 10_000)  # how many files it made durable, renamed or removed before


@pytest.fixture(scope="module")
def killed(words: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Of builds that were killed at these moments: how they ended, where, and the names of what they left."""
    out = tmp_path_factory.mktemp("killed")
    words.save(out / "words")
    (out / "documents.json").write_text(json.dumps(DOCUMENTS), encoding="utf-8")
    call = [sys.executable, "-c", KILLED, str(out / "documents.json"), str(out / "words"), str(out), *map(str, MOMENTS)]
    done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr
    names = {moment: frozenset(path.name for path in (out / str(moment)).rglob("*")) for moment in MOMENTS}
    return {moment: (code, out / str(moment), names[moment]) for moment, code in zip(MOMENTS, map(int, done.stdout.split()), strict=True)}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_build_that_was_killed_goes_on_and_leaves_the_same_bytes(
    moment: int, words: Tokenizer, shards: TokenShards, killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = killed[moment]
    folder = out / shards.folder.name
    if moment == MOMENTS[-1]:  # control: nothing kills it
        assert code == 0 and files(folder) == files(shards.folder)
        return
    assert code == -9
    noted = len(json.loads((folder / UNFINISHED).read_text())["files"]) if (folder / UNFINISHED).is_file() else 0
    finished = (folder / MANIFEST).is_file()
    if not finished:
        with pytest.raises(DataError, match="(not finished|no token shards)"):
            TokenShards.open(folder)
    read: list[str] = []
    tokenised = Tokenizer.ids_of
    monkeypatch.setattr(Tokenizer, "ids_of", lambda self, texts: (read.extend(texts), tokenised(self, texts))[1])
    again = write_shards(DOCUMENTS, words, out, corpus="some", file_tokens=5000)
    assert again.folder == folder and files(folder) == files(shards.folder)
    kept = len(DOCUMENTS) if finished else sum(file.read for file in shards.manifest.files[:noted])
    assert len(read) == len(DOCUMENTS) - kept, "the texts of files that were done are not tokenised again"


def test_the_kills_came_before_between_and_after_the_files(killed: Killed) -> None:
    left = {names for _, _, names in killed.values()}
    assert len(left) >= 10 and any(MANIFEST in names and UNFINISHED in names for names in left)


def test_a_second_time_nothing_is_tokenised(words: Tokenizer, shards: TokenShards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizer, "ids_of", lambda self, texts: pytest.fail("tokenised"))
    before = files(shards.folder)
    assert write_shards(DOCUMENTS, words, shards.folder.parent, corpus="some", file_tokens=5000).tokens == shards.tokens
    assert files(shards.folder) == before


def stopping(documents: list[str], at: int) -> Iterator[str]:
    yield from documents[:at]
    raise RuntimeError("the source stops")


def test_other_texts_do_not_go_on_with_an_interrupted_build(
    words: Tokenizer, shards: TokenShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nabi.data.sharding._BATCH_TEXTS", 50)
    with pytest.raises(RuntimeError):
        write_shards(stopping(DOCUMENTS, 299), words, tmp_path, corpus="some", file_tokens=1000)
    (folder,) = tmp_path.iterdir()
    assert (folder / UNFINISHED).is_file() and is_shards(folder)
    for others in (["the cat", *DOCUMENTS[1:]], DOCUMENTS[:3], [DOCUMENTS[0] + DOCUMENTS[1], "", *DOCUMENTS[2:]]):
        with pytest.raises(DataError, match=r"not the texts that the interrupted build had read.*corpus="):
            write_shards(others, words, tmp_path, corpus="some", file_tokens=1000)
    made = write_shards(DOCUMENTS, words, tmp_path, corpus="some", file_tokens=1000)
    assert made.folder == folder and made.ids(0, made.tokens).tolist() == shards.ids(0, shards.tokens).tolist()


def test_a_file_that_was_lost_between_two_attempts_is_written_again(
    words: Tokenizer, shards: TokenShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nabi.data.sharding._BATCH_TEXTS", 50)
    with pytest.raises(RuntimeError):
        write_shards(stopping(DOCUMENTS, 299), words, tmp_path, corpus="some", file_tokens=1000)
    (folder,) = tmp_path.iterdir()
    (folder / "00001.bin").write_bytes((folder / "00001.bin").read_bytes()[:-2])
    made = write_shards(DOCUMENTS, words, tmp_path, corpus="some", file_tokens=1000)
    assert made.ids(0, made.tokens).tolist() == shards.ids(0, shards.tokens).tolist()


def test_two_processes_do_not_write_the_same_shards(words: Tokenizer, shards: TokenShards) -> None:
    handle = os.open(shards.folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another process is writing"):
            write_shards(DOCUMENTS, words, shards.folder.parent, corpus="some", file_tokens=5000)
    finally:
        os.close(handle)


def test_a_disk_that_is_full_is_an_error_and_what_is_done_is_kept(words: Tokenizer, shards: TokenShards, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    long = [*DOCUMENTS, "the cat " * 20_000]
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # as a quota would do it
    try:
        with pytest.raises(StorageError, match=r"could not be written.*what is done is kept"):
            write_shards(long, words, tmp_path, corpus="long", file_tokens=5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (folder,) = tmp_path.iterdir()
    assert (folder / "00000.bin").is_file() and not (folder / MANIFEST).exists()
    made = write_shards(long, words, tmp_path, corpus="long", file_tokens=5000)
    assert made.ids(0, shards.tokens).tolist() == shards.ids(0, shards.tokens).tolist() and made.tokens > shards.tokens + 20_000


# ---- opened ------------------------------------------------------------------------------------------------------------------------------------------


def edited(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def manifest(**changes: Any) -> Callable[[Path], object]:
    return edited(MANIFEST, lambda data: json.dumps({**json.loads(data), **changes}).encode())


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (edited("00001.bin", lambda data: data[:-2]), r"cut off or edited.*00001.bin"),
    "grown": (edited("00001.bin", lambda data: data + b"\0\0"), "cut off or edited"),
    "ends cut": (edited("00000.ends", lambda data: data[:-8]), r"cut off or edited.*00000.ends"),
    "missing": (lambda folder: (folder / "00002.bin").unlink(), r"is missing.*00002.bin"),
    "newer": (manifest(format=2), r"written by a newer nabi.*format 2.*Upgrade"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "there are no token shards in this folder"),
    "not finished": (lambda folder: (folder / MANIFEST).rename(folder / UNFINISHED), "not finished.*what is there is kept"),
    "manifest cut": (edited(MANIFEST, lambda data: data[:-20]), "not valid JSON"),
    "manifest of something else": (edited(MANIFEST, lambda data: b'{"format": 1}'), "manifest of these token shards is damaged.*missing key 'corpus'"),
    "manifest contradicts itself": (manifest(tokens=5), "contradicts itself"),
    "no files": (manifest(files=[], tokens=0, documents=0), "are empty"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_shards_are_refused(case: str, copied: Path) -> None:
    TokenShards.open(copied, verify=True)  # control: as they were
    DAMAGES[case][0](copied)
    with pytest.raises(DataError, match=f"(?s){DAMAGES[case][1]}"):
        TokenShards.open(copied)


@pytest.mark.parametrize("name", ["00001.bin", "00001.ends"])
def test_a_changed_byte_is_seen_by_its_hash(name: str, copied: Path) -> None:
    edited(name, lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:])(copied)
    TokenShards.open(copied)  # the sizes alone do not show it
    with pytest.raises(DataError, match=f"was edited.*{name}"):
        TokenShards.open(copied, verify=True)


def test_another_tokenizer_is_refused(words: Tokenizer, shards: TokenShards, tmp_path: Path) -> None:
    other = Tokenizer.load(written_tokenizer("bart", tmp_path))
    assert TokenShards.open(shards.folder, words).tokens == shards.tokens
    with pytest.raises(TokenizerError, match="another tokenizer made the token shards"):
        TokenShards.open(shards.folder, other)


def test_what_lies_outside_is_refused(shards: TokenShards, tmp_path: Path) -> None:
    for wrong in (lambda: shards.ids(5, 4), lambda: shards.ids(0, shards.tokens + 1), lambda: shards.begins(-1, 4), lambda: shards.document_at([0, -1]),
                  lambda: shards.bounds([shards.documents]), lambda: shards.with_length(0)):  # fmt: skip
        with pytest.raises(OptionError):
            wrong()
    with pytest.raises(DataError, match="there are no token shards"):
        TokenShards.open(tmp_path / "nowhere")
    assert is_shards(shards.folder) and not any(is_shards(x) for x in (tmp_path, "x" * 5000, "a\0b", 3, tmp_path / "nowhere"))
