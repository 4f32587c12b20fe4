"""The shared leaves from which every family is wired: attention, linear, norms, feed-forward, embeddings, heads, and looking inside."""
