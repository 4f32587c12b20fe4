"""Documents of 200,000 characters: what is planted near the seams of windows is found at its own characters, and the process hardly grows; and of 60,000 in
every text task: what stands anywhere is read.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import nabi
from nabi import decoding, tasks
from nabi.errors import InputError
from nabi.model import Model

CHARACTERS = 200_000
NAMES, LAST = ("ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"), "gray"
FILLERS = ("the", "house", "in", "나비", "꽃에", "garden", "was", "👍🏽", "\u1102\u1161\u1107\u1175", "cafe\u0301", "東")
LIMIT = 64


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    every = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *NAMES, LAST, "who", *(x for x in FILLERS if x not in ("東", "👍🏽"))]
    (folder / "vocab.txt").write_text("\n".join(every) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    return folder


def knowing(task: str, words: Path, **settings: Any) -> Model:
    """A model that knows names and the last name by heart: it adds nothing to the words' vectors, of which the first two numbers say so."""
    size = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_positions": LIMIT}
    built = nabi.create("bert", size, task, tasks.find(task).Settings(**settings), words)
    tokenizer = built.inputs.tokenizer
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if not name.endswith("norm.weight"):
                parameter.zero_()
        table = next(p for p in built.body.parameters() if p.shape[0] == tokenizer.vocab_size)
        table.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(0)))
        table[:, :2] = 0.0
        for name in NAMES:
            table[tokenizer.id(name), 0] = 30.0
        table[tokenizer.id(LAST), 1] = 30.0
    return built


def planted(step: int, room: int, every: int) -> tuple[str, list[tuple[int, int]]]:
    """A document, and where a name with its last name stands: around the seams of windows that begin each ``step`` tokens."""
    dice, text, tokens, found = random.Random(0), "", 0, []
    parts: list[str] = []
    length, window = 0, 0
    while length < CHARACTERS:
        seam = every * window * step + (room if window % 2 else 0) + window % 7 - 3
        if tokens >= seam > 0 or tokens > seam + 3:
            name = f"{NAMES[len(found) % len(NAMES)]} {LAST}"
            found.append((length, length + len(name)))
            parts.append(name + " ")
            tokens += 2
            window += 1
        else:
            parts.append(dice.choice(FILLERS) + " ")
            tokens += 1
            if not seam > 0:
                window += 1
        length += len(parts[-1])
    text = "".join(parts)
    return text, found


