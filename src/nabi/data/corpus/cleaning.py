"""All cleaning steps of a build: their options as one object, and the steps in the order in which they run.

The order: one form of letters first, since all else compares text; the licence before anything is replaced; what needs no package before what is slow; test
texts before rules that may change them; marks for personal data last, so that no rule breaks them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nabi.data.corpus.composed import Composed, Composing
from nabi.data.corpus.contamination import Contamination, ContaminationStep
from nabi.data.corpus.documents import Step
from nabi.data.corpus.languages import Languages, LanguageStep
from nabi.data.corpus.licences import Licences, LicenceStep
from nabi.data.corpus.personal import Personal, PersonalStep
from nabi.data.corpus.quality import Quality, QualityStep
from nabi.data.corpus.rules import Rules, RulesStep
from nabi.data.corpus.unsafe import Unsafe, UnsafeStep


@dataclass(frozen=True)
class Cleaning:
    """Options of all the steps; a step that is None does not run, and an empty table takes its defaults.

    Attributes:
        composed, licences, quality, languages, unsafe, contamination, rules, personal: as their modules say, in the order in which they run.
    """

    composed: Composing | None = None
    licences: Licences | None = None
    quality: Quality | None = None
    languages: Languages | None = None
    unsafe: Unsafe | None = None
    contamination: Contamination | None = None
    rules: Rules | None = None
    personal: Personal | None = None


def open_steps(cleaning: Cleaning) -> list[Step]:
    """The steps that are on, in their order.

    Raises:
        OptionError: an option of a step is impossible, or a package that it needs is not installed.
        DataError: a file that a step needs can't be read.
    """
    classes: dict[str, Callable[[Any], Step]] = {
        "composed": Composed, "licences": LicenceStep, "quality": QualityStep, "languages": LanguageStep, "unsafe": UnsafeStep,
        "contamination": ContaminationStep, "rules": RulesStep, "personal": PersonalStep,
    }  # fmt: skip
    return [made(options) for name, made in classes.items() if (options := getattr(cleaning, name)) is not None]
