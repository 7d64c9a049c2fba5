"""Every architecture in bfloat16: no further from float32 than transformers itself is in bfloat16, in prefill and in decode."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import SAME_NUMBERS, Tiny
from tests.engine.models.alone import continuation
from tests.tiny.recipes import RECIPES
from tests.tiny.reference import logprobs

PROMPT_TOKENS = 64  # longer than the tiny windows
NEW_TOKENS = 64


@pytest.mark.parametrize("name", RECIPES)
def test_errors_are_those_of_bfloat16(name: str, tiny: Tiny, gpu: torch.device) -> None:
    prompt = torch.randint(0, 380, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(7)).tolist()
    ids, found = continuation(tiny(name), prompt, NEW_TOKENS, device=gpu.type, dtype="bfloat16", chunk=32)
    folder = tiny(SAME_NUMBERS.get(name, name))
    exact = _of_tokens(logprobs(folder, ids), ids)
    theirs = (_of_tokens(logprobs(folder, ids, torch.bfloat16), ids) - exact).abs()
    ours = (torch.tensor([one.logprob for one in found]) - exact).abs()
    # A token near a tie between experts may go another way in either: most tokens say what the arithmetic is like.
    assert ours.median() <= 1.5 * theirs.median() + 0.002
    for part in (slice(0, PROMPT_TOKENS - 1), slice(PROMPT_TOKENS - 1, None)):  # prefill, decode
        assert ours[part].median() <= 2 * theirs.median() + 0.004


def _of_tokens(table: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The log-probabilities of ids[1:], from those of all tokens."""
    return table[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
