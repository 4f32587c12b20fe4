"""Image completion: stripes are learnt and gone on with, what stays and what is drawn, bits per pixel and the guesses beside them, fitted colours."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import nabi
from nabi import checkpoint
from nabi.cli import cli
from nabi.data import read_table
from nabi.data.colours import fitted_colours, k_means
from nabi.data.images import pixels_of
from nabi.data.pixels import FILE, ImageSettings, nearest_colours
from nabi.errors import CheckpointError, InputError, OptionError
from nabi.evaluation import evaluate
from nabi.fitting import fit
from nabi.metrics.pixels import Drawn, PixelScore
from nabi.model import Model
from nabi.tasks.image_completion import ImageCompletion
from nabi.training.plan import Plan
from nabi.training.progress import Progress

SIDE = 5
SIZE = {"vocab_size": 3, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_positions": SIDE**2}
STILL = {"hidden_dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0}
Array = np.ndarray[Any, Any]


def stripes(count: int, seed: int) -> list[dict[str, Array]]:
    """Grey images whose rows are all the first one, which is black and white by chance: a bit for each column."""
    dice = np.random.default_rng(seed)
    return [{"image": np.repeat(dice.choice([0, 255], (1, SIDE)).astype(np.uint8), SIDE, axis=0)} for _ in range(count)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that learnt stripes."""
    plan = Plan(steps=200, batch=32, learning_rate=5e-3)
    fitted = fit("image_completion", stripes(64, 0), family="imagegpt", size={**SIZE, **STILL}, plan=plan, progress=Progress("quiet"))
    folder = tmp_path_factory.mktemp("stripes") / "model"
    checkpoint.save(fitted.model, folder)
    return folder


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return nabi.load(trained)


def fresh(size: Any = "tiny", **settings: Any) -> Model:
    return nabi.create("imagegpt", size, "image_completion", ImageCompletion.Settings(), **settings)


def noise(count: int, seed: int = 0) -> list[Array]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8))


# ---- a model that learnt something ----------------------------------------------------------------------------------------------------------------


def test_a_trained_model_needs_a_bit_a_column_and_guesses_need_one_a_pixel(model: Model) -> None:
    unseen = stripes(200, 1)
    figures = evaluate(model, unseen).metrics
    assert 1 / SIDE - 0.02 < figures["bits_per_pixel"] < 1 / SIDE + 0.03
    assert figures["marginal_bits_per_pixel"] > 0.97 and figures["place_bits_per_pixel"] > 0.95
    control = evaluate(fresh({**SIZE, **STILL}), unseen).metrics
    assert control["bits_per_pixel"] > 0.9 and control["place_bits_per_pixel"] == figures["place_bits_per_pixel"]


def test_stripes_go_on(model: Model) -> None:
    images = [row["image"] for row in stripes(30, 2)]
    answers = model.predict(images, keep=0.4)
    assert all(answer["kept"] == 2 and np.array_equal(answer["image"][:, :, 0], image) for answer, image in zip(answers, images, strict=True))
    cut = [np.concatenate([image[:2], 255 - image[2:]]) for image in images]  # what lies below is not looked at
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(model.predict(cut, keep=0.4), answers, strict=True))
    control = fresh({**SIZE, **STILL}, images={"clusters": model.inputs.images.settings.clusters}).predict(images, keep=0.4)
    assert sum(np.array_equal(a["image"][:, :, 0], image) for a, image in zip(control, images, strict=True)) < 3


def test_a_whole_image_is_written_from_nothing(model: Model) -> None:
    answers = model.predict([row["image"] for row in stripes(40, 3)], keep=0.0)
    seen = {answer["image"].tobytes() for answer in answers}
    striped = [all(np.array_equal(row, answer["image"][0]) for row in answer["image"]) for answer in answers]
    assert all(answer["kept"] == 0 for answer in answers) and len(seen) > 12 and np.mean(striped) > 0.8


