"""Translation: a text in another language.

Unusual: the name may say the languages, ``translation_en_to_de``; a text that does not fit, or with ``split="sentences"`` any, is translated by sentences, each
with its place in the text, and what lay between them stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nabi.errors import OptionError
from nabi.inputs import Inputs
from nabi.metrics import TranslationScore
from nabi.metrics.generated import tokenizer_for
from nabi.metrics.written import Translated
from nabi.tasks import Score
from nabi.tasks._generating import GenerationOptions, GenerationSettings
from nabi.tasks._seq2seq import TextToText

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
        pairs: ``en_to_de`` -> what is put before the text (T5); empty if the model has one pair or takes tokens for them.
        language: of the target, by which BLEU cuts words; ``en`` and the like.
    """

    pairs: Mapping[str, str] | None = None
    language: str | None = None


class Translation(TextToText):
    """Translate."""

    name = "translation"
    defaults = ("google-t5/t5-base", "t5-base")
    hf_task = "translation"
    key = "translation"
    main_metric = "chrf"
    Options, Settings = TranslationOptions, TranslationSettings

    @classmethod
    def named(cls, name: str) -> dict[str, Any] | None:
        found = _NAME.fullmatch(name)
        return {"src_lang": found[1], "tgt_lang": found[2]} if found else None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> Any:
        own = super().from_hf(config, outputs, generation)
        every = config.get("task_specific_params") or {}
        pairs = {name.removeprefix("translation_"): params.get("prefix", "") for name, params in every.items() if _NAME.fullmatch(name)}
        return TranslationSettings(own.decoding, own.prefix, own.label_smoothing, pairs or None)

    def apart(self, options: TranslationOptions) -> bool:
        return options.split == "sentences"

    def before(self, options: TranslationOptions, inputs: Inputs) -> str:
        """The prefix of the pair of languages, or the token of the language that is wanted.

        Raises:
            OptionError: the model does not translate between these languages.
        """
        source, target = options.src_lang, options.tgt_lang
        if target is None:
            return self.prefix
        pairs: Mapping[str, str] = self.settings.pairs or {}
        if pairs:
            if f"{source}_to_{target}" not in pairs:
                raise OptionError("the model does not translate between these languages", value=f"{source} to {target}", expected=f"one of {', '.join(pairs)}")
            return pairs[f"{source}_to_{target}"]
        token = f">>{target}<<"
        if inputs.tokenizer.id(token) is not None:
            return f"{token} {self.prefix}"
        known = inputs.tokenizer.languages
        if known is not None and (target != known[1] or (source is not None and source != known[0])):
            raise OptionError(
                "the model does not translate between these languages", value=f"{source} to {target}", expected=f"{known[0]} to {known[1]}",
                fix="give a model of this pair",
            )  # fmt: skip
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
