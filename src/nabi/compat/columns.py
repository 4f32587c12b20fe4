"""Texts to columns: what a call of a version 4 tokenizer does with ``padding``, ``truncation``, ``stride`` and the columns that are asked for.

The library's own truncation and padding are version 4's, so they are used. Unusual: a Marian folder, of which the library knows nothing, has texts in and
columns out, no words; what it can't do is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from nabi.compat.batch_encoding import BatchEncoding
from nabi.compat.vocabulary import Vocabulary, as_lists
from nabi.errors import InputError, OptionError, unknown
from nabi.text.files import Guard

SAY = logging.getLogger("nabi.compat")
_OPTIONS = (
    "add_special_tokens", "padding", "truncation", "max_length", "stride", "is_split_into_words", "pad_to_multiple_of", "padding_side", "return_tensors",
    "return_token_type_ids", "return_attention_mask", "return_overflowing_tokens", "return_special_tokens_mask", "return_offsets_mapping", "return_length",
    "verbose", "text_pair", "text_target", "text_pair_target",
)  # fmt: skip


def encoded(
    tokenizer: Vocabulary,
    pairs: Sequence[tuple[Any, Any]],
    batched: bool,
    *,
    add_special_tokens: bool = True,
    padding: Any = False,
    truncation: Any = None,
    max_length: int | None = None,
    stride: int = 0,
    is_split_into_words: bool = False,
    pad_to_multiple_of: int | None = None,
    padding_side: str | None = None,
    return_tensors: Any = None,
    return_token_type_ids: bool | None = None,
    return_attention_mask: bool | None = None,
    return_overflowing_tokens: bool = False,
    return_special_tokens_mask: bool = False,
    return_offsets_mapping: bool = False,
    return_length: bool = False,
    verbose: bool = True,
    **strange: Any,
) -> BatchEncoding:
    """Texts or pairs to columns, a row each; ``batched`` if they came in a list. Options as of a call of the tokenizer."""
    for name in strange:
        raise unknown("option of a tokenizer's call", name, _OPTIONS)
    pad, cut, length = _ways(tokenizer, padding, truncation, max_length)
    pairs = [(first, second) for first, second in pairs]
    for number, (first, second) in enumerate(pairs):
        _check(first, is_split_into_words, number)
        if second is not None:
            _check(second, is_split_into_words, number)
    masks = "attention_mask" in tokenizer.model_input_names if return_attention_mask is None else return_attention_mask
    types = "token_type_ids" in tokenizer.model_input_names if return_token_type_ids is None else return_token_type_ids
    if tokenizer._library is None:
        asked = {"stride": stride, "is_split_into_words": is_split_into_words, "return_overflowing_tokens": return_overflowing_tokens,
                 "return_offsets_mapping": return_offsets_mapping}  # fmt: skip
        for name, value in asked.items():
            if value:
                raise OptionError(f"a Marian tokenizer has no {name}", value=value, fix="nabi.text.Tokenizer has offsets and windows")
        encodings: list[list[Any]] = [[_columns(tokenizer, first, second, add_special_tokens, cut, length)] for first, second in pairs]
    else:
        side = padding_side or tokenizer.padding_side
        encodings = _by_library(tokenizer, pairs, add_special_tokens, is_split_into_words, (pad, length, side, pad_to_multiple_of), cut, stride)
    if not return_overflowing_tokens:
        encodings = [rows[:1] for rows in encodings]
    flat = [row for rows in encodings for row in rows]
    data: dict[str, Any] = {"input_ids": [row.ids for row in flat]}
    if types:
        data["token_type_ids"] = [row.type_ids for row in flat]
    if masks:
        data["attention_mask"] = [row.attention_mask for row in flat]
    if return_special_tokens_mask:
        data["special_tokens_mask"] = [row.special_tokens_mask for row in flat]
    if return_offsets_mapping:
        data["offset_mapping"] = [row.offsets for row in flat]
    if return_length:
        data["length"] = [len(row.ids) for row in flat]
    if return_overflowing_tokens:
        data["overflow_to_sample_mapping"] = [i for i, rows in enumerate(encodings) for _ in rows]
    if verbose and cut is None and pad != "max_length" and any(len(row.ids) > tokenizer.model_max_length for row in flat):
        SAY.warning("a text has more tokens than this model reads (%d): its position table ends there", tokenizer.model_max_length)
    if not batched and return_tensors is None and not return_overflowing_tokens:
        data = {key: values[0] for key, values in data.items()}
    if tokenizer._library is None:
        found = BatchEncoding(data, n_sequences=2 if pairs and pairs[0][1] is not None else 1)
        if pad is not None:
            found = padded(tokenizer, found, padding=pad, max_length=length, pad_to_multiple_of=pad_to_multiple_of, padding_side=padding_side)
        return found.convert_to_tensors(return_tensors)
    return BatchEncoding(data, flat, tensor_type=return_tensors)


def _by_library(
    tokenizer: Vocabulary,
    pairs: Sequence[tuple[Any, Any]],
    special: bool,
    split: bool,
    padding: tuple[str | None, int | None, str, int | None],
    cut: str | None,
    stride: int,
) -> list[list[Any]]:
    pad, length, side, multiple = padding
    with tokenizer._lock:
        if cut is None:
            tokenizer._library.no_truncation()
        else:
            with Guard(OptionError, "the texts can't be cut so", value=f"max_length={length}, stride={stride}, truncation={cut!r}",
                       expected="a max_length above the special tokens, and a stride below what is left"):  # fmt: skip
                tokenizer._library.enable_truncation(length, stride=stride, strategy=cut, direction=tokenizer.truncation_side)
        if pad is None:
            tokenizer._library.no_padding()
        else:
            size = length if pad == "max_length" else None
            tokenizer._library.enable_padding(
                length=size, direction=side, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token, pad_to_multiple_of=multiple
            )
        with Guard(InputError, "the texts can't be tokenised"):
            given = [first if second is None else (first, second) for first, second in pairs]
            found = tokenizer._library.encode_batch(given, add_special_tokens=special, is_pretokenized=split)
    return [[row, *row.overflowing] for row in found]


def _columns(tokenizer: Vocabulary, text: str, pair: str | None, special: bool, cut: str | None, length: int | None) -> Any:
    """A row of a Marian folder."""
    if cut not in (None, "longest_first"):
        raise OptionError("a Marian tokenizer cuts the longest text first", value=cut, fix="truncation=True")
    encoding = tokenizer._nabi.encode(text, pair, special=special)
    if cut is not None and length is not None and special:
        encoding = tokenizer._nabi.truncated(text, pair, length)[0]
    elif cut is not None and length is not None and len(encoding) > length:
        encoding = encoding.without((length, len(encoding)))
    return _Row(encoding.ids, encoding.segments, [1] * len(encoding), list(map(int, encoding.special)))


def _ways(tokenizer: Vocabulary, padding: Any, truncation: Any, max_length: int | None) -> tuple[str | None, str | None, int | None]:
    """How to pad ("longest", "max_length" or None), how to cut (a strategy or None), to which length; version 4's rules."""
    pads: dict[Any, str | None] = {False: None, None: None, "do_not_pad": None, True: "longest", "longest": "longest", "max_length": "max_length"}
    cuts: dict[Any, str | None] = {False: None, None: None, "do_not_truncate": None, True: "longest_first"}
    cuts |= {name: name for name in ("longest_first", "only_first", "only_second")}
    padding, truncation = getattr(padding, "value", padding), getattr(truncation, "value", truncation)
    for name, value, known in (("padding", padding, pads), ("truncation", truncation, cuts)):
        if value not in known:
            raise unknown(f"way of {name}", value, [str(x) for x in known if x is not None])
    pad, cut = pads[padding], cuts[truncation]
    if max_length is not None and padding is False and truncation is None:
        SAY.warning("max_length is given without truncation, so texts are cut as with truncation=True; say which you mean")
        cut = "longest_first"
    if max_length is None and (pad == "max_length" or cut is not None):
        if tokenizer.model_max_length > 10**20:
            SAY.warning("neither max_length nor the tokenizer's files say a length, so nothing is padded to it or cut")
            pad, cut = None if pad == "max_length" else pad, None
        else:
            max_length = tokenizer.model_max_length
    if pad is not None and tokenizer._special["pad"] is None:
        raise OptionError("this tokenizer has no token to pad with", value=f"padding={padding!r}", fix="set tokenizer.pad_token = tokenizer.eos_token")
    return pad, cut, max_length


