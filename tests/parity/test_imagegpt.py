"""Parity with the incumbent's ImageGPT, weights from N(0, 0.25): hidden states, heads both ways, colours, completion over a cache, bits per pixel.

The incumbent reads one row at a time: no padding, no mask.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.imagegpt.image_processing_pil_imagegpt import ImageGPTImageProcessorPil

import nabi
from conformance.kit import randomised, task_with
from nabi import checkpoint, families
from nabi.batch import Batch, Row, batch_of
from nabi.errors import CheckpointError
from nabi.evaluation import evaluate
from nabi.nn.body import Body, Run
from nabi.nn.kernels import Pattern
from nabi.nn.linear import FeedForward, LayerNorm, RMSNorm, activation
from parity.kit import CONTROL, TOLERANCE, gap

COLOURS, SIDE, LABELS = 20, 6, 3
SIZES = {"vocab_size": COLOURS + 1, "n_positions": SIDE**2, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48}
LENGTHS = (7, 1, 19, 3, SIDE**2, 12, 12)
HEADS = {"row": ("ForImageClassification", LABELS), "vocabulary": ("ForCausalImageModeling", COLOURS)}


def clusters() -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).uniform(-1, 1, (COLOURS, 3))


def theirs(end: str, folder: Path, **settings: Any) -> Any:
    """A model of the incumbent with all weights from N(0, 0.25), saved in ``folder`` with the settings of images."""
    labels = dict(enumerate("xyz"))
    config = transformers.ImageGPTConfig(**{**SIZES, "id2label": labels, "label2id": {name: i for i, name in labels.items()}, **settings})
    made = randomised(getattr(transformers, f"ImageGPT{end}")(config)).eval()
    made.save_pretrained(folder)
    ImageGPTImageProcessorPil(clusters=clusters(), size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return made


def rows() -> list[list[int]]:
    g = torch.Generator().manual_seed(1)
    return [torch.randint(COLOURS + 1, (n,), generator=g).tolist() for n in LENGTHS]


def packed(images: list[list[int]]) -> Batch:
    made = [Row({"image": {"tokens": tokens}}, example=i) for i, tokens in enumerate(images)]
    return batch_of(made, range(len(made)), {})


def outputs(model: Any, **settings: Any) -> list[Any]:
    """What the incumbent says to each row alone."""
    return [model(input_ids=torch.tensor([tokens]), **settings) for tokens in rows()]


def logits_of(model: Any, kind: str) -> Tensor:
    return torch.cat([out.logits if kind == "row" else out.logits[0] for out in outputs(model)])


def pictures() -> list[np.ndarray[Any, Any]]:
    """Colours, greys, several sizes."""
    dice = np.random.default_rng(0)
    return [dice.integers(0, 256, shape, dtype=np.uint8) for shape in ((9, 12, 3), (6, 6, 3), (20, 7, 3), (11, 11))]


def as_rgb(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Grey as three equal channels, which the incumbent is given since it asks for three."""
    return picture if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)


def numbers(folder: Path, images: list[np.ndarray[Any, Any]]) -> list[Tensor]:
    """Colour numbers of each image, (1, T), as the incumbent's processor in ``folder`` gives them."""
    processor = ImageGPTImageProcessorPil.from_pretrained(folder)
    return [torch.from_numpy(processor(as_rgb(image), return_tensors="np", input_data_format="channels_last")["input_ids"]) for image in images]


def wrong(body: Body) -> Iterator[tuple[str, Tensor]]:
    """Hidden values of variants that are not the architecture."""
    given, layers = packed(rows()), list[Any](body.layers)  # type: ignore[arg-type]
    part = given.parts["image"]
    shifted = replace(part, layout=part.layout.continued(torch.ones(len(part.layout), dtype=torch.int64)))
    longest = max(range(len(LENGTHS)), key=LENGTHS.__getitem__)
    table = body.embeddings.positions  # type: ignore[union-attr]
    before = table.weight.data  # type: ignore[union-attr]
    table.weight.data = torch.cat([before, before[:1]])  # type: ignore[union-attr]  # a place more, for the row that fills the table
    assert LENGTHS[longest] == SIDE**2
    yield "positions from 1", body(Batch({"image": shifted}))["image"].values
    table.weight.data = before  # type: ignore[union-attr]
    for layer in layers:
        layer.attention.pattern = Pattern()
    yield "not causal", body(given)["image"].values
    for layer in layers:
        layer.attention.pattern = Pattern(causal=True)
    for m in body.modules():
        if isinstance(m, FeedForward):
            m.act, m.fused = activation("gelu_new"), ""
    yield "the tanh formula of GELU", body(given)["image"].values
    for m in body.modules():
        if isinstance(m, FeedForward):
            m.act = activation("quick_gelu")
    for layer in layers:
        norm: RMSNorm = layer.attention_norm
        layer.attention_norm = LayerNorm(len(norm.weight), norm.eps).to(norm.weight.dtype)
        layer.attention_norm.weight.data = norm.weight.data
    yield "norms that subtract the mean", body(given)["image"].values


