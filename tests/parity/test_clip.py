"""CLIP against the incumbent's CLIPModel, both ways: ragged texts, images of several sizes, both rules for the token at which a text is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from conformance.kit import complete, randomised
from nabi import checkpoint, load
from nabi.batch import Batch, Row, batch_of
from nabi.data.pixels import patched
from nabi.nn.body import Run
from nabi.text import Tokenizer
from parity.kit import CONTROL, TOLERANCE, gap

LENGTHS = (5, 1, 12, 3, 7, 12, 20)
SIZES = ((16, 16), (8, 20), (16, 16), (24, 12))  # of images; patches have 4 pixels a side
LOOK = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_act": "quick_gelu"}
TEXT = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 24, "eos_token_id": 7, **LOOK}
IMAGE = {"hidden_size": 48, "intermediate_size": 96, "image_size": 16, "patch_size": 4, **LOOK}


def theirs(folder: Path, tokenizer: Path, **text: Any) -> Any:
    """A model of the incumbent with all weights from N(0, 0.25), saved in ``folder``."""
    config = transformers.CLIPConfig(text_config={**TEXT, **text}, vision_config=IMAGE, projection_dim=24)
    made = randomised(transformers.CLIPModel(config)).eval()
    made.save_pretrained(folder)
    complete(folder, "clip", tokenizer)
    return made


def rows(end: int = 7) -> list[Row]:
    """Seven texts, some with the end token, one with two of them, and four images: more rows of one part than of the other."""
    g = torch.Generator().manual_seed(1)
    found = [Row({"text": {"tokens": torch.randint(8, 60, (n,), generator=g).tolist()}}, example=i) for i, n in enumerate(LENGTHS)]
    for i, at in ((2, 11), (3, 1), (4, 3), (4, 6), (6, 19)):
        found[i].parts["text"]["tokens"][at] = end  # type: ignore[index]
    for row, (height, width) in zip(found, SIZES, strict=False):
        pixels = torch.randn(height, width, 3, generator=g).numpy()
        row.parts["image"] = {"patches": patched(pixels, 4)}
        row.rows["image"] = {"grid": [height // 4, width // 4]}
        row.notes["pixels"] = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return found


@torch.no_grad()
def of_theirs(model: Any, given: list[Row]) -> dict[str, Tensor]:
    """Each text and each image alone, since the incumbent pads the one and takes no images of several sizes."""
    texts = [model.text_model(torch.tensor([row.parts["text"]["tokens"]])) for row in given]
    images = [model.vision_model(row.notes["pixels"], interpolate_pos_encoding=True) for row in given if "image" in row.parts]
    found = {
        "text": torch.cat([y.last_hidden_state[0] for y in texts]),
        "image": torch.cat([y.last_hidden_state[0, 1:] for y in images]),
        "whole": torch.cat([y.pooler_output for y in images]),
        "text_vector": model.text_projection(torch.cat([y.pooler_output for y in texts])),
        "image_vector": model.visual_projection(torch.cat([y.pooler_output for y in images])),
    }
    a, b = (x / x.norm(dim=-1, keepdim=True) for x in (found["image_vector"], found["text_vector"]))
    return {**found, "logits": model.logit_scale.exp() * a @ b.T}


@torch.no_grad()
def of_ours(model: Any, given: Batch) -> dict[str, Tensor]:
    run = Run(model.body)
    return {**{name: x for name, (x, _) in run(given).items()}, "logits": model.task.pair.read(run, given)}


def batch(given: list[Row]) -> Batch:
    return batch_of(given, range(len(given)), {})


def gaps(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, float]:
    assert a.keys() == b.keys()
    return {name: gap(a[name], b[name]) for name in a}


@pytest.mark.parametrize("end", [7, 2], ids=["end token", "largest number"])
def test_both_towers_and_the_logits_are_the_incumbents(end: int, tmp_path: Path, tokenizer: Path) -> None:
    made, given = theirs(tmp_path, tokenizer, eos_token_id=end), rows()
    wanted, ours = of_theirs(made, given), load(tmp_path, "image_text_retrieval")
    found = gaps(of_ours(ours, batch(given)), wanted)
    assert max(found.values()) <= TOLERANCE, found
    ours.body.end = 7 if end == 2 else 2  # type: ignore[assignment]  # control: the other rule
    wrong = gaps(of_ours(ours, batch(given)), wanted)
    assert min(wrong["text_vector"], wrong["logits"]) >= CONTROL and wrong["text"] <= TOLERANCE, wrong


WRONG: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "another activation": ("logits", lambda c: replace(c, activation="gelu")),
    "another activation of images": ("image_vector", lambda c: replace(c, image_activation="gelu")),
    "another epsilon": ("whole", lambda c: replace(c, image_norm_eps=1e-2)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_control_a_wrong_configuration_misses(wrong: str, tmp_path: Path, tokenizer: Path) -> None:
    part, change = WRONG[wrong]
    made, given = theirs(tmp_path, tokenizer), rows()
    right = load(tmp_path, "image_text_retrieval")
    body = type(right.body)(change(right.origin.config)).eval()
    body.load_state_dict(right.body.state_dict())
    right.body = body
    assert gaps(of_ours(right, batch(given)), of_theirs(made, given))[part] >= CONTROL


def test_one_part_alone_is_read_as_in_the_whole_batch(tmp_path: Path, tokenizer: Path) -> None:
    theirs(tmp_path, tokenizer)
    ours, given = load(tmp_path, "image_text_retrieval"), rows()
    whole = of_ours(ours, batch(given))
    texts = [Row({"text": row.parts["text"]}, example=i) for i, row in enumerate(given)]
    images = [Row({"image": row.parts["image"]}, row.rows, example=i) for i, row in enumerate(given) if "image" in row.parts]
    with torch.no_grad():
        for name, few in (("text_vector", texts), ("image_vector", images)):
            assert gap(Run(ours.body)(batch(few), keep={name: None})[name].values, whole[name]) <= TOLERANCE


def test_the_incumbent_reads_what_nabi_writes(tmp_path: Path, tokenizer: Path) -> None:
    """From scratch, with a tokenizer of its own: the end token in config.json is the tokenizer's."""
    made = checkpoint.create("clip", "tiny", "image_text_retrieval", _settings(), tokenizer)
    randomised(made)
    checkpoint.save(made, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["CLIPModel"] and config["text_config"]["eos_token_id"] == 3
    again, given = transformers.CLIPModel.from_pretrained(tmp_path).eval(), rows(end=3)
    assert max(gaps(of_ours(made, batch(given)), of_theirs(again, given)).values()) <= TOLERANCE


def _settings() -> Any:
    from nabi import tasks

    return tasks.find("image_text_retrieval").Settings()


def test_an_old_folder_is_read(tmp_path: Path, tokenizer: Path) -> None:
    """Counted positions among the tensors, sizes under ``text_config_dict``, settings that CLIP never had: nothing is lost and nothing warned of."""
    made, given = theirs(tmp_path, tokenizer), rows()
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config_dict"], config["vision_config_dict"] = config.pop("text_config"), None
    config["text_config"] = {"hidden_size": 512, "dropout": 0.0, "add_cross_attention": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    counted = {"text_model.embeddings.position_ids": torch.arange(24)[None], "vision_model.embeddings.position_ids": torch.arange(17)[None]}
    save_file({**tensors, **counted}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours = load(tmp_path)
    assert ours.task.name == "zero_shot_image_classification"
    assert max(gaps(of_ours(ours, batch(given)), of_theirs(made, given)).values()) <= TOLERANCE
    checkpoint.save(ours, tmp_path / "again")
    saved = load_file(tmp_path / "again" / "model.safetensors")
    assert saved.keys() == tensors.keys() and all(torch.equal(saved[name], tensors[name]) for name in tensors)


# ---- the tokenizer -----------------------------------------------------------------------------------------------------------------------------

WORDS = "</w>"
TEXTS = (
    *("a photo of a cat", "A Photo of TWO cats!!", "it's 2021, isn't it?", "  many   spaces ", "naïve café"),
    *("나비가 꽃에 앉았다.", "\U0001f98b butterfly", "", "x_y-z 100%"),
)


def clip_words(folder: Path) -> Path:
    """The files of a CLIP folder in small, with merges learnt from a few texts."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers, trainers

    made = Library(models.BPE(end_of_word_suffix=WORDS))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([t.lower() for t in TEXTS] * 3, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, end_of_word_suffix=WORDS))
    learnt = json.loads(made.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in learnt["merges"]]
    tokens = [*sorted(alphabet), *(f"{c}{WORDS}" for c in sorted(alphabet)), *("".join(m.split()) for m in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}))
    return folder


def test_a_text_has_the_incumbents_tokens(tmp_path: Path) -> None:
    reference = transformers.CLIPTokenizer.from_pretrained(clip_words(tmp_path))
    ours = Tokenizer.load(tmp_path)
    found = [ours.encode(text).ids for text in TEXTS]
    assert found == [reference(text)["input_ids"] for text in TEXTS]
    assert all(ids[0] == reference.bos_token_id and ids[-1] == reference.eos_token_id for ids in found)
    assert found[0] != [reference.bos_token_id, *reference("a photo of a dog")["input_ids"][1:]]  # control
    saved = tmp_path / "saved"
    saved.mkdir()
    reference.save_pretrained(saved)
    assert [Tokenizer.load(saved).encode(text).ids for text in TEXTS] == found
    shutil.rmtree(saved)
