"""One case for each row of the table of bad folders in docs/checkpoints.md, through the library and through the command line."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from conformance.kit import randomised
from nabi import checkpoint, load
from nabi.cli import _run, cli
from nabi.errors import CheckpointError, MissingHeadError, TokenizerError, UserError
from nabi.inspection import check_model
from nabi.tasks.text_classification import TextClassification

TABLE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8").partition("## Bad folders")[2]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WEIGHTS = "model.safetensors"
Change = Callable[[Path], Any]


def table_rows() -> dict[str, tuple[str, str]]:
    cells = [[c.strip() for c in line.strip("|\n ").split(" | ")] for line in TABLE.splitlines() if line.startswith("|")][2:]
    assert len({row[0] for row in cells}) == len(cells), "a row twice"
    return {name: (start.strip("`"), todo) for name, start, todo in cells}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder: a tiny BERT that tells two labels apart."""
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
    (tokenizer / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    model = checkpoint.create("bert", "tiny", "text_classification", TextClassification.Settings(("ham", "spam")), tokenizer)
    folder = tmp_path_factory.mktemp("good") / "model"
    checkpoint.save(randomised(model), folder)
    return folder


def config(**keys: Any) -> Change:
    return edited("config.json", **keys)


def edited(file: str, **keys: Any) -> Change:
    """Keys of a JSON file set, or left out where the value is ``...``."""

    def change(folder: Path) -> None:
        data = {**json.loads((folder / file).read_text()), **keys}
        (folder / file).write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))

    return change


def cut(file: str) -> Change:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-40])


def without(*files: str) -> Change:
    def change(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def apply(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def foreign(*names: str) -> Change:
    """As it comes from the incumbent, without some tensors."""
    return both(without("nabi.json"), tensors(lambda held: [held.pop(n) for n in list(held) if n.startswith(names)] if names else None))


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def pickled(change: Callable[[dict[str, Any]], Any]) -> Change:
    """The weights as a .bin file, after a change."""

    def apply(folder: Path) -> None:
        held: dict[str, Any] = load_file(folder / WEIGHTS)
        change(held)
        torch.save(held, folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()

    return apply


def indexed(shard: str) -> Change:
    """All weights in a shard of this name, which is not there."""

    def apply(folder: Path) -> None:
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(load_file(folder / WEIGHTS), shard)}))
        (folder / WEIGHTS).unlink()

    return apply


def linked(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder.parent / "elsewhere")
    (folder / "tokenizer.json").symlink_to(folder.parent / "elsewhere")


def more_words(folder: Path) -> None:
    """Its tokenizer gets 40 words more than the model has vectors."""
    for file in ("tokenizer.json", "vocab.txt"):
        (folder / file).unlink(missing_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(100))]) + "\n")


