"""The tokens of a text, in columns; it can be cut, for windows and truncation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from nabi.errors import TokenizerError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Encoding:
    """The tokens of one text or of a pair, in columns of equal length.

    Args:
        ids: the token ids.
        segments: the token type ids.
        offsets: (start, end) in characters of the text as it was given; a pair's are in the pair. (0, 0) for special tokens.
        words: which word of its own text a token belongs to; None for special tokens.
        special: whether the post-processor added the token.
        sequence: 0 = of the text, 1 = of the pair, None = special.
    """

    ids: list[int]
    segments: list[int]
    offsets: list[tuple[int, int]]
    words: list[int | None]
    special: list[bool]
    sequence: list[int | None]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def weight(self) -> int:
        """Tokens of the texts, special ones left out, and at least 1: what a window counts for in a mean over windows."""
        return max(1, self.special.count(False))

    def without(self, *cuts: tuple[int, int]) -> Encoding:
        """A copy that lacks the token ranges ``cuts``, which lie in order and apart."""
        ends = [0, *(i for cut in cuts for i in cut), len(self.ids)]
        kept = list(zip(ends[::2], ends[1::2], strict=True))

        def of(column: list[T]) -> list[T]:
            return [value for start, stop in kept for value in column[start:stop]]

        return Encoding(of(self.ids), of(self.segments), of(self.offsets), of(self.words), of(self.special), of(self.sequence))

    def extent(self, side: int) -> tuple[int, int]:
        """Where the tokens of the text (0) or of the pair (1) begin and end; (0, 0) if there are none.

        Raises:
            TokenizerError: the post-processor repeats or divides them.
        """
        at = [i for i, of in enumerate(self.sequence) if of == side]
        if sum(self.special) != self.sequence.count(None) or (at and at[-1] - at[0] != len(at) - 1):
            raise TokenizerError("the tokenizer's post-processor repeats or divides a text, so it can't be cut", fix="give shorter texts")
        return (at[0], at[-1] + 1) if at else (0, 0)
