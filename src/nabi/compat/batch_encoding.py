"""``BatchEncoding``: what a tokenizer of version 4 returns: a mapping with attributes, and the way between characters, words and tokens.

Unusual: a question that the encoding can't answer raises; nothing is an empty list because something was not kept.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from nabi.errors import InputError, OptionError, unknown


class CharSpan(NamedTuple):
    """Where something lies in a text: characters from ``start`` to before ``end``."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Where something lies among tokens: from ``start`` to before ``end``."""

    start: int
    end: int


class BatchEncoding(UserDict[str, Any]):
    """The columns of one encoded text or of a batch.

    Args:
        data: column name -> values.
        encodings: of each row what the tokenizer library knows of it; None where it knows nothing (Marian).
        tensor_type: ``pt`` or ``np``, to convert the columns at once.
        prepend_batch_axis: whether a single row becomes a batch of one in that conversion.
        n_sequences: 1 for texts, 2 for pairs; as the first row says if None.
    """

    def __init__(
        self,
        data: Any = None,
        encodings: Sequence[Any] | None = None,
        tensor_type: Any = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        super().__init__(data or {})
        self._encodings = list(encodings) if encodings else None
        self._n_sequences = n_sequences or (self._encodings[0].n_sequences if self._encodings else None)
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    @property
    def n_sequences(self) -> int | None:
        """How many texts make a row: 1, or 2 for pairs."""
        return self._n_sequences

    @property
    def is_fast(self) -> bool:
        """Whether tokens, words and characters can be told."""
        return self._encodings is not None

    @property
    def encodings(self) -> list[Any] | None:
        """What the tokenizer library knows of each row."""
        return self._encodings

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            if item not in self.data:
                raise KeyError(str(unknown("column", item, self.data)))
            return self.data[item]
        if self._encodings is None:
            raise KeyError("this tokenizer keeps no encodings of its rows; ask for a column by its name")
        if isinstance(item, int):
            return self._encodings[item]
        return {key: values[item] for key, values in self.data.items()}

    def __getattr__(self, item: str) -> Any:
        # a copy asks for attributes before it has any
        if item.startswith("__") or "data" not in self.__dict__ or item not in self.data:
            raise AttributeError(f"BatchEncoding has no '{item}', only {', '.join(self.__dict__.get('data', ()))}")
        return self.data[item]

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    # ---- between characters, words and tokens --------------------------------------------------------------------------------------------------

    def _of(self, what: str) -> list[Any]:
        if self._encodings is None:
            fix = "a Marian folder has none; take offsets from nabi.text.Tokenizer"
            raise ValueError(f"{what}() is not available: this tokenizer's library tells no words and characters. {fix[0].upper()}{fix[1:]}.")
        return self._encodings

    def _row(self, what: str, index: int) -> Any:
        rows = self._of(what)
        if not -len(rows) <= index < len(rows):
            raise IndexError(f"{what}(): there is no row {index} in a batch of {len(rows)}")
        return rows[index]

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row, special ones and padding included."""
        return list(self._row("tokens", batch_index).tokens)

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Which word of its text each token belongs to; None for special tokens."""
        return list(self._row("word_ids", batch_index).word_ids)

    words = word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Which text each token belongs to: 0, 1 for the pair, None for special tokens."""
        return list(self._row("sequence_ids", batch_index).sequence_ids)

    def _place(self, what: str, first: int, second: int | None) -> tuple[Any, int]:
        row, at = (0, first) if second is None else (first, second)
        found = self._row(what, row)
        return found, at + len(found) if at < 0 and "token_to" in what else at

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Which text a token belongs to; None for a special token."""
        found, at = self._place("token_to_sequence", batch_or_token_index, token_index)
        answer: int | None = found.token_to_sequence(at)
        return answer

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Which word of its text a token belongs to; None for a special token."""
        found, at = self._place("token_to_word", batch_or_token_index, token_index)
        answer = found.token_to_word(at)
        return None if answer is None else int(answer[1]) if isinstance(answer, tuple) else int(answer)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters that a token covers; None for a special token."""
        found, at = self._place("token_to_chars", batch_or_token_index, token_index)
        answer = found.token_to_chars(at)
        if answer is None:
            return None
        return CharSpan(*(answer[1] if isinstance(answer[1], tuple) else answer))

    def char_to_token(self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0) -> int | None:
        """The token that covers a character; None where none does, as for a space."""
        found, at = self._place("char_to_token", batch_or_char_index, char_index)
        answer: int | None = found.char_to_token(at, sequence_index)
        return answer

    def char_to_word(self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0) -> int | None:
        """The word that covers a character; None where none does."""
        found, at = self._place("char_to_word", batch_or_char_index, char_index)
        answer: int | None = found.char_to_word(at, sequence_index)
        return answer

    def word_to_tokens(self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0) -> TokenSpan | None:
        """The tokens of a word; None where it has none."""
        found, at = self._place("word_to_tokens", batch_or_word_index, word_index)
        answer = found.word_to_tokens(at, sequence_index)
        return None if answer is None else TokenSpan(*answer)

    def word_to_chars(self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0) -> CharSpan:
        """The characters of a word."""
        found, at = self._place("word_to_chars", batch_or_word_index, word_index)
        return CharSpan(*found.word_to_chars(at, sequence_index))

    # ---- tensors -------------------------------------------------------------------------------------------------------------------------------

    def convert_to_tensors(self, tensor_type: Any = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """The columns as tensors of torch (``pt``) or arrays (``np``), in place.

        Raises:
            OptionError: another kind of tensor.
            InputError: rows of different length.
        """
        if tensor_type is None:
            return self
        kind = str(getattr(tensor_type, "value", tensor_type))
        if kind not in ("pt", "np"):
            raise OptionError("there are no such tensors here", value=kind, expected="'pt', 'np' or None", fix="nabi has PyTorch and NumPy alone")
        for key, values in self.data.items():
            self.data[key] = _tensor(key, [values] if prepend_batch_axis else values, kind)
        return self

    def to(self, device: Any, **options: Any) -> BatchEncoding:
        """The tensors on another device, in place."""
        for key, values in self.data.items():
            if hasattr(values, "to"):
                self.data[key] = values.to(device, **options)
        return self


def _tensor(key: str, values: Any, kind: str) -> Any:
    import numpy as np
    import torch

    wanted = torch.Tensor if kind == "pt" else np.ndarray
    if isinstance(values, wanted):
        return values
    try:
        if kind == "pt":
            return torch.stack(list(values)) if _all(values, torch.Tensor) else torch.tensor(np.array(values) if _all(values, np.ndarray) else values)
        return np.array([x.numpy() for x in values]) if _all(values, torch.Tensor) else np.array(values)
    except (ValueError, TypeError, RuntimeError) as problem:
        lengths = sorted({len(x) for x in values if hasattr(x, "__len__")})
        fix = "pad them: padding=True; or cut them: truncation=True" if len(lengths) > 1 else "leave this column out of the tensors"
        raise InputError(f"the rows of '{key}' do not make a tensor ({problem})", value=f"lengths {lengths[:8]}", fix=fix) from None


def _all(values: Any, kind: type[Any]) -> bool:
    return isinstance(values, list | tuple) and bool(values) and all(isinstance(x, kind) for x in values)
