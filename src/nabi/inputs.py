"""Inputs: how raw things become what a body reads: a model's tokenizer, its image settings, or both. Audio settings come with their families."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nabi.config import read_file
from nabi.data.pixels import FILE, Images
from nabi.errors import CheckpointError, InputError, TokenizerError
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
        words: the tokenizer, texts to tokens; None for a model that reads no text.
        max_length: the most tokens in a row of text, special ones included.
        pictures: how images are read; None for a model that reads none.
    """

    words: Tokenizer | None
    max_length: int
    pictures: Images | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """Texts to tokens.

        Raises:
            InputError: the model reads no text.
        """
        if self.words is None:
            raise InputError("this model reads no text: it has no tokenizer", fix="give it what its task reads")
        return self.words

    @property
    def images(self) -> Images:
        """Images to patches or colours.

        Raises:
            InputError: the model reads no images.
        """
        if self.pictures is None:
            raise InputError("this model reads no images", fix="give it what its task reads")
        return self.pictures

    @property
    def fingerprint(self) -> str:
        """What decides how raw things are read, as one string."""
        words = "" if self.words is None else self.words.fingerprint
        return words if self.pictures is None else f"{words} {self.pictures}"

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
            over: which member windows run over; the one of more tokens if None.
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
        longer: Literal["text", "pair"] = "pair" if encoding.sequence.count(1) > encoding.sequence.count(0) else "text"
        return self.tokenizer.windows(text, pair, max_length=limit, stride=how.stride, over=over or longer), False

    def save(self, folder: Path) -> None:
        """Write the files of the tokenizer and of the image settings."""
        if self.words is not None:
            self.words.save(folder)
        if self.pictures is not None:
            (folder / FILE).write_text(json.dumps(self.pictures.to_hf(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def images_of(folder: Path, model_type: str, side: int, channels: int, colours: int = 0) -> Images:
    """How the model in a folder reads images, as its preprocessor_config.json says.

    Args:
        folder: of the model.
        model_type: what its config.json calls itself.
        side: of the body's patches in pixels.
        channels: that the body reads.
        colours: that it tells apart; 0 where it reads patches.

    Raises:
        CheckpointError: the file is missing or broken, says what nabi does not do, or has another number of colour clusters.
    """
    path = folder / FILE
    if not path.is_file():
        fix = "fetch the folder again: without it nobody knows how images were scaled"
        raise CheckpointError(f"the folder has no {FILE}", value=str(folder), expected="the image settings that the model was trained with", fix=fix)
    stated: dict[str, Any] = read_file(path, CheckpointError)
    found = Images.from_hf(stated, model_type, side, channels, str(path))
    if len(found.settings.clusters) != colours:
        expected = f"{colours}, one for each colour of the model" if colours else "none: the model reads patches"
        raise CheckpointError(f"{path} has another number of colour clusters", value=len(found.settings.clusters), expected=expected)
    return found