# ---- what is kept, what is drawn ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "kept"), [(0.0, 0), (0.19, 0), (0.2, 1), (0.5, 2), (0.6, 3), (0.99, 4)])
def test_the_upper_rows_stay(keep: float, kept: int) -> None:
    model, (image, *_) = fresh(), noise(1)
    answer = model.predict(image, keep=keep)
    settings = model.inputs.images.settings
    own = settings.palette[nearest_colours(settings.numbers(settings.resized(image)).reshape(-1, 3), np.asarray(settings.clusters))].reshape(5, 5, 3)
    assert answer["kept"] == kept and answer["image"].shape == (5, 5, 3) and answer["image"].dtype == np.uint8
    assert np.array_equal(answer["image"][:kept], own[:kept]) and not np.array_equal(answer["image"][kept:], own[kept:])


@pytest.mark.parametrize("keep", [1.0, -0.1, 50])
def test_a_share_that_leaves_nothing_to_write_is_refused(keep: float) -> None:
    with pytest.raises(OptionError, match="keep is the share of an image that stays"):
        fresh().predict(noise(1), keep=keep)


def test_draws_are_the_seeds_and_no_neighbours() -> None:
    model, images = fresh(), noise(6)

    def drawn(given: list[Array], **options: Any) -> list[Array]:
        return [each["image"] for answer in model.predict(given, **options) for each in answer["completions"]]

    first = drawn(images)
    assert all(map(np.array_equal, first, drawn(images))) and np.array_equal(first[0], drawn(images[:1])[0])
    assert not any(map(np.array_equal, first, drawn(images, seed=1)))
    several = drawn(images[:2], num_return_sequences=3)
    assert np.array_equal(several[0], first[0]) and np.array_equal(several[3], first[1]) and len({x.tobytes() for x in several}) == 6
    likely = drawn(images, do_sample=False)
    assert all(map(np.array_equal, likely, drawn(images, top_k=1))) and not all(map(np.array_equal, likely, first))
    assert all(map(np.array_equal, likely, drawn(images, temperature=1e-4)))
    with pytest.raises(OptionError, match="would be the same answer again and again"):
        drawn(images, do_sample=False, num_return_sequences=2)


def test_images_of_two_sizes_in_a_batch_are_as_alone() -> None:
    """A model that leaves images as they are: each is written to its own end and measured as if there were no other."""
    model = fresh("tiny", images={"size": None})
    images = [image[:height, :width] for image, (height, width) in zip(noise(4), ((5, 5), (4, 3), (2, 8), (5, 4)), strict=True)]
    answers = model.predict(images, do_sample=False)
    assert [answer["image"].shape[:2] for answer in answers] == [(5, 5), (4, 3), (2, 8), (5, 4)]
    for image, answer in zip(images, answers, strict=True):
        alone = model.predict(image, do_sample=False)
        assert np.array_equal(alone["image"], answer["image"])
        assert alone["completions"][0]["score"] == pytest.approx(answer["completions"][0]["score"], rel=1e-5)
    whole = evaluate(model, [{"image": image} for image in images]).metrics["bits_per_pixel"]
    each = [evaluate(model, [{"image": image}]).metrics["bits_per_pixel"] * image.shape[0] * image.shape[1] for image in images]
    assert whole == pytest.approx(sum(each) / sum(image.shape[0] * image.shape[1] for image in images), rel=1e-5)


def test_the_pipeline_lists_completions(trained: Path, tmp_path: Path) -> None:
    image = stripes(1, 4)[0]["image"]
    Image.fromarray(image).save(tmp_path / "stripes.png")
    pipe = nabi.pipeline("image-completion", str(trained))
    found = pipe(str(tmp_path / "stripes.png"), num_return_sequences=2)
    assert [set(each) for each in found] == [{"image", "score"}] * 2 and found[0]["image"].shape == (SIDE, SIDE, 3) and found[0]["score"] < 0
    many = pipe([image, Image.fromarray(image)], num_return_sequences=2)
    assert len(many) == 2 and np.array_equal(many[0][0]["image"], found[0]["image"])


