"""The model card: README.md with metadata for the hub and text for people, every number measured, no blank to fill."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nabi.evaluation.findings import FEW, Findings, Made, Slice, images_read, versions
from nabi.evaluation.report import usage
from nabi.pages.markdown import MARK, escaped, fenced, table, yaml

# tasks that the hub has a pipeline for, in its spelling
PIPELINES = {
    "audio-classification", "automatic-speech-recognition", "document-question-answering", "feature-extraction", "fill-mask", "image-classification",
    "question-answering", "sentence-similarity", "summarization", "table-question-answering", "text-classification", "text-generation",
    "token-classification", "translation", "zero-shot-classification", "zero-shot-image-classification",
}  # fmt: skip
# figure -> (the hub's id of the measure, its name)
MEASURES = {
    "accuracy": ("accuracy", "Accuracy"),
    "macro_f1": ("f1", "Macro F1"),
    "f1": ("f1", "F1"),
    "precision": ("precision", "Precision"),
    "recall": ("recall", "Recall"),
    "mcc": ("matthews_correlation", "Matthews correlation"),
    "pearson": ("pearsonr", "Pearson correlation"),
    "spearman": ("spearmanr", "Spearman correlation"),
    "mse": ("mse", "Mean squared error"),
    "em": ("exact_match", "Exact match"),
    "wer": ("wer", "Word error rate"),
    "cer": ("cer", "Character error rate"),
    "bleu": ("sacrebleu", "BLEU"),
    "chrf": ("chrf", "chrF"),
    "rougeL": ("rouge", "ROUGE-L"),
    "perplexity": ("perplexity", "Perplexity"),
}
_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class CardOptions:
    """What only a person knows about a model.

    Attributes:
        license: its id on the hub, such as ``apache-2.0``.
        language: code or codes, such as ``ko``.
        tags: further words to find it by.
    """

    license: str | None = None
    language: str | tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()


def hub_id(base: str | None) -> str | None:
    """The base as an id of the hub, or None if it is a folder or a name that ships."""
    return base if base and _ID.fullmatch(base) and not base.startswith(".") and not Path(base).exists() else None


def metadata(findings: Findings | None, made: Made, task: str, options: CardOptions) -> dict[str, Any]:
    """The card's YAML block as plain data; what is not known is left out."""
    pipeline = task.replace("_", "-")
    found: dict[str, Any] = {"library_name": "nabi"}
    if options.license:
        found["license"] = options.license
    if options.language:
        found["language"] = [options.language] if isinstance(options.language, str) else list(options.language)
    if pipeline in PIPELINES:
        found["pipeline_tag"] = pipeline
    if made.hub:
        found["base_model"] = made.hub
    if options.tags:
        found["tags"] = list(options.tags)
    if findings is None or made.dev is None:
        return found
    measured = [(*MEASURES[name], value) for name, value in findings.evaluation.metrics.items() if name in MEASURES and math.isfinite(value)]
    if not measured:
        return found
    found["metrics"] = list(dict.fromkeys(kind for kind, _, _ in measured))
    results = {
        "task": {"type": pipeline, "name": pipeline.replace("-", " ").capitalize()},
        "dataset": {"type": made.dev.name, "name": made.dev.name, "split": "dev", "args": {"rows": made.dev.rows, "sha256": made.dev.sha256}},
        "metrics": [{"type": kind, "name": name, "value": value} for kind, name, value in measured],
    }
    found["model-index"] = [{"name": made.name, "results": [results]}]
    return found


