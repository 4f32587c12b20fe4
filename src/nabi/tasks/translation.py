"""Translation: a text in another language.

Unusual: the name may say the languages, ``translation_en_to_de``; a text that does not fit, or with ``split="sentences"`` any, is translated by sentences, each
with its place in the text, and what lay between them stays.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nabi.decoding import Settings as Decoding
from nabi.errors import OptionError
from nabi.inputs import Inputs
from nabi.metrics import TranslationScore
from nabi.metrics.generated import tokenizer_for
from nabi.metrics.written import Translated
from nabi.tasks import Score
from nabi.tasks._generating import GenerationOptions, GenerationSettings, params_of
from nabi.tasks._seq2seq import TextToText
from nabi.text import Tokenizer

_NAME = re.compile(r"translation_([a-z]{2,3})_to_([a-z]{2,3})")


@dataclass(frozen=True)
class TranslationOptions(GenerationOptions):
    """What a call may set, beside ``GenerationOptions``.

    Attributes:
        src_lang, tgt_lang: the languages, as the model calls them.
        split: ``sentences`` translates one sentence at a time even if the text fits.
    """

    src_lang: str | None = None
    tgt_lang: str | None = None
    split: Literal["auto", "sentences"] = "auto"


@dataclass(frozen=True)
class TranslationSettings(GenerationSettings):
    """What belongs to the model, beside ``GenerationSettings``.

    Attributes:
        pairs: ``en_to_de`` -> its settings of decoding, and the ``prefix`` that is put before the text (T5's ``task_specific_params``); empty if the
            model has one pair or takes tokens for them.
        language: of the target, by which BLEU cuts words; ``en`` and the like.
    """

    pairs: Mapping[str, Mapping[str, Any]] | None = None
    language: str | None = None


class Translation(TextToText):
    """Translate."""

    name = "translation"
    defaults = ("google-t5/t5-base", "t5-base")
    hf_task = "translation"
    key = "translation"
    main_metric = "chrf"
    Options, Settings = TranslationOptions, TranslationSettings

    def __init__(self, settings: TranslationSettings) -> None:
        super().__init__(settings)
        pairs = settings.pairs or {}
        self._decoding = {name: Decoding.from_hf(self.decoding.to_hf(), {"task_specific_params": pairs}, name) for name in pairs}

    @classmethod
    def named(cls, name: str) -> dict[str, Any] | None:
        found = _NAME.fullmatch(name)
        return {"src_lang": found[1], "tgt_lang": found[2]} if found else None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> Any:
        own = super().from_hf(config, outputs, generation)
        pairs = {name.removeprefix("translation_"): found for name, found in params_of(config).items() if _NAME.fullmatch(name)}
        return TranslationSettings(own.decoding, own.prefix or (None if pairs else ""), own.label_smoothing, pairs or None)

    @classmethod
    def completed(cls, settings: Any, config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Tokenizer) -> Any:
        pairs = settings.pairs
        if pairs is None and settings.prefix is None:  # a prefix of its own makes it a model of one pair
            pairs = cls.from_hf(config, {}, generation).pairs
            if pairs and settings.decoding is not None:  # how to decode was said
                pairs = {name: {"prefix": params.get("prefix", "")} for name, params in pairs.items()}
        found = super().completed(settings, config, generation, tokenizer)
        languages = tokenizer.languages
        return dataclasses.replace(found, pairs=pairs, language=settings.language or (languages[1] if languages else None))

    def pair(self, options: TranslationOptions) -> str | None:
        """Which of the model's pairs of languages a call asks for; without a word of it and without a prefix the first, as v4.

        Raises:
            OptionError: it is none of them.
        """
        pairs: Mapping[str, Any] = self.settings.pairs or {}
        source, target = options.src_lang, options.tgt_lang
        if not pairs or (target is None and self.settings.prefix is not None):
            return None
        if target is None:
            first = next(iter(pairs))
            warnings.warn(f"no languages were named: {first} is taken, of {', '.join(pairs)}; name them as in translation_{first}", stacklevel=2)
            return first
        if f"{source}_to_{target}" not in pairs:
            raise OptionError("the model does not translate between these languages", value=f"{source} to {target}", expected=f"one of {', '.join(pairs)}")
        return f"{source}_to_{target}"

    def usual(self, options: TranslationOptions) -> Decoding:  # type: ignore[override]
        pair = self.pair(options)
        return self.decoding if pair is None else self._decoding[pair]

    def apart(self, options: TranslationOptions) -> bool:
        return options.split == "sentences"

    def before(self, options: TranslationOptions, inputs: Inputs) -> str:
        """The prefix of the pair of languages, or the token of the language that is wanted.

        Raises:
            OptionError: the model does not translate between these languages.
        """
        source, target = options.src_lang, options.tgt_lang
        pair = self.pair(options)
        if pair is not None:
            return str(self.settings.pairs[pair].get("prefix", ""))
        if target is None:
            return self.prefix
        token = f">>{target}<<"
        if inputs.tokenizer.id(token) is not None:
            return f"{token} {self.prefix}"
        known = inputs.tokenizer.languages or (None, self.settings.language)
        if any(asked is not None and language is not None and asked != language for asked, language in zip((source, target), known, strict=True)):
            expected = " to ".join(str(language or source) for language in known)
            raise OptionError("the model does not translate between these languages", value=f"{source} to {target}", expected=expected,
                              fix="give a model of this pair")  # fmt: skip
        if known == (None, None):
            warnings.warn(f"the model does not say which languages it translates: that it can do {source} to {target} is taken on trust", stacklevel=2)
        return self.prefix

    def score(self) -> Score:
        return _Score(tokenizer_for(self.settings.language or ""))

    def detail(self, options: TranslationOptions) -> Any:
        """What a report is made of."""
        return _Detail(tokenizer_for(self.settings.language or ""))


class _Score(TranslationScore):
    def add(self, answer: Any, truth: str) -> None:
        super().add(answer["text"], truth)


class _Detail(Translated):
    def add(self, answer: Any, truth: Any) -> None:
        super().add(answer["text"], truth)


TASK = Translation