def test_the_command_line_tells_pictures(trained: Path, tmp_path: Path) -> None:
    image = stripes(1, 5)[0]["image"]
    Image.fromarray(image).save(tmp_path / "stripes.png")
    told = CliRunner().invoke(cli, ["predict", str(trained), str(tmp_path / "stripes.png"), "--json"])
    answer = json.loads(told.stdout)
    assert told.exit_code == 0 and answer["kept"] == 2 and answer["image"] == answer["completions"][0]["image"]
    assert np.array_equal(pixels_of(answer["image"], "the answer", 1)[:, :, 0], image)
    plain = CliRunner().invoke(cli, ["predict", str(trained), str(tmp_path / "stripes.png"), "--set", "num_return_sequences=2"])
    assert plain.stdout.startswith(answer["image"] + "\tdata:image/png;base64,")
    (tmp_path / "images.jsonl").write_text(json.dumps({"image": str(tmp_path / "stripes.png")}) + "\n")
    files = ["--data", str(tmp_path / "images.jsonl"), "--out", str(tmp_path / "answers.jsonl")]
    done = CliRunner().invoke(cli, ["predict", str(trained), *files, "--log", "quiet"])
    assert done.exit_code == 0 and json.loads((tmp_path / "answers.jsonl").read_text()) == answer


# ---- bits per pixel -------------------------------------------------------------------------------------------------------------------------------


def test_a_model_that_knows_nothing_needs_all_bits() -> None:
    model = fresh()
    with torch.no_grad():
        model.task.vocabulary.out.weight.zero_()  # type: ignore[union-attr]
    rows = [{"image": image} for image in noise(7)]
    assert evaluate(model, rows).metrics["bits_per_pixel"] == pytest.approx(3.0)  # of eight colours
    with torch.no_grad():
        model.task.vocabulary.out.weight.normal_(0, 3)  # type: ignore[union-attr]
    assert evaluate(model, rows).metrics["bits_per_pixel"] > 3.05


def test_guesses_are_entropies() -> None:
    """Two places: at the first one colour 0 and 1 alternate, at the second stands always 2."""
    score, detail = PixelScore(3), Drawn(3)
    for i in range(8):
        for each in (score, detail):
            each.add((math.log(2) * (i % 2), [i % 2, 2]))
    assert score.result() == pytest.approx({"bits_per_pixel": 0.25, "marginal_bits_per_pixel": 1.5, "place_bits_per_pixel": 0.5})
    weights = np.array([[1.0] * 8, [1, 0] * 4, [2, 0, 0, 2, 0, 0, 0, 0]])
    for counts, found in zip(weights, zip(*detail.figures(weights).values(), strict=True), strict=True):
        again = PixelScore(3)
        for i, count in enumerate(counts):
            for _ in range(int(count)):
                again.add((math.log(2) * (i % 2), [i % 2, 2]))
        assert list(again.result().values()) == pytest.approx(list(found), abs=1e-12)
    assert detail.take([1, 3]).figures(np.ones((1, 2)))["bits_per_pixel"][0] == pytest.approx(0.5)
    assert PixelScore(3).result() == {"bits_per_pixel": 0.0, "marginal_bits_per_pixel": 0.0, "place_bits_per_pixel": 0.0}


def test_images_of_two_sizes_are_measured_together() -> None:
    score = PixelScore(2)
    score.add((0.0, [0, 1]))
    score.add((0.0, [1, 1, 1]))
    assert score.result()["place_bits_per_pixel"] == pytest.approx(2 / 5)


def test_a_report_tells_both(tmp_path: Path) -> None:
    for i, row in enumerate(stripes(12, 6)):
        Image.fromarray(row["image"]).save(tmp_path / f"{i}.png")
    rows = [{"image": str(tmp_path / f"{i}.png")} for i in range(12)]
    fit("image_completion", rows, family="imagegpt", size=SIZE, plan=Plan(steps=2, batch=4), dev=rows, out=tmp_path / "run", progress=Progress("quiet"))
    report = (tmp_path / "run" / "report.html").read_text()
    assert "the colours of each place" in report and "Bits per pixel of an image" in report


# ---- colours --------------------------------------------------------------------------------------------------------------------------------------


