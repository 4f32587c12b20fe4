"""``AutoTokenizer``, ``BertTokenizer`` and the others: version 4's tokenizers over nabi's.

One class does the work; the others are its aliases, which refuse the files of another kind. What a tokenizer is stands in ``vocabulary``, how texts become
columns in ``columns``; here are where it comes from and goes to, its calls, and the classes by their names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from nabi.compat.batch_encoding import BatchEncoding
from nabi.compat.columns import encoded, padded
from nabi.compat.configs import without_hub
from nabi.compat.names import TOKENIZER_CLASSES, TOKENIZERS
from nabi.compat.vocabulary import ATTRIBUTES, BUILT, ROLES, Vocabulary, as_lists
from nabi.config import read_file
from nabi.errors import InputError, TokenizerError, unknown
from nabi.files import whole
from nabi.tasks._streaming import tidied
from nabi.text import Tokenizer
from nabi.text.files import NAMES, SETTINGS, Guard, read_settings
from nabi.text.forms import FORMS, Form
from nabi.text.marian import Marian
from nabi.text.retraining import retrained
from nabi.weights.download import with_token
from nabi.weights.sources import resolve

# arguments of from_pretrained that steer what nabi decides by itself
_NO_EFFECT = frozenset({"use_fast", "tokenizer_type", "legacy", "from_slow"})


class PreTrainedTokenizer(Vocabulary):
    """A tokenizer with version 4's interface; made by ``from_pretrained``.

    Args:
        tokenizer: nabi's.
        kind: the name of version 4's class for these files, which decides which columns there are.
        settings: over what the files say.
        name: where it was read from.
    """

    form: ClassVar[Form | None] = None

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
        known = _NO_EFFECT | ATTRIBUTES | BUILT | {f"{role}_token" for role in ROLES} | {"additional_special_tokens"}
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
        settings |= {key: getattr(self, key) for key in sorted(ATTRIBUTES)} | {"tokenizer_class": self._kind}
        if self.additional_special_tokens:
            settings["additional_special_tokens"] = self.additional_special_tokens
        for name, data in {**written, SETTINGS: settings, NAMES: names}.items():
            with whole(folder / name) as draft:
                draft.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return tuple(str(path) for path in sorted(folder.iterdir()) if path.name in {SETTINGS, NAMES, "tokenizer.json", *self._files})

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
        settings = {name: getattr(self, name) for name in ATTRIBUTES} | {f"{role}_token": names.get(t, t) for role, t in self._special.items() if t is not None}
        extra = [*(names.get(token, token) for token in self.additional_special_tokens), *(new_special_tokens or ())]
        if extra:
            settings["additional_special_tokens"] = [token if isinstance(token, str) else token.content for token in extra]
        return type(self)(made, self._kind, settings, self.name_or_path)

    # ---- tokens and ids --------------------------------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """The tokens of a text."""
        if self._library is None:
            return self._nabi.pieces(text, pair, special=add_special_tokens)
        with self._lock, Guard(InputError, "the text can't be tokenised", value=text):
            self._library.no_truncation()
            self._library.no_padding()
            return list(self._library.encode(text, pair, add_special_tokens=add_special_tokens).tokens)

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
        ids = [token_ids] if isinstance(token_ids, int) else as_lists(token_ids)
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
        return encoded(self, [(text, text_pair)], False, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Sequence[Any], **options: Any) -> BatchEncoding:
        """Several texts, or (text, pair) tuples; options as of a call."""
        pretokenized = options.get("is_split_into_words", False)
        pairs = [x if isinstance(x, tuple) or (pretokenized and x and not isinstance(x[0], str)) else (x, None) for x in batch_text_or_text_pairs]
        return encoded(self, pairs, True, **options)

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
            return encoded(self, [(text, pair)], False, **options)
        if split and (not text or isinstance(text[0], str)):
            return encoded(self, [(text, pair)], False, **options)
        if pair is not None and (isinstance(pair, str) or len(pair) != len(text)):
            raise InputError("the pairs are not as many as the texts", value=f"{len(text)} and {1 if isinstance(pair, str) else len(pair)}")
        return encoded(self, [*zip(text, pair, strict=True)] if pair is not None else [(x, None) for x in text], True, **options)

    @contextmanager
    def as_target_tokenizer(self) -> Iterator[None]:
        """Inside the block texts are read as those that are written: by a Marian folder's other side."""
        source = self._nabi
        self._nabi = source.target
        try:
            yield
        finally:
            self._nabi = source

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
        return padded(self, encoded_inputs, padding, max_length, pad_to_multiple_of, padding_side, return_attention_mask, return_tensors)


class PreTrainedTokenizerFast(PreTrainedTokenizer):
    """The name that version 4 has for a tokenizer whose files name no class."""


class AutoTokenizer:
    """Finds the class of a tokenizer by its files."""

    from_pretrained = PreTrainedTokenizer.from_pretrained


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
