"""Folders in sentence-transformers' layout pool as their makers say; a way that nabi does not compute is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

import nabi
from conformance.kit import randomised
from nabi import checkpoint, tasks
from nabi.errors import CheckpointError, OptionError
from nabi.weights.sources import resolve
from training.small import SIZE, vocabulary

TOLERANCE = 1e-5
TEXTS = ["the good film", "a dull plot , and the cast was awful !", "film"]
SWITCHES = {"mean": "mean_tokens", "max": "max_tokens", "cls": "cls_token", "last": "lasttoken"}
REFUSED = {"weightedmean": ["weightedmean_tokens"], "mean_sqrt_len_tokens": ["mean_sqrt_len_tokens"], "mean and max": ["mean_tokens", "max_tokens"]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words, out = vocabulary(tmp_path_factory.mktemp("words")), tmp_path_factory.mktemp("plain") / "model"
    kind = tasks.find("feature_extraction")
    size = {**SIZE, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    checkpoint.save(randomised(nabi.create("bert", size, kind.name, kind.Settings(), words)).eval(), out)
    (out / "nabi.json").unlink()  # as the incumbent leaves a folder
    return out


def laid_out(plain: Path, out: Path, on: list[str], kinds: tuple[str, ...] = ("Transformer", "Pooling"), named: str | None = None) -> Path:
    out.mkdir()
    for file in plain.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2_Dense"}
    modules = [{"idx": i, "name": str(i), "path": paths[kind], "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)]
    (out / "modules.json").write_text(json.dumps(modules))
    (out / "1_Pooling").mkdir()
    every = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    config: dict[str, Any] = {f"pooling_mode_{name}": name in on for name in every} if named is None else {"pooling_mode": named}
    (out / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": SIZE["hidden_size"], **config}))
    return out


def cosines(x: torch.Tensor) -> torch.Tensor:
    return F.cosine_similarity(x[:1], x[1:])


@pytest.mark.parametrize("mode", SWITCHES)
def test_a_folder_pools_as_its_makers_say(mode: str, plain: Path, tmp_path: Path) -> None:
    path = laid_out(plain, tmp_path / "made", [SWITCHES[mode]], ("Transformer", "Pooling", "Normalize"))
    theirs = transformers.AutoModel.from_pretrained(path).eval()
    embed: Any = nabi.load(path, "feature_extraction")
    similar: Any = nabi.load(path, "sentence_similarity")
    with torch.no_grad():
        hidden = [theirs(input_ids=torch.tensor([embed.inputs.tokenizer.encode(text).ids])).last_hidden_state[0] for text in TEXTS]
    ways = {"mean": lambda x: x.mean(0), "max": lambda x: x.amax(0), "cls": lambda x: x[0], "last": lambda x: x[-1]}
    wanted = {name: F.normalize(torch.stack([way(x) for x in hidden]).double(), dim=1) for name, way in ways.items()}
    found = torch.tensor([answer["embedding"] for answer in embed.predict(TEXTS, pooling="stated")], dtype=torch.float64)
    near = torch.tensor(similar.predict({"source_sentence": TEXTS[0], "sentences": TEXTS[1:]})["cosines"], dtype=torch.float64)
    gaps = {name: float((found - x).abs().max()) for name, x in wanted.items()}
    far = {name: float((near - cosines(x)).abs().max()) for name, x in wanted.items()}
    assert gaps.pop(mode) <= TOLERANCE and far.pop(mode) <= TOLERANCE
    assert min(gaps.values()) >= 100 * TOLERANCE and min(far.values()) >= 100 * TOLERANCE  # control: each other way
    checkpoint.save(similar, tmp_path / "saved")
    again = nabi.load(tmp_path / "saved")
    assert again.task.settings.pooling == mode and again.check_golden() == []
    tuned: Any = checkpoint.load_for_training(path, "sentence_similarity", tasks.find("sts").Settings(encoder="bi"))
    assert tuned.task.settings.pooling == mode


@torch.no_grad()
def test_minilm_pools_as_its_folder_says() -> None:
    path = resolve("minilm")
    model: Any = nabi.load("minilm", "feature_extraction")
    assert (model.task.settings.pooling, model.task.settings.normalize) == ("mean", True)
    theirs = transformers.AutoModel.from_pretrained(path).eval()
    hidden = theirs(input_ids=torch.tensor([model.inputs.tokenizer.encode("a cat sleeps").ids])).last_hidden_state[0].double()
    found = torch.tensor(model.predict("a cat sleeps", pooling="stated")["embedding"], dtype=torch.float64)
    assert float((found - F.normalize(hidden.mean(0), dim=0)).abs().max()) <= TOLERANCE
    for other in (hidden.mean(0), F.normalize(hidden[0], dim=0), F.normalize(hidden.amax(0), dim=0)):
        assert float((found - other).abs().max()) >= 100 * TOLERANCE


def test_one_name_stands_for_the_switches(plain: Path, tmp_path: Path) -> None:
    assert nabi.load(laid_out(plain, tmp_path / "made", [], named="cls"), "sentence_similarity").task.settings.pooling == "cls"


@pytest.mark.parametrize("named", REFUSED)
def test_ways_that_nabi_does_not_compute_are_refused_by_name(named: str, plain: Path, tmp_path: Path) -> None:
    path = laid_out(plain, tmp_path / "made", REFUSED[named])
    with pytest.raises(OptionError, match=f"does not pool in this way: .*{named}"):
        nabi.load(path, "sentence_similarity")
    features: Any = nabi.load(path, "feature_extraction")  # which pools only where it is asked to
    with pytest.raises(OptionError, match=f"does not pool in this way: .*{named}"):
        features.predict("film", pooling="stated")
    assert len(features.predict("film", pooling="mean")["embedding"]) == SIZE["hidden_size"]


def test_further_modules_and_broken_files_are_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="mean and Dense"):
        nabi.load(laid_out(plain, tmp_path / "dense", ["mean_tokens"], ("Transformer", "Pooling", "Dense")), "sentence_similarity")
    broken = laid_out(plain, tmp_path / "broken", ["mean_tokens"])
    (broken / "modules.json").write_text("{")
    lost = laid_out(plain, tmp_path / "lost", ["mean_tokens"])
    (lost / "1_Pooling" / "config.json").unlink()
    for path, message in ((broken, "no list of modules"), (lost, "has no config.json")):
        with pytest.raises(CheckpointError, match=message):
            nabi.load(path, "sentence_similarity")
    with pytest.raises(OptionError, match="does not say how it pools"):
        nabi.load(plain, "feature_extraction").predict("film", pooling="stated")
