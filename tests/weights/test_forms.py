"""The forms that checkpoints come in: old .bin files (one, shards, before zip, names of the TensorFlow era) and every class with or without its prefix,
pooler and heads, each beside the incumbent on the same folder."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from nabi import checkpoint, load
from nabi.checkpoint import load_body, load_for_training
from nabi.errors import CheckpointError, MissingHeadError
from nabi.tasks.text_classification import TextClassification
from nabi.weights import read_tensors
from parity.kit import CONTROL, TOLERANCE, batch, gap, packed, padded, theirs

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
SETTINGS = TextClassification.Settings(("ham", "spam", "other"))
TEXTS = ["a good film", "bad", "", "a very very long and winding text"]
Change = Callable[[Path], Any]


def made(cls: str, folder: Path, **settings: Any) -> Path:
    theirs(cls, folder, **settings)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def held(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def renamed(change: Callable[[str], str]) -> Change:
    return lambda folder: save_file({change(n): x for n, x in held(folder).items()}, folder / "model.safetensors", metadata={"format": "pt"})


def bin_file(folder: Path, **how: Any) -> None:
    """The state as an old version wrote it: position_ids, tied weights, and a decoder bias that shares memory with another tensor."""
    state = held(folder)
    prefix = "bert." if any(n.startswith("bert.") for n in state) else ""
    state[f"{prefix}embeddings.position_ids"] = torch.arange(40)[None]
    if "cls.predictions.bias" in state:
        state["cls.predictions.decoder.weight"] = state[f"{prefix}embeddings.word_embeddings.weight"]
        state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", **how)


def bin_shards(folder: Path) -> None:
    state = held(folder)
    names = sorted(state)
    parts = [names[i::3] for i in range(3)]
    where = {}
    for i, part in enumerate(parts, 1):
        file = f"pytorch_model-0000{i}-of-00003.bin"
        torch.save({n: state[n] for n in part}, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    (folder / "model.safetensors").unlink()


def old_norms(folder: Path) -> None:
    renamed(lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"))(folder)
    bin_file(folder, _use_new_zipfile_serialization=False)


FORMS: dict[str, Change] = {
    "safetensors": lambda folder: None,
    "bin": bin_file,
    "bin before zip": lambda folder: bin_file(folder, _use_new_zipfile_serialization=False),
    "bin in shards": bin_shards,
    "bin with gamma and beta": old_norms,
    "names without a prefix": renamed(lambda n: n.removeprefix("bert.")),
    "names with the prefix": renamed(lambda n: n if n.startswith(("bert.", "cls.", "classifier.", "qa_outputs.")) else f"bert.{n}"),
}
# class -> the head tensors that a classifier of three labels finds in it
HEADS = {
    "BertModel": {"row.dense"},
    "BertModel, no pooler": set(),
    "BertForSequenceClassification": {"row.dense"},  # of other labels: its output layer starts fresh
    "BertForMaskedLM": set(),
    "BertForPreTraining": {"row.dense"},
    "BertForNextSentencePrediction": {"row.dense"},
    "BertForTokenClassification": set(),
    "BertForQuestionAnswering": set(),
    "BertForMultipleChoice": {"row.dense"},
}


def folder_of(name: str, folder: Path) -> Path:
    cls, _, bare = name.partition(",")
    made(cls, folder, **({"is_decoder": False} if cls == "BertForMaskedLM" else {}))
    if bare:
        state = {n: x for n, x in held(folder).items() if not n.startswith("pooler.")}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_each_class_in_each_form_is_a_base(name: str, form: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path / "model")
    reference, given = transformers.BertModel.from_pretrained(folder).eval(), batch()
    state = held(folder)
    FORMS[form](folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model: Any = load_for_training(folder, "text_classification", SETTINGS, seed=3)
    ours = model.body(given)["text"].values
    wanted = packed(given, reference(**padded(given)).last_hidden_state)
    assert gap(ours, wanted) <= TOLERANCE
    # control: one norm's weight in place of another's, as a table that confuses them would give
    norms = model.body.layers[0]
    norms.norm.weight.data, norms.attention_norm.weight.data = norms.attention_norm.weight.data, norms.norm.weight.data
    assert gap(model.body(given)["text"].values, wanted) > CONTROL
    fresh = {n for n in ("row.dense", "row.out") if f"task.{n}.weight" in "".join(model.origin.notes)}
    assert fresh == {"row.dense", "row.out"} - HEADS[name]
    if "row.dense" not in fresh:
        pooler = next(x for n, x in state.items() if n.endswith("pooler.dense.weight"))
        assert torch.equal(model.task.row.dense.weight, pooler)
    assert torch.equal(load_body(folder).embeddings.tokens.weight, model.body.embeddings.tokens.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("form", [f for f in FORMS if f != "names without a prefix"])
@torch.no_grad()
def test_a_classifier_answers_and_is_saved_as_safetensors(form: str, tmp_path: Path) -> None:
    folder = made("BertForSequenceClassification", tmp_path / "model", num_labels=3)
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    before = held(folder)
    FORMS[form](folder)
    model = load(folder)
    logits = reference(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    wanted = torch.softmax(logits, -1).max(-1).values
    found = [answer["score"] for answer in model.predict(TEXTS)]
    assert max(abs(a - b) for a, b in zip(found, wanted.tolist(), strict=True)) <= TOLERANCE
    checkpoint.save(model, tmp_path / "again")
    assert not list((tmp_path / "again").glob("*.bin*"))
    after = load_file(tmp_path / "again" / "model.safetensors")
    assert after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in before)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(again(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits, logits)


def test_what_a_base_lacks_to_answer(tmp_path: Path) -> None:
    for i, name in enumerate(HEADS):
        folder = folder_of(name, tmp_path / str(i))
        if name == "BertForSequenceClassification":
            assert load(folder).task.labels
        else:
            with pytest.raises(MissingHeadError):
                load(folder, "text_classification")


def test_a_head_of_the_same_name_is_not_taken_for_another(tmp_path: Path) -> None:
    """BERT calls the layer that scores choices as the one that scores classes."""
    folder = folder_of("BertForMultipleChoice", tmp_path)
    assert load(folder).task.name == "multiple_choice"
    for task in ("text_classification", "sentence_similarity"):
        with pytest.raises(MissingHeadError) if task == "text_classification" else nullcontext():
            # control: the same file opens as a classifier where nothing says what it is; a bi-encoder needs no head
            assert load(folder, task).task.settings.encoder == "bi"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForSequenceClassification"]}))
    assert load(folder, "text_classification").task.labels


def test_safetensors_go_before_bin(tmp_path: Path) -> None:
    """A pickle beside them is not even opened."""
    folder = made("BertModel", tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"not a pickle")
    assert read_tensors(folder).names == tuple(sorted(held(folder)))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin can't be read"):
        read_tensors(folder)


def bin_of(folder: Path, value: Any, **how: Any) -> Path:
    torch.save(value, folder / "pytorch_model.bin", **how)
    return folder


def test_bin_files_are_mapped_and_training_never_writes_to_them(tmp_path: Path) -> None:
    state = {"a": torch.ones(1 << 20), "b": torch.zeros(3)}
    files = read_tensors(bin_of(tmp_path, state))
    before = (tmp_path / "pytorch_model.bin").read_bytes()
    tensor = files["a"]
    with Path("/proc/self/maps").open() as maps:
        spans = [tuple(int(x, 16) for x in line.split()[0].split("-")) for line in maps if str(tmp_path) in line]
    assert any(low <= tensor.data_ptr() < high for low, high in spans), "mapped"
    tensor.add_(5)
    assert (tmp_path / "pytorch_model.bin").read_bytes() == before
    assert files["a"][0] == 1 and tensor[0] == 6, "asked for again it is as in the file"
    assert files.shapes("a") == (1 << 20,) and files.dtypes == {torch.float32} and set(files) == {"a", "b"}


def test_tied_tensors_of_a_bin_file_do_not_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    files = read_tensors(bin_of(tmp_path, {"a": whole, "b": whole, "row": whole[1], "turned": whole.t()}))
    a, b, row, turned = (files[n] for n in ("a", "b", "row", "turned"))
    a.zero_()
    assert torch.equal(b, whole) and torch.equal(row, whole[1]) and torch.equal(turned, whole.t())


class Runs:
    """A pickle of it calls a function of the given name when it is opened."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


