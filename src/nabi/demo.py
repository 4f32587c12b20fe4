"""``make demo``: from labelled text messages to a model, its figures and its answers, on real data that ships with nabi.

It fine-tunes the MiniLM encoder on the SMS Spam Collection, at 64 labels and at all of them, and prints the figures beside a model from scratch and
beside TF-IDF with logistic regression, whoever wins. Everything is computed here and now; nothing is downloaded.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from nabi import Plan, fit, pipeline
from nabi.data import Table, balanced_sample
from nabi.data.shipped import sms_spam
from nabi.errors import OptionError
from nabi.training.progress import Progress

SEED = 0
MESSAGES = (
    "Congratulations! You have won a £500 gift card. Text CLAIM to 80082 now!",
    "are we still on for lunch tomorrow? i can pick you up at 12",
    "URGENT: your parcel could not be delivered, pay the fee on our site within 24 hours",
)


def main() -> None:
    """Train, compare, answer."""
    began = time.monotonic()
    train, dev = sms_spam()
    print(f"SMS Spam Collection (Almeida et al. 2011, CC BY 4.0): {len(train):,} training messages, {len(dev)} dev messages, seed {SEED}.\n")
    few = balanced_sample(train, total=64, seed=SEED)
    out = Path(tempfile.mkdtemp(prefix="nabi-demo-")) / "spam"
    rows: list[tuple[str, str, float, float]] = []
    for name, run in (
        ("TF-IDF + logistic regression", tfidf),
        ("BERT from scratch (4 x 256)", scratch),
        ("MiniLM fine-tuned", lambda table, held_out: fine_tuned(table, held_out, out if table is train else None)),
    ):
        for labels, table in ((f"{len(few)}", few), (f"{len(train):,}", train)):
            print(f"- {name}, {labels} labels", flush=True)
            seconds = time.monotonic()
            f1 = run(table, dev)
            rows.append((name, labels, f1, time.monotonic() - seconds))
    print(f"\n{'dev F1 of spam':<32}{'labels':>8}{'F1':>8}{'seconds':>10}")
    for name, labels, f1, seconds in rows:
        print(f"{name:<32}{labels:>8}{f1:>8.3f}{seconds:>10.1f}")
    best = max(rows, key=lambda row: row[2])
    print(f"Best here: {best[0]} with {best[1]} labels.\n")
    classify = pipeline("text-classification", str(out))
    for message, answer in zip(MESSAGES, classify(list(MESSAGES)), strict=True):
        print(f"{answer['label']:<5}{answer['score']:.3f}  {message}")
    print(f"\nThe model is in {out} ({time.monotonic() - began:.0f} s in all). Go on with your own rows:")
    print(f'  .venv/bin/nabi predict {out} "your text"')
    print("  .venv/bin/nabi train --task text_classification --data rows.csv --dev 0.1 --base minilm --out my_model")


def tfidf(train: Table, dev: Table) -> float:
    """The baseline that every classifier should be held against: word and word-pair TF-IDF, logistic regression."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import f1_score
        from sklearn.pipeline import make_pipeline
    except ImportError:
        raise OptionError("the demo compares with scikit-learn, which is not installed", fix="install it: pip install 'nabi[demo]'") from None
    texts, labels = _columns(train)
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=30, max_iter=2000)).fit(texts, labels)
    texts, labels = _columns(dev)
    return float(f1_score(labels, model.predict(texts), pos_label="spam"))


def scratch(train: Table, dev: Table) -> float:
    """A small BERT that starts from nothing but MiniLM's vocabulary."""
    plan = _plan(train, learning_rate=5e-4)
    run = fit("text_classification", train, plan=plan, dev=dev, family="bert", size="mini", tokenizer="minilm", progress=_progress())
    return run.metrics["f1/spam"]


def fine_tuned(train: Table, dev: Table, out: Path | None) -> float:
    """The shipped MiniLM with the usual rate."""
    run = fit("text_classification", train, base="minilm", out=out, plan=_plan(train), dev=dev, progress=_progress())
    return run.metrics["f1/spam"]


def _plan(train: Table, learning_rate: float = Plan.learning_rate) -> Plan:
    """Two epochs, or 100 updates of a small set, and two evaluations: little enough for a demo on two cores."""
    few = len(train) < 1000
    steps, batch = (100, 16) if few else (None, 32)
    return Plan(epochs=2, steps=steps, batch=batch, learning_rate=learning_rate, evaluate_every=50 * batch / len(train) if few else 1, seed=SEED)


def _columns(table: Table) -> tuple[list[str], list[str]]:
    return [row["text"] for row in table], [row["label"] for row in table]


def _progress() -> Progress:
    return Progress(stream=sys.stdout, every=5)


if __name__ == "__main__":
    main()
