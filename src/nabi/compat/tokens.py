"""``AutoTokenizer``, ``BertTokenizer`` and the others: version 4's tokenizers over nabi's.

One class does the work; the others are its aliases, which refuse the files of another kind. The library's own truncation and padding are version 4's, so
they are used here, on a copy: nabi's tokenizer never changes. A Marian folder, of which the library knows nothing, has texts in and columns out, no words.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from nabi.compat.batch_encoding import BatchEncoding
from nabi.compat.configs import without_hub
from nabi.compat.names import SEGMENTED, TOKENIZER_CLASSES, TOKENIZERS
from nabi.config import read_file
from nabi.errors import InputError, OptionError, TokenizerError, nearest, unknown
from nabi.files import whole
from nabi.tasks._streaming import tidied
from nabi.text import Tokenizer
from nabi.text.files import NAMES, SETTINGS, Guard, content, read_settings, token_names
from nabi.text.forms import FORMS, Form
from nabi.text.marian import Marian
from nabi.text.retraining import retrained
from nabi.weights.download import with_token
from nabi.weights.sources import resolve

SAY = logging.getLogger("nabi.compat")
UNLIMITED = int(1e30)  # what version 4 calls a length that no file states
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# arguments of from_pretrained that steer what nabi decides by itself
_NO_EFFECT = frozenset({"use_fast", "tokenizer_type", "legacy", "from_slow"})
_SETTINGS = frozenset({"padding_side", "truncation_side", "model_max_length", "model_input_names", "clean_up_tokenization_spaces"})
_BUILT = frozenset({"do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space"})


class PreTrainedTokenizer:
    """A tokenizer with version 4's interface; made by ``from_pretrained``.

    Args:
        tokenizer: nabi's.
        kind: the name of version 4's class for these files, which decides which columns there are.
        settings: over what the files say.
        name: where it was read from.
    """

    form: ClassVar[Form | None] = None

    def __init__(self, tokenizer: Tokenizer, kind: str, settings: Mapping[str, Any], name: str = "") -> None:
        import tokenizers

        self._nabi, self._kind, self.name_or_path = tokenizer, kind, name
        self._files = tokenizer.files
        self._lock = threading.Lock()
        self._changed = False
        self._library: Any = None
        if not isinstance(tokenizer.library, Marian):
            self._library = tokenizers.Tokenizer.from_str(_rebuilt(tokenizer.definition().decode("utf-8"), settings))
            self._library.no_truncation()
            self._library.no_padding()
        elif wrong := sorted(_BUILT & settings.keys()):
            raise OptionError("a Marian tokenizer has no such setting", value=", ".join(wrong))
        stated = read_settings(self._files)
        found = {**stated, **settings}
        self.padding_side = str(found.get("padding_side") or "right")
        self.truncation_side = str(found.get("truncation_side") or "right")
        length = found.get("model_max_length")
        self.model_max_length = int(length) if isinstance(length, int | float) else UNLIMITED
        usual = ["input_ids", "token_type_ids", "attention_mask"] if kind in SEGMENTED else ["input_ids", "attention_mask"]
        self.model_input_names = list(found.get("model_input_names") or usual)
        self.clean_up_tokenization_spaces = bool(found.get("clean_up_tokenization_spaces", False))
        form = next((form for form in FORMS if kind in form.classes), None)
        self._special: dict[str, str | None] = {}
        for role in ROLES:
            given = settings.get(f"{role}_token")
            names = [content(given)] if given else token_names(stated, role, None if form is None else form.usual)
            self._special[role] = next((n for n in names if self._id(n) is not None), None)
        extra = found.get("additional_special_tokens") or found.get("extra_special_tokens") or []
        self.additional_special_tokens = [content(x) for x in (extra.values() if isinstance(extra, dict) else extra)]

    # ---- where it comes from and goes to ---------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, token: Any = None, use_auth_token: Any = None, **settings: Any
    ) -> PreTrainedTokenizer:
        """The tokenizer of a model folder, or of a model of the hub.

        Args:
            pretrained_model_name_or_path: folder, or id.
            revision: branch, tag or commit of a hub's model.
            token, use_auth_token: for the hub.
            settings: ``padding_side``, ``truncation_side``, ``model_max_length``, ``model_input_names``, ``clean_up_tokenization_spaces``, special tokens
                (``pad_token`` ...), and of the definition ``do_lower_case``, ``strip_accents``, ``tokenize_chinese_chars``, ``add_prefix_space``.

        Raises:
            OptionError: an unknown setting.
            TokenizerError: no tokenizer, or one of another kind than this class.
        """
        settings = without_hub(settings)
        known = _NO_EFFECT | _SETTINGS | _BUILT | {f"{role}_token" for role in ROLES} | {"additional_special_tokens"}
        for name in settings:
            if name not in known:
                raise unknown("setting of a tokenizer", name, known)
        with with_token(token if token is not None else use_auth_token):
            folder = resolve(pretrained_model_name_or_path, revision, weights=False)
        tokenizer = Tokenizer.load(folder)
        kind = _kind(folder, tokenizer)
        if cls.form is not None:
            theirs = next((form for form in FORMS if kind in form.classes), None)
            if theirs is not None and theirs is not cls.form:
                fix = f"take {kind} or AutoTokenizer"
                raise TokenizerError(f"this is no tokenizer for {cls.__name__}", value=f"{pretrained_model_name_or_path}: {kind}", fix=fix)
            kind = cls.__name__.removesuffix("Fast")
        made = class_named(kind) if kind in TOKENIZER_CLASSES else PreTrainedTokenizerFast
        settings = {key: value for key, value in settings.items() if key not in _NO_EFFECT}
        return (cls if cls.form is not None else made)(tokenizer, kind, settings, str(pretrained_model_name_or_path))

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Write the tokenizer's files into a folder; returns their paths."""
        folder = Path(save_directory)
        self._nabi.save(folder)
        written = {"tokenizer.json": json.loads(self._library.to_str())} if self._library is not None and self._changed else {}
        if written:
            written["tokenizer.json"] |= {"truncation": None, "padding": None}
        names = {f"{role}_token": name for role, name in self._special.items() if name is not None}
        settings = {key: value for key, value in read_settings(self._files).items() if key != "added_tokens_decoder" or not self._changed} | names
        settings |= {key: getattr(self, key) for key in sorted(_SETTINGS)} | {"tokenizer_class": self._kind}
        if self.additional_special_tokens:
            settings["additional_special_tokens"] = self.additional_special_tokens
        for name, data in {**written, SETTINGS: settings, NAMES: names}.items():
            with whole(folder / name) as draft:
                draft.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return tuple(str(path) for path in sorted(folder.iterdir()) if path.name in {SETTINGS, NAMES, "tokenizer.json", *self._files})

    # ---- the vocabulary --------------------------------------------------------------------------------------------------------------------------

    def _id(self, token: str) -> int | None:
        found: int | None = self._nabi.id(token) if self._library is None else self._library.token_to_id(token)
        return found

    @property
    def is_fast(self) -> bool:
        """Whether words and characters of tokens can be told."""
        return self._library is not None

    @property
    def vocab_size(self) -> int:
        """Tokens without those that were added."""
        return self._nabi.vocab_size if self._library is None else int(self._library.get_vocab_size(with_added_tokens=False))

    def __len__(self) -> int:
        return self._nabi.vocab_size if self._library is None else int(self._library.get_vocab_size(with_added_tokens=True))

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added ones included."""
        if self._library is None:
            return {self._nabi.token(i): i for i in range(self._nabi.vocab_size)}
        return dict(self._library.get_vocab(with_added_tokens=True))

    vocab = property(get_vocab)

    @property
    def backend_tokenizer(self) -> Any:
        """The tokenizer library's object."""
        return self._library

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """The special tokens by their names."""
        found: dict[str, Any] = {f"{role}_token": token for role, token in self._special.items() if token is not None}
        return found | ({"additional_special_tokens": self.additional_special_tokens} if self.additional_special_tokens else {})

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, each once."""
        return list(dict.fromkeys([*(token for token in self._special.values() if token is not None), *self.additional_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""
        return [i for i in map(self._id, self.all_special_tokens) if i is not None]

    @property
    def pad_token_type_id(self) -> int:
        """The segment of padding."""
        return 0

    @property
    def max_len_single_sentence(self) -> int:
        """Tokens of a text that fit."""
        return self.model_max_length - self.num_special_tokens_to_add()

    @property
    def max_len_sentences_pair(self) -> int:
        """Tokens of a pair that fit."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Special tokens around a text, or around a pair."""
        return 1 if self._library is None else int(self._library.num_special_tokens_to_add(pair))

    def __getattr__(self, name: str) -> Any:
        special = self.__dict__.get("_special", {})
        role, _, end = name.partition("_token")
        if role in special and end in ("", "_id"):
            token = special[role]
            return token if not end or token is None else self._id(token)
        known = [n for n in dir(type(self)) if not n.startswith("_")] + [f"{role}_token{end}" for role in ROLES for end in ("", "_id")]
        raise AttributeError(f"{type(self).__name__} has no '{name}'. {nearest(name, known)}".rstrip())

    def __setattr__(self, name: str, value: Any) -> None:
        role, _, end = name.partition("_token")
        if role in ROLES and end == "":
            if value is not None and self._id(content(str(value))) is None:
                fix = f"add it: tokenizer.add_special_tokens({{'{name}': '{value}'}})"
                raise OptionError(f"{name} is not in the vocabulary", value=str(value), fix=fix)
            self._special[role] = None if value is None else str(value)
        elif role in ROLES and end == "_id":
            self._special[role] = None if value is None else self._nabi.token(value) if self._library is None else str(self._library.id_to_token(value))
        elif name in ("padding_side", "truncation_side") and value not in ("left", "right"):
            raise OptionError(f"{name} is no side", value=value, expected="'left' or 'right'")
        else:
            object.__setattr__(self, name, value)

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens to the vocabulary; returns how many are new."""
        library = self._fast("add_tokens")
        tokens = [new_tokens] if isinstance(new_tokens, str) or not isinstance(new_tokens, Sequence) else list(new_tokens)
        before = len(self)
        (library.add_special_tokens if special_tokens else library.add_tokens)(tokens)
        self._changed = True
        return len(self) - before

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any], replace_additional_special_tokens: bool = True) -> int:
        """Add special tokens by their names (``{'pad_token': '[PAD]'}``); returns how many are new."""
        added = 0
        for name, value in special_tokens_dict.items():
            role = name.removesuffix("_token")
            if name == "additional_special_tokens":
                added += self.add_tokens([content(str(x)) for x in value], special_tokens=True)
                kept = [] if replace_additional_special_tokens else self.additional_special_tokens
                self.additional_special_tokens = [*kept, *map(str, value)]
            elif role in ROLES and name.endswith("_token"):
                added += self.add_tokens([str(value)], special_tokens=True)
                self._special[role] = str(value)
            else:
                raise unknown("special token", name, [*(f"{r}_token" for r in ROLES), "additional_special_tokens"])
        return added

    def train_new_from_iterator(
        self,
        text_iterator: Any,
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[Any] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> PreTrainedTokenizer:
        """A tokenizer of the same kind with a vocabulary made from other texts.

        Args:
            text_iterator: texts, or lists of texts.
            vocab_size: tokens, special ones included.
            length: of a progress bar, which is not shown.
            new_special_tokens: further special tokens.
            special_tokens_map: old name -> new name of special tokens.
            kwargs: further arguments of the library's trainer.

        Raises:
            OptionError: a setting that can't be.
            InputError: something is not a text, or there is none.
        """
        library = self._fast("train_new_from_iterator")
        names = dict(special_tokens_map or {})
        source = Tokenizer(library.to_str().encode("utf-8"), self._files)
        made, _ = retrained(source, text_iterator, vocab_size, None, new_special_tokens, names, kwargs)
        settings = {name: getattr(self, name) for name in _SETTINGS} | {f"{role}_token": names.get(t, t) for role, t in self._special.items() if t is not None}
        extra = [*(names.get(token, token) for token in self.additional_special_tokens), *(new_special_tokens or ())]
        if extra:
            settings["additional_special_tokens"] = [token if isinstance(token, str) else token.content for token in extra]
        return type(self)(made, self._kind, settings, self.name_or_path)

    def _fast(self, what: str) -> Any:
        if self._library is None:
            raise OptionError(f"a Marian tokenizer has no {what}", value=self.name_or_path, fix="call it with texts, or take the ids of encode()")
        return self._library

    # ---- tokens and ids --------------------------------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """The tokens of a text."""
        if self._library is None:
            return self._nabi.pieces(text, pair, special=add_special_tokens)
        with self._lock, Guard(InputError, "the text can't be tokenised", value=text):
            self._library.no_truncation()
            self._library.no_padding()
            return list(self._library.encode(text, pair, add_special_tokens=add_special_tokens).tokens)

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token or the ids of several; of an unknown one the unknown token's."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        found = self._id(tokens)
        return self.unk_token_id if found is None else found

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id or the tokens of several."""
        if isinstance(ids, int):
            # of two vocabularies ids are the target's, as in decode
            return self._nabi.target.token(ids) if self._library is None else self._library.id_to_token(ids)
        left_out = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.convert_ids_to_tokens(i) for i in _plain(ids) if i not in left_out]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of tokens."""
        if self._library is None:
            return self._nabi.decode(self.convert_tokens_to_ids(tokens))
        decoder = self._library.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(list(tokens)))

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None) -> str:
        """The text of token ids.

        Args:
            token_ids: a list, an array or a tensor of one dimension, or one id.
            skip_special_tokens: leave special tokens out.
            clean_up_tokenization_spaces: take away the space before marks; as the files say if None.
        """
        ids = [token_ids] if isinstance(token_ids, int) else _plain(token_ids)
        ids = [ids] if isinstance(ids, int) else ids
        with Guard(InputError, "these are not token ids", value=ids, expected="whole numbers of 0 or more"):
            text = self._nabi.target.decode(ids, skip_special_tokens) if self._library is None else str(
                self._library.decode(ids, skip_special_tokens=skip_special_tokens)
            )
        clean = self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        return tidied(text) if clean else text

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None) -> list[str]:
        """The texts of several lists of token ids."""
        return [self.decode(ids, skip_special_tokens, clean_up_tokenization_spaces) for ids in sequences]

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """The token ids of a text; options as of a call."""
        return self(text, text_pair, **options)["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """One text or pair; options as of a call."""
        return self._encoded([(text, text_pair)], False, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Sequence[Any], **options: Any) -> BatchEncoding:
        """Several texts, or (text, pair) tuples; options as of a call."""
        pretokenized = options.get("is_split_into_words", False)
        pairs = [x if isinstance(x, tuple) or (pretokenized and x and not isinstance(x[0], str)) else (x, None) for x in batch_text_or_text_pairs]
        return self._encoded(pairs, True, **options)

    def __call__(
        self, text: Any = None, text_pair: Any = None, text_target: Any = None, text_pair_target: Any = None, **options: Any
    ) -> BatchEncoding:
        """Texts to columns, as version 4: ``input_ids``, ``attention_mask`` and what else is asked for.

        Args:
            text, text_pair: a str or, with ``is_split_into_words``, a list of words; or a list of these.
            text_target, text_pair_target: what an encoder-decoder shall write; beside a text its ids are ``labels``.
            options: ``add_special_tokens, padding, truncation, max_length, stride, is_split_into_words, pad_to_multiple_of, padding_side, return_tensors,
                return_token_type_ids, return_attention_mask, return_overflowing_tokens, return_special_tokens_mask, return_offsets_mapping,
                return_length, verbose``.

        Raises:
            OptionError: an unknown option, or one that can't be fulfilled.
            InputError: a text can't be read.
        """
        if text is None and text_target is None:
            raise InputError("there is no text", expected="text or text_target")
        found = None if text is None else self._called(text, text_pair, options)
        if text_target is None:
            assert found is not None
            return found
        with self.as_target_tokenizer():
            target = self._called(text_target, text_pair_target, options)
        if found is None:
            return target
        found["labels"] = target["input_ids"]
        return found

    def _called(self, text: Any, pair: Any, options: Mapping[str, Any]) -> BatchEncoding:
        split = options.get("is_split_into_words", False)
        if isinstance(text, str) or not isinstance(text, list | tuple):
            if split and isinstance(text, str):
                raise InputError("is_split_into_words needs words", value=text, expected="a list of str")
            return self._encoded([(text, pair)], False, **options)
        if split and (not text or isinstance(text[0], str)):
            return self._encoded([(text, pair)], False, **options)
        if pair is not None and (isinstance(pair, str) or len(pair) != len(text)):
            raise InputError("the pairs are not as many as the texts", value=f"{len(text)} and {1 if isinstance(pair, str) else len(pair)}")
        return self._encoded([*zip(text, pair, strict=True)] if pair is not None else [(x, None) for x in text], True, **options)

    @contextmanager
    def as_target_tokenizer(self) -> Iterator[None]:
        """Inside the block texts are read as those that are written: by a Marian folder's other side."""
        source = self._nabi
        self._nabi = source.target
        try:
            yield
        finally:
            self._nabi = source

    # ---- the work --------------------------------------------------------------------------------------------------------------------------------

    def _encoded(
        self,
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
        for name in strange:
            raise unknown("option of a tokenizer's call", name, _OPTIONS)
        pad, cut, length = self._ways(padding, truncation, max_length)
        pairs = [(first, second) for first, second in pairs]
        for number, (first, second) in enumerate(pairs):
            _check(first, is_split_into_words, number)
            if second is not None:
                _check(second, is_split_into_words, number)
        masks = "attention_mask" in self.model_input_names if return_attention_mask is None else return_attention_mask
        types = "token_type_ids" in self.model_input_names if return_token_type_ids is None else return_token_type_ids
        if self._library is None:
            asked = {"stride": stride, "is_split_into_words": is_split_into_words, "return_overflowing_tokens": return_overflowing_tokens,
                     "return_offsets_mapping": return_offsets_mapping}  # fmt: skip
            for name, value in asked.items():
                if value:
                    raise OptionError(f"a Marian tokenizer has no {name}", value=value, fix="nabi.text.Tokenizer has offsets and windows")
            encodings: list[list[Any]] = [[self._columns(first, second, add_special_tokens, cut, length)] for first, second in pairs]
        else:
            side = padding_side or self.padding_side
            encodings = self._by_library(pairs, add_special_tokens, is_split_into_words, (pad, length, side, pad_to_multiple_of), cut, stride)
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
        if verbose and cut is None and pad != "max_length" and any(len(row.ids) > self.model_max_length for row in flat):
            SAY.warning("a text has more tokens than this model reads (%d): its position table ends there", self.model_max_length)
        if not batched and return_tensors is None and not return_overflowing_tokens:
            data = {key: values[0] for key, values in data.items()}
        if self._library is None:
            found = BatchEncoding(data, n_sequences=2 if pairs and pairs[0][1] is not None else 1)
            if pad is not None:
                found = self.pad(found, padding=pad, max_length=length, pad_to_multiple_of=pad_to_multiple_of, padding_side=padding_side)
            return found.convert_to_tensors(return_tensors)
        return BatchEncoding(data, flat, tensor_type=return_tensors)

    def _by_library(
        self,
        pairs: Sequence[tuple[Any, Any]],
        special: bool,
        split: bool,
        padding: tuple[str | None, int | None, str, int | None],
        cut: str | None,
        stride: int,
    ) -> list[list[Any]]:
        pad, length, side, multiple = padding
        with self._lock:
            if cut is None:
                self._library.no_truncation()
            else:
                with Guard(OptionError, "the texts can't be cut so", value=f"max_length={length}, stride={stride}, truncation={cut!r}",
                           expected="a max_length above the special tokens, and a stride below what is left"):  # fmt: skip
                    self._library.enable_truncation(length, stride=stride, strategy=cut, direction=self.truncation_side)
            if pad is None:
                self._library.no_padding()
            else:
                size = length if pad == "max_length" else None
                self._library.enable_padding(
                    length=size, direction=side, pad_id=self.pad_token_id, pad_token=self.pad_token, pad_to_multiple_of=multiple
                )
            with Guard(InputError, "the texts can't be tokenised"):
                given = [first if second is None else (first, second) for first, second in pairs]
                found = self._library.encode_batch(given, add_special_tokens=special, is_pretokenized=split)
        return [[row, *row.overflowing] for row in found]

    def _columns(self, text: str, pair: str | None, special: bool, cut: str | None, length: int | None) -> Any:
        """A row of a Marian folder."""
        if cut not in (None, "longest_first"):
            raise OptionError("a Marian tokenizer cuts the longest text first", value=cut, fix="truncation=True")
        encoding = self._nabi.encode(text, pair, special=special)
        if cut is not None and length is not None and special:
            encoding = self._nabi.truncated(text, pair, length)[0]
        elif cut is not None and length is not None and len(encoding) > length:
            encoding = encoding.without((length, len(encoding)))
        return _Row(encoding.ids, encoding.segments, [1] * len(encoding), list(map(int, encoding.special)))

    def _ways(self, padding: Any, truncation: Any, max_length: int | None) -> tuple[str | None, str | None, int | None]:
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
            if self.model_max_length > 10**20:
                SAY.warning("neither max_length nor the tokenizer's files say a length, so nothing is padded to it or cut")
                pad, cut = None if pad == "max_length" else pad, None
            else:
                max_length = self.model_max_length
        if pad is not None and self._special["pad"] is None:
            raise OptionError("this tokenizer has no token to pad with", value=f"padding={padding!r}", fix="set tokenizer.pad_token = tokenizer.eos_token")
        return pad, cut, max_length

    def pad(
        self,
        encoded_inputs: Any,
        padding: Any = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Rows that were encoded before, padded to one length: a mapping of columns, or a list of mappings.

        Padded are ``input_ids``, ``token_type_ids``, ``attention_mask`` and ``special_tokens_mask``, as in version 4; other columns stay as they are.
        """
        rows = encoded_inputs
        if isinstance(rows, list | tuple):
            rows = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
        data = {key: _plain(values) for key, values in rows.items()}
        if "input_ids" not in data:
            raise InputError("there are no input_ids to pad", value=list(data), expected="what a call of the tokenizer returned")
        alone = not data["input_ids"] or not isinstance(data["input_ids"][0], list)
        if alone:
            data = {key: [values] for key, values in data.items()}
        pad, _, _ = self._ways(padding, False, max_length)
        ids = data["input_ids"]
        if return_attention_mask if return_attention_mask is not None else "attention_mask" in self.model_input_names:
            data.setdefault("attention_mask", [[1] * len(row) for row in ids])
        if pad is not None:
            length = max(map(len, ids), default=0) if pad == "longest" else max_length or self.model_max_length
            length += -length % (pad_to_multiple_of or 1)
            fills = {"input_ids": self.pad_token_id, "token_type_ids": 0, "attention_mask": 0, "special_tokens_mask": 1}
            left = (padding_side or self.padding_side) == "left"
            for key in fills.keys() & data.keys():
                more = [[fills[key]] * (length - len(row)) for row in ids]
                data[key] = [extra + list(row) if left else list(row) + extra for row, extra in zip(data[key], more, strict=True)]
        if alone and return_tensors is None:
            data = {key: values[0] for key, values in data.items()}
        return BatchEncoding(data, tensor_type=return_tensors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, special_tokens={self.special_tokens_map})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        object.__setattr__(self, "_lock", threading.Lock())


class PreTrainedTokenizerFast(PreTrainedTokenizer):
    """The name that version 4 has for a tokenizer whose files name no class."""


class AutoTokenizer:
    """Finds the class of a tokenizer by its files."""

    from_pretrained = PreTrainedTokenizer.from_pretrained


class _Row:
    """A row of a tokenizer that the library does not know."""

    def __init__(self, ids: list[int], type_ids: list[int], attention_mask: list[int], special_tokens_mask: list[int]) -> None:
        self.ids, self.type_ids, self.attention_mask, self.special_tokens_mask = ids, type_ids, attention_mask, special_tokens_mask


_OPTIONS = (
    "add_special_tokens", "padding", "truncation", "max_length", "stride", "is_split_into_words", "pad_to_multiple_of", "padding_side", "return_tensors",
    "return_token_type_ids", "return_attention_mask", "return_overflowing_tokens", "return_special_tokens_mask", "return_offsets_mapping", "return_length",
    "verbose", "text_pair", "text_target", "text_pair_target",
)  # fmt: skip


@cache
def class_named(name: str) -> type[PreTrainedTokenizer]:
    """The class of this name, such as ``BertTokenizerFast``; the names with and without Fast differ in name alone."""
    if name in ("PreTrainedTokenizer", "PreTrainedTokenizerFast"):
        return PreTrainedTokenizer if name == "PreTrainedTokenizer" else PreTrainedTokenizerFast
    plain = name.removesuffix("Fast")
    like = {"CamembertTokenizer": "XLMRobertaTokenizer"}.get(plain, plain)
    form = next(form for form in FORMS if like in form.classes)
    base = PreTrainedTokenizer if name == plain else class_named(plain)
    return type(name, (base,), {"form": form, "__doc__": f"Version 4's {name}.", "__module__": __name__})


def _kind(folder: Path, tokenizer: Tokenizer) -> str:
    """What version 4 calls the class of a folder's tokenizer, without Fast."""
    settings = read_settings(tokenizer.files)
    config = read_file(folder / "config.json", TokenizerError) if (folder / "config.json").is_file() else {}
    for stated in (settings.get("tokenizer_class"), config.get("tokenizer_class"), TOKENIZERS.get(str(config.get("model_type")))):
        if isinstance(stated, str) and stated not in ("TokenizersBackend", "PythonBackend", "SentencePieceBackend"):
            return stated.removesuffix("Fast")
    return "MarianTokenizer" if isinstance(tokenizer.library, Marian) else "PreTrainedTokenizer"


def _rebuilt(definition: str, settings: Mapping[str, Any]) -> str:
    """A tokenizer.json with the settings that are part of it."""
    if not _BUILT & settings.keys():
        return definition
    data = json.loads(definition)
    names = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
    normalizer, first = data.get("normalizer") or {}, data.get("pre_tokenizer") or {}
    for key in _BUILT & settings.keys():
        place, name = (first, key) if key == "add_prefix_space" else (normalizer, names[key])
        if name not in place:
            what = f"this tokenizer has no setting {key}"
            raise OptionError(what, value=place.get("type"), expected="a byte-level tokenizer" if place is first else "a BERT normaliser")
        place[name] = settings[key]
    return json.dumps(data, ensure_ascii=False)


def _check(text: Any, split: bool, number: int) -> None:
    right = isinstance(text, list | tuple) and all(isinstance(word, str) for word in text) if split else isinstance(text, str)
    if not right:
        fix = "leave missing values out" if text is None or isinstance(text, float) else ""
        raise InputError(f"text {number + 1} is no text", value=repr(text), expected="a list of words (str)" if split else "a str", fix=fix)


def _plain(values: Any) -> Any:
    """Tensors and arrays as lists."""
    if hasattr(values, "tolist"):
        return values.tolist()
    return [_plain(x) for x in values] if isinstance(values, list | tuple) else values
