"""Zero-shot classification of images: as the incumbent's pipeline, templates, labels read once, training on labels of one's own, bad input refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import nabi
from nabi import Plan, evaluate, load
from nabi.errors import DataError, InputError, OptionError
from nabi.fitting import fit
from nabi.nn.body import Body
from nabi.training.progress import Progress
from tasks.paired import folder, pictures, reference
from tasks.written import command

TOLERANCE = 1e-5
LABELS = ["good film", "bad song", "a dull scene"]
TASK = "zero-shot-image-classification"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("clip"))


def scored(found: list[dict[str, Any]]) -> dict[str, float]:
    assert [item["score"] for item in found] == sorted((item["score"] for item in found), reverse=True)
    return {item["label"]: item["score"] for item in found}


def test_the_incumbents_pipeline_gives_the_same_scores(path: Path) -> None:
    model, tokenizer, processor = reference(path)
    theirs = transformers.pipeline(TASK, model=model, tokenizer=tokenizer, image_processor=processor)
    ours, images = nabi.pipeline(TASK, path), pictures(4)
    template = "the film was {}."
    found = ours(images, candidate_labels=LABELS, hypothesis_template=template)
    wanted = theirs(images, candidate_labels=LABELS, hypothesis_template=template)
    for a, b in zip(found, wanted, strict=True):
        assert [set(item) for item in a] == [set(item) for item in b] and [item["label"] for item in a] == [item["label"] for item in b]
        assert max(abs(scored(a)[name] - scored(b)[name]) for name in LABELS) <= TOLERANCE
    default = ours(images[0], candidate_labels=LABELS)
    assert max(abs(scored(default)[name] - scored(theirs(images[0], candidate_labels=LABELS))[name]) for name in LABELS) <= TOLERANCE
    # control: another template, another image
    assert abs(scored(default)[LABELS[0]] - scored(found[0])[LABELS[0]]) >= 100 * TOLERANCE
    assert abs(scored(found[1])[LABELS[0]] - scored(found[0])[LABELS[0]]) >= 100 * TOLERANCE


def test_every_form_of_a_call_says_the_same(path: Path) -> None:
    pipe, image = nabi.pipeline(TASK, path), pictures(1)[0]
    wanted = pipe(image, candidate_labels=LABELS)
    assert pipe(image, LABELS) == wanted
    assert pipe(image, candidate_labels=", ".join(LABELS)) == wanted
    assert pipe(image=image, candidate_labels=LABELS) == wanted and pipe(images=image, candidate_labels=LABELS) == wanted
    assert pipe({"image": image, "candidate_labels": LABELS}) == wanted
    assert pipe([image, image], candidate_labels=LABELS) == [wanted, wanted]
    assert scored(pipe(image, candidate_labels=LABELS[:1])) == {LABELS[0]: 1.0}


def test_templates_are_averaged(path: Path) -> None:
    pipe, image, templates = nabi.pipeline(TASK, path), pictures(1)[0], ("the {}", "a {} scene", "{}")
    found = scored(pipe(image, candidate_labels=LABELS, hypothesis_template=templates))
    model, tokenizer, processor = reference(path)
    with torch.no_grad():
        unit = torch.nn.functional.normalize
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        picture = unit(model.visual_projection(model.vision_model(pixels).pooler_output), dim=-1)[0]
        logits = []
        for label in LABELS:
            ids = [tokenizer(template.format(label), return_tensors="pt")["input_ids"] for template in templates]
            each = torch.cat([unit(model.text_projection(model.text_model(x).pooler_output), dim=-1) for x in ids])
            logits.append(model.logit_scale.exp() * unit(each.mean(0), dim=-1) @ picture)
    wanted = torch.stack(logits).softmax(0).tolist()
    assert max(abs(found[name] - score) for name, score in zip(LABELS, wanted, strict=True)) <= TOLERANCE
    one = scored(pipe(image, candidate_labels=LABELS, hypothesis_template=templates[0]))
    assert max(abs(found[name] - one[name]) for name in LABELS) >= 100 * TOLERANCE


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each forward of a body reads."""
    counted: list[int] = []
    forward = nabi.families.clip.Clip.forward  # type: ignore[attr-defined]

    def counting(self: Body, batch: Any, *args: Any, **given: Any) -> Any:
        counted.append(len(batch.parts["text"].ids) if "text" in batch.parts else 0)
        return forward(self, batch, *args, **given)

    monkeypatch.setattr("nabi.families.clip.Clip.forward", counting)
    return counted


