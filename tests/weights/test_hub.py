"""Models of a hub: found in the cache that other programs filled, else fetched from a hub in this process, whole and checked or not at all."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, snapshot_download

from nabi import checkpoint, load, pipeline
from nabi.errors import CheckpointError, NabiError, OptionError
from nabi.tasks.text_classification import TextClassification
from nabi.weights import download, hub
from nabi.weights.sources import resolve
from weights.hub_server import Hub, etag, serving

TOKEN = "hf_secret_of_the_tester"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A real little model, as the files of a repository."""
    folder = tmp_path_factory.mktemp("model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    checkpoint.save(checkpoint.create("bert", "tiny", "text_classification", TextClassification.Settings(("ham", "spam")), folder), folder / "m")
    found = {p.name: p.read_bytes() for p in sorted((folder / "m").iterdir())}
    return {**found, "README.md": b"# A card", "tf_model.h5": b"x" * 1000, "onnx/model.onnx": b"y" * 1000, "pytorch_model.bin": b"z" * 1000}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_HOME", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def online(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as server:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(download, "_PAUSE", 0.01)
        yield server


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def finals(cache: Path) -> list[str]:
    """Files under a final name."""
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if (p.is_file() or p.is_symlink()) and p.suffix != ".incomplete")


def refused(model: str, *words: str, revision: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        resolve(model, revision)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert TOKEN not in message and "\n" not in message and caught.value.exit_code == 2
    return message


def test_fetches_what_a_model_needs_then_stays_off_the_network(
    online: Hub, cache: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    commit = online.add("org/spam", files)
    model = load("org/spam")
    folder = cache / "models--org--spam" / "snapshots" / commit
    needed = files.keys() - {"tf_model.h5", "onnx/model.onnx", "pytorch_model.bin"}
    assert needed >= {"config.json", "nabi.json", "README.md", "tokenizer.json", "vocab.txt", WEIGHTS}
    assert {p.name for p in folder.iterdir()} == needed
    for name in needed:
        assert (folder / name).is_symlink() and (folder / name).read_bytes() == files[name]
        assert (folder / name).resolve() == cache / "models--org--spam" / "blobs" / etag(name, files[name])
    assert (cache / "models--org--spam" / "refs" / "main").read_text() == commit
    out, err = capfd.readouterr()
    first, last = err.splitlines()
    assert out == "" and last == f"fetching org/spam at {commit[:12]}: {WEIGHTS} ({len(files[WEIGHTS]) / 1e6:.1f} MB)"
    assert first.startswith(f"fetching org/spam at {commit[:12]}: config.json, nabi.json, ")
    assert {r.path.rpartition("/")[2] for r in online.requests[1:]} == needed and {online.sent(n) - len(files[n]) for n in needed} == {0}
    # once it is there no request is made, online or off, and the library finds the same files
    count = len(online.requests)
    again = load("org/spam")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    go_offline(monkeypatch)
    assert resolve("org/spam") == folder and resolve("org/spam@main") == resolve("org/spam", commit) == resolve("org/spam", commit[:9]) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert snapshot_download("org/spam", cache_dir=cache, local_files_only=True) == str(folder) and len(online.requests) == count


def test_the_token_goes_to_the_hub_alone(online: Hub, files: dict[str, bytes], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    online.add("org/spam", files)
    online.cuts[WEIGHTS] = [100]
    with caplog.at_level(logging.DEBUG):
        resolve("org/spam")
    assert {(r.server, r.token) for r in online.requests} == {("hub", f"Bearer {TOKEN}"), ("cdn", "")}
    assert TOKEN not in caplog.text + "".join(capfd.readouterr())


def test_a_cut_connection_goes_on_where_it_stopped(online: Hub, cache: Path, files: dict[str, bytes]) -> None:
    online.add("org/spam", files)
    online.cuts = {WEIGHTS: [1000, 0, 5000, 1], "config.json": [10]}
    folder = resolve("org/spam")
    assert all((folder / n).read_bytes() == files[n] for n in (WEIGHTS, "config.json"))
    assert online.sent(WEIGHTS) == len(files[WEIGHTS]) and online.sent("config.json") == len(files["config.json"])
    assert [r.range for r in online.requests if r.server == "cdn"] == ["", "bytes=1000-", "bytes=1000-", "bytes=6000-", "bytes=6001-"]
    assert not list(cache.rglob("*.incomplete"))


def test_a_later_process_goes_on_too(online: Hub, cache: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    commit = online.add("org/spam", files)
    online.cuts[WEIGHTS] = [3000, *[0] * 5]
    refused("org/spam", "cut the connection", f"org/spam: {WEIGHTS}", "goes on where it stopped", online.endpoint)
    blobs = cache / "models--org--spam" / "blobs"
    assert not (blobs / etag(WEIGHTS, files[WEIGHTS])).exists() and not (blobs.parent / "snapshots" / commit / WEIGHTS).is_symlink()
    assert (blobs / f"{etag(WEIGHTS, files[WEIGHTS])}.incomplete").stat().st_size == 3000
    # offline such a cache is named as what it is
    go_offline(monkeypatch)
    refused("org/spam", "not whole: there are no weights (its download was cut off)", "Unset HF_HUB_OFFLINE", str(blobs.parent))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    env = {**os.environ, "HF_HUB_OFFLINE": "0"}
    code = "from nabi.weights.sources import resolve; resolve('org/spam')"
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
    assert (resolve("org/spam") / WEIGHTS).read_bytes() == files[WEIGHTS] and online.sent(WEIGHTS) == len(files[WEIGHTS])


def test_a_server_without_ranges_sends_all_again(online: Hub, files: dict[str, bytes]) -> None:
    online.add("org/spam", files)
    online.ranges, online.cuts[WEIGHTS] = False, [1000]
    assert (resolve("org/spam") / WEIGHTS).read_bytes() == files[WEIGHTS]
    assert online.sent(WEIGHTS) == len(files[WEIGHTS]) + 1000


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_wrong_hash_is_refused_and_leaves_nothing(name: str, online: Hub, cache: Path, files: dict[str, bytes]) -> None:
    online.add("org/spam", files)
    data = files[name]
    online.other[name] = data[:-9] + b"x" + data[-8:]
    message = refused("org/spam", "not the file that the hub lists", f"org/spam: {name}", etag(name, data))
    assert etag(name, online.other[name]) in message
    assert etag(name, data) not in " ".join(finals(cache)) and name not in " ".join(finals(cache)) and not list(cache.rglob("*.incomplete"))
    # control: the right file comes at the next attempt, and only what was missing
    online.other.clear()
    assert (resolve("org/spam") / name).read_bytes() == data and online.sent("README.md") in (0, len(files["README.md"]))


def test_a_partial_file_with_other_bytes_is_thrown_away(online: Hub, cache: Path, files: dict[str, bytes]) -> None:
    online.add("org/spam", files)
    draft = cache / "models--org--spam" / "blobs" / f"{etag(WEIGHTS, files[WEIGHTS])}.incomplete"
    draft.parent.mkdir(parents=True)
    for junk, words in ((b"junk", "not the file"), (b"x" * (len(files[WEIGHTS]) + 1), "more came")):
        draft.write_bytes(junk)
        refused("org/spam", words)
        assert not draft.exists()
    assert (resolve("org/spam") / WEIGHTS).read_bytes() == files[WEIGHTS]


@pytest.mark.parametrize("more", [b"", b"more than was listed" * 1000])
def test_too_few_and_too_many_bytes(more: bytes, online: Hub, cache: Path, files: dict[str, bytes]) -> None:
    online.add("org/spam", files)
    online.other[WEIGHTS] = files[WEIGHTS] + more if more else files[WEIGHTS][:-1]
    refused("org/spam", "more came" if more else "ends too early", f"org/spam: {WEIGHTS}")
    assert WEIGHTS not in " ".join(finals(cache))


def test_hashes_from_the_headers_where_the_listing_has_none(online: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    online.add("org/spam", files)
    online.hashes = False
    assert (resolve("org/spam") / WEIGHTS).read_bytes() == files[WEIGHTS] and any(r.method == "HEAD" for r in online.requests)
    monkeypatch.setattr("weights.hub_server.etag", lambda name, data: "no-hash")
    online.add("org/other", files)
    refused("org/other", "no hash for a file")


@pytest.mark.parametrize("claim", ["../../../x", "/etc/passwd", "a" * 39, "A" * 64, ""])
def test_a_hash_that_is_none_is_no_file_name(claim: str, online: Hub, cache: Path, files: dict[str, bytes]) -> None:
    online.add("org/spam", files)
    online.claims["config.json"] = claim
    refused("org/spam", "no hash for a file")
    assert not [p for p in cache.rglob("*") if p.is_file() and "refs" not in p.parts]


HOSTILE = ["../x", "/etc/x", "a/../../x", "..", ".", "a\\b", "\\\\server\\x", "C:\\x", "c:x", "nul\0.txt", "a\nb", "a//b", "a/", "x" * 300, "a/" * 600 + "b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_before_anything_is_fetched(name: str, online: Hub, cache: Path, files: dict[str, bytes]) -> None:
    online.add("org/spam", {**files, name: b"x"})
    refused("org/spam", "leads out of its folder", "Do not use")
    assert len(online.requests) == 1 and not cache.exists()


def test_control_usual_names_pass(online: Hub, files: dict[str, bytes]) -> None:
    names = ("runs/Jul01_12:00:00_host/events.out.1", ".gitattributes", "한글 파일.txt", "a..b", "1_Pooling/x")
    online.add("org/spam", {**files, **dict.fromkeys(names, b"")})
    resolve("org/spam")


def test_how_a_sentence_encoder_pools_comes_with_it(online: Hub, files: dict[str, bytes]) -> None:
    more = {"modules.json": b"[]", "1_Pooling/config.json": b'{"a": 1}', "1_Pooling/other.json": b"{}", "2_Dense/config.json": b"{}"}
    online.add("org/spam", {**files, **more})
    for _ in range(2):
        folder = resolve("org/spam")
        assert (folder / "1_Pooling" / "config.json").read_bytes() == b'{"a": 1}' and (folder / "modules.json").read_bytes() == b"[]"
        assert not (folder / "1_Pooling" / "other.json").exists() and not (folder / "2_Dense").exists()  # control: what nabi does not read


@pytest.mark.parametrize("shard", ["../../x.safetensors", "/x.safetensors", "not-listed.safetensors", 5])
def test_an_index_that_names_files_outside(shard: object, online: Hub, cache: Path, files: dict[str, bytes]) -> None:
    index = json.dumps({"weight_map": {"a": shard}}).encode()
    online.add("org/spam", {"config.json": files["config.json"], f"{WEIGHTS}.index.json": index})
    refused("org/spam", "names files that the hub does not list")


def test_shards_and_bin_files(online: Hub, files: dict[str, bytes]) -> None:
    index = json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}).encode()
    small = {"config.json": b"{}", "vocab.txt": b"a\n"}
    online.add("org/shards", {**small, f"{WEIGHTS}.index.json": index, "m-1.safetensors": b"1", "m-2.safetensors": b"2", "m-3.safetensors": b"3"})
    online.add("org/old", {**small, "pytorch_model.bin": b"4"})
    online.add("org/none", {**small, "tf_model.h5": b"5"})
    assert {p.name for p in resolve("org/shards").iterdir()} == {*small, f"{WEIGHTS}.index.json", "m-1.safetensors", "m-2.safetensors"}
    assert {p.name for p in resolve("org/old").iterdir()} == {*small, "pytorch_model.bin"}
    refused("org/none", "no weights that nabi reads among config.json, tf_model.h5, vocab.txt")
    assert {p.name for p in resolve("org/none", weights=False).iterdir()} == set(small)


def test_small_files_are_taken_from_a_cache_that_has_no_others(cache: Path) -> None:
    home = cache / "models--org--config"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("a" * 40)
    (home / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (home / "snapshots" / ("a" * 40) / "config.json").write_text("{}")
    assert resolve("org/config", weights=False, needs=("config.json",)) == home / "snapshots" / ("a" * 40)
    for needs, words in ((("vocab.txt", "spiece.model"), "there is no vocab.txt or spiece.model"), (None, "there is no tokenizer")):
        with pytest.raises(CheckpointError, match=words):
            resolve("org/config", weights=False, **({} if needs is None else {"needs": needs}))


@pytest.mark.parametrize(
    ("name", "code", "headers", "words"),
    [
        ("", 401, {}, "refuses access (401)"),
        ("", 401, {"X-Error-Code": "RepoNotFound"}, "set HF_TOKEN"),
        ("", 403, {"X-Error-Code": "GatedRepo"}, "accept its terms"),
        ("", 403, {}, "refuses access (403)"),
        ("", 500, {}, "answers with an error (500)"),
        ("", 429, {}, "answers with an error (429)"),
        ("", 418, {}, "answers with an error (418)"),
        ("config.json", 401, {}, "refuses access (401)"),
        ("config.json", 404, {}, "does not have this"),
        (WEIGHTS, 403, {}, "refuses access (403)"),
        (WEIGHTS, 503, {}, "answers with an error (503)"),
    ],
)
def test_refusals(name: str, code: int, headers: dict[str, str], words: str, online: Hub, cache: Path, files: dict[str, bytes]) -> None:
    online.add("org/spam", files)
    online.status[name], online.headers = [code] * 9, headers
    refused("org/spam", words, "org/spam")
    assert (name or "config.json") not in " ".join(finals(cache))
    # a passing failure is tried again, another is not
    assert len(online.status[name]) == (4 if code in (429, 500, 503) else 8)
    online.status[name] = [code] * (2 if code in (429, 500, 503) else 0)
    assert (resolve("org/spam") / WEIGHTS).read_bytes() == files[WEIGHTS]


LISTINGS = [
    b"", b"<html>", b"[]", b"{}", b'{"id": "a"}', b'{"id": "a", "sha": "../../x", "siblings": []}', b'{"id": "a", "siblings": 5}',
]  # fmt: skip


@pytest.mark.parametrize("listing", LISTINGS)
def test_an_answer_that_is_none_of_a_hub(listing: bytes, online: Hub, cache: Path, files: dict[str, bytes]) -> None:
    online.add("org/spam", files)
    online.listing = listing
    refused("org/spam", "HF_ENDPOINT")
    assert not cache.exists()


def test_no_server_and_a_bad_address(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("http://user:password@127.0.0.1:1", "http://", "nonsense"):
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert "password" not in refused("org/spam", "HF_ENDPOINT")


def test_revisions(online: Hub, cache: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    old = online.add("org/spam", {**files, "README.md": b"old"}, "v1")
    new = online.add("org/spam", {**files, "README.md": b"new"})
    pull = online.add("org/spam", {**files, "README.md": b"pull"}, "refs/pr/1")
    cards = {"main": b"new", "v1": b"old", old: b"old", new: b"new", "refs/pr/1": b"pull"}
    for revision, card in cards.items():
        assert (resolve("org/spam", revision) / "README.md").read_bytes() == card
        assert resolve(f"org/spam@{revision}") == resolve("org/spam", revision) == resolve(f"org/spam@{revision}", revision)
    assert online.sent(WEIGHTS) == len(files[WEIGHTS]), "one content, fetched once"
    refused("org/spam@v9", "no such revision")
    # the branch moves: what was pinned stays, and the cached branch too, without a question to the hub
    online.add("org/spam", {**files, "README.md": b"newer"})
    assert (resolve("org/spam") / "README.md").read_bytes() == b"new"
    go_offline(monkeypatch)
    message = refused("org/spam@v2", "not this revision: 'v2'", "main", "v1", "refs/pr/1", old, new, pull)
    assert "nearest" not in message
    for wrong in ("../../x", "/x", "a\\b", "nul\0", "", "a b", "-"):
        with pytest.raises((OptionError, CheckpointError)) as caught:
            resolve("org/spam", wrong or " ")
        assert caught.value.exit_code == 2
    with pytest.raises(OptionError, match="two revisions"):
        resolve("org/spam@v1", "main")


def test_a_hub_that_answers_with_another_commit(online: Hub, files: dict[str, bytes]) -> None:
    online.add("org/spam", files)
    wanted = "0" * 40
    online.refs["org/spam"][wanted] = online.refs["org/spam"]["main"]
    refused("org/spam", "answers with another commit", wanted, revision=wanted)


def test_a_folder_goes_before_the_hub(online: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    online.add("org/spam", files)
    online.add("spam", files)
    for name in ("org/spam", "spam"):
        (tmp_path / name).mkdir(parents=True)
        assert resolve(name) == Path(name)
        with pytest.raises(OptionError, match="a folder has no revisions"):
            resolve(name, "main")
    # a folder `org` without the model: a path, and the error says so; without the folder: an id
    with pytest.raises(CheckpointError, match="not looked for on a hub, since the folder 'org' is here"):
        load("org/spma")
    for path in ("./org2/spam", "org2/deep/spam", str(tmp_path / "none"), "~/none"):
        with pytest.raises(CheckpointError, match="the folder does not exist"):
            load(path)
    with pytest.raises(OptionError, match="ships has no revisions"):
        resolve("minilm", "main")
    assert not online.requests
    refused("org2/spam", "no such model folder here, and no such model on http://127.0.0.1")
    (tmp_path / "spam").rmdir()
    assert resolve("spam").parts[-3] == "models--spam"


def fill(cache: Path, model: str, names: list[str], commit: str = "1" * 40, ref: str | None = "main") -> Path:
    home = cache / ("models--" + model.replace("/", "--"))
    (home / "snapshots" / commit).mkdir(parents=True)
    (home / "blobs").mkdir(exist_ok=True)
    if ref:
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / ref).write_text(commit)
    for i, name in enumerate(names):
        (home / "blobs" / f"{i:064}").write_bytes(b"{}")
        (home / "snapshots" / commit / name).symlink_to(f"../../blobs/{i:064}")
    return home / "snapshots" / commit


def test_offline_a_missing_id_names_the_three_nearest(cache: Path, tmp_path: Path) -> None:
    for model in ("google-bert/bert-base-uncased", "klue/bert-base", "gpt2", "distilbert-base-uncased", "org/other"):
        fill(cache, model, ["config.json", WEIGHTS])
    assert hub.cached() == ["distilbert-base-uncased", "google-bert/bert-base-uncased", "gpt2", "klue/bert-base", "org/other"]
    message = refused("bert-base-uncased", "no such model folder, and no such model in the hub's cache: 'bert-base-uncased'")
    assert "(nearest: google-bert/bert-base-uncased, distilbert-base-uncased, klue/bert-base)" in message and "gpt2" not in message
    (tmp_path / "spam").mkdir()
    refused("spma", "Did you mean 'spam'?")
    refused("minilmm", "Did you mean 'minilm'?")


def test_a_half_downloaded_cache_is_named(cache: Path) -> None:
    fill(cache, "org/config", ["config.json"])
    refused("org/config", "is not whole: there are no weights")
    snapshot = fill(cache, "org/dangling", ["config.json", WEIGHTS])
    (snapshot / WEIGHTS).resolve().unlink()
    refused("org/dangling", f"is not whole: {WEIGHTS} is a link to nothing")
    # given as a folder, the loader says the same
    with pytest.raises(CheckpointError, match="Its download was cut off: load it by its id"):
        load(snapshot)
    snapshot = fill(cache, "org/shards", ["config.json", f"{WEIGHTS}.index.json", "m-1.safetensors"])
    (snapshot / f"{WEIGHTS}.index.json").resolve().write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}))
    refused("org/shards", "is not whole: 'm-2.safetensors' is missing")
    fill(cache, "org/moved", ["config.json", WEIGHTS], ref=None)
    refused("org/moved", "not this revision: 'main'", "1" * 40)
    fill(cache, "org/hostile", ["config.json", WEIGHTS])
    (cache / "models--org--hostile" / "refs" / "main").write_text("../../../outside")
    refused("org/hostile", "a revision names no commit")


def test_where_the_caches_are(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.caches() == [tmp_path / ".cache/huggingface/hub"]
    found = {}
    for name, below in (("HF_HOME", "hub"), ("TRANSFORMERS_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HUB_CACHE", "")):
        monkeypatch.setenv(name, "$HOME/" + name)
        found[name] = fill(tmp_path / name / below, f"org/{name}", ["config.json", WEIGHTS])
    assert [c.relative_to(tmp_path).parts[0] for c in hub.caches()] == ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_HOME"]
    for name, snapshot in found.items():
        assert resolve(f"org/{name}") == snapshot
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert not hub.offline()
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "yes")
    assert hub.offline()


def test_blobs_that_models_share(cache: Path, files: dict[str, bytes]) -> None:
    """The library links a model's blob to a store for all models; a link to anywhere else is refused."""
    snapshot = fill(cache, "org/spam", [n for n in files if "/" not in n])
    for name in (n for n in files if "/" not in n):
        (snapshot / name).resolve().write_bytes(files[name])
    blob = (snapshot / WEIGHTS).resolve()
    store = cache / "blobs" / "ab" / "abcdef"
    store.parent.mkdir(parents=True)
    blob.rename(store)
    blob.symlink_to("../../blobs/ab/abcdef")
    assert load("org/spam").predict("a")
    (cache / "elsewhere").write_bytes(files["tokenizer.json"])
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to(cache / "elsewhere")
    with pytest.raises(CheckpointError, match="'tokenizer.json' is a link that leaves its folder"):
        load("org/spam")


def test_disk_full_and_read_only(online: Hub, cache: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    online.add("org/spam", files)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(NabiError, match="10 bytes free") as caught:
        resolve("org/spam")
    assert caught.value.exit_code == 1
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**12}))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache.parent / "file"))
    (cache.parent / "file").touch()
    with pytest.raises(NabiError, match="cache could not be written"):
        resolve("org/spam")


