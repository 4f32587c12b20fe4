"""Thousands of damaged model folders: each loads or is refused by our own error, within 2 seconds of CPU and 512 MB, and none ends the process.

The loader runs in worker processes under a limit on their memory, so a crash of a library shows as a worker that is gone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hostile import mutants
from hostile.mutants import FILES, MEMORY, SECONDS
from nabi import checkpoint, load
from nabi.tasks.text_classification import TextClassification
from text.tokenizer_kinds import byte_level, metaspace

KINDS = {"wordpiece": None, "byte-level": lambda: byte_level(True, True), "unigram": metaspace}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Whole folders with a tokenizer of each kind, with their weights in all three forms."""
    made = []
    for kind, build in KINDS.items():
        folder = tmp_path_factory.mktemp(kind) / "model"
        tokenizer = tmp_path_factory.mktemp("tokenizer")
        if build is None:
            (tokenizer / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]) + "\n")
        else:
            build().save(str(tokenizer / "tokenizer.json"))
        settings = TextClassification.Settings(("ham", "spam"))
        checkpoint.save(checkpoint.create("bert", "tiny", "text_classification", settings, tokenizer), folder)
        state = load_file(folder / "model.safetensors")
        shards = [sorted(state)[i::2] for i in range(2)]
        for i, names in enumerate(shards):
            save_file({n: state[n] for n in names}, folder / f"model-{i}.safetensors")
        where = {n: f"model-{i}.safetensors" for i, names in enumerate(shards) for n in names}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=kind != "unigram")
        entry = {"content": "[PAD]", "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
        config = {"do_lower_case": True, "model_max_length": 512, "cls_token": {"content": "[CLS]"}, "added_tokens_decoder": {"0": entry}}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        made.append(folder)
    return made


def run(folder: Path, scratch: Path, first: int, last: int) -> list[list[str]]:
    """[number, file, outcome, seconds, MB] of each mutant; a worker that dies takes one mutant with it, and the next one goes on."""
    found: list[list[str]] = []
    while first < last:
        command = [sys.executable, mutants.__file__, str(folder), str(scratch), str(first), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        lines = [line.split(" ") for line in done.stdout.splitlines()]
        found += [line for line in lines if len(line) == 5]
        if done.returncode == 0:
            break
        assert lines, done.stderr[-2000:]
        number, file = lines[-1][:2]
        found.append([number, file, f"!died:{done.returncode}", "0", "0"])
        first = int(number) + 1
    return found


def check(folders: list[Path], scratch: Path, each: int) -> Counter[tuple[str, str]]:
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(lambda i: run(folders[i], scratch / str(i), i * 100_000, i * 100_000 + each), range(len(folders)))
        found = [line for part in parts for line in part]
    assert len(found) == each * len(folders)
    bad = [line for line in found if line[2].startswith("!") or float(line[3]) > SECONDS or int(line[4]) << 20 > MEMORY]
    assert not bad, "\n".join(" ".join(line) for line in bad[:20])
    return Counter((file, outcome) for _, file, outcome, _, _ in found)


def test_some_hundred_mutants(folders: list[Path], tmp_path: Path) -> None:
    counts = check(folders, tmp_path, 140)
    for file in FILES:  # a mutation that never harms, or that never leaves a file whole, would test nothing
        outcomes = {outcome: n for (name, outcome), n in counts.items() if name == file}
        assert sum(n for o, n in outcomes.items() if o != "loads") >= 5 and outcomes.get("loads", 0) >= 1, (file, outcomes)


@pytest.mark.slow
def test_ten_thousand_mutants(folders: list[Path], tmp_path: Path) -> None:
    counts = check(folders, tmp_path, 3360)
    print("\n" + "\n".join(f"{file:32} {outcome:18} {n}" for (file, outcome), n in sorted(counts.items())))
    assert sum(counts.values()) >= 10_000


def test_control_the_folders_load_whole(folders: list[Path], tmp_path: Path) -> None:
    for i, folder in enumerate(folders):
        for name in FILES:
            mutants.lay(folder, tmp_path / str(i), name, (folder / name).read_bytes())
            assert load(tmp_path / str(i)).predict("a b")["label"]


def test_control_a_worker_that_dies_or_hangs_is_seen(folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys\nn, last = int(sys.argv[3]), int(sys.argv[4])\n"
        "for i in range(n, last):\n"
        "    print(i, 'config.json', end=' ', flush=True)\n"
        "    if i == 2: os.abort()\n"
        "    print(*(('!IndexError:x', 0.1, 1) if i == 3 else ('loads', 9.5 if i == 4 else 0.1, 600 if i == 5 else 1)), flush=True)\n"
    )
    monkeypatch.setattr(mutants, "__file__", str(script))
    found = run(folders[0], tmp_path, 0, 7)
    assert [line[2] for line in found] == ["loads", "loads", "!died:-6", "!IndexError:x", "loads", "loads", "loads"]
    with pytest.raises(AssertionError) as caught:
        check(folders[:1], tmp_path, 7)
    seen = [line.split()[:3] for line in str(caught.value).splitlines()[:4]]
    assert [line[0] for line in seen] == ["2", "3", "4", "5"] and [line[2] for line in seen] == ["!died:-6", "!IndexError:x", "loads", "loads"]
