"""Several processes and recomputation: every family and task has the gradient of one process that keeps everything."""

from __future__ import annotations

from pathlib import Path

from conformance.kit import CELLS
from training.jobs import SPREADS
from training.together import Together


def test_every_cell_has_the_gradient_of_one_process(tokenizer: Path, tmp_path: Path) -> None:
    together = Together(tmp_path)
    both = together("every_cell", 2, tokenizer=str(tokenizer))
    together.close()
    for found in both:
        assert isinstance(found, dict), "the process failed: its words are above"
        assert len(found) == len(SPREADS) * len(CELLS)
        assert {name: value for name, value in found.items() if not value <= 1e-5} == {}
