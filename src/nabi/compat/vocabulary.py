"""What a version 4 tokenizer is, before it reads a text: its files, its settings, its vocabulary and its special tokens.

:class:`Vocabulary` is what ``tokens.PreTrainedTokenizer`` builds on, and what ``columns`` works with. Unusual: it works on a copy of the library's tokenizer,
so nabi's never changes; special tokens are attributes by their role (``pad_token``, ``pad_token_id``), and setting one that is not in the vocabulary raises.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from nabi.compat.names import SEGMENTED
from nabi.errors import OptionError, nearest, unknown
from nabi.text import Tokenizer
from nabi.text.files import content, read_settings, token_names
from nabi.text.forms import FORMS
from nabi.text.marian import Marian

UNLIMITED = int(1e30)  # what version 4 calls a length that no file states
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# settings that are attributes, and those that are part of the definition
ATTRIBUTES = frozenset({"padding_side", "truncation_side", "model_max_length", "model_input_names", "clean_up_tokenization_spaces"})
BUILT = frozenset({"do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space"})


class Vocabulary:
    """The vocabulary of a tokenizer, with its settings and special tokens.

    Args:
        tokenizer: nabi's.
        kind: the name of version 4's class for these files, which decides which columns there are.
        settings: over what the files say.
        name: where it was read from.
    """

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
        elif wrong := sorted(BUILT & settings.keys()):
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

    def _fast(self, what: str) -> Any:
        if self._library is None:
            raise OptionError(f"a Marian tokenizer has no {what}", value=self.name_or_path, fix="call it with texts, or take the ids of encode()")
        return self._library

    # ---- tokens and ids -----------------------------------------------------------------------------------------------------------------------------

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
        return [self.convert_ids_to_tokens(i) for i in as_lists(ids) if i not in left_out]

    # ---- shown, copied and pickled -----------------------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, special_tokens={self.special_tokens_map})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        object.__setattr__(self, "_lock", threading.Lock())


def _rebuilt(definition: str, settings: Mapping[str, Any]) -> str:
    """A tokenizer.json with the settings that are part of it."""
    if not BUILT & settings.keys():
        return definition
    data = json.loads(definition)
    names = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
    normalizer, first = data.get("normalizer") or {}, data.get("pre_tokenizer") or {}
    for key in BUILT & settings.keys():
        place, name = (first, key) if key == "add_prefix_space" else (normalizer, names[key])
        if name not in place:
            what = f"this tokenizer has no setting {key}"
            raise OptionError(what, value=place.get("type"), expected="a byte-level tokenizer" if place is first else "a BERT normaliser")
        place[name] = settings[key]
    return json.dumps(data, ensure_ascii=False)


def as_lists(values: Any) -> Any:
    """Tensors and arrays as lists."""
    if hasattr(values, "tolist"):
        return values.tolist()
    return [as_lists(x) for x in values] if isinstance(values, list | tuple) else values