def padded(
    tokenizer: Vocabulary,
    encoded_inputs: Any,
    padding: Any = True,
    max_length: int | None = None,
    pad_to_multiple_of: int | None = None,
    padding_side: str | None = None,
    return_attention_mask: bool | None = None,
    return_tensors: Any = None,
) -> BatchEncoding:
    """Rows that were encoded before, padded to one length; as ``PreTrainedTokenizer.pad``."""
    rows = encoded_inputs
    if isinstance(rows, list | tuple):
        rows = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
    data = {key: as_lists(values) for key, values in rows.items()}
    if "input_ids" not in data:
        raise InputError("there are no input_ids to pad", value=list(data), expected="what a call of the tokenizer returned")
    alone = not data["input_ids"] or not isinstance(data["input_ids"][0], list)
    if alone:
        data = {key: [values] for key, values in data.items()}
    pad, _, _ = _ways(tokenizer, padding, False, max_length)
    ids = data["input_ids"]
    if return_attention_mask if return_attention_mask is not None else "attention_mask" in tokenizer.model_input_names:
        data.setdefault("attention_mask", [[1] * len(row) for row in ids])
    if pad is not None:
        length = max(map(len, ids), default=0) if pad == "longest" else max_length or tokenizer.model_max_length
        length += -length % (pad_to_multiple_of or 1)
        fills = {"input_ids": tokenizer.pad_token_id, "token_type_ids": 0, "attention_mask": 0, "special_tokens_mask": 1}
        left = (padding_side or tokenizer.padding_side) == "left"
        for key in fills.keys() & data.keys():
            more = [[fills[key]] * (length - len(row)) for row in ids]
            data[key] = [extra + list(row) if left else list(row) + extra for row, extra in zip(data[key], more, strict=True)]
    if alone and return_tensors is None:
        data = {key: values[0] for key, values in data.items()}
    return BatchEncoding(data, tensor_type=return_tensors)


class _Row:
    """A row of a tokenizer that the library does not know."""

    def __init__(self, ids: list[int], type_ids: list[int], attention_mask: list[int], special_tokens_mask: list[int]) -> None:
        self.ids, self.type_ids, self.attention_mask, self.special_tokens_mask = ids, type_ids, attention_mask, special_tokens_mask


def _check(text: Any, split: bool, number: int) -> None:
    right = isinstance(text, list | tuple) and all(isinstance(word, str) for word in text) if split else isinstance(text, str)
    if not right:
        fix = "leave missing values out" if text is None or isinstance(text, float) else ""
        raise InputError(f"text {number + 1} is no text", value=repr(text), expected="a list of words (str)" if split else "a str", fix=fix)
