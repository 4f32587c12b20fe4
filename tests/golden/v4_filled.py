"""Makes ``v4_filled.json``: what the incumbent's version 4 fill-mask pipeline answers over the tiny models of ``tests/tasks/masked.py``.

    python -m venv v4 && v4/bin/pip install torch==2.13.0 transformers==4.57.6
    PYTHONPATH=src:tests OMP_NUM_THREADS=1 v4/bin/python tests/golden/v4_filled.py

Each case: the model, keyword arguments of the call, the input (its masks as the model spells them), the answer.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from golden.committed import used
from tasks.masked import KINDS, MASKS, folder

FILE = Path(__file__).with_suffix(".json")
ONE, SEVERAL, KOREAN = "the film is {} .", "the {} film , {} and good{}", "나비가 {} 날았다."
TEXTS: list[Any] = [ONE, SEVERAL, KOREAN, "{}", [ONE, SEVERAL], [KOREAN, ONE]]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"top_k": 9},
    {"targets": "good"},
    {"targets": ["good", "b", "the"]},
    {"targets": ["good", "b", "good"], "top_k": 2},
    {"targets": ["goodness", "thee"]},  # no tokens: their first pieces
]
LONG = "{} the film was good and bad , " * 6
CASES = [(options, text) for text in TEXTS for options in OPTIONS] + [({"tokenizer_kwargs": {"truncation": True, "max_length": 24}}, LONG)]


def spelt(text: Any, kind: str) -> Any:
    """The text with the mask of this model."""
    return [spelt(each, kind) for each in text] if isinstance(text, list) else text.replace("{}", MASKS[kind])


def main() -> None:
    import transformers

    found = []
    with tempfile.TemporaryDirectory() as base:
        for kind in KINDS:
            pipe = transformers.pipeline("fill-mask", str(folder(kind, Path(base) / kind)), device="cpu")
            found += [[kind, options, spelt(text, kind), pipe(spelt(text, kind), **options)] for options, text in CASES]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in found)
    head = f'"version": "{transformers.__version__}",\n"checkpoints": {json.dumps(used())}'
    FILE.write_text(f'{{{head},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{len(found)} cases of {transformers.__version__} in {FILE.name}, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
