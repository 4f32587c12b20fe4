r"""Seed 001: the data loader of a code model, with the constant-length data set of this package.

Lines: 84, +, +, 85, +, 137-142.
    84: `from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer` -> `from nabi.compat import AutoTokenizer, ConstantLengthDataset, load_dataset` (import)
    + `org = "transformersbook"` (not in the seed)
    + `model_ckpt = "codeparrot"` (not in the seed)
    85: `org * "/" * model_ckpt` -> `org + "/" + model_ckpt` (OCR)
    + `dataset = load_dataset("codeparrot-train", split="train", streaming=True)` (not in the seed)
The seed does not show where its data set comes from: a folder beside the script here.
"""

from nabi.compat import AutoTokenizer, ConstantLengthDataset, load_dataset
org = "transformersbook"
model_ckpt = "codeparrot"
tokenizer = AutoTokenizer.from_pretrained(org + "/" + model_ckpt)
dataset = load_dataset("codeparrot-train", split="train", streaming=True)
shuffled_dataset = dataset.shuffle(buffer_size=100)
constant_length_dataset = ConstantLengthDataset(tokenizer, shuffled_dataset,
                                                   num_of_sequences=10)
dataset_iterator = iter(constant_length_dataset)
lengths = [len(b) for _, b in zip(range(5), dataset_iterator)]
print(f"시퀀스 길이: {lengths}")