def card(findings: Findings | None, made: Made, model: Any, options: CardOptions, report: str = "report.html") -> str:
    """The whole card.

    Args:
        findings: of the best evaluation, or None without dev data.
        made: how the model was made.
        model: that came out.
        options: what only a person knows.
        report: the file beside it that says more.
    """
    task = model.task.name.replace("_", " ")
    parameters = sum(p.numel() for p in model.original.parameters())
    lines = ["---", *yaml(metadata(findings, made, model.task.name, options)), "---", MARK, "", f"# {escaped(made.name)}", ""]
    told = f"A model for {task}: {escaped(model.origin.family_name)}, {parameters:,} parameters, from {escaped(made.base)}."
    lines += [f"{told} More is in [{report}]({report}).", ""]
    lines += ["## Use", "", *fenced(usage(made.folder, model, made.plugins), "python"), ""]
    lines += ["## Measurements", "", *_measurements(findings, made), ""]
    limits = _limits(findings)
    if limits:
        lines += ["## Limits that were measured", "", *limits, ""]
    lines += ["## Data", "", *_data(made), ""]
    lines += ["## How it was made", "", *fenced(made.command, ""), ""]
    settings = ", ".join(f"{k}={v}" for k, v in made.settings.items()) or "none"
    facts = [("seed", str(made.seed)), *images_read(model), ("settings that are not the usual ones", settings)]
    facts += [("tokens that were computed", f"{made.tokens:,}"), ("seconds", f"{made.seconds:.0f}"), *versions().items()]
    lines += table(("", ""), facts)
    return "\n".join(lines) + "\n"


def _measurements(findings: Findings | None, made: Made) -> list[str]:
    if findings is None or made.dev is None:
        return ["No dev rows were given, so nothing was measured."]
    metrics, labels = findings.evaluation.metrics, [s.name for s in findings.by_label]
    names = [n for n in metrics if not n.startswith("f1/")] + [f"f1/{n}" for n in labels[:12]]
    rows = [(name, f"{metrics[name]:.4f}", " to ".join(f"{x:.4f}" for x in findings.intervals.get(name, ())) or "not measured") for name in names]
    lines = [f"On {escaped(made.dev.name)} ({made.dev.rows:,} rows):", "", *table(("figure", "value", "95 % interval"), rows)]
    if findings.intervals:
        which = " Of the labels the weakest 12 are shown." if len(labels) > 12 else ""
        lines += ["", f"Intervals: percentiles of {findings.resamples:,} bootstrap resamples of these rows.{which}"]
    if {"ece", "ece_scaled"} <= findings.facts.keys():
        plain, divisor, scaled = (findings.facts[name] for name in ("ece", "temperature", "ece_scaled"))
        told = f"The calibration error is {plain:.4f}; dividing the logits by a temperature of {divisor:.3f} makes it {scaled:.4f}"
        lines += ["", f"{told} (2-fold cross-fitted on the same rows). The model is saved without the temperature."]
    return lines


def _limits(findings: Findings | None) -> list[str]:
    if findings is None:
        return []
    lines = []
    weak = [s for s in findings.by_label if s.rows >= FEW]
    if weak:
        lines.append(f"- Weakest label: {_said(weak[0], 'F1')}.")
    few = [s for s in findings.by_label if s.rows < FEW]
    if few:
        named = ", ".join(f"{escaped(s.name)} ({s.rows})" for s in sorted(few, key=lambda s: s.rows)[:10]) + (" and others" if len(few) > 10 else "")
        lines.append(f"- {len(few)} labels have fewer than {FEW} rows here, so their figures say little: {named}.")
    if findings.by_length:
        weakest = max if findings.model.task.lower_is_better else min
        lines.append(f"- Weakest length: {_said(weakest(findings.by_length, key=lambda s: s.figure), findings.main)}.")
    doubtful = findings.verdicts.doubtful if findings.verdicts else None
    if doubtful is not None and doubtful.any():
        lines.append(f"- {int(doubtful.sum())} of the rows that it was measured on may bear a wrong label.")
    if lines:
        lines.append(f"- All of this holds for rows like those of {escaped(findings.evaluation.data)}; nothing else was measured.")
    return lines


def _said(part: Slice, figure: str) -> str:
    return f"{escaped(part.name)}, {figure} {part.figure:.4f} ({part.low:.4f} to {part.high:.4f}, {part.rows:,} rows)"


def _data(made: Made) -> list[str]:
    rows = []
    for what, source in (("training", made.data), ("dev", made.dev)):
        if source is not None:
            rows.append((what, source.name + (f" ({source.how})" if source.how else ""), f"{source.rows:,}", source.sha256))
    return table(("", "name", "rows", "sha256"), rows)