CASES: dict[str, tuple[Change, type[UserError]]] = {
    "no such folder": (lambda folder: shutil.rmtree(folder), CheckpointError),
    "a file in place of a folder": (lambda folder: [shutil.rmtree(folder), folder.write_text("x")], CheckpointError),
    "an empty folder": (lambda folder: [shutil.rmtree(folder), folder.mkdir()], CheckpointError),
    "weights of another kind": (lambda folder: (folder / WEIGHTS).rename(folder / "tf_model.h5"), CheckpointError),
    "a pickle that wants to run code": (pickled(lambda held: held.update({"x": print})), CheckpointError),
    "a pickle that is cut off": (both(pickled(lambda held: None), cut("pytorch_model.bin")), CheckpointError),
    "a pickle of something else": (pickled(lambda held: held.update({"epoch": 3})), CheckpointError),
    "an index that leaves the folder": (indexed("../model.safetensors"), CheckpointError),
    "a shard that is missing": (indexed("model-00002.safetensors"), CheckpointError),
    "a link to elsewhere": (linked, CheckpointError),
    "weights that are cut off": (cut(WEIGHTS), CheckpointError),
    "no config.json": (without("config.json"), CheckpointError),
    "a config.json that is cut off": (cut("config.json"), CheckpointError),
    "a config.json without an object": (lambda folder: (folder / "config.json").write_text("[1]"), CheckpointError),
    "no model_type": (both(without("nabi.json"), config(model_type=...)), CheckpointError),
    "an unknown model_type": (both(without("nabi.json"), config(model_type="mamba")), CheckpointError),
    "code of its own": (config(auto_map={"AutoModel": "modeling_x.Model"}), CheckpointError),
    "positions that are relative": (config(position_embedding_type="relative_key"), CheckpointError),
    "a decoder": (config(is_decoder=True), CheckpointError),
    "heads that were cut out": (config(pruned_heads={"0": [1, 2]}), CheckpointError),
    "a size that is missing": (config(hidden_size=...), CheckpointError),
    "more layers than the weights fill": (config(num_hidden_layers=10**9), CheckpointError),
    "a size of the wrong type": (config(num_hidden_layers="two"), CheckpointError),
    "an unknown activation": (config(hidden_act="mish"), CheckpointError),
    "a nabi.json that is cut off": (cut("nabi.json"), CheckpointError),
    "an unknown key in nabi.json": (edited("nabi.json", setings={}), CheckpointError),
    "a nabi.json of a later format": (edited("nabi.json", format=2), CheckpointError),
    "an unknown family in nabi.json": (edited("nabi.json", family="my_family"), CheckpointError),
    "an unknown task in nabi.json": (edited("nabi.json", task="my_task"), CheckpointError),
    "settings that do not fit": (edited("nabi.json", settings={"labels": ["ham", "spam"], "problm": "single"}), CheckpointError),
    "an unknown tensor": (tensors(lambda held: held.update({"bert.encoder.layer.0.adapter.weight": torch.ones(2)})), CheckpointError),
    "a tensor of another shape": (config(vocab_size=60), CheckpointError),
    "a tensor of the body is missing": (tensors(lambda held: held.pop("bert.embeddings.LayerNorm.bias")), CheckpointError),
    "a third of a stacked tensor is missing": (tensors(lambda held: held.pop("bert.encoder.layer.1.attention.self.key.bias")), CheckpointError),
    "a body without a head": (both(foreign("classifier"), config(architectures=["BertModel"])), MissingHeadError),
    "a head that is not there": (tensors(lambda held: held.pop("classifier.weight")), MissingHeadError),
    "label names that do not fit": (both(foreign(), config(id2label={"0": "only one"})), CheckpointError),
    "no tokenizer": (lambda folder: [(folder / f).unlink(missing_ok=True) for f in ("tokenizer.json", "vocab.txt")], TokenizerError),
    "a tokenizer that is cut off": (cut("tokenizer.json"), TokenizerError),
    "a tokenizer with too many tokens": (more_words, TokenizerError),
}


