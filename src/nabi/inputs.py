"""Inputs: how raw things become what a body reads. A model's tokenizer now; image and audio settings come with their families."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nabi.errors import TokenizerError
from nabi.text import Tokenizer


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

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save(folder)
