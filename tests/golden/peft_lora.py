"""Makes ``peft_lora/``: adapters that peft wrote over the committed checkpoints, adapters of ours, and what the incumbent computes with peft over both.

    python -m venv peft && peft/bin/pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 click
    PYTHONPATH=src:tests OMP_NUM_THREADS=1 peft/bin/python tests/golden/peft_lora.py

``logits.safetensors`` has one tensor a folder: the logits of all tokens of ``ROWS``, one row after the other.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from golden.committed import FOLDER as CHECKPOINTS
from nabi import adapters, checkpoint
from nabi.batch import Row, batch_of
from nabi.model import Model
from nabi.nn.body import Run
from nabi.nn.lora import Lora, adapted

FOLDER = Path(__file__).parent / "peft_lora"
ROWS = ((5, 9, 12, 7, 30, 11), (8,), (20, 6, 6, 17))
TARGETS = ((3, 14, 8), (5, 7, 19, 4), (10,))  # of the second part, where a model has one
BASES = {  # kind -> committed checkpoint, the incumbent's class, our task, peft's name of the head
    "bert": ("tagged-bio", "BertForTokenClassification", "token_classification", "classifier"),
    "roberta": ("answers-roberta", "RobertaForQuestionAnswering", "question_answering", "qa_outputs"),
    "distilbert": ("answers-distilbert", "DistilBertForQuestionAnswering", "question_answering", "qa_outputs"),
    "gpt2": ("written-gpt2", "GPT2LMHeadModel", "text_generation", None),
    "t5": ("written-t5", "T5ForConditionalGeneration", "text2text_generation", None),
    "bart": ("written-bart", "BartForConditionalGeneration", "summarization", None),
}
SETTINGS: dict[str, dict[str, Any]] = {
    **{f"{kind}-usual": {"r": 4, "lora_alpha": 8} for kind in BASES},  # the layers that peft itself chooses for this model
    "distilbert-usual": {"r": 4, "lora_alpha": 8, "target_modules": ["q_lin", "v_lin"]},  # it has no choice of its own
    **{f"{kind}-linear": {"r": 2, "lora_alpha": 6, "target_modules": "all-linear"} for kind in BASES},
    "bert-rslora": {"r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": ["query", "dense"]},
    "gpt2-patterns": {"r": 2, "lora_alpha": 4, "target_modules": ["c_attn", "c_fc"], "rank_pattern": {"c_fc": 5}, "alpha_pattern": {"h.0.attn.c_attn": 9}},
}
OURS: dict[str, Lora] = {
    **{f"{kind}-ours": Lora(rank=3, alpha=5.0) for kind in BASES},
    "gpt2-parts": Lora(rank=3, alpha=5.0, targets=("q", "v", "up"), rslora=True),  # two adapters in one layer of the incumbent's
    "bert-whole": Lora(rank=3, alpha=5.0, targets=("qkv", "down")),  # one adapter over three layers of the incumbent's
}


def base_of(name: str) -> Path:
    """The committed checkpoint below an adapter folder."""
    return CHECKPOINTS / BASES[name.partition("-")[0]][0]


def ours(name: str, base: Path) -> Model:
    """A model with one of ``OURS``, every adapter and head moved by seeded noise."""
    model = checkpoint.load(base, BASES[name.partition("-")[0]][2])
    adapters.adapt(model, OURS[name], "base")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in adapted(model.body).values():
            for adapter in layer.adapters():
                adapter.b.add_(torch.randn(adapter.b.shape, generator=generator) * 0.2)
        for parameter in model.task.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    assert model.origin.adapter is not None
    model.origin.adapter = dataclasses.replace(model.origin.adapter, base="base")
    return model


def logits(model: Model) -> Tensor:
    """(all tokens of ``ROWS``, C) of ours."""
    (head,) = (model.task.get_submodule(kind) for kind in model.task.heads)
    streams = {"segments": lambda row: [0] * len(row), "tokens": list}
    given = {"text": ROWS, "source": ROWS, "target": TARGETS}
    needs = model.body.needs
    rows = [Row({part: {s: streams[s](given[part][i]) for s in names} for part, names in needs.items()}, example=i) for i in range(len(ROWS))]  # type: ignore[operator]
    with torch.no_grad():
        found = head.read(Run(model.body), batch_of(rows, range(len(rows)), {}))  # type: ignore[operator]
    assert isinstance(found, Tensor)
    return found


def theirs(model: Any) -> Tensor:
    """The same of the incumbent, a row at a time."""
    found = []
    with torch.no_grad():
        for row, target in zip(ROWS, TARGETS, strict=True):
            both = {"decoder_input_ids": torch.tensor([target])} if model.config.is_encoder_decoder else {}
            out = model(input_ids=torch.tensor([row]), **both)
            values = out.logits[0] if "logits" in out else torch.stack([out.start_logits[0], out.end_logits[0]], -1)
            found.append(values)
    return torch.cat(found)


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest value of ``b`` where that is above 1."""
    return float((a - b).abs().max() / max(1.0, float(b.abs().max())))


def main() -> None:
    import peft
    import transformers

    assert peft.__version__ == "0.21.2", peft.__version__
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    shutil.rmtree(FOLDER, ignore_errors=True)
    kept: dict[str, Tensor] = {}
    for name, given in SETTINGS.items():
        _, cls, _, head = BASES[name.partition("-")[0]]
        torch.manual_seed(0)
        loaded = getattr(transformers, cls).from_pretrained(base_of(name)).eval()
        saved = {} if head is None else {"modules_to_save": [head], "exclude_modules": [head]}
        made = peft.get_peft_model(loaded, peft.LoraConfig(fan_in_fan_out=name.startswith("gpt2"), **saved, **given)).eval()
        with torch.no_grad():
            for key, parameter in made.named_parameters():
                if "lora_B" in key or "modules_to_save" in key:
                    parameter.add_(torch.randn(parameter.shape) * 0.2)
        made.save_pretrained(FOLDER / name)
        (FOLDER / name / "README.md").unlink()
        config = json.loads((FOLDER / name / "adapter_config.json").read_text())
        (FOLDER / name / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "base"}, indent=1, sort_keys=True) + "\n")
        kept[name] = theirs(made)
    for name in OURS:
        with tempfile.TemporaryDirectory() as work:
            model = ours(name, base_of(name))
            checkpoint.save(model, Path(work) / name)
            loaded = getattr(transformers, BASES[name.partition("-")[0]][1]).from_pretrained(base_of(name)).eval()
            made = peft.PeftModel.from_pretrained(loaded, Path(work) / name).eval()
            kept[name] = theirs(made)
            (FOLDER / name).mkdir()
            for file in (adapters.CONFIG, adapters.WEIGHTS):
                shutil.copy(Path(work) / name / file, FOLDER / name)
            print(name, gap(logits(model), kept[name]))
    save_file(kept, FOLDER / "logits.safetensors")
    print({name: tuple(x.shape) for name, x in load_file(FOLDER / "logits.safetensors").items()})


if __name__ == "__main__":
    main()
