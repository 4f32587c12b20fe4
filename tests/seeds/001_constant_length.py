r"""Seed 001: the constant-length data set of a code model, as the seed writes it, and what its buffer prints.

Lines: 84, +, +, +, +, 85, 107-131, +, +, +, +, +, +, +, 137-142.
    84: `from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer` -> `from nabi.compat import AutoTokenizer, load_dataset` (import)
    + `import torch` (not in the seed)
    + `from torch.utils.data import IterableDataset` (not in the seed)
    + `org = "transformersbook"` (not in the seed)
    + `model_ckpt = "codeparrot"` (not in the seed)
    85: `org * "/" * model_ckpt` -> `org + "/" + model_ckpt` (OCR)
    109: `   more` -> `    more` (OCR)
    114: `.Of` -> `.0f` (OCR)
    118: `.Of` -> `.0f` (OCR)
    124: `all_{token_ids}` -> `all_token_ids` (OCR)
    + `class ConstantLengthDataset(IterableDataset):` (not in the seed)
    + `    def __init__(self, tokenizer, dataset, seq_length=1024, num_of_sequences=1024, chars_per_token=3.6):` (not in the seed)
    + `        self.tokenizer, self.dataset, self.seq_length = tokenizer, dataset, seq_length` (not in the seed)
    + `        self.concat_token_id = tokenizer.eos_token_id` (not in the seed)
    + `        self.input_characters = seq_length * chars_per_token * num_of_sequences` (not in the seed)
    + `    __iter__ = __iter__` (not in the seed)
    + `dataset = load_dataset("codeparrot-train", split="train", streaming=True)` (not in the seed)
The seed shows one method of the class; what it does not show is as its other lines use it.
"""

from nabi.compat import AutoTokenizer, load_dataset
import torch
from torch.utils.data import IterableDataset
org = "transformersbook"
model_ckpt = "codeparrot"
tokenizer = AutoTokenizer.from_pretrained(org + "/" + model_ckpt)
def __iter__(self):
    iterator = iter(self.dataset)
    more_examples = True
    while more_examples:
       buffer, buffer_len = [], 0
       while True:
           if buffer_len >= self.input_characters:
               m=f"Buffer full: {buffer_len}>={self.input_characters:.0f}"
               print(m)
               break
           try:
               m=f"Fill buffer: {buffer_len}<{self.input_characters:.0f}"
               print(m)
               buffer.append(next(iterator)["content"])
               buffer_len += len(buffer[-1])
           except StopIteration:
               iterator = iter(self.dataset)
       all_token_ids = []
       tokenized_inputs = self.tokenizer(buffer, truncation=False)
       for tokenized_input in tokenized_inputs['input_ids']:
           all_token_ids.extend(tokenized_input + [self.concat_token_id])
       for i in range(0, len(all_token_ids), self.seq_length):
           input_ids = all_token_ids[i : i + self.seq_length]
           if len(input_ids) == self.seq_length:
               yield torch.tensor(input_ids)
class ConstantLengthDataset(IterableDataset):
    def __init__(self, tokenizer, dataset, seq_length=1024, num_of_sequences=1024, chars_per_token=3.6):
        self.tokenizer, self.dataset, self.seq_length = tokenizer, dataset, seq_length
        self.concat_token_id = tokenizer.eos_token_id
        self.input_characters = seq_length * chars_per_token * num_of_sequences
    __iter__ = __iter__
dataset = load_dataset("codeparrot-train", split="train", streaming=True)
shuffled_dataset = dataset.shuffle(buffer_size=100)
constant_length_dataset = ConstantLengthDataset(tokenizer, shuffled_dataset,
                                                   num_of_sequences=10)
dataset_iterator = iter(constant_length_dataset)
lengths = [len(b) for _, b in zip(range(5), dataset_iterator)]
print(f"시퀀스 길이: {lengths}")
