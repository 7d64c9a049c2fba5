"""Attention over the paged KV cache: one file a backend, chosen for each layer type with the reason logged."""
