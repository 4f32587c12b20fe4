"""Tiny models that write, each with a tokenizer of its own: a folder in the incumbent's form, the same on any machine for its weights are drawn from a seed.

``tests/golden/v4_written.py`` gives these folders to the incumbent's version 4; tests of the four tasks give them to nabi.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, processors

import nabi
from golden.committed import committed
from nabi import checkpoint, cli, tasks
from nabi.model import Model
from nabi.text import Tokenizer
from nabi.training.progress import Progress

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDE:0123456789'-"
MARKS = ".,!?"
KINDS = ("gpt2", "t5", "bart", "marian")
# models of the golden file: kind, and how its generation_config.json is changed; version 4.57 itself takes 4 beams where a
# model asks for another number, so 4 is what it asks for
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in KINDS},
    "settled": ("bart", {"num_beams": 4, "max_length": 12, "min_length": 5, "no_repeat_ngram_size": 1, "forced_eos_token_id": 2, "length_penalty": 2.0}),
}
FAMILY_TASK = {"gpt2": "text_generation", "t5": "text2text_generation", "bart": "summarization", "marian": "translation"}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_positions": 48},
    "t5": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "head_size": 8, "intermediate_size": 64, "num_buckets": 8, "max_distance": 12},
    "bart": {
        "hidden_size": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_heads": 4, "decoder_heads": 4, "encoder_intermediate_size": 64,
        "decoder_intermediate_size": 48, "max_positions": 48,
    },
    "marian": {
        "hidden_size": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_heads": 4, "decoder_heads": 4, "encoder_intermediate_size": 64,
        "decoder_intermediate_size": 48, "max_positions": 48, "activation": "swish", "scale_embedding": True,
    },
}  # fmt: skip
T5_TASKS = {
    "summarization": {"prefix": "sum: ", "num_beams": 3, "max_length": 16, "early_stopping": True, "length_penalty": 2.0, "no_repeat_ngram_size": 3},
    "translation_en_to_de": {"prefix": "en to de: ", "num_beams": 2, "max_length": 14, "early_stopping": True},
    "translation_en_to_fr": {"prefix": "en to fr: ", "num_beams": 3, "max_length": 11},
}


def byte_level(special: Sequence[str], roberta: bool) -> Library:
    """Letters, marks and Hangul by bytes; a few pieces with a space in front."""
    alphabet = ["Ġ", "Ċ", *LETTERS, *MARKS]
    merges = [("Ġ", x) for x in (".", ",", "!", "'", "a", "t")] + [("h", "e"), ("Ġt", "he"), ("Ġ'", "s"), ("i", "n"), ("o", "n")]
    pieces = list(dict.fromkeys([*special, *alphabet, *("".join(pair) for pair in merges)]))
    library = Library(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    library.add_special_tokens(list(special))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    if roberta:
        library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return library


PIECES = [*(f"▁{x}" for x in ("", *LETTERS, *MARKS)), *LETTERS, *MARKS, "the", "▁the", "in", "on", *"가나다라한국어。나비는꽃에앉았다"]


def unigram() -> Library:
    """T5's: pieces with a mark for the space, the end token behind each text."""
    pieces = ["<pad>", "</s>", "<unk>", *dict.fromkeys(PIECES)]
    library = Library(models.Unigram([(piece, 0.0 if piece[0] == "<" else -2.0 - (len(piece) == 1)) for piece in pieces], unk_id=2))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.add_special_tokens(["<pad>", "</s>", "<unk>"])
    library.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return library


def sentencepiece_file(pieces: Sequence[str]) -> bytes:
    """A SentencePiece unigram model, in its protocol buffer's bytes (sentencepiece_model.proto: fields 1, 2.3, 3.1 to 3.5)."""

    def field(number: int, data: bytes) -> bytes:
        assert len(data) < 128
        return bytes([number << 3 | 2, len(data)]) + data

    def piece(text: str, score: float, kind: int) -> bytes:
        return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))

    body = b"".join([piece("<unk>", 0.0, 2), piece("<s>", 0.0, 3), piece("</s>", 0.0, 3), *(piece(x, -2.0 - (len(x) == 1), 1) for x in pieces)])
    return body + field(2, b"\x18\x01") + field(3, field(1, b"identity") + b"\x18\x01\x20\x01\x28\x01")