def test_entities_of_a_long_document_are_at_their_own_characters(words: Path) -> None:
    labels = ("O", "B-PER", "I-PER")
    built = knowing("token_classification", words, labels=labels)
    with torch.no_grad():
        built.task.token.out.weight[1, 0] = built.task.token.out.weight[2, 1] = 10.0  # type: ignore[union-attr]
        built.task.token.out.bias[0] = 20.0  # type: ignore[union-attr]
    room = LIMIT - 2
    text, places = planted(room - LIMIT // 4, room, 3)
    answer = built.predict(text)
    assert len(text) >= CHARACTERS and answer["windows"] > 500 and len(places) > 150
    assert [(e["start"], e["end"]) for e in answer["entities"]] == places
    assert all(text[e["start"] : e["end"]] == e["text"] and e["text"].endswith(LAST) for e in answer["entities"])


@pytest.mark.parametrize("at", [0.02, 0.5, 0.97])
def test_answers_in_a_long_document_are_at_their_own_characters(at: float, words: Path) -> None:
    built = knowing("question_answering", words)
    with torch.no_grad():
        built.task.span.out.weight[0, 0] = built.task.span.out.weight[1, 1] = 10.0  # type: ignore[union-attr]
    stride = 16
    room = LIMIT - 5  # [CLS] who the [SEP] ... [SEP]
    filler = knowing_text(at, room - stride, room)
    text, places = filler
    answer = built.predict({"question": "who the", "context": text}, doc_stride=stride, top_k=len(places))
    assert len(text) >= CHARACTERS and answer["windows"] > 500
    assert sorted((e["start"], e["end"]) for e in answer["answers"]) == places
    assert all(text[e["start"] : e["end"]] == e["answer"] and e["answer"].endswith(LAST) for e in answer["answers"])


def knowing_text(at: float, step: int, room: int) -> tuple[str, list[tuple[int, int]]]:
    """A document in which each name stands once with its last name, each around another seam from the part ``at`` of the text on."""
    dice, parts, length, tokens, found = random.Random(1), [], 0, 0, []
    seams: list[int] = []
    while length < CHARACTERS:
        if not seams and not found and length >= at * CHARACTERS - 1:
            first = tokens // step + 1
            seams = [(first + 2 * i) * step + (room - step if i % 2 else 0) + i % 4 - 2 for i in range(len(NAMES))]
        if seams and tokens >= seams[0]:
            parts.append(f"{NAMES[len(found)]} {LAST} ")
            found.append((length, length + len(parts[-1]) - 1))
            seams.pop(0)
            tokens += 2
        else:
            parts.append(dice.choice(FILLERS) + " ")
            tokens += 1
        length += len(parts[-1])
    return "".join(parts), found


CHILD = """
import sys
from collections.abc import Callable
from pathlib import Path
import nabi
from nabi import decoding, model, tasks
from nabi.nn.encoder_decoder import EncoderDecoder
from nabi.tasks import _writing

task, folder, undo, counts = sys.argv[1], sys.argv[2], sys.argv[3] == "undone", [int(n) for n in sys.argv[4:]]
if undo:  # each document as it was read once: choices in one batch, sources at once, free memory kept
    tasks.find("multiple_choice").together = True
    _writing.READ = 1 << 20
    EncoderDecoder._encoded = EncoderDecoder.encode
    model.trimmed = lambda batches, *_: batches
sides = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 1), ("heads", 4), ("intermediate_size", 1024))}
size = {"hidden_size": 256, "max_positions": 256}
if task == "translation":
    ids = {"decoder_start_token_id": 2, "bos_token_id": 2, "eos_token_id": (3,), "pad_token_id": 0}
    built = nabi.create("bart", {**size, **sides}, task, tasks.find(task).Settings(decoding=decoding.Settings(**ids)), folder)
else:
    settings = {"labels": ("O", "B-A", "I-A")} if task == "token_classification" else {}
    size |= {"num_layers": 2, "num_heads": 4, "intermediate_size": 1024}
    built = nabi.create("bert", size, task, tasks.find(task).Settings(**settings), folder)

def read(characters):
    text = ("in the garden was the house . " * (characters // 30 + 1))[:characters]
    if task == "translation":
        return built.predict({"source": text.replace(".", "\\n")}, max_new_tokens=2, num_beams=1)
    return built.predict({"question": "who", "choices": ["ada", "bob"], "context": text} if task == "multiple_choice" else text)

for count in counts:
    read(count)
    if count != counts[-1]:
        Path("/proc/self/clear_refs").write_text("5")
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])
"""


def peak(task: str, words: Path, characters: int, undone: bool = False) -> int:
    """KiB of resident memory that a process held at most while it read a document."""
    command = [sys.executable, "-c", CHILD, task, str(words), "undone" if undone else "as it is", "300", str(characters)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multiple_choice", "translation"])
def test_memory_does_not_grow_with_a_document(task: str, words: Path) -> None:
    short, long = peak(task, words, 20_000), peak(task, words, 200_000)
    assert long <= 1.2 * short, f"{long / short:.2f}"
    assert peak(task, words, 200_000, undone=True) > 1.3 * short  # control: as it was read once


# ---- every text task: what stands at the start, in the middle and at the end is read --------------------------------------------------------------------

LENGTH = 60_000
BERT = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_positions": LIMIT}
SIDE = {"layers": 1, "heads": 2, "intermediate_size": 32}
BART = {"hidden_size": 32, "max_positions": LIMIT, **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in SIDE.items()}}
DECODING = decoding.Settings(decoder_start_token_id=2, bos_token_id=2, eos_token_id=(3,), pad_token_id=0)
WRITE = {"max_new_tokens": 2, "num_beams": 1}
LABELS = ("contradiction", "neutral", "entailment")
# task -> family, size, settings, options, an example of the text and of where its marker is
EVERY: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], Callable[[str, int, int], dict[str, Any]]]] = {
    "text_classification": ("bert", BERT, {"labels": ("a", "b")}, {}, lambda t, a, b: {"text": t, "label": "a"}),
    "token_classification": ("bert", BERT, {"labels": ("O", "B-PER", "I-PER")}, {}, lambda t, a, b: {"text": t, "spans": [[a, b, "PER"]]}),
    "question_answering": ("bert", BERT, {}, {}, lambda t, a, b: {"question": "who", "context": t, "answers": [{"text": t[a:b], "start": a}]}),
    "zero_shot_classification": (
        "bert", BERT, {"labels": LABELS}, {"candidate_labels": ("ada", "bob")}, lambda t, a, b: {"text": t, "label": "ada", "candidate_labels": ["ada", "bob"]},
    ),
    "multiple_choice": ("bert", BERT, {}, {}, lambda t, a, b: {"question": "who", "choices": ["ada", "bob"], "context": t, "label": 0}),
    "sentence_similarity": ("bert", BERT, {}, {}, lambda t, a, b: {"text": t, "text_pair": "ada", "score": 1.0}),
    "feature_extraction": ("bert", BERT, {}, {"pooling": "mean"}, lambda t, a, b: {"text": t}),
    "fill_mask": ("bert", BERT, {}, {}, lambda t, a, b: {"text": t}),
    "next_sentence": ("bert", BERT, {}, {}, lambda t, a, b: {"text": t, "next": "ada", "is_next": True}),
    "pretraining": ("bert", BERT, {}, {}, lambda t, a, b: {"text": t, "next": "ada", "is_next": True}),
    "text_generation": ("gpt2", {k: v for k, v in BERT.items() if k != "intermediate_size"}, {}, WRITE, lambda t, a, b: {"text": t}),
    "denoise": ("bart", BART, {"decoding": DECODING}, WRITE, lambda t, a, b: {"text": t}),
    "translation": ("bart", BART, {"decoding": DECODING}, WRITE, lambda t, a, b: {"source": t, "target": "ada"}),
    "summarization": ("bart", BART, {"decoding": DECODING}, WRITE, lambda t, a, b: {"source": t, "target": "ada"}),
    "text2text_generation": ("bart", BART, {"decoding": DECODING}, WRITE, lambda t, a, b: {"source": t, "target": "ada"}),
}  # fmt: skip
SEAM, WRITTEN = ("next_sentence", "pretraining"), ("translation", "summarization", "text2text_generation")
PLACES = {"start": 0, "middle": 30_000, "end": LENGTH}


