"""What the tasks that read images have in common: where an example's image is, what a pipeline may be called with, golden examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nabi.batch import Row
from nabi.data import Table
from nabi.data.images import is_image
from nabi.data.pictures import finder, with_images
from nabi.errors import OptionError
from nabi.inputs import Inputs
from nabi.tasks import Example, Form, Task

# 8 x 8 pixels as PNG: slopes of red, green and blue; a chequerboard of black, white and orange
_PICTURES = (
    (
        "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAPUlEQVR42pWMwQkAIAwDFa571P2H0j0a0J+K+FC4R0LI5ZQ6HrgowrUFKuiC0/ZuJggQ5fFxDssw+VOZaQDA4EHhmZJq"
        "FAAAAABJRU5ErkJggg=="
    ),
    (
        "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAHElEQVR42mNgYGD4//8/FvL/AgYGBiwkw6DUAQDSC0nBcbKRGgAAAABJRU5ErkJggg=="
    ),
)


@dataclass(frozen=True)
class Looking:
    """How an image is read: options that the tasks with images have.

    Attributes:
        size: [height, width], the length of the shorter side, or ``own`` for each image's own size (rounded to whole patches); the model's if None.
        timeout: v4's; nabi opens no address, so nothing waits.
    """

    size: tuple[int, int] | int | Literal["own"] | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        sides = self.size if isinstance(self.size, tuple) else (self.size,)
        if any(isinstance(side, int) and side < 1 for side in sides):
            raise OptionError("an image's size must be positive", value=self.size, expected="[height, width], the length of the shorter side, or own")


class Seeing(Task):
    """Base of the tasks whose examples have an ``image``; their ``Options`` are a ``Looking``."""

    parts = frozenset({"image"})

    @classmethod
    def opened(cls, table: Table) -> Table:
        return with_images(table)

    @classmethod
    def beside(cls, source: Path | None) -> Callable[[Example, str], Example]:
        return finder(source)

    def seen(self, example: Example, inputs: Inputs, options: Looking, where: str, **notes: Any) -> Row:
        """The row of an example's image.

        Raises:
            InputError: it can't be read.
        """
        streams, rows = inputs.images.sized(options.size).read(example.get("image"), where or "an input")
        return Row({"image": streams}, {"image": rows}, notes=notes)

    def golden_examples(self) -> list[Example]:
        return [{"image": f"data:image/png;base64,{picture}"} for picture in _PICTURES]

    def single(self, inputs: Any) -> bool:
        return super().single(inputs) or is_image(inputs)

    def called(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The images may also be named, ``images=``, as v4 once had it."""
        options = dict(given)
        if not args and "images" in options:
            args = (options.pop("images"),)
        return super().called(args, options)

    def example_of(self, item: Any, where: str = "an input") -> Example:
        """An image in any of its forms, or a mapping with the task's columns."""
        return item if isinstance(item, Mapping) and not item.keys() <= {"bytes", "path"} else {"image": item}

    def alone(self, form: Form, given: Mapping[str, Any]) -> bool:
        return False
