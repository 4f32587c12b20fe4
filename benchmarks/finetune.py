"""Fine-tuning MiniLM: nabi beside the incumbent's Trainer, by default and with its length grouping, in one run, alternating.

Same data (SMS Spam Collection, shipped), same recipe (batch, AdamW, rate, linear schedule with warm-up, dropout 0.1, clipping at 1, float32), same number of
updates. Each side runs in a process of its own, in turn, so that neither warms the other's caches; only the training loop is timed, tokenising, loading and
imports are not. Prints medians, ratios pair by pair, and each side's dev F1 so that speed is not bought with quality.

    python benchmarks/finetune.py [--runs 3] [--batch 32] [--rows 3885] [--epochs 1]

Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

SIDES = ("nabi", "trainer", "trainer_grouped")
RATE, WARMUP, DECAY = 1e-4, 0.1, 0.01


def nabi_side(batch: int, rows: int, epochs: int, seed: int) -> dict[str, float]:
    import torch

    from nabi import Plan, evaluate
    from nabi.checkpoint import load_for_training
    from nabi.data.shipped import sms_spam
    from nabi.tasks import find
    from nabi.training.feed import Feed
    from nabi.training.loop import train as loop

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    table, dev = sms_spam()
    table = table[:rows]
    task = find("text_classification")
    model = load_for_training("minilm", task.name, task.fitted(list(table), table.name, {}), seed=seed)
    encoded = [model.encode(row, model.options(), "train", "", i) for i, row in enumerate(table)]
    plan = Plan(epochs=epochs, batch=batch, learning_rate=RATE, warmup=WARMUP, weight_decay=DECAY, seed=seed)
    feed = Feed(model, encoded, plan)
    began, tokens, steps = time.perf_counter(), 0, 0
    for step in loop(model, feed, plan):
        tokens, steps = tokens + step.tokens, step.number
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": tokens, "steps": steps, "f1": evaluate(model, dev).metrics["f1/spam"]}


def trainer_side(batch: int, rows: int, epochs: int, seed: int, grouped: bool) -> dict[str, float]:
    import torch
    from sklearn.metrics import f1_score
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

    from nabi.data.shipped import sms_spam
    from nabi.weights.sources import resolve

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    table, dev = sms_spam()
    table = table[:rows]
    folder = resolve("minilm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)

    def encoded(rows_: object) -> list[dict[str, object]]:
        return [{**tokenizer(row["text"], truncation=True, max_length=512, padding=False), "labels": int(row["label"] == "spam")} for row in rows_]  # type: ignore[attr-defined]

    train, held_out = encoded(table), encoded(dev)
    tokens = epochs * sum(len(row["input_ids"]) for row in train)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder_out:
        arguments = TrainingArguments(
            output_dir=folder_out,
            per_device_train_batch_size=batch,
            num_train_epochs=epochs,
            learning_rate=RATE,
            warmup_steps=WARMUP,
            weight_decay=DECAY,
            lr_scheduler_type="linear",
            max_grad_norm=1.0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
            **({"train_sampling_strategy": "group_by_length"} if grouped else {}),
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=train, data_collator=DataCollatorWithPadding(tokenizer), processing_class=tokenizer)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        logits = trainer.predict(held_out).predictions
    f1 = f1_score([row["labels"] for row in held_out], logits.argmax(-1))
    return {"seconds": seconds, "tokens": tokens, "steps": trainer.state.global_step, "f1": float(f1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rows", type=int, default=3885)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.side:
        run = nabi_side(a.batch, a.rows, a.epochs, a.seed) if a.side == "nabi" else trainer_side(a.batch, a.rows, a.epochs, a.seed, a.side == "trainer_grouped")
        print("RESULT " + json.dumps(run))
        return
    import transformers
    from machine import machine

    print(f"{machine()}, transformers {transformers.__version__}")
    print(f"fp32, batch {a.batch}, {a.rows} rows, {a.epochs} epoch(s), rate {RATE}, {a.runs} runs a side, alternating")
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for seed in range(a.runs):
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--seed", str(seed), "--batch", str(a.batch), "--rows", str(a.rows), "--epochs", str(a.epochs)]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found[side].append(json.loads(next(line for line in text.splitlines() if line.startswith("RESULT "))[7:]))
            r = found[side][-1]
            speed = r["tokens"] / r["seconds"]
            print(f"  run {seed + 1} {side:<16} {r['seconds']:7.1f} s  {speed:7,.0f} tokens/s  {r['steps']} steps  F1/spam {r['f1']:.3f}", flush=True)
    nabi = [r["seconds"] for r in found["nabi"]]
    for side in SIDES:
        times = [r["seconds"] for r in found[side]]
        ratios = [t / n for t, n in zip(times, nabi, strict=True)]
        print(
            f"{side:<16} median {statistics.median(times):7.1f} s  {found[side][0]['tokens'] / statistics.median(times):7,.0f} tokens/s  "
            f"nabi is {statistics.median(ratios):.2f}x as fast ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