def marked(marker: str, place: str) -> tuple[str, int, int]:
    """A text of one sentence, of words that are no names, with a marker in it; and where that is."""
    dice, front, behind = random.Random(2), "", ""
    known = [word for word in FILLERS if word not in ("東", "👍🏽")]
    while len(front) < PLACES[place]:
        front += dice.choice(known) + " "
    while len(front) + len(behind) < LENGTH:
        behind += " " + dice.choice(known)
    return front + marker + behind, len(front), len(front) + len(marker)


def random_model(task: str, words: Path) -> tuple[Model, dict[str, Any]]:
    family, size, settings, options, _ = EVERY[task]
    built = nabi.create(family, size, task, tasks.find(task).Settings(**settings), words)
    with torch.no_grad():
        for _, parameter in sorted(built.named_parameters()):
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.4)
    return built, options


def of_rows(task: str, model: Model, rows: Any, id: int) -> bool:
    """Whether a token is in what rows are made of, before anything is hidden from them."""
    return any(id in (row.notes["ids"] if "groups" in row.notes else row.parts["text"]["tokens"]) for row in rows)


def test_every_text_task_is_in_the_table() -> None:
    assert set(EVERY) == {name for name in tasks.names() if "image" not in name and "document" not in name and "table" not in name and "speech" not in name}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("task", EVERY)
