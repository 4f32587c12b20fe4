"""The committed checkpoints are what their recipes make, and the golden files were made over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from compat import tiny
from golden import v4_differences
from golden.committed import FOLDER, committed, sums
from tasks import answering, masked, read, tagged, written

Recipe = Callable[[Path], object]
RECIPES: dict[str, Recipe] = {
    **{f"tagged-{name}": lambda path, name=name: tagged.write(name, path) for name in tagged.MODELS},
    **{f"answers-{kind}": lambda path, kind=kind: answering.write(kind, path) for kind in answering.KINDS},
    **{f"filled-{kind}": lambda path, kind=kind: masked.write(kind, path) for kind in masked.KINDS},
    **{f"read-{name}": lambda path, name=name: read.write(name, path) for name in (*read.LABELS, "encoder")},
    **{f"written-{kind}": lambda path, kind=kind: written.write(kind, path) for kind in written.KINDS},
    **{f"differences-{name}": lambda path, name=name: v4_differences.write(name, path) for name in ("eojeol", "writer")},
    **{f"compat-{name}": lambda path, name=name: tiny.write_model(name, path) for name in tiny.MODELS},
    **{f"compat-tokenizer-{kind}": lambda path, kind=kind: tiny.write_tokenizer(kind, path) for kind in ("bert", *tiny.MARIAN)},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_committed_checkpoint_is_what_its_recipe_makes(name: str, tmp_path: Path) -> None:
    kept = committed(name, tmp_path / "kept" / "model", RECIPES[name])
    RECIPES[name](tmp_path / "made" / "model")
    files = {path.name for path in kept.iterdir()}
    assert files == {path.name for path in (tmp_path / "made" / "model").iterdir()}
    # a trained SentencePiece model bears its library's version
    for file in files - {"model.safetensors", "nabi.json", "source.spm", "target.spm"}:
        assert (kept / file).read_bytes() == (tmp_path / "made" / "model" / file).read_bytes(), file
    if "model.safetensors" not in files:
        return
    ours, again = (load_file(tmp_path / side / "model" / "model.safetensors") for side in ("kept", "made"))
    gaps = {key: float((ours[key] - again[key]).abs().max()) for key in ours.keys() | again.keys()}
    assert max(gaps.values()) <= 1e-6, gaps
    if name == next(iter(RECIPES)):  # a recipe with another seed makes something else
        other = load_file(tagged.write("bio", tmp_path / "other", 1) / "model.safetensors")
        assert max(float((ours[key] - other[key]).abs().max()) for key in ours) > 0.1


GOLDEN = sorted(Path(__file__).parent.glob("v4_*.json"))


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_a_golden_file_was_made_over_the_committed_files(file: Path) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["version"] == "4.57.6" and found["checkpoints"]
    assert found["checkpoints"] == {name: sums(name) for name in found["checkpoints"]}


def test_each_committed_checkpoint_has_golden_answers() -> None:
    assert {name for file in GOLDEN for name in json.loads(file.read_text(encoding="utf-8"))["checkpoints"]} == set(RECIPES) and len(GOLDEN) == 7


def test_every_committed_checkpoint_has_a_recipe() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(RECIPES)
