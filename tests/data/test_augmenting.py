"""Augmentation: the same generator gives the same picture, each setting does what it says and nothing else, and nothing at all is done by default."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nabi.batch import Row
from nabi.data.augmenting import Augmentation
from nabi.data.pixels import joined, patched
from nabi.errors import OptionError

SETTINGS = {"shift": 3, "flip": 1.0, "crop": 0.5, "erase": 1.0}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(height: int = 12, width: int = 20) -> np.ndarray:
    """Every pixel another number."""
    return np.arange(height * width * 3, dtype=np.float32).reshape(height, width, 3)


def row(side: int = 4) -> Row:
    return Row({"image": {"patches": patched(picture(), side)}}, {"image": {"grid": [12 // side, 20 // side]}}, notes={"side": side})


def test_by_default_a_row_is_the_row_itself() -> None:
    given = row()
    assert Augmentation().applied(given, seeded(0)) is given


@pytest.mark.parametrize("name", [*SETTINGS, "all"])
def test_the_same_generator_gives_the_same_picture_and_another_one_another(name: str) -> None:
    how = Augmentation(**(SETTINGS if name == "all" else {name: SETTINGS[name]}))
    a, b = (how.applied(row(), seeded(1)).parts["image"]["patches"] for _ in range(2))
    np.testing.assert_array_equal(a, b)
    others = [how.applied(row(), seeded(seed)).parts["image"]["patches"] for seed in range(2, 8)]
    assert name == "flip" or any(not np.array_equal(a, other) for other in others)


def test_a_row_that_is_kept_in_a_cache_is_not_changed() -> None:
    given = row()
    before = np.array(given.parts["image"]["patches"])
    given.parts["image"]["patches"].flags.writeable = False
    for seed in range(20):
        made = Augmentation(**SETTINGS).applied(given, seeded(seed))
        assert made.parts["image"]["patches"].shape == before.shape and made.rows == given.rows
    np.testing.assert_array_equal(given.parts["image"]["patches"], before)


def test_a_shift_moves_by_at_most_so_many_pixels_and_continues_the_border() -> None:
    seen = set()
    for seed in range(300):
        made = Augmentation(shift=2).changed(picture(), seeded(seed))
        found = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if np.array_equal(made, picture()[np.clip(np.arange(12) - dy, 0, 11)][:, np.clip(np.arange(20) - dx, 0, 19)])
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 25


def test_a_flip_is_as_frequent_as_it_says_and_mirrors_left_and_right() -> None:
    flipped = 0
    for seed in range(400):
        made = Augmentation(flip=0.25).changed(picture(), seeded(seed))
        mirrored = np.array_equal(made, picture()[:, ::-1])
        assert mirrored or np.array_equal(made, picture())
        flipped += mirrored
    assert 70 <= flipped <= 130


def test_a_crop_shows_a_part_of_at_least_its_share_everywhere_in_the_picture() -> None:
    shares, corners = [], set()
    for seed in range(200):
        made = Augmentation(crop=0.25).changed(picture(40, 40), seeded(seed))
        assert made.shape == (40, 40, 3)
        rows, columns = made[:, 0, 0] // 120, made[0, :, 0] % 120 // 3
        tall, wide = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert abs(tall - wide) <= 1 and (np.diff(rows) >= 0).all() and (np.diff(columns) >= 0).all()
        shares.append(tall * wide / 1600)
        corners.add((rows.min() < 10, columns.min() < 10))
    assert min(shares) >= 0.2 and max(shares) >= 0.9 and len(corners) == 4


def test_an_erased_rectangle_is_of_the_stated_area_and_of_the_mean() -> None:
    areas, erased = [], 0
    for seed in range(300):
        made = Augmentation(erase=0.5).changed(picture(30, 30), seeded(seed))
        changed = (made != picture(30, 30)).any(-1)
        erased += changed.any()
        if changed.any():
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            hole = made[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.9  # the mean may stand there already
            np.testing.assert_allclose(hole, np.broadcast_to(picture(30, 30).mean((0, 1)), hole.shape), rtol=1e-5)
            areas.append(hole.shape[0] * hole.shape[1] / 900)
    assert 110 <= erased <= 190 and 0.01 <= min(areas) <= 0.06 and 0.25 <= max(areas) <= 0.36


def test_a_setting_changes_nothing_of_what_another_draws() -> None:
    """So that runs with and without it can be compared."""
    alone = Augmentation(shift=3).changed(picture(), seeded(5))
    both = Augmentation(shift=3, flip=1.0).changed(picture(), seeded(5))
    np.testing.assert_array_equal(both, alone[:, ::-1])


def test_patches_are_put_together_changed_and_cut_again() -> None:
    for side in (1, 2, 4):
        made = Augmentation(**SETTINGS).applied(row(side), seeded(3)).parts["image"]["patches"]
        wanted = Augmentation(**SETTINGS).changed(picture(), seeded(3))
        np.testing.assert_array_equal(joined(made, (12 // side, 20 // side), side), wanted)


def test_colour_numbers_stay_colours() -> None:
    tokens = list(range(12)) * 4
    given = Row({"image": {"tokens": tokens}}, {"image": {"grid": [4, 12]}}, notes={"side": 1})
    for seed in range(30):
        made = Augmentation(**SETTINGS).applied(given, seeded(seed)).parts["image"]["tokens"]
        assert isinstance(made, list) and len(made) == 48 and all(isinstance(x, int) and 0 <= x < 12 for x in made)


@pytest.mark.parametrize("settings", [{"shift": 30}, {"crop": 0.01}, {"erase": 1.0}])
def test_one_pixel_can_be_augmented_too(settings: dict[str, Any]) -> None:
    for seed in range(20):
        assert Augmentation(**settings).changed(np.ones((1, 1, 3), np.float32), seeded(seed)).tolist() == [[[1.0, 1.0, 1.0]]]


@pytest.mark.parametrize(("settings", "message"), [
    ({"flip": 1.5}, "flip is a probability"), ({"erase": -0.1}, "erase is a probability"), ({"shift": -1}, "impossible augmentation"),
    ({"crop": 0.0}, "impossible augmentation"), ({"crop": 1.1}, "impossible augmentation"), ({"flip": float("nan")}, "flip is a probability"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Augmentation(**settings)
    with pytest.raises(OptionError, match=message):
        replace(Augmentation(), **settings)
