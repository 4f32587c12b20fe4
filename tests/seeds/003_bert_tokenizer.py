r"""Seed 003: BERT's tokenizer.

Lines: 220, 232, 235.
    220: `- pip install transformers로 설치하고 import transformers로 import한다` -> `import nabi.compat as transformers` (import)
    232: `  - ex) ` -> `tokenizer = transformers.` (prose)
    232: `\_` -> `_` (OCR)
    235: `  - ex) ` -> `encoded = ` (prose)
    235: ` → ...` -> `` (prose)
The numbers behind the arrow of 235 are no output of this call, but show which number is what: without ``padding`` there is none, 102 ends a text, [PAD] is 0,
and the first text has segment 0.
"""

import nabi.compat as transformers
tokenizer = transformers.BertTokenizer.from_pretrained("bert-base-uncased")
encoded = tokenizer("I am student")