def tokenizer(kind: str, folder: Path, languages: tuple[str, str] = ("en", "de"), codes: Sequence[str] = ()) -> Path:
    """The tokenizer's files; ``codes``: of a multilingual Marian."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"model_max_length": 48}
    if kind == "marian":
        pieces = list(dict.fromkeys(PIECES))
        for side in ("source", "target"):
            (folder / f"{side}.spm").write_bytes(sentencepiece_file(pieces))
        tokens = ["</s>", "<unk>", *pieces, *(f">>{code}<<" for code in codes), "<pad>"]
        (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
        settings |= {"tokenizer_class": "MarianTokenizer", "source_lang": languages[0], "target_lang": languages[1], "separate_vocabs": False}
        settings |= {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    elif kind == "t5":
        unigram().save(str(folder / "tokenizer.json"))
        settings |= {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 0}
    elif kind == "bart":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        byte_level(special, roberta=True).save(str(folder / "tokenizer.json"))
        settings |= {"tokenizer_class": "BartTokenizer"}
        settings |= {f"{role}_token": name for role, name in zip(("bos", "pad", "eos", "unk", "mask"), special, strict=True)}
        settings |= {"cls_token": "<s>", "sep_token": "</s>"}
    else:
        byte_level(["<|endoftext|>"], roberta=False).save(str(folder / "tokenizer.json"))
        settings |= {"tokenizer_class": "GPT2Tokenizer"} | dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def randomised(model: Any, seed: int, std: float) -> Any:
    """Every weight from N(0, std), a norm's around 1; biases smaller and positions larger, so that answers vary from place to place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = std * (0.1 if name.endswith("bias") else 3 if "positions" in name else 1)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + ("norm" in name and name.endswith("weight")))
    return model


def fresh(kind: str, tokens: Path, *, task: str | None = None, seed: int = 0, std: float = 0.5, size: dict[str, Any] | None = None, **settings: Any) -> Model:
    """A model of this kind with weights from ``seed``."""
    found = tasks.find(task or FAMILY_TASK[kind])
    pad = {"first_id": (last := Tokenizer.load(tokens).vocab_size - 1), "pad_id": last} if kind == "marian" else {}
    made = nabi.create(kind, {"vocab_size": 1, **SIZES[kind], **pad, **(size or {})}, found.name, found.Settings(**settings), tokens)
    return randomised(made, seed, std)


def write(kind: str, path: Path, seed: int = 0, **made: Any) -> Path:
    """Such a folder, from its recipe, before it is changed."""
    checkpoint.save(fresh(kind, tokenizer(kind, path.with_name(path.name + "-tokens"), **made), seed=seed), path)
    (path / "nabi.json").unlink()
    return path


def folder(kind: str, path: Path, *, config: dict[str, Any] | None = None, generation: dict[str, Any] | None = None, seed: int = 0, **made: Any) -> Path:
    """A folder as the incumbent writes it: no nabi.json; its config.json changed, with this generation_config.json."""
    if seed == 0 and not made:
        committed(f"written-{kind}", path, lambda path: write(kind, path))
    else:
        write(kind, path, seed, **made)
    edit(path / "config.json", **({"task_specific_params": T5_TASKS} if kind == "t5" else {}), **(config or {}))
    if generation is not None:
        edit(path / "generation_config.json", **generation)
    return path


GOLDEN = Path(__file__).parents[1] / "golden" / "v4_written.json"
Pipe = Callable[[str, str], Any]  # (a task's name, a model's) -> the pipeline


@cache
def golden() -> dict[str, Any]:
    """What version 4 answers: see ``tests/golden/v4_written.py``."""
    found = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def cases(name: str) -> list[Any]:
    """The golden cases of the tasks whose name begins so."""
    return [case for case in golden()["cases"] if case["task"].startswith(name)]


def answered(case: dict[str, Any], pipe: Any) -> Any:
    """What a pipeline answers in a case."""
    return pipe(case["given"], **case["options"])


def streamed(name: str, pipe: Pipe) -> None:
    """An iterator is answered one by one, in version 4's shape."""
    (case,) = [case for case in golden()["streams"] if case["task"] == name]
    texts = iter(["the cat", "a dog in the rain , on the road !"])
    answers = pipe(case["task"], case["model"])(texts, max_new_tokens=8, num_beams=1)
    assert next(answers) == case["answers"][0] and list(answers) == case["answers"][1:]


def share_that_differs(found: Sequence[dict[str, Any]], pipes: Callable[[dict[str, Any]], Any]) -> float:
    """Of golden cases, for a model that should miss them."""
    return sum(answered(case, pipes(case)) != case["answer"] for case in found) / len(found)


def fitted(task: str, data: Any, plan: nabi.Plan, **given: Any) -> Any:
    """A quiet run."""
    return nabi.fit(task, data, plan=plan, progress=Progress("quiet", io.StringIO()), **given)


def command(*args: Any) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli._run(lambda: cli.cli.main(args=[str(arg) for arg in args], prog_name="nabi", standalone_mode=False))
    return code, out.getvalue(), err.getvalue()


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes a key away."""
    data = {**(json.loads(file.read_text()) if file.is_file() else {}), **changes}
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
