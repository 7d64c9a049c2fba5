"""What transformers computes for a tiny checkpoint: eager attention, one prompt at a time, no cache; float32 unless told so."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import torch


@functools.lru_cache(maxsize=4)
def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model in a checkpoint folder."""
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own deprecations are not what the tests are about
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        architecture = transformers.AutoConfig.from_pretrained(folder).architectures[0]
        return (
            getattr(transformers, architecture)
            .from_pretrained(folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager")
            .eval()
        )


def logprobs(folder: Path, ids: list[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Natural log-probabilities [len(ids), vocabulary], float32; row p is the distribution of the token after position p."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = load(folder, dtype)(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return torch.log_softmax(logits.float(), dim=-1)


def continuation(folder: Path, prompt: list[int], new_tokens: int) -> tuple[list[int], torch.Tensor]:
    """The greedy continuation, end-of-text ids not heeded, and the log-probabilities of prompt and continuation.

    Row p of the second [len(prompt) + new_tokens, vocabulary] is the distribution of the token after position p.
    """
    ids = list(prompt)
    for _ in range(new_tokens):
        ids.append(int(logprobs(folder, ids)[-1].argmax()))
    return ids[len(prompt) :], logprobs(folder, ids)