def test_importing_checkpoint_loads_no_hub() -> None:
    code = "import sys, nabi.checkpoint; print(any(n.startswith(('huggingface_hub', 'httpx')) for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# ---- by way of pipeline() --------------------------------------------------------------------------------------------------------------------------------


def test_a_pipeline_takes_revision_and_token(online: Hub, files: dict[str, bytes], capfd: pytest.CaptureFixture[str]) -> None:
    pinned = online.add("org/spam", files, branch="v1")
    online.add("org/spam", {**files, "README.md": b"later"})
    answer = pipeline("text-classification", "org/spam", revision="v1", token="hf_another")("abc")
    assert answer[0]["label"] in ("ham", "spam") and resolve("org/spam", "v1").name == pinned
    assert {(r.server, r.token) for r in online.requests} == {("hub", "Bearer hf_another"), ("cdn", "")}
    assert "hf_another" not in "".join(capfd.readouterr())
    online.requests.clear()
    pipeline("text-classification", "org/spam", token=False)
    assert online.requests and {r.token for r in online.requests} == {""}
    online.requests.clear()
    online.add("org/second", files)
    pipeline("text-classification", "org/second", use_auth_token="hf_older")  # v4's former word
    assert {r.token for r in online.requests if r.server == "hub"} == {"Bearer hf_older"}
    online.requests.clear()
    online.add("org/third", files)
    resolve("org/third")  # outside the call the token is the environment's again
    assert {r.token for r in online.requests if r.server == "hub"} == {f"Bearer {TOKEN}"}


def test_without_a_model_the_usual_one_is_taken_from_the_cache(
    online: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    usual = TextClassification.defaults[-1]
    online.add("org/spam", files)
    online.add(usual, files)
    resolve("org/spam")
    with pytest.raises(OptionError, match="in the cache: org/spam;"):  # it is never fetched unasked
        pipeline("sentiment-analysis")
    resolve(usual)
    go_offline(monkeypatch)
    assert pipeline("sentiment-analysis")("abc")[0]["label"] in ("ham", "spam")
    assert f"No model was given: {usual} from the cache is used." in capfd.readouterr().err
