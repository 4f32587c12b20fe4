"""The places where nabi answers otherwise than the incumbent's version 4 on purpose; makes ``v4_differences.json``: what version 4 answers there.

    python -m venv v4 && v4/bin/pip install torch==2.13.0 transformers==4.57.6 sentencepiece
    PYTHONPATH=src:tests OMP_NUM_THREADS=1 v4/bin/python tests/golden/v4_differences.py

``docs/differences.md`` has each of them with its reason, under the names in ``CASES``. ``AS_V4`` says which options take a difference away, and the other
golden tests take them from there alone: whatever else differs fails them.

Each case: the difference, the pipeline's name, the model, positional arguments, keyword arguments, the answer, or the error's kind.
"""

from __future__ import annotations

import json
import tempfile
import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

import nabi
from golden.committed import committed, used
from nabi import checkpoint, tasks
from tasks import answering, masked, read, tagged, written

FILE = Path(__file__).with_suffix(".json")
# which options give version 4's answer where one does
AS_V4: dict[str, dict[str, Any]] = {
    "long_texts": {"long": "truncate"},
    "entities": {"aggregation_strategy": "none"},
    "particles": {"particles": "keep"},
    "words_of_answers": {"align_to_words": True},
}
LONG = "the film was good and the plot was dull " * 20
KOREAN = {"question": "어디?", "context": answering.KOREAN}
ONE = {"question": answering.QUESTION, "context": answering.CONTEXT}
EOJEOL = ("나비가", "서울에서", "꽃에", "고양이는", "하늘로", "강가에서")  # that one token holds with its particle
Case = tuple[str, str, list[Any], dict[str, Any]]  # pipeline, model, arguments, options
CASES: dict[str, list[Case]] = {
    "long_texts": [
        ("ner", "tagger", [tagged.LONG], {"aggregation_strategy": "simple"}),
        ("zero-shot-classification", "nli", [LONG + "awful"], {"candidate_labels": ["good", "bad"]}),
        ("text-classification", "nli", [LONG], {}),
        ("feature-extraction", "encoder", [LONG], {}),
    ],
    "entities": [("ner", "tagger", [text], {}) for text in tagged.TEXTS[:2]],
    "particles": [("question-answering", "eojeol", [KOREAN], {"top_k": 20, "align_to_words": False})],
    "words_of_answers": [("question-answering", "answerer", [KOREAN], {"top_k": 9})],
    "tokens": [
        ("ner", "tagger", [unicodedata.normalize("NFD", "박근혜가 서울에서 Ada를 만났다")], {"aggregation_strategy": "simple", "ignore_labels": []}),
    ],
    "spaces": [("question-answering", "writer", [ONE], {"top_k": 9, "align_to_words": False})],
    "empty_answers": [
        ("question-answering", "answerer", [{"question": "Who?", "context": "The cat."}], {"top_k": 30, "align_to_words": False, "max_answer_len": 1}),
    ],
    "question_length": [("question-answering", "answerer", [ONE], {"max_question_len": 2})],
    "place_of_no_answer": [("question-answering", "writer", [ONE], {"handle_impossible_answer": True, "top_k": 400})],
    "overlap": [("question-answering", "answerer", [{"question": "Where was the cat? " * 5, "context": answering.LONG}], {"max_seq_len": 40})],
    "limits": [
        ("text-generation", "gpt2", ["the cat"], {"max_length": 12, "do_sample": False}),
        ("text-generation", "gpt2", ["the cat"], {"max_new_tokens": 30}),
    ],
    "arguments": [
        ("zero-shot-classification", "nli", ["the good film"], {"candidate_labels": ["good", "bad"], "hypothesis_templat": "{}"}),
        ("feature-extraction", "encoder", ["the good film"], {"poolin": "mean"}),
    ],
    "numbers": [("ner", "tagger", [tagged.TEXTS[0]], {"aggregation_strategy": "simple"})],
    "heads": [("text-classification", "bare", ["the good film"], {}), ("ner", "bare", ["the good film"], {})],
    "lists": [("fill-mask", "filler", [["the film is [MASK] ."]], {})],
}


def write(name: str, path: Path) -> Path:
    """The folder of ``eojeol``, whose words hold their particles, or of ``writer``, which answers out of words of bytes, from its recipe."""
    tokens = path.with_name(f"{name}-tokens")
    if name == "eojeol":
        tokens.mkdir(parents=True)
        answering.wordpiece(tokens, "bert")
        (tokens / "vocab.txt").write_text((tokens / "vocab.txt").read_text(encoding="utf-8") + "\n".join(EOJEOL) + "\n", encoding="utf-8")
        family, size = "bert", answering.SIZES["bert"]
    else:
        tokens, family, size = written.tokenizer("gpt2", tokens), "gpt2", {**written.SIZES["gpt2"], "max_positions": 300}
        written.edit(tokens / "tokenizer_config.json", model_max_length=300)
    task = tasks.find("question_answering")
    checkpoint.save(written.randomised(nabi.create(family, {"vocab_size": 1, **size}, task.name, task.Settings(), tokens), 0, 0.3), path)
    (path / "nabi.json").unlink()
    return path


def folder(name: str, base: Path) -> Path:
    """The folder of one of the models in ``CASES``."""
    path = base / name
    if name == "tagger":
        return tagged.folder("bio", path)
    if name == "answerer":
        return answering.folder("bert", path)
    if name in ("eojeol", "writer"):
        return committed(f"differences-{name}", path, lambda path: write(name, path))
    if name == "filler":
        return masked.folder("bert", path)
    if name == "gpt2":
        return written.folder("gpt2", path)
    if name == "bare":
        read.folder("encoder", path)
        tensors = {n: x for n, x in load_file(path / "model.safetensors").items() if not n.startswith("classifier")}
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        return path
    return read.folder(name, path)


def plain(answer: Any) -> Any:
    """Plain data; a number of NumPy is told by its kind, for JSON has none."""
    if isinstance(answer, list | tuple):
        return [plain(x) for x in answer]
    if isinstance(answer, Mapping):
        return {key: plain(x) for key, x in answer.items()}
    return f"{type(answer).__name__} {answer.item():.6g}" if hasattr(answer, "item") else answer


def main() -> None:
    import transformers

    assert transformers.__version__ == "4.57.6"
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    lines = []
    with tempfile.TemporaryDirectory() as base:
        folders = {name: folder(name, Path(base)) for name in dict.fromkeys(case[1] for cases in CASES.values() for case in cases)}
        for difference, cases in CASES.items():
            for task, model, args, options in cases:
                transformers.set_seed(0)
                try:
                    told: dict[str, Any] = {"answer": plain(transformers.pipeline(task, model=str(folders[model]), device="cpu")(*args, **options))}
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as problem:  # noqa: BLE001  a panic of the tokenizer's library is no Exception
                    told = {"error": type(problem).__name__}
                found = {"difference": difference, "task": task, "model": model, "args": args, "options": options, **told}
                lines.append(json.dumps(found, ensure_ascii=False))
    head = f'"version": "{transformers.__version__}",\n"checkpoints": {json.dumps(used())}'
    FILE.write_text(f'{{{head},\n"cases": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
