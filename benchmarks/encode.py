"""Text classification with BERT-base on the CPU: nabi beside transformers' pipelines, ONNX Runtime, OpenVINO and CTranslate2, in one run, in turn.

    python benchmarks/encode.py [--rows 512] [--rounds 5] [--layers 12] [--sides nabi_fp32 ort ...] [--without ct2_bf16 ...] [--threads 2]

One model for all: BERT-base with random weights and MiniLM's real vocabulary. The texts come from the SMS Spam Collection that ships: a text is as many
messages, joined, as it takes to reach a length that is drawn evenly from 5 to 170 words, which gives about 5 to 250 tokens; the quantiles are printed.
Each side runs in a process of its own, which loads, warms up over all texts and then waits; in each round each side computes all texts once, from strings to
logits, tokenising included, while the others wait. Printed are medians with the smallest and largest, ratios round by round, and the largest difference of
the logits from those of transformers in float32, absolute and as a share of their standard deviation over the texts.

Each peer is called as its own documentation says: the pipelines with a list of texts and ``batch_size``; ONNX Runtime with the graph that its transformers
optimizer fused (model type bert); OpenVINO with precision and performance hints, synchronously or by its queue of requests; CTranslate2 with the converted
encoder, the classifier in NumPy. Texts are sorted by length for the last three, and their batch size is the fastest one of 8, 16, 32 over a sample; it is
printed. Random weights say nothing about accuracy under a lower precision; the differences are what they are.

Needs the extra ``bench``, and onnx, onnxruntime, openvino, ctranslate2 for the sides of that name.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SIDES = {  # side -> the packages that it needs
    "pipeline_1": ("transformers",),
    "pipeline_8": ("transformers",),
    "pipeline_32": ("transformers",),
    "ort": ("transformers", "onnx", "onnxruntime"),
    "openvino_f32": ("transformers", "onnx", "openvino"),
    "openvino_bf16": ("transformers", "onnx", "openvino"),
    "ct2_f32": ("transformers", "ctranslate2"),
    "ct2_bf16": ("transformers", "ctranslate2"),
    "ct2_int8": ("transformers", "ctranslate2"),
    "nabi_fp32": (),
    "nabi_fp32_prepared": (),
    "nabi_bf16_prepared": (),
}
REFERENCE, NABI = "pipeline_1", ("nabi_fp32_prepared", "nabi_bf16_prepared")
BATCHES, SAMPLE = (8, 16, 32), 64
REST = 0.5  # seconds between two sides, so that the threads of the one before have gone to sleep
Compute = Callable[[list[str]], Any]  # texts -> (N, 2) logits


def texts(count: int) -> list[str]:
    """Messages, joined up to a drawn number of words."""
    from nabi.data.shipped import sms_spam

    messages = [row["text"] for table in sms_spam() for row in table]
    dice = random.Random(0)
    found = []
    for _ in range(count):
        words, chosen = dice.randint(5, 170), [dice.choice(messages)]
        while sum(map(len, map(str.split, chosen))) < words:
            chosen.append(dice.choice(messages))
        found.append(" ".join(" ".join(chosen).split()[:words]))
    return found


# ---- what is made once ---------------------------------------------------------------------------------------------------------------------------------


def prepare(folder: Path, layers: int, sides: Sequence[str]) -> None:
    """The model folder, and what the peers make of it."""
    import torch

    from nabi import create, save
    from nabi.tasks import find

    task = find("text_classification")
    save(create("bert", {"num_layers": layers}, task.name, task.Settings(labels=("0", "1")), "minilm"), folder / "model")
    if any(side.startswith(("ort", "openvino")) for side in sides):
        from transformers import AutoModelForSequenceClassification

        # eager attention, traced, is the graph in which ONNX Runtime's optimizer finds attention; in that of the newer exporter it finds none
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model", attn_implementation="eager").eval()
        inputs = {name: torch.ones(2, 8, dtype=torch.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
        named = {"input_names": list(inputs), "output_names": ["logits"], "dynamic_axes": {name: {0: "rows", 1: "tokens"} for name in inputs}}
        torch.onnx.export(model, tuple(inputs.values()), str(folder / "model.onnx"), opset_version=17, dynamo=False, **named)
    if "ort" in sides:
        from onnxruntime.transformers import optimizer

        fused = optimizer.optimize_model(str(folder / "model.onnx"), model_type="bert", num_heads=12, hidden_size=768)
        fused.save_model_to_file(str(folder / "fused.onnx"), use_external_data_format=True)
        (folder / "fused.json").write_text(json.dumps({k: v for k, v in fused.get_fused_operator_statistics().items() if v}))
    if any(side.startswith("ct2") for side in sides):
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(folder / "model")).convert(str(folder / "ct2"))


# ---- sides: each makes a function from texts to logits, and words about its settings ----------------------------------------------------------------------


def nabi_side(folder: Path, side: str, threads: int) -> tuple[Compute, str]:
    from nabi import load

    precision = {"nabi_fp32": None, "nabi_fp32_prepared": "fp32", "nabi_bf16_prepared": "bf16"}[side]
    model = load(folder / "model", precision=precision)
    options = model.options({"function_to_apply": "none"})
    return lambda given: [list(answer["scores"].values()) for answer in model.answers(given, options)], "its own batches"


def pipeline_side(folder: Path, side: str, threads: int) -> tuple[Compute, str]:
    from transformers import pipeline

    batch = int(side.partition("_")[2])
    classify = pipeline("text-classification", model=str(folder / "model"), device="cpu")

    def compute(given: list[str]) -> Any:
        found = classify(given, batch_size=batch, top_k=None, function_to_apply="none")
        return [[score["score"] for score in sorted(each, key=lambda score: score["label"])] for each in found]

    return compute, f"{batch} rows"


def ort_side(folder: Path, side: str, threads: int) -> tuple[Compute, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(folder / "fused.onnx"), options, providers=["CPUExecutionProvider"])
    run = sorted_batches(folder, lambda batches: [session.run(["logits"], batch)[0] for batch in batches])
    batch = fastest({size: lambda given, size=size: run(given, size) for size in BATCHES})
    fused = json.loads((folder / "fused.json").read_text())
    return lambda given: run(given, batch), f"{batch} rows sorted, fused {', '.join(f'{k} {v}' for k, v in fused.items()) or 'NOTHING'}"


def openvino_side(folder: Path, side: str, threads: int) -> tuple[Compute, str]:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(folder / "model.onnx")
    precision = side.partition("_")[2]
    ways: dict[Any, Compute] = {}
    for hint in ("LATENCY", "THROUGHPUT"):
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": threads})

        def together(batches: list[dict[str, Any]], compiled: Any = compiled, hint: str = hint) -> list[Any]:
            if hint == "LATENCY":
                return [compiled(batch)["logits"].copy() for batch in batches]
            found: list[Any] = [None] * len(batches)
            queue = ov.AsyncInferQueue(compiled)
            queue.set_callback(lambda request, i: found.__setitem__(i, request.get_output_tensor(0).data.copy()))
            for i, batch in enumerate(batches):
                queue.start_async(batch, i)
            queue.wait_all()
            return found

        run = sorted_batches(folder, together)
        ways |= {(hint.lower(), size): lambda given, run=run, size=size: run(given, size) for size in BATCHES}
    hint, size = best = fastest(ways)
    return ways[best], f"{size} rows sorted, {hint}"


def ct2_side(folder: Path, side: str, threads: int) -> tuple[Compute, str]:
    import ctranslate2
    import numpy as np
    from safetensors.numpy import load_file

    kind = {"f32": "float32", "bf16": "bfloat16", "int8": "int8"}[side.partition("_")[2]]
    encoder = ctranslate2.Encoder(str(folder / "ct2"), device="cpu", compute_type=kind, intra_threads=threads, inter_threads=1)
    weights = load_file(folder / "model" / "model.safetensors")
    weight, bias = weights["classifier.weight"].T.copy(), weights["classifier.bias"]
    tokenizer = fast_tokenizer(folder)

    def run(given: list[str], size: int) -> Any:
        ids = tokenizer(given)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        logits = np.empty((len(ids), 2), np.float32)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            logits[chosen] = np.array(encoder.forward_batch([ids[i] for i in chosen]).pooler_output) @ weight + bias
        return logits

    batch = fastest({size: lambda given, size=size: run(given, size) for size in BATCHES})
    return lambda given: run(given, batch), f"{batch} rows sorted, computes {encoder.compute_type}"


def fast_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "model")


def sorted_batches(folder: Path, compute: Callable[[list[dict[str, Any]]], list[Any]]) -> Callable[[list[str], int], Any]:
    """Tokenise, sort by length, pad each batch to its own longest, compute, put back in order."""
    import numpy as np

    tokenizer = fast_tokenizer(folder)

    def run(given: list[str], size: int) -> Any:
        ids = tokenizer(given)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        batches = []
        for group in groups:
            shape = (len(group), len(ids[group[-1]]))
            tokens, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
            for row, i in enumerate(group):
                tokens[row, : len(ids[i])], mask[row, : len(ids[i])] = ids[i], 1
            batches.append({"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)})
        logits = np.empty((len(ids), 2), np.float32)
        for group, found in zip(groups, compute(batches), strict=True):
            logits[group] = found
        return logits

    return run


def fastest(ways: dict[Any, Compute]) -> Any:
    """The way that takes least over a sample, the better of two runs after one that warms up."""
    sample, times = texts(SAMPLE), {}
    for name, way in ways.items():
        each = []
        for _ in range(3):
            began = time.perf_counter()
            way(sample)
            each.append(time.perf_counter() - began)
        times[name] = min(each[1:])
    return min(times, key=times.__getitem__)


MAKERS = {"nabi": nabi_side, "pipeline": pipeline_side, "ort": ort_side, "openvino": openvino_side, "ct2": ct2_side}


def serve(folder: Path, side: str, rows: int, threads: int) -> None:
    """One side's process: load, warm up, then compute all texts once for each line that comes in."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    answer, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not mix with our answers
    compute, note = MAKERS[side.partition("_")[0]](folder, side, threads)
    given = texts(rows)
    np.save(folder / f"{side}.npy", np.asarray(compute(given), np.float64))
    print(json.dumps({"note": note}), file=answer, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        compute(given)
        print(json.dumps({"seconds": time.perf_counter() - began}), file=answer, flush=True)


# ---- the run ---------------------------------------------------------------------------------------------------------------------------------------------


class Side:
    """A side's process, which computes when it is told to."""

    def __init__(self, folder: Path, name: str, rows: int, threads: int) -> None:
        self.name, self.times = name, []  # type: ignore[var-annotated]
        command = [sys.executable, __file__, "--serve", name, "--folder", str(folder), "--rows", str(rows), "--threads", str(threads)]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        with (folder / f"{name}.log").open("w") as self.log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=env)
        self.note = self._answer()["note"]

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"{self.name} ended early (leave it out with --without {self.name}):\n" + Path(self.log.name).read_text()[-2000:])
        return dict(json.loads(line))

    def run(self) -> float:
        """Seconds for all texts."""
        print("go", file=self.process.stdin, flush=True)
        self.times.append(self._answer()["seconds"])
        return float(self.times[-1])

    def end(self) -> None:
        """Let the process go."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def check(sides: Sequence[str]) -> None:
    """End with a sentence if a side can't run here."""
    for side in sides:
        if missing := [name for name in SIDES[side] if find_spec(name) is None]:
            raise SystemExit(f"{side} needs {', '.join(missing)}: pip install {' '.join(missing)}, or leave it out with --without {side}")
    if "ct2_bf16" in sides:
        import ctranslate2

        if "bfloat16" not in ctranslate2.get_supported_compute_types("cpu"):
            raise SystemExit("CTranslate2 has no bfloat16 on this processor and would compute in float32: leave it out with --without ct2_bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--without", nargs="+", choices=SIDES, default=[])
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve:
        serve(a.folder, a.serve, a.rows, a.threads)
        return
    sides = [side for side in a.sides if side not in a.without]
    if REFERENCE not in sides:
        sides.insert(0, REFERENCE)  # the difference is told from it
    if a.prepare:
        prepare(a.folder, a.layers, sides)
        return
    check(sides)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [sys.executable, __file__, "--prepare", "--folder", temporary, "--layers", str(a.layers), "--sides", *sides]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"the models could not be prepared:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
        report(a, folder, sides)


