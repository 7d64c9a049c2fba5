"""Executing a StepPlan on a device: batch tensors, forward pass, sampling. Knows no queues and no clients."""
