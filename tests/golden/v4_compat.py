"""Makes ``v4_compat.json``: what the incumbent's version 4 answers over the tiny models and tokenizers of ``tests/compat/tiny.py``.

    python -m venv v4 && v4/bin/pip install torch==2.13.0 transformers==4.57.6 sentencepiece click
    PYTHONPATH=src:tests OMP_NUM_THREADS=1 v4/bin/python tests/golden/v4_compat.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from compat import tiny
from golden.committed import used

FILE = Path(__file__).with_suffix(".json")


def rounded(value: Any) -> Any:
    """Tensors as lists of numbers with six digits, flat but for their shape."""
    if isinstance(value, torch.Tensor):
        return {"shape": list(value.shape), "values": [float(f"{x:.7g}") for x in value.detach().flatten().tolist()]}
    return [rounded(x) for x in value]


def main() -> None:
    import transformers

    assert transformers.__version__ == "4.57.6"
    transformers.logging.set_verbosity_error()
    found: dict[str, Any] = {"version": transformers.__version__, "models": {}, "losses": {}, "generate": {}, "tokenizers": {}, "parameters": {}, "keys": {}}
    with tempfile.TemporaryDirectory() as base:
        for name in tiny.MODELS:
            folder = tiny.model_folder(name, Path(base) / name)
            model = getattr(transformers, name).from_pretrained(folder, attn_implementation="eager").eval()
            found["parameters"][name] = model.num_parameters()
            for side in ("right", "left"):
                with torch.no_grad():
                    out = model(**tiny.padded(name, side), output_attentions=True, output_hidden_states=True)
                found["keys"][name] = [key for key in out if key != "past_key_values"]
                found["models"][f"{name} {side}"] = {key: rounded(tiny.part(key, value)) for key, value in out.items() if tiny.compared(name, side, key)}
        for name in tiny.LOSSES:
            model = getattr(transformers, name).from_pretrained(tiny.model_folder(name, Path(base) / f"loss {name}")).eval()
            loss = model(**tiny.labelled(name)).loss
            loss.backward()
            found["losses"][name] = float(loss)
            if name in tiny.GRADIENT:
                found["losses"][f"{name} gradient"] = rounded(dict(model.named_parameters())[tiny.GRADIENT[name]].grad)
        model = transformers.BertForSequenceClassification.from_pretrained(tiny.model_folder("BertForSequenceClassification", Path(base) / "multi")).eval()
        found["losses"]["multi"] = float(model(**tiny.labelled("BertForSequenceClassification", "multi")).loss)
        for name, side in tiny.WRITERS.items():
            model = getattr(transformers, name).from_pretrained(tiny.model_folder(name, Path(base) / f"write {name}")).eval()
            given = {key: value for key, value in tiny.padded(name, side).items() if key in ("input_ids", "attention_mask")}
            found["generate"][name] = [model.generate(**given, do_sample=False, **options).tolist() for options in tiny.GENERATE]
        for kind in (*tiny.TOKENIZERS, *tiny.MARIAN):
            folder = tiny.tokenizer_folder(kind, Path(base) / f"tokenizer {kind}")
            found["tokenizers"][kind] = tiny.asked(transformers.AutoTokenizer.from_pretrained(folder), kind)
    found["checkpoints"] = used()
    found["sizes"] = {}
    for size in ({}, {"n_layer": 48, "n_head": 25, "n_embd": 1600, "vocab_size": 32768}):
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(transformers.GPT2Config(**size))
        found["sizes"][json.dumps(size)] = sum(t.numel() for t in model.parameters())
    found["defaults"] = {kind: _defaults(transformers.AutoConfig.for_model(kind)) for kind in DEFAULTED}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=True)}" for key, value in found.items())
    FILE.write_text(f"{{{lines}}}\n", encoding="utf-8")


DEFAULTED = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "gpt2", "openai-gpt", "t5", "mt5", "bart", "marian")
# how the incumbent works inside, and what it puts under every configuration
UNREAD = {"transformers_version", "dtype", "torchscript", "use_bfloat16", "tf_legacy_loss", "return_dict_in_generate", "output_scores"}


def _defaults(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key not in UNREAD}


if __name__ == "__main__":
    main()
