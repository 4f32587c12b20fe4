"""What is drawn of a model of images, number by number: attention sums to 1, similarities equal a direct computation, mosaics have the right pixels."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.cases import Page
from nabi import Plan, checkpoint, fit
from nabi.batch import pack
from nabi.cli import main
from nabi.errors import InputError, OptionError
from nabi.inspection.galleries import completions, completions_section, halves, matched, similarity, similarity_section
from nabi.inspection.pictures import Inside, look, mosaic, page, patch_grid, position_similarity
from nabi.model import Model
from nabi.pages.page import render
from nabi.pages.png import coloured, png, scaled
from nabi.pages.sections import Picture
from nabi.tasks.image_classification import ImageClassificationSettings
from tasks import paired
from training.small import model as text_model
from training.small import vocabulary

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model() -> Model:
    """Tiny, with positions and attention that are far from even."""
    made = checkpoint.create("vit", "tiny", "image_classification", ImageClassificationSettings(("cat", "dog")))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.body.get_parameter("embeddings.positions").normal_(generator=generator)
        for layer in (0, 1):
            made.body.get_parameter(f"layers.{layer}.attention.qkv.weight").normal_(0, 0.3, generator=generator)
    return made


@pytest.fixture(scope="module")
def photo() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def found(model: Model, photo: np.ndarray[Any, Any]) -> Inside:
    return look(model, photo)


def opened(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_attention_of_the_whole_image_sums_to_one(found: Inside) -> None:
    assert found.attention is not None and found.own is not None
    assert found.attention.shape == (2, 4, 16) and found.grid == (4, 4)
    assert np.abs(found.attention.sum(-1) + found.own - 1).max() < TOLERANCE
    assert np.abs(found.attention.sum(-1) - 1).max() > 100 * TOLERANCE  # without its own share it does not


def test_the_attention_of_the_first_layer_is_the_softmax_of_its_queries_and_keys(model: Model, photo: np.ndarray[Any, Any], found: Inside) -> None:
    body, (row,) = model.body, model.encode({"image": photo}, model.options())
    (batch,) = pack([row])
    embeddings: Any = body.get_submodule("embeddings")
    with torch.no_grad():
        patches = embeddings(batch.parts["image"].streams["patches"], batch.parts["image"].rows["grid"])
        x = torch.cat([embeddings.whole[0] + embeddings.positions[0, :1], patches])
        layer: Any = body.get_submodule("layers.0")
        q, k, _ = layer.attention.qkv(layer.attention_norm(x)).view(17, 3, 4, 8).unbind(1)
        weights = torch.einsum("hd,khd->hk", q[0], k).div(8**0.5).softmax(-1).numpy()
        wrong = torch.einsum("hd,khd->hk", q[1], k).div(8**0.5).softmax(-1).numpy()
    assert found.attention is not None and found.own is not None
    first = np.concatenate([found.own[0][:, None], found.attention[0]], axis=1)
    assert np.abs(first - weights).max() < TOLERANCE
    assert np.abs(first - wrong).max() > 100 * TOLERANCE  # of the first patch


def test_the_similarity_of_positions_is_that_of_their_vectors(model: Model, found: Inside) -> None:
    table = model.body.get_parameter("embeddings.positions").detach().double().numpy()[0]
    values = found.positions
    assert values is not None and values.shape == (4, 4, 4, 4)

    def gap(vectors: np.ndarray[Any, Any]) -> float:
        direct = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in vectors] for a in vectors]
        return float(np.abs(values.reshape(16, 16) - direct).max())

    assert gap(table[1:]) < TOLERANCE
    assert gap(table[:-1]) > 100 * TOLERANCE  # with the token of the whole image among them
    assert np.abs(np.einsum("ijij->ij", values) - 1).max() < TOLERANCE


def test_a_larger_image_has_its_own_grid_and_the_model_its_own_positions(model: Model, photo: np.ndarray[Any, Any]) -> None:
    seen = look(model, photo, size="own")
    assert seen.grid == (10, 8) and seen.pixels.shape == (40, 32, 3)
    assert seen.attention is not None and seen.attention.shape == (2, 4, 80)
    assert seen.positions is not None and seen.positions.shape == (4, 4, 4, 4)


def test_looking_leaves_the_model_as_it_was(model: Model, photo: np.ndarray[Any, Any]) -> None:
    model.train()
    look(model, photo)
    assert model.body.training
    model.eval()


def test_a_bare_encoder_is_looked_at_too(model: Model, photo: np.ndarray[Any, Any], found: Inside, tmp_path: Path) -> None:
    checkpoint.save(model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "architectures": ["ViTModel"]}))
    (tmp_path / "model" / "nabi.json").unlink()
    seen = look(tmp_path / "model", photo)
    assert np.array_equal(seen.pixels, found.pixels)
    assert seen.attention is not None and found.attention is not None and np.abs(seen.attention - found.attention).max() < TOLERANCE


def test_a_model_of_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="reads no images"):
        look(text_model(vocabulary(tmp_path / "words")), np.zeros((4, 4, 3), np.uint8))


def test_the_matrix_of_images_and_texts_is_cosines() -> None:
    dice = np.random.default_rng(0)
    images, texts = dice.normal(size=(3, 8)), dice.normal(size=(5, 8))
    values = similarity(images, texts, scale=10.0)
    direct = [[10 * a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in texts] for a in images]
    assert values.shape == (3, 5) and np.abs(values - direct).max() < TOLERANCE
    assert np.abs(values - images @ texts.T).max() > 100 * TOLERANCE  # without their lengths taken out
    with pytest.raises(InputError, match="different lengths"):
        similarity(images, texts[:, :4])


def test_the_table_of_images_and_texts_names_the_nearest_text() -> None:
    black = Picture(png(np.zeros((2, 2), np.uint8)), "x", 2, 2)
    section = similarity_section(np.array([[0.1, 0.9], [0.5, 0.2]], np.float32), ["a cat", "a <b>dog</b>"], ["first", black])
    html = render("t", "", [], [section])
    assert html.count("a &lt;b&gt;dog&lt;/b&gt;") == 2 and "<b>" not in html
    assert "0.9000" in html and "data:image/png" in html


def test_a_mosaic_has_each_picture_in_its_place() -> None:
    pieces = np.arange(2 * 3 * 2 * 4, dtype=np.uint8).reshape(2, 3, 2, 4, 1).repeat(3, axis=-1)
    whole = mosaic(pieces, gap=2, ground=200)
    assert whole.shape == (2 * 2 + 2, 3 * 4 + 2 * 2, 3)
    for r in range(2):
        for c in range(3):
            assert np.array_equal(whole[r * 4 : r * 4 + 2, c * 6 : c * 6 + 4], pieces[r, c])
    ground = np.ones(whole.shape[:2], bool)
    for r in range(2):
        for c in range(3):
            ground[r * 4 : r * 4 + 2, c * 6 : c * 6 + 4] = False
    assert (whole[ground] == 200).all()


def test_completions_stand_beside_the_original_and_what_was_given() -> None:
    dice = np.random.default_rng(0)
    originals, completed = dice.integers(0, 256, (2, 4, 4, 1), dtype=np.uint8), dice.integers(0, 256, (2, 3, 4, 4, 1), dtype=np.uint8)
    whole = completions(originals, completed, kept=2, gap=1)
    assert whole.shape == (2 * 4 + 1, 5 * 4 + 4, 3)
    assert np.array_equal(whole[:4, :4], originals[0].repeat(3, axis=-1))
    assert np.array_equal(whole[:2, 5:9], originals[0, :2].repeat(3, axis=-1)) and (whole[2:4, 5:9] == 128).all()
    assert np.array_equal(whole[5:9, 20:24], completed[1, 2].repeat(3, axis=-1))


def test_the_patch_grid_keeps_each_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    drawn = patch_grid(pixels, 2, times=3)
    assert drawn.shape == (2 * 6 + 1, 3 * 6 + 2, 3)
    assert np.array_equal(drawn[0:6:3, 0:6:3], pixels[:2, :2]) and np.array_equal(drawn[7::3, 14::3], pixels[2:, 4:])
    assert (drawn[6] == 255).all() and (drawn[:, 6] == 255).all()


def test_png_files_hold_the_pixels() -> None:
    for shape in ((1, 1), (3, 7), (5, 2, 3)):
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        assert np.array_equal(opened(png(pixels)), pixels)
        assert np.array_equal(scaled(pixels, 3)[1::3, 1::3], pixels)


def test_the_colours_grow_brighter_with_the_number_and_end_at_the_bounds() -> None:
    ramp = coloured(np.linspace(-1, 1, 256), -1, 1).astype(float)
    light = ramp @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > -0.51).all() and light[0] < 2 and light[-1] > 240  # half a step is rounding
    assert np.array_equal(coloured([-5.0, 9.0], -1, 1), coloured([-1.0, 1.0], -1, 1))
    assert (coloured([np.nan], 0, 1) == 128).all()


def test_the_page_draws_these_numbers_and_asks_for_nothing(found: Inside) -> None:
    html = page(found, "<i>m</i>", "a&b.png")
    seen = Page(html)
    drawn = [base64.b64decode(value.partition(",")[2]) for name, value in seen.attributes if name == "src"]
    assert found.attention is not None and found.positions is not None
    assert len(drawn) == 1 + 2 * (1 + 4) + 1  # the image, the maps and their means, the positions
    head = found.attention[1, 2].reshape(4, 4)
    assert np.array_equal(opened(drawn[1 + 5 + 1 + 2]), coloured(head, 0, head.max()))
    assert not np.array_equal(opened(drawn[1 + 5 + 1 + 3]), coloured(head, 0, head.max()))
    corner = opened(drawn[-1])[: 4 * 33 : 33, : 4 * 33 : 33]
    assert np.array_equal(corner, coloured(found.positions, -1, 1)[0, 0])
    assert "script" not in seen.tags and "<i>" not in html
    assert not [value for name, value in seen.attributes if name in ("src", "href") and not value.startswith(("data:image/png", "#"))]
    assert not re.search(r"url\(", html)


def test_the_command_writes_the_page(model: Model, photo: np.ndarray[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(model, tmp_path / "m")
    Image.fromarray(photo).save(tmp_path / "p.png")
    call = ["inspect", str(tmp_path / "m"), "--image", str(tmp_path / "p.png"), "--out", str(tmp_path / "page.html")]
    with pytest.raises(SystemExit) as done:
        main([*call, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert done.value.code == 0 and told["grid"] == [4, 4] and told["layers"] == 2 and told["heads"] == 4
    assert "Inside m" in (tmp_path / "page.html").read_text()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three pictures."""
    where = tmp_path_factory.mktemp("files")
    for i, image in enumerate(paired.pictures(3)):
        image.save(where / f"{i}.png")
    return [str(where / f"{i}.png") for i in range(3)]


