"""The doctor finds each trouble where it is and nothing where nothing is; the bench measures what it says.

The checks of rows are tested in ``tests/data/test_check_labelled.py``.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nabi import checkpoint
from nabi.errors import CheckpointError, DataError, OptionError
from nabi.inspection import check, check_machine, check_model, machine, models
from nabi.inspection.speed import SENTENCES, VARIANTS, lines, measure, texts
from nabi.weights import file_sha256
from training import small

WEIGHTS = "model.safetensors"
pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer takes Hangul")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder of a tiny model that tells neg from pos."""
    folder = tmp_path_factory.mktemp("good") / "model"
    checkpoint.save(small.model(small.vocabulary(tmp_path_factory.mktemp("tokenizer"))), folder)
    return folder


@pytest.fixture
def model(good: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged; without its files' sums, so that each damage is seen for itself."""
    copied = Path(shutil.copytree(good, tmp_path / "model"))
    edit_json(copied / "nabi.json", files={})
    return copied


def codes(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    assert all(set(f) - {"rows"} == {"severity", "code", "message", "fix"} for f in found)
    assert [f["severity"] for f in found] == sorted((f["severity"] for f in found), key=["error", "warning", "info"].index)
    assert all(f["fix"] for f in found if f["severity"] != "info" and f["code"] != "load"), found  # an error holds its own
    return [(f["severity"], f["code"]) for f in found]


def the(found: list[dict[str, Any]], code: str) -> dict[str, Any]:
    """The one finding of this code."""
    (finding,) = [f for f in found if f["code"] == code]
    return finding


def edit_json(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


# ---- models --------------------------------------------------------------------------------------------------------------------------------------------


def test_a_whole_model_has_one_line(model: Path) -> None:
    for name in ("README.md", "history.json"):
        (model / name).write_text("{}")
    (model / "last").mkdir()
    assert codes(check_model(str(model))) == [("info", "golden")]


@pytest.mark.parametrize(("value", "told"), [(float("nan"), "1 NaN and 0 infinite"), (float("-inf"), "0 NaN and 1 infinite")])
def test_tensors_that_are_not_finite(value: float, told: str, model: Path) -> None:
    name = "bert.encoder.layer.1.output.dense.weight"
    edit_tensors(model, lambda tensors: tensors[name].view(-1)[7:8].fill_(value))
    finding = the(check_model(str(model)), "not_finite")
    assert finding["severity"] == "error" and name in finding["message"] and told in finding["message"]


def test_large_numbers_are_finite(model: Path) -> None:
    edit_tensors(model, lambda tensors: tensors["bert.pooler.dense.weight"].fill_(3e38))  # their sum is over the largest float32
    assert "not_finite" not in {f["code"] for f in check_model(str(model))}


def test_a_changed_weight_shows_in_the_golden_vectors(model: Path) -> None:
    edit_tensors(model, lambda tensors: tensors["classifier.bias"].add_(0.01))
    found = check_model(str(model))
    assert ("error", "golden") in codes(found) and "readings differ by 0.01" in found[0]["message"]
    edit_json(model / "nabi.json", golden=[])
    assert ("warning", "no_golden") in codes(check_model(str(model)))


def test_a_saved_model_holds_the_sums_of_its_files(good: Path, tmp_path: Path) -> None:
    sums = json.loads((good / "nabi.json").read_text())["files"]
    assert sums == {p.name: file_sha256(p) for p in good.iterdir() if p.name != "nabi.json"} and codes(check_model(str(good))) == [("info", "golden")]
    changed = Path(shutil.copytree(good, tmp_path / "model"))
    edit_tensors(changed, lambda tensors: tensors["classifier.bias"].add_(0.01))
    assert ("error", "changed_file") in codes(check_model(str(changed)))


def test_files_against_their_sums(model: Path) -> None:
    names = ("config.json", WEIGHTS, "tokenizer.json")
    edit_json(model / "nabi.json", files={name: file_sha256(model / name) for name in names})
    assert list(models._files(model)) == []
    edit_tensors(model, lambda tensors: tensors["classifier.bias"].add_(0.01))
    (model / "tokenizer.json").unlink()
    found = list(models._files(model))
    assert [(f["severity"], f["code"], f["message"].split()[0]) for f in found] == [
        ("error", "changed_file", WEIGHTS), ("error", "missing_file", "tokenizer.json")]  # fmt: skip


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/b", "a" * 5000, "..", "a\0b"])
def test_a_sum_of_what_can_be_no_file_of_the_folder_is_told_and_nothing_outside_is_read(name: str, model: Path) -> None:
    (model.parent / "secret").write_bytes(b"outside")
    edit_json(model / "nabi.json", files={name: "0" * 64})
    assert codes(check_model(str(model))) == [("error", "strange_name"), ("info", "golden")]


@pytest.mark.parametrize("weight_map", [[], {"a": [1]}, {"a": 3}])
def test_an_index_that_is_not_usable_is_told(weight_map: Any, model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (found,) = check_model(str(model))
    assert found["code"] == "load" and "the index is not usable" in found["message"]


def test_files_that_are_not_opened(model: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (model / "it ran",))

    torch.save(Trap(), model / "pytorch_model.bin")
    (model / "modeling_custom.py").write_text(f"open({str(model / 'it ran')!r}, 'w')")
    shutil.copy(model / WEIGHTS, model / "adapter_model.safetensors")
    found = check_model(str(model))
    assert codes(found) == [("warning", "foreign_weights"), ("warning", "unread_weights"), ("warning", "code"), ("info", "golden")]
    assert the(found, "foreign_weights")["fix"] == f"rm {model / 'pytorch_model.bin'}" and not (model / "it ran").exists()


def test_shards_are_no_unread_weights(model: Path) -> None:
    tensors = load_file(model / WEIGHTS)
    halves = dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])
    weight_map = {}
    for i, half in enumerate(halves, 1):
        save_file(half, model / f"model-0000{i}-of-00002.safetensors")
        weight_map |= dict.fromkeys(half, f"model-0000{i}-of-00002.safetensors")
    (model / WEIGHTS).unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert codes(check_model(str(model))) == [("info", "golden")]


def test_labels_without_names(model: Path) -> None:
    names = {"0": "LABEL_0", "1": "LABEL_1"}
    edit_json(model / "config.json", id2label=names, label2id={v: int(k) for k, v in names.items()})
    edit_json(model / "nabi.json", settings={**json.loads((model / "nabi.json").read_text())["settings"], "labels": list(names.values())})
    finding = the(check_model(str(model)), "nameless_labels")
    assert "LABEL_0, LABEL_1" in finding["message"] and "nabi.json" in finding["fix"]
    (model / "nabi.json").unlink()
    assert the(check_model(str(model)), "nameless_labels")["fix"].startswith('write them into "id2label"')


def test_unused_tensors(model: Path) -> None:
    edit_tensors(model, lambda tensors: tensors.update({"cls.predictions.bias": torch.zeros(3)}))
    finding = the(check_model(str(model)), "unused_tensors")
    assert finding["severity"] == "info" and finding["message"].startswith("1 of ")
    assert "cls.predictions.bias (belongs to a head that this task does not build)" in finding["message"]
    edit_tensors(model, lambda tensors: tensors.update({"strange": torch.zeros(3)}))
    assert codes(check_model(str(model))) == [("error", "load")]
    edit_tensors(model, lambda tensors: [tensors.pop(name) for name in ("strange", "bert.embeddings.LayerNorm.bias")])
    assert codes(check_model(str(model))) == [("error", "load")]


def test_a_head_that_is_gone(model: Path) -> None:
    edit_tensors(model, lambda tensors: [tensors.pop(name) for name in ("classifier.weight", "classifier.bias")])
    assert codes(check_model(str(model))) == [("error", "no_head")]
    (model / "nabi.json").unlink()
    assert codes(check_model(str(model))) == [("info", "no_head")]


def test_a_tokenizer_that_is_too_small(model: Path, tmp_path: Path) -> None:
    (model / "tokenizer.json").unlink()
    words = (model / "vocab.txt").read_text().splitlines()
    (model / "vocab.txt").write_text("\n".join(words[: int(0.95 * len(words))]) + "\n")
    assert "vocabulary" not in {f["code"] for f in check_model(str(model))}
    (model / "vocab.txt").write_text("\n".join(words[:200]) + "\n")
    finding = the(check_model(str(model)), "vocabulary")
    assert finding["severity"] == "warning" and "has 200 tokens" in finding["message"] and f"{len(words) - 200:,} are never read" in finding["message"]


def test_a_stored_truncation(model: Path) -> None:
    edit_json(model / "tokenizer.json", truncation={"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0})
    finding = the(check_model(str(model)), "stored_truncation")
    assert finding["severity"] == "info" and '"max_length": 16' in finding["message"]


def test_a_bare_encoder() -> None:
    found = check_model("minilm")
    assert codes(found)[0] == ("info", "no_head") and {s for s, _ in codes(found)} == {"info"}


# ---- data ----------------------------------------------------------------------------------------------------------------------------------------------


def write(path: Path, rows: list[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_data_with_commands_that_mend_it(tmp_path: Path) -> None:
    rows = small.rows(20)
    train = write(tmp_path / "train set.jsonl", [*rows, rows[3], rows[5]])
    dev = write(tmp_path / "dev.jsonl", [rows[7], *small.rows(4, seed=1)])
    found = check(train, dev)
    assert codes(found) == [("error", "leakage"), ("warning", "duplicates")] and found[1]["rows"] == (20, 21)
    assert f"sed '21d;22d' '{train}' > '{tmp_path / 'clean-train set.jsonl'}'" in found[1]["fix"] and f"sed '1d' {dev} > " in found[0]["fix"]
    assert codes(check(write(tmp_path / "clean.jsonl", rows))) == [("info", "clean")]
    many = check(write(tmp_path / "many.jsonl", [*rows, *rows[:13]]))
    assert "sed" not in many[0]["fix"] and len(many[0]["rows"]) == 13
    table = tmp_path / "a.csv"
    table.write_text("text,label\na,x\na,x\nb,y\nc,y\n")
    assert "sed" not in the(check(str(table)), "duplicates")["fix"]


def test_data_in_the_tokens_of_a_model(good: Path, tmp_path: Path) -> None:
    rows = small.rows(6)
    data = write(tmp_path / "a.jsonl", [*rows, *({"text": text, "label": "maybe"} for text in ("film " * 70, "나비가 " * 70, "좋다"))])
    found = check(data, model=str(good))
    assert {f["code"] for f in found} == {"long_texts", "labels_of_the_model", "tokenizer"}
    assert the(found, "long_texts")["rows"] == (6, 7) and "more than 64 tokens" in the(found, "long_texts")["message"]
    assert the(found, "labels_of_the_model")["message"].endswith("(neg, pos): maybe.")
    assert "Hangul" in the(found, "tokenizer")["message"]
    assert codes(check(data)) == [("info", "clean")]
    assert codes(check(write(tmp_path / "b.jsonl", rows), model=str(good))) == [("info", "clean")]


def test_many_rows_in_tokens_are_quick(good: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [{"text": f"{i} film", "label": str(i % 2)} for i in range(20_000)])
    began = time.process_time()
    check(data, model=str(good))
    assert time.process_time() - began < 8


def test_options_of_data_go_with_data(good: Path, tmp_path: Path) -> None:
    for arguments in ({"dev": "x"}, {"columns": {"text": "a"}}, {"model": "minilm"}):
        with pytest.raises(OptionError, match=f"--{next(iter(arguments))} goes with a data file, and a model was given"):
            check(str(good), **arguments)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="and no target"):
            check(None, **arguments)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no such file"):
        check(str(tmp_path / "nowhere.csv"))
    with pytest.raises(CheckpointError):
        check(write(tmp_path / "a.jsonl", small.rows(4)), model=str(tmp_path / "nowhere"))


# ---- the machine ---------------------------------------------------------------------------------------------------------------------------------------


def test_the_machine() -> None:
    began = time.perf_counter()
    found = check_machine()
    assert time.perf_counter() - began < 5
    assert {"versions", "cpu", "fast_path", "memory", "disk", "cache", "offline"} <= {code for _, code in codes(found)}
    assert torch.__version__.partition("+")[0] in the(found, "versions")["message"] and "MISSING" not in the(found, "versions")["message"]


@pytest.mark.parametrize(
    ("environment", "threads", "code"),
    [
        ({}, 4, None),
        ({}, 5, "threads"),
        ({"OMP_NUM_THREADS": "1"}, 1, "threads"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 4, "waiting"),
        ({"KMP_BLOCKTIME": "infinite"}, 4, "waiting"),
        ({"OMP_WAIT_POLICY": "passive", "OMP_PROC_BIND": "false", "TOKENIZERS_PARALLELISM": "true"}, 4, None),
        ({"OMP_PROC_BIND": "close"}, 4, "binding"),
        ({"TOKENIZERS_PARALLELISM": "false"}, 4, "tokenizers"),
        ({"ATEN_CPU_CAPABILITY": "default"}, 4, "instructions"),
    ],
)
def test_settings_that_hurt(environment: dict[str, str], threads: int, code: str | None) -> None:
    found = list(machine._threads(environment, 4.0, threads))
    assert [f["code"] for f in found] == ([code] if code else []) and all(f["fix"] for f in found)


def test_a_quota_of_the_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = machine.available_cores()
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.available_cores() == whole
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("900000000\n")
    (tmp_path / "memory.current").write_text("800000000\n")
    assert machine.available_cores() == 0.5
    found = list(machine._memory())
    assert [f["code"] for f in found] == ["memory", "little_memory"] and "100 MB of 900 MB" in found[0]["message"]
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.available_cores() == whole


def test_the_cache(tmp_path: Path) -> None:
    assert "does not exist yet" in next(machine._cache([tmp_path / "none"]))["message"]
    for name in ("a/b", "c/d"):
        blobs = tmp_path / f"models--{name.replace('/', '--')}" / "blobs"
        blobs.mkdir(parents=True)
        (blobs / ("0" * 40)).write_bytes(bytes(1_500_000))
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "whole").symlink_to(Path("../../blobs") / ("0" * 40))
    found = list(machine._cache([tmp_path]))
    assert [f["code"] for f in found] == ["cache"] and "2 models, 3 MB" in found[0]["message"]
    (tmp_path / "models--c--d" / "blobs" / "1.incomplete").write_bytes(bytes(2000))
    (snapshot / "gone").symlink_to(Path("../../blobs/2"))
    (tmp_path / "models--c--d" / "blobs" / "shared").symlink_to(tmp_path / "blobs" / "3")
    found = list(machine._cache([tmp_path]))
    assert [f["code"] for f in found] == ["cache", "half_fetched", "broken_links"]
    assert "c/d" in found[1]["message"] and "a/b" in found[2]["message"] and f"find {tmp_path} -name '*.incomplete' -delete" in found[1]["fix"]


def test_slow_bfloat16() -> None:
    fine, slow = {"fp32": 1.0, "fp32 prepared": 2.0, "bf16 prepared": 4.0}, {"fp32": 1.0, "fp32 prepared": 2.0, "bf16 prepared": 0.5}
    assert [f["code"] for f in machine._speed(fine)] == ["fast_path"] and [f["code"] for f in machine._speed(slow)] == ["fast_path", "bf16"]


def test_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert list(machine._cuda()) == [] or Path("/proc/driver/nvidia/version").exists()
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    (finding,) = machine._cuda()
    assert finding["severity"] == "warning" and "NVIDIA driver" in finding["message"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (140_000_000_000, 150_000_000_000))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(name="H200", major=9, minor=0))
    (finding,) = machine._cuda()
    assert finding["severity"] == "info" and finding["message"] == "cuda:0 is H200, capability 9.0, 140.0 GB of 150.0 GB free."


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=9e9, free=3e9)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage)
    places = {"here": tmp_path, "in the cache": tmp_path / "not" / "yet"}
    assert [f["code"] for f in machine._disk(places)] == ["disk"]  # both lie on one disk
    usage.free = 1e9
    assert [f["code"] for f in machine._disk(places)] == ["disk", "little_disk"]
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    assert "read_only" in {f["code"] for f in machine._disk(places)}


def test_an_encoding_without_hangul(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(machine._encoding()) == []
    monkeypatch.setattr(machine.sys, "getfilesystemencoding", lambda: "ascii")
    assert [f["code"] for f in machine._encoding()] == ["locale"]


# ---- bench ---------------------------------------------------------------------------------------------------------------------------------------------


def test_bench(good: Path, tmp_path: Path) -> None:
    rows = small.rows(30)
    began = time.perf_counter()
    found = measure(str(good), write(tmp_path / "a.jsonl", rows), seconds=4.0)  # with room for a busy machine
    assert time.perf_counter() - began < 24
    json.dumps(found)
    assert (found["rows"], found["data"], found["task"], found["note"]) == (30, "a.jsonl", "text_classification", "")
    assert [v["name"] for v in found["variants"]] == list(VARIANTS) and found["rounds"] >= 1
    plain, prepared, half = found["variants"]
    assert plain["difference"] == 0.0 and prepared["difference"] < 1e-5 < half["difference"] < 0.1
    loaded = checkpoint.load(good)
    tokens = sum(row.tokens for example in rows for row in loaded.encode(example, loaded.options()))
    assert found["tokens"] == tokens and found["bytes"] == sum(p.stat().st_size for p in good.iterdir())
    for variant in found["variants"]:
        speed = variant["rows_per_second"]
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
        assert variant["tokens_per_second"]["median"] / speed["median"] == pytest.approx(tokens / 30)
        assert 0 < variant["latency_ms"]["median"] <= variant["latency_ms"]["p95"] and variant["latency_ms"]["calls"] >= 2
        assert variant["peak_bytes"] > 1e7 and set(variant["metrics"]) == {"accuracy", "macro_f1", "mcc", "ece", "f1/neg", "f1/pos"}
    text = "\n".join(lines(found))
    assert all(name in text for name in VARIANTS) and "macro_f1" in text


def test_bench_sees_a_precision_that_is_wrong(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = torch.nn.functional.linear
    monkeypatch.setattr("nabi.nn.fast.PreparedLinear.forward", lambda self, x, add=None, act="": usual(x.float(), self.weight.to_dense().float()) * 0 + 1)
    found = measure(str(good), write(tmp_path / "a.jsonl", small.rows(8)), seconds=0.1)
    assert found["variants"][1]["difference"] > 0.1


def test_bench_without_data_or_labels(good: Path, tmp_path: Path) -> None:
    found = measure(str(good), seconds=0.5)
    assert found["data"] == "sentences of its own" and found["variants"][0]["metrics"] is None and found["rows"] >= 8
    unlabelled = measure(str(good), write(tmp_path / "a.jsonl", [{"text": "good film"}]), seconds=0.1)
    assert unlabelled["rows"] == 1 and unlabelled["variants"][0]["metrics"] is None
    with pytest.raises(OptionError, match="no time to measure"):
        measure(str(good), seconds=0)


def test_the_sentences_are_always_the_same_and_of_realistic_lengths() -> None:
    words = sorted(text.count(" ") + 1 for text in texts(256))
    assert texts(256)[:9] == texts(9) and 2 <= words[0] <= 6 and 15 <= words[128] <= 35 and 150 <= words[-1] <= 250 + max(s.count(" ") for s in SENTENCES)
