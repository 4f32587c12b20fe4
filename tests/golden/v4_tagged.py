"""Makes ``v4_tagged.json``: what the incumbent's version 4 pipeline answers over the tiny models of ``tests/tasks/tagged.py``.

    python -m venv v4 && v4/bin/pip install torch==2.13.0 transformers==4.57.6 click
    PYTHONPATH=src:tests OMP_NUM_THREADS=1 v4/bin/python tests/golden/v4_tagged.py

Each case: the model, keyword arguments, the input, the answer.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from golden.committed import used
from tasks.tagged import LONG, MODELS, TEXTS, folder

FILE = Path(__file__).with_suffix(".json")
STRATEGIES = ("none", "simple", "first", "average", "max")
SPLIT = ["Ada", "went", "to", "Berlin", ",", "York", "."]
CASES: list[tuple[str, dict[str, Any], Any]] = [
    *((name, {"aggregation_strategy": s}, text) for name in MODELS for s in STRATEGIES for text in TEXTS if text.isascii() or name != "bytes"),
    *((name, {"aggregation_strategy": s, "stride": stride}, LONG) for name in ("bio", "plain") for s in STRATEGIES[1:] for stride in (0, 4, 15)),
    *(("bio", {"aggregation_strategy": s, "ignore_labels": ignored}, TEXTS[0]) for s in STRATEGIES for ignored in ([], ["PER"], ["O", "B-LOC", "LOC"])),
    *(("bio", {"aggregation_strategy": s}, given) for s in ("none", "first") for given in (list(TEXTS[:3]), [TEXTS[0]])),
    *(("bio", {"aggregation_strategy": s, "is_split_into_words": True, **d}, [SPLIT, SPLIT[:1]]) for s in STRATEGIES for d in ({}, {"delimiter": ""})),
    *(("bio", {"aggregation_strategy": "simple", "is_split_into_words": True, "delimiter": "--"}, [SPLIT]) for _ in range(1)),
    *(("bio", {"grouped_entities": a, **b}, TEXTS[0]) for a in (True, False) for b in ({}, {"ignore_subwords": True}, {"ignore_subwords": False})),
]


def plain(answer: Any) -> Any:
    """NumPy's numbers as Python's."""
    if isinstance(answer, list):
        return [plain(x) for x in answer]
    return {key: x.item() if hasattr(x, "item") else x for key, x in answer.items()}


def main() -> None:
    import transformers

    assert transformers.__version__ == "4.57.6"
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    found = []
    with tempfile.TemporaryDirectory() as base:
        for name in MODELS:
            pipe = transformers.pipeline("ner", model=str(folder(name, Path(base) / name)), device="cpu")
            for options, given in [(options, given) for model, options, given in CASES if model == name]:
                found.append({"model": name, "options": options, "given": given, "answer": plain(pipe(given, **options))})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in found)
    FILE.write_text(f'{{"version": "{transformers.__version__}",\n"checkpoints": {json.dumps(used())},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
