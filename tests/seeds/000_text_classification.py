r"""Seed 000: the class of a text.

Lines: 205, 208, 212, 215-218.
    208: `from transformers import pipeline` -> `from nabi import pipeline` (import)
OCR faults: none within a line; the fences around 205 and 215-218 were lost.
"""

text = """Dear Amazon, last week I ordered an Optimus Prime action figure from your online store in Germany. Unfortunately, when I opened the package, I discovered to my horror that I had been sent an action figure of Megatron instead! As a lifelong enemy of the Decepticons, I hope you can understand my dilemma. To resolve the issue, I demand an exchange of Megatron for the Optimus Prime figure I ordered. Enclosed are copies of my records concerning this purchase. I expect to hear from you soon. Sincerely, Bumblebee."""
from nabi import pipeline
classifier = pipeline("text-classification")
import pandas as pd

outputs = classifier(text)
pd.DataFrame(outputs)
