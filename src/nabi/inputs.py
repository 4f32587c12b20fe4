"""Inputs: how raw things become what a body reads. A model's tokenizer now; image and audio settings come with their families."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nabi.errors import InputError, TokenizerError
from nabi.text import Tokenizer
from nabi.text.encoding import Encoding

Long = Literal["window", "truncate", "error"]  # what to do with a text that is too long: read it in windows, cut it, or refuse it


@dataclass(frozen=True)
class Reading:
    """How a text is read that may be too long: options that most tasks have.

    Attributes:
        long: what to do with a text over ``max_length``: read it in windows, cut it, or refuse it.
        max_length: tokens in a row, special ones included; at most, and if None, the model's own limit.
        stride: tokens that neighbouring windows share.
    """

    long: Long = "window"
    max_length: int | None = None
    stride: int = 16


@dataclass(frozen=True)
class Inputs:
    """What is saved and loaded with a model besides its weights.

    Attributes:
        tokenizer: texts to tokens.
        max_length: the most tokens in a row, special ones included.
    """

    tokenizer: Tokenizer
    max_length: int

    @classmethod
    def load(cls, folder: Path, *, limit: int, vocab_size: int | None = None) -> Inputs:
        """The tokenizer of a model folder.

        Args:
            folder: with a tokenizer in any form that ``Tokenizer.load`` reads.
            limit: the longest row that the body takes, in tokens.
            vocab_size: rows of the body's embedding table.

        Raises:
            TokenizerError: the tokenizer has more tokens than the body has vectors.
        """
        tokenizer = Tokenizer.load(folder)
        if vocab_size is not None and tokenizer.vocab_size > vocab_size:
            raise TokenizerError(
                "the tokenizer has more tokens than the model has vectors",
                value=f"{tokenizer.vocab_size} > {vocab_size}",
                fix="use the tokenizer that this model was trained with",
            )
        return cls(tokenizer, min(limit, tokenizer.max_length or limit))

    def read(
        self,
        text: str,
        pair: str | None,
        how: Reading,
        *,
        over: Literal["text", "pair"] | None = None,
        where: str = "",
    ) -> tuple[list[Encoding], bool]:
        """A text or a pair as rows that the model takes, and whether anything was cut.

        Args:
            text, pair: what is read.
            how: what to do if it is too long.
            over: which member windows run over; the longer if None.
            where: what to call it in an error.

        Raises:
            InputError: it is too long and shall be refused, or what each window repeats is too long.
            OptionError: the windows have no room for the stride, or the special tokens none in ``max_length``.
        """
        limit = min(how.max_length or self.max_length, self.max_length)
        if how.long == "truncate":
            encoding, cut = self.tokenizer.truncated(text, pair, max_length=limit)
            return [encoding], cut
        encoding = self.tokenizer.encode(text, pair)
        if len(encoding) <= limit:
            return [encoding], False
        if how.long == "error":
            fix = "with long='window' it is read whole"
            raise InputError(f"{where or 'the text'} is too long", value=f"{len(encoding)} tokens", expected=f"at most {limit}", fix=fix)
        longer: Literal["text", "pair"] = "pair" if pair is not None and len(pair) > len(text) else "text"
        return self.tokenizer.windows(text, pair, max_length=limit, stride=how.stride, over=over or longer), False

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save(folder)
