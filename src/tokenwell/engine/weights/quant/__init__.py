"""Quantised weights: the numbers of each format, which tensors have which, and how they are read. Knows no layers."""
