"""Dev figures of fine-tuned MiniLM on the text tasks beside plain classification, each beside a baseline that learns next to nothing, whoever wins.

    python benchmarks/tasks.py DATA_DIR [--sets conll2003_en mrpc] [--seeds 0 1 2] [--set plan.epochs=3] [--option max_seq_len=256] [--base FOLDER]
                               [--out DIR]

DATA_DIR holds a folder a set with train.jsonl.gz and dev.jsonl.gz. Training uses nabi's usual plan and what ``SETS`` says; the epoch is chosen on dev, as
``fit`` does. Printed are the mean over the seeds with the sample standard deviation, the baseline, and the 95 % interval of the difference between the first
seed's model and the baseline: a bootstrap of 2,000 samples of dev rows, the same rows for both. Baselines: the majority label; of each word its most frequent
tag; the cosine of bags of words; no answer at all; the sentence that shares most words with the question. Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import io
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from scipy.stats import spearmanr
from sklearn.metrics import matthews_corrcoef

from nabi import Plan, fit, save
from nabi.config import override
from nabi.data import Table, read_table
from nabi.metrics.answered import best_of, word_f1
from nabi.metrics.tagged import entities
from nabi.training.progress import Progress

Figure = Callable[[np.ndarray], float]  # of a choice of dev rows
SAMPLES = 2000


@dataclass(frozen=True)
class Set:
    """How a set is learnt and measured."""

    task: str
    measure: str
    columns: Mapping[str, str] = field(default_factory=dict)
    plan: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


SETS = {
    "conll2003_en": Set("token_classification", "f1"),
    "wnut17": Set("token_classification", "f1"),
    "mrpc": Set("text_classification", "accuracy", {"text": "text_a", "text_pair": "text_b"}),
    "rte": Set("text_classification", "accuracy", {"text": "premise", "text_pair": "hypothesis"}),
    "cola": Set("text_classification", "mcc"),
    "stsb_en": Set("sentence_similarity", "spearman", {"text": "text_a", "text_pair": "text_b"}),
    "squad2": Set("question_answering", "f1"),
    "subjqa_electronics": Set("question_answering", "f1"),
    "covid_qa_long": Set("question_answering", "f1", plan=("windows=2",), options={"negatives": 1}),
}


# ---- what is measured: (name, of the model, of the baseline, the baseline's name) ------------------------------------------------------------------


def labelled(measure: str, train: Table, dev: Table, model: Any) -> list[tuple[str, Figure, Figure, str]]:
    """Accuracy or the correlation of Matthews, beside the majority label."""
    truth = np.array([str(row["label"]) for row in dev])
    said = np.array([str(answer["label"]) for answer in model.predict(list(dev))])
    most = np.full(len(truth), Counter(str(row["label"]) for row in train).most_common(1)[0][0])

    def of(given: np.ndarray) -> Figure:
        if measure == "mcc":
            return lambda rows: float(matthews_corrcoef(truth[rows], given[rows]))
        return lambda rows: float((truth[rows] == given[rows]).mean())

    return [(measure, of(said), of(most), "majority")]


def tagged(train: Table, dev: Table, model: Any) -> list[tuple[str, Figure, Figure, str]]:
    """F1 of entities, beside the most frequent tag of each word."""
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            seen[word][tag] += 1
    usual = [[seen[word].most_common(1)[0][0] if word in seen else "O" for word in row["tokens"]] for row in dev]
    said = [answer["tags"] for answer in model.predict([{"tokens": row["tokens"]} for row in dev])]

    def of(given: Sequence[Sequence[str]]) -> Figure:
        pairs = [(set(entities(tags)), set(entities(row["tags"]))) for tags, row in zip(given, dev, strict=True)]
        sums = np.array([(len(a & b), len(a) + len(b)) for a, b in pairs])
        return lambda rows: float(2 * sums[rows, 0].sum() / max(sums[rows, 1].sum(), 1))

    return [("f1", of(said), of(usual), "tag of word")]


def similar(train: Table, dev: Table, model: Any) -> list[tuple[str, Figure, Figure, str]]:
    """Spearman's and Pearson's correlation, beside the cosine of bags of words."""
    truth = np.array([float(row["score"]) for row in dev])
    said = np.array([answer["score"] for answer in model.predict([{"text": row["text"], "text_pair": row["text_pair"]} for row in dev])])
    bags = np.array([_cosine(_words(row["text"]), _words(row["text_pair"])) for row in dev])
    spearman = [lambda rows, x=x: float(spearmanr(truth[rows], x[rows]).statistic) for x in (said, bags)]
    pearson = [lambda rows, x=x: float(np.corrcoef(truth[rows], x[rows])[0, 1]) for x in (said, bags)]
    return [("spearman", *spearman, "bag of words"), ("pearson", *pearson, "bag of words")]  # type: ignore[list-item]


def answered(train: Table, dev: Table, model: Any, options: Mapping[str, Any]) -> list[tuple[str, Figure, Figure, str]]:
    """F1 over the answerable questions beside the longest-match sentence, and over all beside no answer at all."""
    asked = [{"question": row["question"], "context": row["context"]} for row in dev]
    truths = [[answer["text"] for answer in row["answers"]] for row in dev]
    answerable = np.array([bool(t) for t in truths])
    must = [answer["answer"] for answer in model.predict(asked, **options, handle_impossible_answer=False)]
    sentences = [_longest_match(row["question"], row["context"]) for row in dev]

    def of(given: Sequence[str], among: np.ndarray | None = None) -> Figure:
        each = np.array([best_of(word_f1, answer, truth) for answer, truth in zip(given, truths, strict=True)])

        def figure(rows: np.ndarray) -> float:
            chosen = rows if among is None else rows[among[rows]]
            return float(each[chosen].mean()) if len(chosen) else 0.0

        return figure

    found = [("f1 answerable", of(must, answerable), of(sentences, answerable), "sentence")]
    if not answerable.all():
        may = [answer["answer"] for answer in model.predict(asked, **options)]
        found.append(("f1 all", of(may), of([""] * len(may)), "no answer"))
    return found


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def _cosine(a: Counter[str], b: Counter[str]) -> float:
    norm = (sum(x * x for x in a.values()) * sum(x * x for x in b.values())) ** 0.5
    return sum(a[word] * b[word] for word in a) / norm if norm else 0.0


def _longest_match(question: str, context: str) -> str:
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n+", context) if s.strip()] or [context]
    words = set(_words(question))
    return max(sentences, key=lambda s: len(words & set(_words(s))))


def figures(kind: Set, train: Table, dev: Table, model: Any, options: Mapping[str, Any]) -> list[tuple[str, Figure, Figure, str]]:
    """By the set's task."""
    if kind.task == "token_classification":
        return tagged(train, dev, model)
    if kind.task == "question_answering":
        train, dev = (model.task.opened(table) for table in (train, dev))
        return answered(train, dev, model, options)
    if kind.task == "sentence_similarity":
        return similar(train, dev, model)
    return labelled(kind.measure, train, dev, model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="plan.KEY=VALUE")
    parser.add_argument("--option", dest="options", action="append", default=[], metavar="KEY=NUMBER")
    parser.add_argument("--base", default="minilm")
    parser.add_argument("--out", type=Path, help="keep each set's last model here")
    a = parser.parse_args()
    if a.data is None:
        print("nothing measured: this needs DATA_DIR")
        return
    print(f"{machine()}, fp32, settings beside the sets' own: {a.settings + a.options or 'none'}, base {a.base}", flush=True)
    head = f"{'set':<20}{'rows':>7}{'dev':>6}  {'measure':<14}{'mean':>7}{'spread':>8}{'baseline':>10}  {'95 % of the difference':<24}{'s/run':>6}  runs"
    print(head, flush=True)
    for name in a.sets:
        kind = SETS[name]
        train, dev = (read_table(a.data / name / f"{side}.jsonl.gz", kind.columns) for side in ("train", "dev"))
        given = [*kind.plan, *(s.removeprefix("plan.") for s in a.settings)]
        options = {**kind.options, **{key: float(value) if "." in value else int(value) for key, _, value in (o.partition("=") for o in a.options)}}
        reached: defaultdict[str, list[float]] = defaultdict(list)
        told: dict[str, tuple[float, str, str]] = {}
        seconds = []
        for seed in a.seeds:
            plan = override(Plan(seed=seed), given)
            began = time.perf_counter()
            quiet = Progress("quiet", stream=io.StringIO())
            run = fit(kind.task, train, base=a.base, plan=plan, dev=dev, options=options, progress=quiet)
            seconds.append(time.perf_counter() - began)
            made = figures(kind, train, dev, run.model, {k: v for k, v in options.items() if k != "negatives"})
            rows = len(run.model.task.opened(dev))
            for measure, ours, theirs, which in made:
                reached[measure].append(ours(np.arange(rows)))
                if measure not in told:
                    dice = np.random.default_rng(0)
                    gaps = sorted(ours(chosen) - theirs(chosen) for chosen in (dice.integers(0, rows, rows) for _ in range(SAMPLES)))
                    interval = f"{gaps[int(SAMPLES * 0.025)]:+.4f} to {gaps[int(SAMPLES * 0.975)]:+.4f}"
                    told[measure] = theirs(np.arange(rows)), which, interval
            if a.out:
                save(run.model, a.out / name)
        for measure, values in reached.items():
            spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "-"
            theirs_at, which, interval = told[measure]
            print(
                f"{name:<20}{len(run.model.task.opened(train)):>7}{rows:>6}  {measure:<14}{statistics.mean(values):>7.4f}{spread:>8}{theirs_at:>10.4f}"
                f"  {interval:<24}{statistics.mean(seconds):>6.0f}  {' '.join(f'{v:.4f}' for v in values)}  ({which})",
                flush=True,
            )


if __name__ == "__main__":
    main()