@torch.no_grad()
def test_hidden_states(tmp_path: Path) -> None:
    """Embeddings and all layers, in float64 too, where formulas that are nearly the same are told apart."""
    for dtype, tolerance in ((torch.float32, TOLERANCE), (torch.float64, 1e-10)):
        folder = tmp_path / str(dtype)
        found = outputs(theirs("Model", folder).to(dtype), output_hidden_states=True)
        wanted = [torch.cat([out.hidden_states[i][0] for out in found]) for i in range(4)]
        body, given = checkpoint.load_body(folder).to(dtype), packed(rows())
        seen = [body.embed(given)["image"].values]
        hooks = [layer.register_forward_hook(lambda m, _, out, seen=seen: seen.append(out)) for layer in body.layers]  # type: ignore[union-attr,operator]
        last = body(given)["image"].values
        for hook in hooks:
            hook.remove()
        gaps = [gap(a, b) for a, b in zip([*seen[:-1], last], wanted, strict=True)]
        controls = {name: gap(x, wanted[-1]) for name, x in wrong(body)}
        print(f"{dtype}: {max(gaps):.1e}; controls", {name: f"{x:.1e}" for name, x in controls.items()})
        assert len(gaps) == 4 and max(gaps) <= tolerance and min(controls.values()) >= 100 * tolerance, (gaps, controls)