def test_each_row_has_a_case() -> None:
    assert list(CASES) == list(table_rows())


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_bad_folder(name: str, good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    start, todo = table_rows()[name]
    change, kind = CASES[name]
    folder = tmp_path / "model"
    shutil.copytree(good, folder)
    change(folder)
    before = listing(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind) as caught:
            load(folder)
    message = str(caught.value)
    assert type(caught.value) is kind and caught.value.exit_code == 2
    assert message.replace(str(folder), "DIR").startswith(start), message
    assert (caught.value.fix or caught.value.expected) and len(message) < 3000 and "\n" not in message
    assert todo
    # the command line: the same sentence on standard error, nothing on standard output, nothing written
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    code = _run(lambda: cli.main(["predict", str(folder), "a text", "--out", "answers.jsonl"], prog_name="nabi", standalone_mode=False))
    out, err = capfd.readouterr()
    assert (code, out) == (2, "") and err == f"error: {message}\n"
    assert listing(tmp_path) == before


def test_a_missing_head_names_the_command_that_trains_it(good: Path, tmp_path: Path) -> None:
    for name in ("a body without a head", "a head that is not there"):
        folder = tmp_path / name
        shutil.copytree(good, folder)
        CASES[name][0](folder)
        for task in (None, "text_classification"):
            with pytest.raises(MissingHeadError, match=rf"nabi train --task (\.\.\.|text_classification) --base {folder}"):
                load(folder, task)
        model = checkpoint.load_for_training(folder, "text_classification", TextClassification.Settings(("ham", "spam")))
        (note,) = model.origin.notes
        assert note.startswith("text_classification starts with fresh weights for ") and "task.row.out.weight" in note and str(folder) in note


def test_a_head_for_other_labels_starts_fresh(good: Path, tmp_path: Path) -> None:
    """Of the same number of labels too, in a folder of ours and in one of the incumbent's; the same labels keep their head."""
    shutil.copytree(good, tmp_path / "foreign")
    foreign()(tmp_path / "foreign")
    saved = load(good)
    for folder in (good, tmp_path / "foreign"):
        for labels, fresh in ((("ham", "spam"), False), (("spam", "ham"), True), (("a", "b"), True), (("a", "b", "c"), True)):
            model: Any = checkpoint.load_for_training(folder, "text_classification", TextClassification.Settings(labels), seed=1)
            start = "text_classification starts with fresh weights for task.row.out.bias, task.row.out.weight; "
            assert len(model.origin.notes) == fresh and all(note.startswith(start) for note in model.origin.notes)
            kept = saved.task.row.out.weight  # type: ignore[union-attr]
            assert torch.equal(model.task.row.dense.weight, saved.task.row.dense.weight)  # type: ignore[union-attr]
            assert (model.task.row.out.weight.shape == kept.shape and torch.equal(model.task.row.out.weight, kept)) is not fresh
            assert bool(model.origin.golden) is (not fresh and folder == good)


def test_a_harmless_key_is_kept_and_told_once(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "model")
    config(my_note="한글", spam_note="first", transformers_version="4.8.2")(tmp_path / "model")
    with pytest.warns(UserWarning, match="have no effect: my_note, spam_note$") as told:
        model = load(tmp_path / "model")
    assert len(told) == 1
    checkpoint.save(model, tmp_path / "again")
    kept = json.loads((tmp_path / "again" / "config.json").read_text(encoding="utf-8"))
    assert (kept["my_note"], kept["spam_note"], kept["transformers_version"]) == ("한글", "first", "4.8.2")
    assert (listing(tmp_path / "again")[WEIGHTS]) == listing(good)[WEIGHTS]


def test_a_flipped_byte_shows_in_the_golden_vectors(good: Path, tmp_path: Path) -> None:
    """``nabi doctor`` reports it with exit code 1; the untouched folder has 0."""
    shutil.copytree(good, tmp_path / "model")
    file = tmp_path / "model" / WEIGHTS
    held = bytearray(file.read_bytes())
    begin = 8 + int.from_bytes(held[:8], "little")
    header = json.loads(held[8:begin])
    at = begin + header["bert.encoder.layer.1.output.dense.weight"]["data_offsets"][0] + 3
    held[at] ^= 0x03  # the exponent of one weight
    file.write_bytes(held)
    found = check_model(str(tmp_path / "model"))
    messages = [f["message"] for f in found if f["severity"] == "error"]
    assert any(m.startswith("golden example 1: readings differ by ") for m in messages) and any(m.startswith(f"{WEIGHTS} is not the file") for m in messages)
    assert "error" not in {f["severity"] for f in check_model(str(good))}
    for folder, code in ((good, 0), (tmp_path / "model", 1)):
        done = CliRunner().invoke(cli, ["doctor", str(folder), "--json"])
        assert done.exit_code == code and json.loads(done.stdout)["target"] == str(folder)
    found = check_model(str(tmp_path / "missing" / "model"))
    assert [f["severity"] for f in found] == ["error"]


NOTHING: dict[str, Any] = {"tokens": [], "readings": []}


@pytest.mark.parametrize("golden", [[{}], "x", [{"example": {"text": "a"}, **NOTHING}], [{"example": {}, **NOTHING}]])
def test_golden_vectors_that_are_none(golden: Any, good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "model")
    edited("nabi.json", golden=golden)(tmp_path / "model")
    assert "error" in {f["severity"] for f in check_model(str(tmp_path / "model"))}
