r"""Seed 003: BERT.

Lines: 220, 232, 235, 243, +, +, +.
    220: `- pip install transformers로 설치하고 import transformers로 import한다` -> `import nabi.compat as transformers` (import)
    232: `  - ex) ` -> `tokenizer = transformers.` (prose)
    232: `\_` -> `_` (OCR)
    235: `  - ex) ` -> `encoded = ` (prose)
    235: `")` -> `", return_tensors="pt")` (a model takes tensors)
    235: ` → ...` -> `` (prose)
    243: `  - ex) ` -> `model = transformers.` (prose)
    243: `\_` -> `_` (OCR)
    + `outputs = model(**encoded)` (in words, 244)
    + `last_hidden_state = outputs.last_hidden_state` (in words, 245)
    + `pooler_output = outputs.pooler_output` (in words, 245)
The seed says in words what goes in and what comes out.
"""

import nabi.compat as transformers
tokenizer = transformers.BertTokenizer.from_pretrained("bert-base-uncased")
encoded = tokenizer("I am student", return_tensors="pt")
model = transformers.BertModel.from_pretrained("bert-base-uncased")
outputs = model(**encoded)
last_hidden_state = outputs.last_hidden_state
pooler_output = outputs.pooler_output
