"""Reading ahead: the order stays, errors come in their place, threads leave no trace in the warnings."""

from __future__ import annotations

import io
import threading
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from nabi import checkpoint
from nabi.data.ahead import ahead
from nabi.data.images import pixels_of
from nabi.errors import InputError
from nabi.tasks.image_classification import ImageClassificationSettings

BOTH = pytest.mark.parametrize("meanwhile", [True, False])


def slow(n: int) -> int:
    time.sleep(0.01 * (n % 3))
    if n == 7:
        raise ValueError(n)
    return n * n


@BOTH
def test_results_come_in_the_order_of_the_items(meanwhile: bool) -> None:
    assert list(ahead(slow, range(7), 4, meanwhile=meanwhile)) == [n * n for n in range(7)]
    assert list(ahead(slow, [], 4, meanwhile=meanwhile)) == []


@BOTH
def test_items_are_read_in_other_threads_and_never_too_many(meanwhile: bool) -> None:
    taken, seen, most = 0, set(), 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1, 31):
            taken = number
            yield number

    def read(n: int) -> int:
        seen.add(threading.get_ident())
        return n

    for given, _ in enumerate(ahead(read, items(), 5, meanwhile=meanwhile), 1):
        most = max(most, taken - given)
    assert most == 4 and threading.get_ident() not in seen


@BOTH
def test_nothing_is_read_while_a_caller_on_the_same_cores_computes(meanwhile: bool) -> None:
    begun: list[int] = []

    def read(n: int) -> int:
        begun.append(n)
        time.sleep(0.002)
        return n

    more = 0
    for _ in ahead(read, range(40), 8, meanwhile=meanwhile):
        before = len(begun)
        time.sleep(0.005)
        more += len(begun) - before
    assert (more > 0) == meanwhile and sorted(begun) == list(range(40))


@BOTH
def test_an_error_comes_after_what_lies_before_it(meanwhile: bool) -> None:
    got: list[int] = []
    with pytest.raises(ValueError, match="7"):
        got.extend(ahead(slow, range(30), 4, meanwhile=meanwhile))
    assert got == [n * n for n in range(7)]


@BOTH
def test_an_error_of_the_source_waits_for_those_before_it(meanwhile: bool) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyError("source")

    got: list[int] = []
    with pytest.raises(KeyError):
        got.extend(ahead(slow, items(), 64, meanwhile=meanwhile))
    assert got == [0, 1, 4]
    with pytest.raises(ValueError, match="7"):
        list(ahead(slow, (n if n < 9 else 1 // 0 for n in range(5, 20)), 64, meanwhile=meanwhile))


@BOTH
def test_who_stops_early_leaves_no_thread(meanwhile: bool) -> None:
    before = threading.active_count()
    for _ in ahead(slow, range(7), 3, meanwhile=meanwhile):
        break
    assert threading.active_count() == before


def test_answers_in_threads_are_those_of_one_image_at_a_time_and_a_bad_one_names_itself() -> None:
    model = checkpoint.create("vit", "tiny", "image_classification", ImageClassificationSettings(("cat", "dog")))
    images = list(np.random.default_rng(0).integers(0, 256, (150, 20, 24, 3), dtype=np.uint8))
    together = [answer["scores"]["cat"] for answer in model.answers(images)]
    alone = [model.predict(image)["scores"]["cat"] for image in images]
    assert np.abs(np.array(together) - alone).max() < 1e-5
    assert np.abs(np.array(together) - [*alone[1:], alone[0]]).max() > 1e-3  # in another order
    with pytest.raises(InputError, match="input 101: "):
        list(model.answers([*images[:100], b"no image", *images]))


def test_threads_leave_the_filters_of_warnings_as_they_were() -> None:
    file = io.BytesIO()
    palette = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8), "L").convert("P")
    palette.info["transparency"] = bytes(range(200))  # Pillow warns of it
    palette.save(file, "PNG", transparency=bytes(range(200)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        list(ahead(lambda n: pixels_of(file.getvalue(), "x"), range(200), 8, meanwhile=True))
        assert warnings.filters == before
        with pytest.raises(UserWarning, match="Palette"):
            Image.open(io.BytesIO(file.getvalue())).convert("RGB")
