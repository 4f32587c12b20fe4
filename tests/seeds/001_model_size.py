r"""Seed 001: a model for code, and how large it is.

Lines: 84, +, +, +, +, 85-87, 91.
    84: `from transformers import` -> `from nabi.compat import` (import)
    + `org = "transformersbook"` (not in the seed)
    + `model_ckpt = "codeparrot"` (not in the seed)
    + `def model_size(model):` (not in the seed)
    + `    return sum(p.numel() for p in model.parameters())` (not in the seed)
    85: `org * "/" * model_ckpt` -> `org + "/" + model_ckpt` (OCR)
    86: `gpt2-x1` -> `gpt2-xl` (OCR)
    91: `(x1)` -> `(xl)` (OCR)
The seed uses two names and a function that it does not show.
"""

from nabi.compat import AutoConfig, AutoModelForCausalLM, AutoTokenizer
org = "transformersbook"
model_ckpt = "codeparrot"
def model_size(model):
    return sum(p.numel() for p in model.parameters())
tokenizer = AutoTokenizer.from_pretrained(org + "/" + model_ckpt)
config = AutoConfig.from_pretrained("gpt2-xl", vocab_size=len(tokenizer))
model = AutoModelForCausalLM.from_config(config)
print(f'GPT-2 (xl) 크기: {model_size(model)/1000**2:.1f}M parameters')
