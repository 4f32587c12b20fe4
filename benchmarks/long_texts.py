"""Whole film reviews (median 700 words): MiniLM that reads them in windows, beside the same model on texts cut to one row, and TF-IDF.

    python benchmarks/long_texts.py DATA_DIR [--seeds 0] [--ways truncate window] [--set plan.epochs=2 --set plan.windows=2]

DATA_DIR/movie_reviews_long holds train.jsonl.gz and dev.jsonl.gz. Each model is trained as it is asked: on windows (``plan.windows`` of each text an
epoch, drawn anew) or on the first tokens alone; then evaluated on dev both ways. Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

from machine import machine
from quality import baseline

from nabi import Plan, evaluate, fit
from nabi.config import override
from nabi.data import read_table
from nabi.training.progress import Progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ways", nargs="+", choices=("truncate", "window"), default=["truncate", "window"], help="how to train")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="plan.KEY=VALUE")
    a = parser.parse_args()
    if a.data is None:
        print("nothing measured: this needs DATA_DIR")
        return
    train, dev = (read_table(a.data / "movie_reviews_long" / f"{side}.jsonl.gz") for side in ("train", "dev"))
    print(f"{machine()}, fp32, settings beside the usual plan: {a.settings or 'none'}; dev {len(dev)} rows", flush=True)
    print(f"TF-IDF {baseline(train, dev, 'accuracy'):.4f}", flush=True)
    for seed in a.seeds:
        for way in a.ways:
            plan = override(Plan(seed=seed), [s.removeprefix("plan.") for s in a.settings])
            began = time.perf_counter()
            run = fit("text_classification", train, base="minilm", plan=plan, dev=dev, options={"long": way}, progress=Progress("quiet", stream=io.StringIO()))
            seconds = time.perf_counter() - began
            found = {use: evaluate(run.model, dev, options={"long": use}).metrics["accuracy"] for use in ("truncate", "window")}
            print(
                f"seed {seed}, trained with long={way!r}: read cut {found['truncate']:.4f}, read in windows {found['window']:.4f};"
                f" {seconds:.0f} s, {run.tokens:,} tokens",
                flush=True,
            )


if __name__ == "__main__":
    main()