def test_colours_are_those_of_the_images() -> None:
    truth, dice = np.array([[0, 0, 0], [250, 10, 10], [30, 250, 10], [200, 200, 250]]), np.random.default_rng(0)
    images = [np.clip(truth[dice.integers(4, size=(9, 9))] + dice.integers(-4, 5, (9, 9, 3)), 0, 255).astype(np.uint8) for _ in range(10)]
    table, settings = read_table([{"image": image} for image in images]), ImageSettings(size=(9, 9))
    found = ImageSettings(clusters=fitted_colours(table, settings, 4)).palette.astype(int)
    assert np.abs(found - truth).max() <= 3  # dark ones first
    assert fitted_colours(table, settings, 4) == fitted_colours(table, settings, 4)
    more = fitted_colours(table, settings, 16)

    def error(clusters: Sequence[tuple[float, ...]]) -> float:
        x = settings.numbers(images[0]).reshape(-1, 3)
        return float(np.square(np.asarray(clusters)[nearest_colours(x, np.asarray(clusters))] - x).mean())

    assert len(set(more)) == 16 and error(more) < 0.5 * error(fitted_colours(table, settings, 4)) < 0.01 * error(more[:4])  # control: not any colours do


def test_k_means_ends_where_nothing_moves() -> None:
    dice = np.random.default_rng(0)
    points, weights = dice.normal(size=(300, 3)), dice.uniform(0.1, 3, 300)
    centres = k_means(points, weights, 7, np.random.default_rng(1))
    of = np.square(points[:, None] - centres).sum(2).argmin(1)
    again = np.stack([np.average(points[of == i], axis=0, weights=weights[of == i]) for i in range(7)])
    assert np.allclose(centres, again) and not np.allclose(centres, np.stack([points[of == i].mean(0) for i in range(7)]))  # control: without weights


def test_images_with_fewer_colours_than_the_model(trained: Path) -> None:
    table = read_table(stripes(4, 0))
    found = fitted_colours(table, ImageSettings(size=(SIDE, SIDE)), 6)
    assert len(found) == 6 and found[0] == (-1.0,) * 3 and found[1:] == ((1.0,) * 3,) * 5
    stated = json.loads((trained / FILE).read_text())
    assert stated["clusters"] == [[-1.0] * 3, [1.0] * 3] and stated["image_processor_type"] == "ImageGPTImageProcessor"


def test_the_callers_own_colours_stay() -> None:
    own = ((-1.0, 0.0, 1.0), (0.5, 0.5, 0.5))
    fitted = fit("image_completion", stripes(4, 0), family="imagegpt", size=SIZE, images={"clusters": own}, plan=Plan(steps=1), progress=Progress("quiet"))
    assert fitted.model.inputs.images.settings.clusters == own
    with pytest.raises(OptionError, match="imagegpt of this size reads 2 colours: .*3 clusters"):
        fresh(SIZE, images={"clusters": (*own, own[0])})
    with pytest.raises(OptionError, match="vit reads no colour clusters"):
        nabi.create("vit", "tiny", "image_classification", nabi.tasks.find("image_classification").Settings(labels=("a", "b")), images={"clusters": own})


def test_a_folder_without_its_colours_is_refused(trained: Path, tmp_path: Path) -> None:
    for file in trained.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    stated = json.loads((tmp_path / FILE).read_text())
    for clusters, message in ((None, "no clusters"), (stated["clusters"][:1], "another number of colour clusters")):
        (tmp_path / FILE).write_text(json.dumps({**stated, "clusters": clusters}))
        with pytest.raises(CheckpointError, match=message):
            nabi.load(tmp_path)


def test_an_image_of_more_pixels_than_places_is_refused() -> None:
    model = fresh({**SIZE, "max_positions": 24}, images={"size": (5, 5)})
    for task in (lambda: model.predict(noise(1)), lambda: evaluate(model, [{"image": noise(1)[0]}])):
        with pytest.raises(InputError, match="has too many pixels: '?5 x 5"):
            task()


def test_what_is_no_image_is_named(model: Model) -> None:
    broken = io.BytesIO(b"GIF89a nothing more")
    with pytest.raises(InputError, match="input 2: "):
        model.predict([stripes(1, 0)[0]["image"], broken.getvalue()])
    with pytest.raises(InputError, match="row 2"):
        fit("image_completion", [*stripes(1, 0), {"image": broken.getvalue()}], family="imagegpt", size=SIZE, progress=Progress("quiet"))
    with pytest.raises(OptionError, match="goes on with an image"):
        nabi.create("vit", "tiny", "image_completion", ImageCompletion.Settings())