def told(call: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    with pytest.raises(SystemExit) as done:
        main([*call, "--json"])
    assert done.value.code == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_draws_images_beside_texts(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, texts = paired.folder(tmp_path / "clip"), ["good film", "a bad song"]
    call = ["inspect", str(folder), *[f"--image={path}" for path in files], *[f"--text={text}" for text in texts], "--out", str(tmp_path / "page.html")]
    values = np.array(told(call, capsys)["cosines"])
    theirs, tokenizer, processor = paired.reference(folder)
    with torch.no_grad():
        images = torch.cat([theirs(**tokenizer("good", return_tensors="pt"), **processor(Image.open(p), return_tensors="pt")).image_embeds for p in files])
        given = processor(Image.open(files[0]), return_tensors="pt")
        read = torch.cat([theirs(**tokenizer(text, return_tensors="pt"), **given).text_embeds for text in texts])
    direct = (images @ read.T).numpy()
    assert values.shape == (3, 2) and np.abs(values - direct).max() < TOLERANCE
    assert np.abs(values - direct[::-1]).max() > 100 * TOLERANCE  # in another order
    html = (tmp_path / "page.html").read_text()
    assert html.count("data:image/png") == 3 and f"{values[1, 0]:.4f}" in html and "a bad song" in html


def test_the_command_draws_halves_that_a_model_completes(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grey = [{"image": np.random.default_rng(i).integers(0, 256, (5, 5), dtype=np.uint8)} for i in range(8)]
    size = {"vocab_size": 5, "max_positions": 25, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
    checkpoint.save(fit("image_completion", grey, family="imagegpt", size=size, plan=Plan(steps=1, batch=4)).model, tmp_path / "m")
    for given in (files, files[:1]):
        call = ["inspect", str(tmp_path / "m"), *[f"--image={path}" for path in given], "--out", str(tmp_path / "page.html")]
        facts = told(call, capsys)
        assert facts["kept"] == 2 and np.array(facts["scores"]).shape == (len(given), 3)
        assert "Halves completed" in (tmp_path / "page.html").read_text()
        assert ("grid" in facts) == (len(given) == 1)
    loaded = checkpoint.load(tmp_path / "m")
    found = halves(loaded, files, keep=0.4)
    assert found.originals.shape == (3, 5, 5, 3) and found.completed.shape == (3, 3, 5, 5, 3)
    assert all(np.array_equal(found.completed[:, k, :2], found.originals[:, :2]) for k in range(3))
    assert not np.array_equal(found.completed[:, 0], found.completed[:, 1])
    assert np.array_equal(found.completed, halves(loaded, files, keep=0.4).completed)
    strip = opened(completions_section(found).blocks[1].data)  # type: ignore[union-attr]
    assert np.array_equal(strip[::8, ::8][:5, :5], found.originals[0])


def test_what_a_model_can_not_draw_is_refused(model: Model, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(model, tmp_path / "m")
    with pytest.raises(SystemExit) as done:
        main(["inspect", str(tmp_path / "m"), *[f"--image={path}" for path in files], "--out", str(tmp_path / "page.html")])
    assert done.value.code == 2 and "several images" in capsys.readouterr().err and not (tmp_path / "page.html").exists()
    for ask in (lambda: matched(model, files, ["a"]), lambda: halves(model, files)):
        with pytest.raises(OptionError, match="only models"):
            ask()
    pairs = checkpoint.load(paired.folder(tmp_path / "clip"), "image_text_retrieval")
    with pytest.raises(OptionError, match="images and texts"):
        matched(pairs, files, [])


@pytest.mark.parametrize("options", [["--image", "p.png"], ["--out", "x.html"], ["--image", "p.png", "--out", "x.html", "--objective", "a"]])
def test_options_that_do_not_go_together_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["inspect", "nowhere", *options])
    assert done.value.code == 2 and "--image and --out go together" in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        main(["inspect", "nowhere", "--text", "a", "--out", "x.html"])
    assert done.value.code == 2 and "--text is held against images" in capsys.readouterr().err


def test_a_body_without_a_square_of_positions_has_no_map() -> None:
    class Plain(torch.nn.Module):
        needs = {"image": frozenset({"patches"})}

    assert position_similarity(Plain()) is None  # type: ignore[arg-type]
