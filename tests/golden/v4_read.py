"""Makes ``v4_read.json``: what the incumbent's version 4 pipelines answer over the tiny models of ``tests/tasks/read.py``.

    python -m venv v4 && v4/bin/pip install torch==2.13.0 transformers==4.57.6 sentencepiece
    PYTHONPATH=src:tests OMP_NUM_THREADS=1 v4/bin/python tests/golden/v4_read.py

Each case: the pipeline's name, the model, keyword arguments, the input, the answer.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from golden.committed import used
from tasks.read import LABELS, folder

FILE = Path(__file__).with_suffix(".json")
TEXTS = ["the good film", "a dull plot , and the cast was awful !", "나비가 좋다", "the songs \U0001f389 the scenes"]
LONG = "the film was good and the plot was dull " * 20
CASES: list[tuple[str, str, dict[str, Any], Any]] = [
    *(("zero-shot-classification", model, {"candidate_labels": labels, **options}, given) for model in LABELS for given in (*TEXTS[:2], TEXTS) for labels in (
        ["good", "bad", "film"], "good, awful , the songs,", ["bad"], "나비,good", ["good", "good", "bad"],
    ) for options in (
        {}, {"multi_label": True}, {"hypothesis_template": "the {} scene", "multi_label": False}, {"hypothesis_template": "나비가 {} 이다."},
    )),
    ("zero-shot-classification", "nli", {"candidate_labels": ["good", "bad"], "multi_class": True}, TEXTS[0]),
    ("zero-shot-classification", "nli", {"candidate_labels": ["good", "bad"]}, [TEXTS[0]]),
    ("zero-shot-classification", "nli", {"candidate_labels": ["good", "bad", "film"], "truncation": True}, LONG),
    *(("feature-extraction", "encoder", options, given) for given in (TEXTS[0], [TEXTS[1]], TEXTS) for options in (
        {}, {"return_tensors": True}, {"truncation": True}, {"tokenize_kwargs": {"truncation": True, "max_length": 5}},
    )),
    ("feature-extraction", "encoder", {"truncation": True}, LONG),
    ("feature-extraction", "encoder", {}, ""),
]  # fmt: skip


def plain(answer: Any) -> Any:
    """Tensors as lists, numbers with the digits that a float32 has."""
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    if isinstance(answer, list | tuple):
        return [plain(x) for x in answer]
    if isinstance(answer, dict):
        return {key: plain(x) for key, x in answer.items()}
    return float(f"{answer:.8g}") if isinstance(answer, float) else answer


def main() -> None:
    import transformers

    assert transformers.__version__ == "4.57.6"
    transformers.logging.set_verbosity_error()
    found = []
    with tempfile.TemporaryDirectory() as base:
        folders = {name: folder(name, Path(base) / name) for name in (*LABELS, "encoder")}
        made: dict[tuple[str, str], Any] = {}
        for task, name, options, given in CASES:
            if (task, name) not in made:
                made[task, name] = transformers.pipeline(task, model=str(folders[name]), device="cpu")
            # the incumbent changes the dict that it is given
            asked = {**options, **({"tokenize_kwargs": dict(options["tokenize_kwargs"])} if "tokenize_kwargs" in options else {})}
            found.append({"task": task, "model": name, "options": options, "given": given, "answer": plain(made[task, name](given, **asked))})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in found)
    FILE.write_text(f'{{"version": "{transformers.__version__}",\n"checkpoints": {json.dumps(used())},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
