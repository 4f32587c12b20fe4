"""Writing on the CPU in float32: nabi beside transformers and CTranslate2, in one run, in turn.

    python benchmarks/generate.py [--cases gpt2 marian_greedy marian_beam4] [--rounds 5] [--threads 2] [--without ct2]

GPT-2 small (12 layers, 50,257 tokens) goes on with one text of 64 tokens by 128, batch 1. Marian-base (6 + 6 layers, 58,101 tokens) translates 64 sentences of
5 to 40 tokens into exactly 28 tokens each, greedy and with 4 beams. Weights are random, so what is written means nothing, only how fast; lengths are forced.
Each side runs in a process of its own, which loads, warms up once and then waits; in each round each side writes everything once while the others wait.
Printed are medians with the smallest and largest, ratios round by round, and the share of tokens that are the reference's (random weights have near ties; the
tests compare tokens on models where they mean something).

Each peer is called as its own documentation says: ``generate`` with padded, masked batches of ``--batch`` sentences sorted by length; CTranslate2's
``Generator`` and ``Translator`` with the converted model. Needs the extra ``peers``.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT, NEW, SENTENCES, TARGET = 64, 128, 64, 28
CASES = {"gpt2": "gpt2", "marian_greedy": "marian", "marian_beam4": "marian"}
SIDES = ("transformers", "ct2", "nabi", "nabi_prepared")
REST = 0.5
VOCABULARY = {"gpt2": 50257, "marian": 58101}
Write = Callable[[], list[list[int]]]  # -> the tokens that were written, text by text


def texts(case: str) -> list[list[int]]:
    """Token ids of what is read."""
    dice = random.Random(0)
    if case == "gpt2":
        return [[dice.randrange(1000, 50000) for _ in range(PROMPT)]]
    return [[dice.randrange(1000, 58000) for _ in range(dice.randint(5, 40))] for _ in range(SENTENCES)]


def prepare(folder: Path, kinds: list[str], ct2: bool) -> None:
    """The model folders, and what CTranslate2 makes of them."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    for kind in kinds:
        where, size = folder / kind, VOCABULARY[kind]
        names = {f"t{i}": i for i in range(size)}
        special = {"</s>": 0, "<unk>": 1, "<pad>": size - 1}
        for name, i in special.items():
            del names[f"t{i}"]
            names[name] = i
        tokenizer = Tokenizer(models.WordLevel(names, "<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if kind == "marian":
            tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
        torch.manual_seed(0)
        if kind == "gpt2":
            model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(bos_token_id=0, eos_token_id=0))
        else:
            model = transformers.MarianMTModel(
                transformers.MarianConfig(
                    vocab_size=size, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8, decoder_attention_heads=8,
                    encoder_ffn_dim=2048, decoder_ffn_dim=2048, max_position_embeddings=512, activation_function="swish", scale_embedding=True,
                    pad_token_id=size - 1, eos_token_id=0, decoder_start_token_id=size - 1, forced_eos_token_id=0, init_std=0.02,
                )
            )  # fmt: skip
        model.save_pretrained(where)
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
        fast.save_pretrained(where)
        if ct2:
            from ctranslate2.converters import TransformersConverter

            TransformersConverter(str(where)).convert(str(folder / f"{kind}_ct2"))


# ---- sides ----------------------------------------------------------------------------------------------------------------------------------------------


def nabi_side(folder: Path, case: str, side: str, batch: int, threads: int) -> tuple[Write, str]:
    from nabi import load
    from nabi.tasks import find

    kind, task = CASES[case], "text_generation" if case == "gpt2" else "text2text_generation"
    model = load(folder / kind, find(task).name, precision="fp32" if side == "nabi_prepared" else None)
    new = NEW if case == "gpt2" else TARGET
    options = model.options({"max_new_tokens": new, "min_new_tokens": new, "num_beams": 4 if case == "marian_beam4" else 1})
    given = [" ".join(f"t{i}" for i in ids) for ids in texts(case)]
    return lambda: [answer["sequences"][0]["tokens"] for answer in model.answers(given, options)], "its own batches"


def transformers_side(folder: Path, case: str, side: str, batch: int, threads: int) -> tuple[Write, str]:
    import torch
    import transformers

    kind, beams = CASES[case], 4 if case == "marian_beam4" else 1
    cls = transformers.GPT2LMHeadModel if kind == "gpt2" else transformers.MarianMTModel
    model = cls.from_pretrained(folder / kind).eval()
    new = NEW if case == "gpt2" else TARGET
    pad, end = VOCABULARY[kind] - 1, [0] if kind == "marian" else []
    given = [ids + end for ids in texts(case)]
    order = sorted(range(len(given)), key=lambda i: len(given[i]))
    settings = {"max_new_tokens": new, "min_new_tokens": new, "num_beams": beams, "do_sample": False, "pad_token_id": pad}

    def write() -> list[list[int]]:
        found: list[list[int]] = [[] for _ in given]
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            longest = max(len(given[i]) for i in chosen)
            ids = torch.tensor([given[i] + [pad] * (longest - len(given[i])) for i in chosen])
            with torch.inference_mode():
                out = model.generate(input_ids=ids, attention_mask=(ids != pad).long(), **settings)
            skip = longest if kind == "gpt2" else 1
            for i, row in zip(chosen, out.tolist(), strict=True):
                found[i] = row[skip : skip + new]
        return found

    return write, f"{min(batch, len(given))} texts sorted"


def ct2_side(folder: Path, case: str, side: str, batch: int, threads: int) -> tuple[Write, str]:
    import ctranslate2

    kind, beams = CASES[case], 4 if case == "marian_beam4" else 1
    given = [[f"t{i}" for i in ids] for ids in texts(case)]
    settings = {"device": "cpu", "compute_type": "float32", "intra_threads": threads, "inter_threads": 1}
    if kind == "gpt2":
        generator = ctranslate2.Generator(str(folder / "gpt2_ct2"), **settings)

        def generate() -> list[list[int]]:
            out = generator.generate_batch(given, max_length=NEW, min_length=NEW, sampling_topk=1, include_prompt_in_result=False)
            return [list(each.sequences_ids[0]) for each in out]

        return generate, "batch 1"
    translator = ctranslate2.Translator(str(folder / "marian_ct2"), **settings)

    def translate() -> list[list[int]]:
        out = translator.translate_batch(
            [[*ids, "</s>"] for ids in given], max_batch_size=batch, beam_size=beams, max_decoding_length=TARGET, min_decoding_length=TARGET
        )
        return [[int(t[1:]) if t[0] == "t" else 0 for t in each.hypotheses[0]] for each in out]

    return translate, f"{batch} texts"


MAKERS = {"nabi": nabi_side, "nabi_prepared": nabi_side, "transformers": transformers_side, "ct2": ct2_side}


def serve(a: argparse.Namespace) -> None:
    """One side's process: load, warm up, then write everything once for each line that comes in."""
    import torch

    torch.set_num_threads(a.threads)
    answer, sys.stdout = sys.stdout, sys.stderr
    write, note = MAKERS[a.serve](a.folder, a.case, a.serve, a.batch, a.threads)
    written = write()
    print(json.dumps({"note": note, "written": written}), file=answer, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        write()
        print(json.dumps({"seconds": time.perf_counter() - began}), file=answer, flush=True)


class Side:
    """A side's process, which writes when it is told to."""

    def __init__(self, a: argparse.Namespace, folder: Path, case: str, name: str) -> None:
        command = [sys.executable, __file__, "--serve", name, "--case", case, "--folder", str(folder), "--threads", str(a.threads), "--batch", str(a.batch)]
        env = {**os.environ, "OMP_NUM_THREADS": str(a.threads), "MKL_NUM_THREADS": str(a.threads), "HF_HUB_OFFLINE": "1"}
        self.name, self.times, self.log = name, [], folder / f"{case}_{name}.log"  # type: ignore[var-annotated]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        first = self.answer()
        self.note, self.written = first["note"], first["written"]

    def answer(self) -> dict[str, Any]:
        """The next line of the process."""
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"{self.name} ended early:\n{self.log.read_text()[-2000:]}")
        return dict(json.loads(line))

    def run(self) -> float:
        """Seconds for everything."""
        print("go", file=self.process.stdin, flush=True)
        self.times.append(self.answer()["seconds"])
        return float(self.times[-1])

    def end(self) -> None:
        """Let the process go."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def compare(a: argparse.Namespace, folder: Path, case: str, sides: list[str]) -> None:
    """All sides in turn over one case."""
    tokens = NEW if case == "gpt2" else SENTENCES * TARGET
    found = {side: Side(a, folder, case, side) for side in sides}
    try:
        order = list(sides)
        for _ in range(a.rounds):
            for side in order:
                time.sleep(REST)
                found[side].run()
            order = [*order[1:], order[0]]
    finally:
        for each in found.values():
            each.end()
    reference = found[sides[0]].written
    print(f"{case}: {tokens:,} tokens")
    rivals = [side for side in sides if side.startswith("nabi")]
    print(f"  {'side':<16}{'tokens/s':>9}{'smallest, largest':>20}{'same tokens':>13}" + "".join(f"{'x ' + s:>24}" for s in rivals) + "  settings")
    for side, each in found.items():
        speeds = [tokens / t for t in each.times]
        pairs = [x == y for mine, theirs in zip(each.written, reference, strict=True) for x, y in zip(mine, theirs, strict=False)]
        against = ""
        for rival in rivals:
            ratios = [t / r for t, r in zip(each.times, found[rival].times, strict=True)]
            against += f"{f'{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})':>24}"
        extremes = f"{min(speeds):.0f}, {max(speeds):.0f}"
        print(f"  {side:<16}{statistics.median(speeds):>9.0f}{extremes:>20}{sum(pairs) / len(pairs):>13.2f}{against}  {each.note}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--without", nargs="+", choices=SIDES, default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve:
        serve(a)
        return
    from machine import machine

    sides = [side for side in SIDES if side not in a.without]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, sorted({CASES[case] for case in a.cases}), "ct2" in sides)
        print(f"{machine()}; each side with {a.threads} threads, {a.rounds} rounds, each side in turn", flush=True)
        for case in a.cases:
            compare(a, folder, case, sides)


if __name__ == "__main__":
    main()
