"""Weights from a checkpoint folder to the tensors of a model, streamed: building a layer is loading it."""
