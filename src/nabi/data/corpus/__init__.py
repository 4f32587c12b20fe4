"""Corpora: from folders, archives, repositories and dumps to clean, documented text. The order is the data's journey:

sources read documents (one file a kind), steps change or drop them (one file a step), duplicates are found over all of them, ``build`` runs it all and writes
the manifest.
"""