def report(a: argparse.Namespace, folder: Path, sides: list[str]) -> None:
    """Run all sides in turn and print what they did."""
    import numpy as np
    from machine import machine

    from nabi.text import Tokenizer

    given = texts(a.rows)
    lengths = sorted(len(each.ids) for each in Tokenizer.load(folder / "model").encode_batch(given))
    quantiles = ", ".join(f"{name} {lengths[int(share * (len(lengths) - 1))]}" for name, share in (("10 %", 0.1), ("median", 0.5), ("90 %", 0.9)))
    print(f"{machine()}; each side with {a.threads} threads", flush=True)
    print(f"BERT-base with {a.layers} layers, random weights; {a.rows} texts of {lengths[0]} to {lengths[-1]} tokens ({quantiles}), {sum(lengths):,} in all")
    print(f"{a.rounds} rounds, each side in turn, tokenising included", flush=True)
    found = {side: Side(folder, side, a.rows, a.threads) for side in sides}
    try:
        order = list(sides)
        for number in range(a.rounds):
            for side in order:
                time.sleep(REST)
                found[side].run()
            order = [*order[1:], order[0]]
            print(f"  round {number + 1}: " + ", ".join(f"{side} {found[side].times[-1]:.2f} s" for side in sides), flush=True)
    finally:
        for each in found.values():
            each.end()
    logits = {side: np.load(folder / f"{side}.npy") for side in sides}
    spread = float(logits[REFERENCE].std(0).mean())
    rivals = [side for side in NABI if side in sides]
    print(f"{'side':<20}{'texts/s':>9}{'smallest, largest':>20}{'difference':>12}{'of spread':>10}" + "".join(f"{'x ' + r:>34}" for r in rivals) + "  settings")
    for side in sides:
        speeds = [a.rows / t for t in found[side].times]
        gap = float(np.abs(logits[side] - logits[REFERENCE]).max())
        against = ""
        for rival in rivals:
            ratios = [t / r for t, r in zip(found[side].times, found[rival].times, strict=True)]
            against += f"{f'{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})':>34}"
        extremes = f"{min(speeds):.1f}, {max(speeds):.1f}"
        print(f"{side:<20}{statistics.median(speeds):>9.1f}{extremes:>20}{gap:>12.1e}{gap / spread:>10.1e}{against}  {found[side].note}")
    if rivals:
        print("x SIDE: how many times as fast as the row's side that side of nabi is, median of the rounds with smallest and largest")


if __name__ == "__main__":
    main()