def test_what_stands_anywhere_in_a_long_text_reaches_the_answer(task: str, place: str, words: Path) -> None:
    model, options = random_model(task, words)
    example = EVERY[task][-1]
    marker = "[MASK]" if task in ("fill_mask", "denoise") else NAMES[4]
    text, begin, end = marked(marker, place)
    assert len(text) >= LENGTH and text[begin:end] == marker
    given = example(text, begin, end)
    id = model.inputs.tokenizer.id(marker)
    assert id is not None
    if task == "text_generation":
        with pytest.raises(InputError, match="leaves no room"):  # nothing is cut unless the caller says so
            model.predict(given, **options)
        options = {**options, "handle_long_generation": "hole"}
    if task == "summarization":  # many rounds of summaries of two tokens each
        options = {**options, "max_new_tokens": 1}
    rows = model.encode(given, model.options(options))
    read = of_rows(task, model, rows, id)
    answer = model.predict(given, **options)
    near = task not in (*SEAM, "text_generation") or place == "end"  # there the end alone is read, and it is told
    assert read == near and answer["truncated"] == (task in (*SEAM, "text_generation"))
    if task in WRITTEN:
        pieces = answer.get("parts", answer["pieces"])
        (piece,) = [piece for piece in pieces if piece["start"] <= begin and end <= piece["end"]]
        assert len(pieces) > 100 and piece["text"] == model.predict(text[piece["start"] : piece["end"]], **options)["text"]
        return
    if task == "denoise":
        assert [(fill["start"], fill["end"]) for fill in answer["fills"]] == [(begin, end)]
        return
    if task == "fill_mask":
        assert [(mask["start"], mask["end"]) for mask in answer["masks"]] == [(begin, end)]
        return
    if task == "token_classification":
        assert all(text[e["start"] : e["end"]] == e["text"] for e in answer["entities"]) and len(answer["entities"]) > 100
    # another word in its place gives another answer; the same text gives the same
    other = model.predict(example(*marked(NAMES[5], place)), **options)
    again = model.predict(given, **options) if place == "start" else answer
    for each in (answer, other, again):
        each.pop("text", None)  # which generation repeats
    assert (other != answer) == near and again == answer


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("task", [task for task in EVERY if task != "feature_extraction"])
def test_what_stands_anywhere_in_a_long_text_is_trained_on(task: str, place: str, words: Path) -> None:
    model, options = random_model(task, words)
    given = EVERY[task][-1](*marked(NAMES[4], place))
    id = model.inputs.tokenizer.id(NAMES[4])
    assert id is not None
    if task in WRITTEN:
        with pytest.warns(UserWarning, match=r"sources of training that are too long are cut, first row 1 \(\d+ tokens, at most 64 fit\)"):
            rows = model.encode(given, model.options(options), "train", "row 1")
        assert of_rows(task, model, rows, id) == (place == "start")
        pieces = model.encode(given, model.options(options), "evaluate", "row 1")  # control: an evaluation reads all of it
        assert len(pieces) > 100 and of_rows(task, model, pieces, id)
        return
    rows = model.encode(given, model.options(options), "train", "row 1")
    assert of_rows(task, model, rows, id) == (task != "next_sentence" or place == "end")
    assert task == "next_sentence" or len(rows) > 100 or task == "question_answering"  # which reads a few of the windows without the answer
