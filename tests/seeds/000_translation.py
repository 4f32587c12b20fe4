r"""Seed 000: a translation.

Lines: 205, 208, +, +, +.
    208: `from transformers import pipeline` -> `from nabi import pipeline` (import)
    + `translator = pipeline("translation_en_to_de")` (OCR)
    + `outputs = translator(text)` (OCR)
    + `print(outputs[0]['translation_text'])` (OCR)
OCR faults: the block was lost, and only what it printed is left (269). It stands here like the blocks around it, with the task's default model.
"""

text = """Dear Amazon, last week I ordered an Optimus Prime action figure from your online store in Germany. Unfortunately, when I opened the package, I discovered to my horror that I had been sent an action figure of Megatron instead! As a lifelong enemy of the Decepticons, I hope you can understand my dilemma. To resolve the issue, I demand an exchange of Megatron for the Optimus Prime figure I ordered. Enclosed are copies of my records concerning this purchase. I expect to hear from you soon. Sincerely, Bumblebee."""
from nabi import pipeline
translator = pipeline("translation_en_to_de")
outputs = translator(text)
print(outputs[0]['translation_text'])