@pytest.mark.parametrize("kind", HEADS)
def test_heads_and_gradients_both_ways(kind: str, tmp_path: Path) -> None:
    """Logits and the gradient of every parameter; saved back bit-equal; our folder, changed, opens there with equal logits."""
    end, size = HEADS[kind]
    model, task = theirs(end, tmp_path / "theirs"), task_with((kind,), size)
    ours = checkpoint.Folder(tmp_path / "theirs").model(task, task.Settings(), "cpu", None)
    head: Any = getattr(ours.task, kind)
    wanted, given = logits_of(model, kind), packed(rows())
    found = head.read(Run(ours.body), given)
    with torch.no_grad():
        turned = head.read(Run(ours.body), packed([tokens[::-1] for tokens in rows()]))
        far, controls = gap(found, wanted), {"other order": gap(turned, wanted), "outputs exchanged": gap(found.flip(1), wanted)}

    label = torch.arange(len(wanted)) % size
    F.cross_entropy(wanted, label).backward()
    F.cross_entropy(found, label).backward()
    by_name = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    hf = ours.origin.family.hf
    assert hf is not None
    table = checkpoint.name_table(ours.origin.family, (kind,), hf.prefix, ours.body.heads)
    gradients = table.save({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    assert gradients.keys() == by_name.keys()
    scale = max(1.0, *(float(g.abs().max()) for g in by_name.values()))
    gaps = {name: float((gradients[name] - g).abs().max()) / scale for name, g in by_name.items()}
    print(f"{kind}: logits {far:.1e}, gradients {max(gaps.values()):.1e}; controls", {n: f"{x:.1e}" for n, x in controls.items()})
    assert max(far, *gaps.values()) <= TOLERANCE and min(controls.values()) >= CONTROL, (max(gaps, key=gaps.__getitem__), controls)

    checkpoint.save(ours, tmp_path / "same")
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "same"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "same" / "preprocessor_config.json").exists()
    with torch.no_grad():
        for p in ours.parameters():
            p.mul_(1.01)
        checkpoint.save(ours, tmp_path / "ours")
        config = json.loads((tmp_path / "ours" / "config.json").read_text())
        assert config["model_type"] == "imagegpt" and config["architectures"] == [f"ImageGPT{end}"]
        opened, report = getattr(transformers, config["architectures"][0]).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not any(report.values()), report
        assert gap(logits_of(opened.eval(), kind), head.read(Run(ours.body), given)) <= TOLERANCE
        assert gap(logits_of(opened, kind), wanted) >= CONTROL  # control: the unchanged weights


def test_the_colours_are_the_incumbents(tmp_path: Path) -> None:
    """Numbers of images of several sizes and modes; the processor of a folder that we write gives them too, of grey colours as well."""
    theirs("ForCausalImageModeling", tmp_path / "theirs")
    model = nabi.load(tmp_path / "theirs")
    assert model.task.name == "image_completion"
    checkpoint.save(model, tmp_path / "ours")
    grey = [{"image": picture[..., 0] if picture.ndim == 3 else picture} for picture in pictures()]
    built = nabi.create("imagegpt", "tiny", "image_completion", model.task.settings, examples=nabi.data.read_table(grey))
    checkpoint.save(built, tmp_path / "grey")
    for folder, made in ((tmp_path / "theirs", model), (tmp_path / "ours", model), (tmp_path / "grey", built)):
        for picture, wanted in zip(pictures(), numbers(folder, pictures()), strict=True):
            streams, _ = made.inputs.images.read(picture, "a picture")
            assert streams["tokens"] == wanted[0].tolist()
            assert streams["tokens"] != made.inputs.images.read(picture[:, ::-1], "a picture")[0]["tokens"]  # control: mirrored
    palette = built.inputs.images.settings.palette
    assert (palette == palette[:, :1]).all() and len(np.unique(palette[:, 0])) == len(palette)


@torch.no_grad()
def test_completion_is_the_incumbents(tmp_path: Path) -> None:
    """The most probable pixels behind halves, over a cache, in one batch: the incumbent's, one by one; and their log-probability is that of one pass."""
    model = theirs("ForCausalImageModeling", tmp_path)
    ours, colours = nabi.load(tmp_path), clusters()
    answers = ours.predict(pictures(), do_sample=False)
    kept = SIDE // 2 * SIDE
    differing = 0
    for answer, read in zip(answers, numbers(tmp_path, pictures()), strict=True):
        start = torch.tensor([[COLOURS]])
        prompt = torch.cat([start, read[:, :kept]], 1)
        written = model.generate(prompt, max_length=SIDE**2 + 1, do_sample=False, use_cache=True)[0, 1:]
        wanted = np.rint(127.5 * (colours[written.numpy()] + 1.0)).reshape(SIDE, SIDE, 3).astype(np.uint8)  # as its documentation has it
        assert answer["kept"] == SIDE // 2 and answer["image"].dtype == np.uint8 and np.array_equal(answer["image"], wanted)
        logits = model(torch.cat([start, written[None, :-1]], 1)).logits[0].log_softmax(-1)
        nats = logits.gather(1, written[:, None])[kept:].sum()
        assert abs(answer["completions"][0]["score"] - float(nats)) <= TOLERANCE * abs(float(nats))
        differing += not np.array_equal(written[kept:].numpy(), read[0, kept:].numpy())
    assert differing == len(answers)  # control: it is not the image itself that is found again
    drawn = ours.predict(pictures(), temperature=5.0)
    assert not any(np.array_equal(a["image"], b["image"]) for a, b in zip(answers, drawn, strict=True))


@torch.no_grad()
def test_bits_per_pixel_are_the_incumbents_loss(tmp_path: Path) -> None:
    model = theirs("ForCausalImageModeling", tmp_path)
    losses, shifted = [], []
    for read in numbers(tmp_path, pictures()):
        tokens = torch.cat([torch.tensor([[COLOURS]]), read], 1)
        logits = model(tokens[:, :-1]).logits[0]
        losses.append(float(F.cross_entropy(logits, tokens[0, 1:])) / math.log(2))
        shifted.append(float(F.cross_entropy(logits[1:], tokens[0, 1:-1])) / math.log(2))
    found = evaluate(nabi.load(tmp_path), [{"image": picture} for picture in pictures()]).metrics["bits_per_pixel"]
    assert abs(found / np.mean(losses) - 1) <= TOLERANCE
    assert abs(found / np.mean(shifted) - 1) >= CONTROL  # control: each pixel told from itself and those before it


@torch.no_grad()
def test_labels_are_the_incumbents(tmp_path: Path) -> None:
    """Images to labels, without the token that a written image begins with."""
    model, ours = theirs("ForImageClassification", tmp_path), nabi.load(tmp_path)
    assert ours.task.name == "image_classification"
    for picture, read in zip(pictures(), numbers(tmp_path, pictures()), strict=True):
        wanted = model(read).logits[0].softmax(-1).tolist()
        begun = model(torch.cat([torch.tensor([[COLOURS]]), read[:, :-1]], 1)).logits[0].softmax(-1).tolist()
        found = ours.predict(picture)["scores"]
        assert np.abs(np.array([found[name] for name in "xyz"]) - wanted).max() <= TOLERANCE
        assert np.abs(np.array([found[name] for name in "xyz"]) - begun).max() >= CONTROL  # control


def test_the_published_config_is_the_default() -> None:
    """The keys of imagegpt-small's config.json; what would be another computation is refused."""
    kind = families.find("imagegpt")
    data = {"activation_function": "quick_gelu", "attn_pdrop": 0.1, "embd_pdrop": 0.1, "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "n_embd": 512}
    data |= {"model_type": "imagegpt", "n_head": 8, "n_inner": None, "n_layer": 24, "n_positions": 1024, "reorder_and_upcast_attn": False, "resid_pdrop": 0.1}
    data |= {"scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "tie_word_embeddings": False, "use_cache": True, "vocab_size": 513}
    assert families.config_from(kind, data, "config.json") == kind.config()
    with pytest.raises(CheckpointError, match="'scale_attn_by_inverse_layer_idx' is True, but this family computes only False"):
        families.config_from(kind, {**data, "scale_attn_by_inverse_layer_idx": True}, "config.json")
