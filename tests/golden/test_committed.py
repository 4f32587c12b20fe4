"""The committed checkpoints are what their recipes make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from golden.committed import FOLDER, committed
from tasks import answering, masked, read, tagged, written

Recipe = Callable[[Path], object]
RECIPES: dict[str, Recipe] = {
    **{f"tagged-{name}": lambda path, name=name: tagged.write(name, path) for name in tagged.MODELS},
    **{f"answers-{kind}": lambda path, kind=kind: answering.write(kind, path) for kind in answering.KINDS},
    **{f"filled-{kind}": lambda path, kind=kind: masked.write(kind, path) for kind in masked.KINDS},
    **{f"read-{name}": lambda path, name=name: read.write(name, path) for name in (*read.LABELS, "encoder")},
    **{f"written-{kind}": lambda path, kind=kind: written.write(kind, path) for kind in written.KINDS},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_committed_checkpoint_is_what_its_recipe_makes(name: str, tmp_path: Path) -> None:
    kept = committed(name, tmp_path / "kept" / "model", RECIPES[name])
    RECIPES[name](tmp_path / "made" / "model")
    files = {path.name for path in kept.iterdir()}
    assert files == {path.name for path in (tmp_path / "made" / "model").iterdir()}
    for file in files - {"model.safetensors", "nabi.json"}:
        assert (kept / file).read_bytes() == (tmp_path / "made" / "model" / file).read_bytes(), file
    ours, again = (load_file(tmp_path / side / "model" / "model.safetensors") for side in ("kept", "made"))
    gaps = {key: float((ours[key] - again[key]).abs().max()) for key in ours.keys() | again.keys()}
    assert max(gaps.values()) <= 1e-6, gaps
    if name == next(iter(RECIPES)):  # a recipe with another seed makes something else
        other = load_file(tagged.write("bio", tmp_path / "other", 1) / "model.safetensors")
        assert max(float((ours[key] - other[key]).abs().max()) for key in ours) > 0.1


def test_every_committed_checkpoint_has_a_recipe() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(RECIPES)
