"""The pieces models are made of: tensors and the arithmetic on them. No batching, no cache policy, no names of models."""
