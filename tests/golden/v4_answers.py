"""Makes ``v4_answers.json``: what the incumbent's version 4 answers over the tiny models of ``tests/tasks/answering.py``.

    python -m venv v4 && v4/bin/pip install torch==2.13.0 transformers==4.57.6 sentencepiece
    PYTHONPATH=src:tests OMP_NUM_THREADS=1 v4/bin/python tests/golden/v4_answers.py

Each case: the model, positional arguments, keyword arguments, the answer.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from golden.committed import used
from tasks.answering import CONTEXT, KINDS, KOREAN, LONG, QUESTION, folder

FILE = Path(__file__).with_suffix(".json")
ONE = {"question": QUESTION, "context": CONTEXT}
OTHER = {"question": "Who sat on the mat?", "context": "The dog sat on the mat."}
OPTIONS: list[dict[str, Any]] = [
    {}, {"top_k": 3}, {"topk": 2}, {"top_k": 8}, {"max_answer_len": 1, "top_k": 4}, {"max_answer_len": 4, "top_k": 3}, {"max_answer_len": 40},
    {"align_to_words": False}, {"align_to_words": False, "top_k": 6}, {"handle_impossible_answer": True}, {"handle_impossible_answer": True, "top_k": 5},
    {"padding": True}, {"max_question_len": 64},
]  # fmt: skip
WINDOWS: list[dict[str, Any]] = [
    {}, {"top_k": 5}, {"max_seq_len": 64}, {"max_seq_len": 64, "doc_stride": 8, "top_k": 4}, {"doc_stride": 0, "top_k": 4},
    {"max_seq_len": 48, "doc_stride": 16, "top_k": 3, "handle_impossible_answer": True},
    {"max_seq_len": 60, "doc_stride": 4, "align_to_words": False, "top_k": 6},
]  # fmt: skip
FORMS: list[tuple[list[Any], dict[str, Any]]] = [
    ([ONE], {}), ([[ONE]], {}), ([[ONE, OTHER]], {}), ([ONE, OTHER], {}), ([QUESTION, CONTEXT], {}), ([], {"X": ONE}), ([], {"data": [ONE, OTHER]}),
    ([], {"question": [QUESTION, "Who?"], "context": CONTEXT}), ([], {"question": [QUESTION, "Who?"], "context": [CONTEXT, "The dog."]}),
    ([], {"question": [QUESTION], "context": [CONTEXT]}), ([], {"question": [QUESTION], "context": CONTEXT, "top_k": 2}), ([[ONE, OTHER]], {"top_k": 2}),
]  # fmt: skip


def cases() -> list[tuple[str, list[Any], dict[str, Any]]]:
    """(model, positional arguments, keyword arguments)."""
    found: list[tuple[str, list[Any], dict[str, Any]]] = []
    for kind in KINDS:
        found += [(kind, [], {**OTHER, **options}) for options in OPTIONS]
        short = {"question": "Who?", "context": LONG}
        found += [(kind, [], {**short, **options}) for options in WINDOWS]
        found += [(kind, [], {"question": "Who?", "context": KOREAN, "align_to_words": False, "top_k": 4, "max_answer_len": 8})]
    found += [("bert", [], {**ONE, **options}) for options in OPTIONS]
    found += [("bert", [], {"question": "어디?", "context": KOREAN, "align_to_words": align, "top_k": 3}) for align in (True, False)]
    found += [("bert", *form) for form in FORMS]
    return found


def main() -> None:
    import transformers

    assert transformers.__version__ == "4.57.6"
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    lines = []
    with tempfile.TemporaryDirectory() as base:
        pipes = {kind: transformers.pipeline("question-answering", model=str(folder(kind, Path(base) / kind)), device="cpu") for kind in KINDS}
        for kind, args, options in cases():
            try:
                answer = pipes[kind](*args, **options)
            except Exception as problem:
                print("failed", kind, args, options, problem, file=sys.stderr)
                raise
            lines.append(json.dumps({"model": kind, "args": args, "options": options, "answer": answer}, ensure_ascii=False))
    told = ",\n".join(lines)
    FILE.write_text(f'{{"version": "{transformers.__version__}",\n"checkpoints": {json.dumps(used())},\n"cases": [\n{told}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