def test_a_label_is_read_once_for_all_images_until_the_weights_change(path: Path, read: list[int]) -> None:
    model = load(path)
    images, options = pictures(60), {"candidate_labels": LABELS}
    first = model.predict(images, **options)
    assert sum(read) == len(LABELS)
    assert model.predict(images[0], **options)["scores"] == pytest.approx(first[0]["scores"], abs=1e-6) and sum(read) == len(LABELS)
    model.predict(images[0], candidate_labels=[*LABELS, "lovely cast"])
    assert sum(read) == len(LABELS) + 1
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if name == "body.text.projection.weight").mul_(-1)
    changed = model.predict(images[0], **options)
    assert sum(read) == 2 * len(LABELS) + 1
    assert max(abs(a - b) for a, b in zip(sorted(changed["scores"]), sorted(first[0]["scores"]), strict=True)) > 1e-3
    model.prepare("bf16").predict(images[0], **options)
    assert sum(read) == 3 * len(LABELS) + 1
    model.train().eval()  # torch does not count the updates of a fused optimizer
    model.predict(images[0], **options)
    assert sum(read) == 4 * len(LABELS) + 1


def test_an_image_alone_is_the_image_among_others(path: Path) -> None:
    model, images = load(path), pictures(9)
    together = model.predict(images, candidate_labels=LABELS)
    alone = [load(path).predict(image, candidate_labels=LABELS) for image in images]
    gaps = [abs(a["score"] - b["score"]) for a, b in zip(together, alone, strict=True)]
    assert max(gaps) <= TOLERANCE and [a["label"] for a in together] == [a["label"] for a in alone]


def labelled(count: int, seed: int) -> list[dict[str, Any]]:
    """Red pictures and blue ones."""
    import numpy as np

    g, found = np.random.default_rng(seed), []
    for i in range(count):
        pixels = g.integers(0, 120, (16, 16, 3), dtype=np.uint8)
        pixels[:, :, 0 if i % 2 else 2] += 130
        found.append({"image": pixels, "label": "good" if i % 2 else "bad"})
    return found


def test_it_learns_labels_and_is_evaluated_on_them(tokenizer: Path, tmp_path: Path) -> None:
    plan = Plan(epochs=6, batch=16, learning_rate=2e-3, schedule="constant")
    settings = {"hypothesis_template": ("the {} film", "a {} song")}
    given: dict[str, Any] = {"family": "clip", "size": "tiny", "tokenizer": tokenizer, "plan": plan, "settings": settings, "progress": Progress("none")}
    fit(TASK, labelled(64, 0), dev=labelled(32, 1), out=tmp_path / "made", **given)
    made = load(tmp_path / "made")
    assert made.task.settings.candidates == ("bad", "good")
    figures = evaluate(made, labelled(40, 2)).metrics
    assert figures["accuracy"] >= 0.95 and {"macro_f1", "mcc", "ece", "f1/good"} <= figures.keys()
    assert evaluate(made, labelled(40, 2), options={"candidate_labels": ["bad", "good", "dull"]}).metrics["accuracy"] > 0.5
    with pytest.raises(DataError, match="unknown label"):
        evaluate(made, [{"image": labelled(1, 0)[0]["image"], "label": "strange"}])


def test_both_templates_are_trained_with_and_only_those(path: Path) -> None:
    model = load(path)
    model.task.settings = type(model.task.settings)(candidates=("bad", "good"), hypothesis_template=("the {}", "a {} song"))
    (row,) = model.encode(labelled(1, 0)[0], model.options(), "train", "a row")
    drawn = {tuple(model.task.corrupt(row, torch.Generator().manual_seed(i)).parts["text"]["tokens"]) for i in range(20)}
    assert drawn == {tuple(model.inputs.tokenizer.encode(text).ids) for text in ("the bad", "a bad song")}


def test_bad_input_is_refused(path: Path) -> None:
    pipe, image = nabi.pipeline(TASK, path), pictures(1)[0]
    with pytest.raises(InputError, match="has no candidate labels"):
        pipe(image)
    with pytest.raises(InputError, match="candidate labels are no names"):
        pipe(image, candidate_labels=["good", " "])
    for template in ("no place", "{} {}", "{a.b}"):
        with pytest.raises(OptionError, match="hypothesis template can't be filled"):
            pipe(image, candidate_labels=LABELS, hypothesis_template=template)
    with pytest.raises(InputError, match="too long"):
        pipe(image, candidate_labels=["the film " * 30], long="error")
    assert load(path).predict(image, candidate_labels=["the film " * 30])["truncated"]
    with pytest.raises(InputError):
        pipe("no picture of this name.png", candidate_labels=LABELS)


def test_the_command_line_answers(path: Path, tmp_path: Path) -> None:
    pictures(1)[0].save(tmp_path / "one.png")
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"image": "one.png", "candidate_labels": LABELS}) + "\n")
    code, told, _ = command("predict", path, "--data", data, "--json")
    answer, wanted = json.loads(told), load(path).predict(tmp_path / "one.png", candidate_labels=LABELS)
    assert code == 0 and answer["labels"] == wanted["labels"] and answer["scores"] == pytest.approx(wanted["scores"], abs=TOLERANCE)
