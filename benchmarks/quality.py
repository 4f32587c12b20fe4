"""Dev figures of fine-tuned MiniLM on public sets, mean and spread over seeds, beside TF-IDF with logistic regression, whoever wins.

    python benchmarks/quality.py [DATA_DIR] [--sets sst2 trec] [--seeds 0 1 2] [--set plan.epochs=3]

DATA_DIR holds a folder a set with train.jsonl.gz and dev.jsonl.gz (columns text, label); without it only the set that ships is measured. Training uses
nabi's usual plan unless --set says otherwise; the epoch is chosen on dev, as ``fit`` does. The spread is the sample standard deviation over the seeds. The
baseline has no seed. Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from pathlib import Path

from machine import machine
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline

from nabi import Plan, fit
from nabi.config import override
from nabi.data import Table, read_table
from nabi.data.shipped import sms_spam
from nabi.training.progress import Progress

SETS = {"sms_spam": "f1/spam", "sst2": "accuracy", "trec": "accuracy", "emotion": "accuracy", "ag_news": "accuracy", "banking77": "accuracy"}


def baseline(train: Table, dev: Table, measure: str) -> float:
    """Word and word-pair TF-IDF with logistic regression."""
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=30, max_iter=2000))
    model.fit([row["text"] for row in train], [str(row["label"]) for row in train])
    truth, found = [str(row["label"]) for row in dev], model.predict([row["text"] for row in dev])
    return float(accuracy_score(truth, found) if measure == "accuracy" else f1_score(truth, found, pos_label=measure.partition("/")[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--sets", nargs="+", choices=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="plan.KEY=VALUE")
    a = parser.parse_args()
    print(f"{machine()}, fp32, settings beside the usual plan: {a.settings or 'none'}", flush=True)
    print(f"{'set':<10}{'measure':>10}{'mean':>8}{'spread':>8}{'TF-IDF':>8}{'s/run':>8}{'tokens/s':>10}  runs", flush=True)
    for name in a.sets or (SETS if a.data else ["sms_spam"]):
        train, dev = (read_table(a.data / name / f"{side}.jsonl.gz") for side in ("train", "dev")) if a.data else sms_spam()
        figures, seconds, tokens = [], [], 0
        for seed in a.seeds:
            plan = override(Plan(seed=seed), [s.removeprefix("plan.") for s in a.settings])
            began = time.perf_counter()
            run = fit("text_classification", train, base="minilm", plan=plan, dev=dev, progress=Progress("quiet", stream=io.StringIO()))
            seconds.append(time.perf_counter() - began)
            figures.append(run.metrics[SETS[name]])
            tokens += run.tokens
        spread = statistics.stdev(figures) if len(figures) > 1 else 0.0
        print(
            f"{name:<10}{SETS[name]:>10}{statistics.mean(figures):>8.4f}{spread:>8.4f}{baseline(train, dev, SETS[name]):>8.4f}"
            f"{statistics.mean(seconds):>8.0f}{tokens / sum(seconds):>10,.0f}  {' '.join(f'{f:.4f}' for f in figures)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
