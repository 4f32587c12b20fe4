r"""Seed 000: the answer to a question about a text.

Lines: 205, 208, 215, 248-251.
    208: `from transformers import pipeline` -> `from nabi import pipeline` (import)
OCR faults: none. Lines 205 to 215 are of blocks before this one.
"""

text = """Dear Amazon, last week I ordered an Optimus Prime action figure from your online store in Germany. Unfortunately, when I opened the package, I discovered to my horror that I had been sent an action figure of Megatron instead! As a lifelong enemy of the Decepticons, I hope you can understand my dilemma. To resolve the issue, I demand an exchange of Megatron for the Optimus Prime figure I ordered. Enclosed are copies of my records concerning this purchase. I expect to hear from you soon. Sincerely, Bumblebee."""
from nabi import pipeline
import pandas as pd
reader = pipeline("question-answering")
question = "What does the customer want?"
outputs = reader(question=question, context=text)
pd.DataFrame([outputs])
