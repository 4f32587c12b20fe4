"""Makes ``v4_written.json``: what the incumbent's version 4 pipelines answer over the tiny models of ``tests/tasks/written.py``.

    python -m venv v4 && v4/bin/pip install torch==2.13.0 transformers==4.57.6 sentencepiece
    PYTHONPATH=src:tests OMP_NUM_THREADS=1 v4/bin/python tests/golden/v4_written.py

Each case: the pipeline's name, the model, keyword arguments, the input, the answer.
"""

from __future__ import annotations

import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

from golden.committed import used
from tasks.written import MODELS, folder

FILE = Path(__file__).with_suffix(".json")
ONE, TWO = "the cat is on a 'mat' .", ["the cat", "a dog in the rain , on the road !"]
VARIED = {"no_repeat_ngram_size": 1}  # tiny models like to say one thing again and again
CASES: list[tuple[str, str, dict[str, Any], Any]] = [
    *(("text-generation", "gpt2", options, given) for given in (ONE, TWO, [ONE], "") for options in (
        {"max_new_tokens": 12, "do_sample": False}, {"max_new_tokens": 12, "do_sample": False, "num_beams": 3},
    )),
    *(("text-generation", "gpt2", {"do_sample": False, **options}, given) for given in (ONE, TWO) for options in (
        {"max_new_tokens": None, "max_length": 30},
        {"max_new_tokens": None, "max_length": 40, "prefix": "A: "},
        {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 3},
        {"max_new_tokens": 12, "return_full_text": False},
        {"max_new_tokens": 12, "return_tensors": True},
        {"max_new_tokens": 12, "return_tensors": True, "num_beams": 2},
        {"max_new_tokens": 12, "prefix": "A: "},
        {"max_new_tokens": 12, "clean_up_tokenization_spaces": False},
        {"max_new_tokens": 12, "clean_up_tokenization_spaces": True},
        {"max_new_tokens": 12, "repetition_penalty": 1.5},
        {"max_new_tokens": 12, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
        {"max_new_tokens": 40, "handle_long_generation": "hole"},
        {"max_new_tokens": 12, "stop_sequence": "a"},
        *({"max_new_tokens": 12, "return_type": kind} for kind in (0, 1, 2)),
    )),
    *((task, kind, options, given) for given in (ONE, TWO, [ONE]) for task, kind in (
        ("text2text-generation", "t5"), ("summarization", "t5"), ("translation_en_to_de", "t5"), ("translation_en_to_fr", "t5"), ("translation", "t5"),
        ("summarization", "bart"), ("text2text-generation", "bart"), ("translation", "marian"), ("translation_en_to_de", "marian"),
    ) for options in ({"max_new_tokens": 10, "num_beams": 1, **VARIED}, {"max_new_tokens": 10, "num_beams": 4, **VARIED})),
    *((task, kind, options, given) for given in (ONE, TWO) for task, kind in (
        ("text2text-generation", "t5"), ("summarization", "bart"), ("translation", "marian")
    ) for options in (
        {"max_new_tokens": None, "max_length": 9, "num_beams": 1, **VARIED},
        {"max_new_tokens": None, "max_length": 9, "min_length": 7, "num_beams": 2, **VARIED},
        {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 3, **VARIED},
        {"max_new_tokens": 8, "num_beams": 1, "return_tensors": True, **VARIED},
        {"max_new_tokens": 20, "num_beams": 1, "clean_up_tokenization_spaces": True, **VARIED},
        {"max_new_tokens": 20, "num_beams": 1, "clean_up_tokenization_spaces": False, **VARIED},
        {"max_new_tokens": 8, "num_beams": 3, "length_penalty": 0.0, "early_stopping": True, **VARIED},
    )),
    ("summarization", "settled", {"max_new_tokens": None}, ONE),
    ("summarization", "settled", {"max_new_tokens": None}, TWO),
    ("summarization", "settled", {"max_new_tokens": None, "return_tensors": True}, TWO),
    ("summarization", "settled", {"max_new_tokens": 6, "min_length": 0, "num_beams": 1}, TWO),
    ("summarization", "t5", {"max_new_tokens": None}, ONE),
    ("translation_en_to_de", "t5", {"max_new_tokens": None}, TWO),
    ("translation_en_to_fr", "t5", {"max_new_tokens": None}, TWO),
]  # fmt: skip


def plain(answer: Any) -> Any:
    """Tensors as lists."""
    if isinstance(answer, list):
        return [plain(x) for x in answer]
    return {key: x.tolist() if hasattr(x, "tolist") else x for key, x in answer.items()}


def main() -> None:
    import transformers
    from transformers.pipelines.text_generation import ReturnType

    assert transformers.__version__ == "4.57.6"
    transformers.logging.set_verbosity_error()
    found: dict[str, Any] = {"version": transformers.__version__, "cases": [], "streams": []}
    with tempfile.TemporaryDirectory() as base:
        folders = {name: folder(kind, Path(base) / name, generation=changes) for name, (kind, changes) in MODELS.items()}
        made: dict[tuple[str, str], Any] = {}
        for task, kind, options, given in CASES:
            if (task, kind) not in made:
                made[task, kind] = transformers.pipeline(task, model=str(folders[kind]), device="cpu")
            try:
                asked = {**options, "return_type": ReturnType(options["return_type"])} if "return_type" in options else options
                answer = plain(made[task, kind](given, **asked))
            except Exception as problem:
                print("failed", task, kind, options, given, problem, file=sys.stderr)
                raise
            found["cases"].append({"task": task, "model": kind, "options": options, "given": given, "answer": answer})
        for task, kind in (("text-generation", "gpt2"), ("text2text-generation", "t5"), ("summarization", "bart"), ("translation", "marian")):
            stream = made[task, kind]((x for x in TWO), max_new_tokens=8, num_beams=1, do_sample=False)
            assert not isinstance(stream, types.GeneratorType | list)
            found["streams"].append({"task": task, "model": kind, "answers": [plain(x) for x in stream]})
    lines = {name: ",\n".join(json.dumps(case, ensure_ascii=False) for case in found[name]) for name in ("cases", "streams")}
    told = ",\n".join(f'"{name}": [\n{text}\n]' for name, text in lines.items())
    FILE.write_text(f'{{"version": "{found["version"]}",\n"checkpoints": {json.dumps(used())},\n{told}}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