PAYLOADS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda mark: Runs(__import__("os").system, f"touch {mark}"),
    "eval": lambda mark: Runs(eval, f"open({mark!r}, 'w')"),
    "exec": lambda mark: Runs(exec, f"open({mark!r}, 'w')"),
    "open": lambda mark: Runs(open, mark, "w"),
    "subprocess": lambda mark: Runs(subprocess.call, ["touch", mark]),
    "getattr": lambda mark: Runs(getattr, "a", "upper"),
    "nested torch.load": lambda mark: Runs(torch.load, mark),
    "a class of ours": lambda mark: TextClassification.Settings(("a",)),
}


@pytest.mark.parametrize("kind", ["zip", "before zip", "a bare pickle"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pickle_that_wants_to_run_code(payload: str, kind: str, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    value = {"a": torch.ones(2), "b": PAYLOADS[payload](str(mark))}
    if kind == "a bare pickle":
        (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(value["b"], protocol=2))
    else:
        bin_of(tmp_path, value, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match="wants to run code, which nabi never does") as caught:
        read_tensors(tmp_path)
    assert not mark.exists() and "\n" not in str(caught.value)


def test_control_the_payloads_do_run(tmp_path: Path) -> None:
    """Opened without the restriction, in another process, the same bytes act."""
    for name in ("os.system", "eval", "exec", "open", "subprocess"):
        mark = tmp_path / name
        data = pickle.dumps(PAYLOADS[name](str(mark)))
        subprocess.run([sys.executable, "-c", f"import pickle; pickle.loads({data!r})"], check=True)
        assert mark.exists()


ODD: dict[str, Callable[[], Any]] = {
    "a list": lambda: [torch.ones(2)],
    "a tensor": lambda: torch.ones(2),
    "nothing": dict,
    "a nested state": lambda: {"state_dict": {"a": torch.ones(2)}},
    "a number": lambda: {"a": torch.ones(2), "epoch": 3},
    "a name that is none": lambda: {1: torch.ones(2)},
    "a sparse tensor": lambda: {"a": torch.ones(2, 2).to_sparse()},
    "a tensor without data": lambda: {"a": torch.ones(2, device="meta")},
    "a tensor larger than its data": lambda: {"a": torch.ones(1).expand(1 << 40)},
    "complex numbers": lambda: {"a": torch.ones(2, dtype=torch.complex64)},
}


@pytest.mark.parametrize("name", ODD)
def test_a_bin_file_that_holds_something_else(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds something else than weights"):
        read_tensors(bin_of(tmp_path, ODD[name]()))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_file_that_is_cut_off(zipped: bool, tmp_path: Path) -> None:
    bin_of(tmp_path, {"a": torch.ones(1000), "b": torch.ones(3)}, _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "pytorch_model.bin").read_bytes()
    for size in [*range(40), *range(40, len(whole), len(whole) // 40), len(whole) - 1]:
        (tmp_path / "pytorch_model.bin").write_bytes(whole[:size])
        with pytest.raises(CheckpointError) as caught:
            read_tensors(tmp_path)
        assert "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize("shard", ["../x.bin", "/etc/passwd", "a/b.bin", "model.safetensors", "nul\0.bin", "a\\b.bin", ".hidden.bin"])
def test_a_bin_index_that_leaves_its_folder(shard: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({"a": torch.ones(2)}, tmp_path / "x.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match=r"not a plain name|is missing|no \.bin file"):
        read_tensors(folder)


def test_loading_a_bin_file_warns_of_nothing_and_imports_nothing(tmp_path: Path) -> None:
    folder = made("BertForSequenceClassification", tmp_path / "model", num_labels=3)
    old_norms(folder)
    code = textwrap.dedent(f"""
        import sys, warnings
        warnings.simplefilter("error")
        from nabi import load
        load({str(folder)!r})
        print(sorted({{m.partition(".")[0] for m in sys.modules}} & {{"transformers", "huggingface_hub", "httpx2", "tensorflow"}}))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
