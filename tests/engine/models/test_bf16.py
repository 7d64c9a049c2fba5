"""Every architecture in bfloat16: no further from float32 than transformers itself is in bfloat16, in prefill and in decode."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import SAME_NUMBERS, Tiny
from tests.tiny.recipes import RECIPES
from tests.tiny.reference import logprobs

from tokenwell.engine.load import load, scheduler_for
from tokenwell.wire.messages import Generate, TokenLogprob
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec

PROMPT_TOKENS = 64  # longer than the tiny windows
NEW_TOKENS = 64


@pytest.mark.parametrize("name", RECIPES)
def test_errors_are_those_of_bfloat16(name: str, tiny: Tiny, gpu: torch.device) -> None:
    prompt = torch.randint(0, 380, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(7)).tolist()
    spec = EngineSpec(
        str(tiny(name)), "", "", device=gpu.type, dtype="bfloat16", max_model_len=160, max_num_seqs=4,
        max_num_batched_tokens=32, kv_cache_gib=0.02,
    )  # fmt: skip
    loaded = load(spec)
    scheduler = scheduler_for(loaded.ready, prefix_cache=False)
    sampling = Sampling(max_tokens=NEW_TOKENS, logprobs=0, prompt_logprobs=0)
    assert scheduler.add(Generate("one", prompt, sampling)) is None
    given: list[int] = []
    found: list[TokenLogprob] = []
    while (plan := scheduler.schedule()) is not None:
        for output in scheduler.apply(loaded.worker.run(plan)):
            given += output.tokens
            found += [*(output.prompt_logprobs or ()), *(output.logprobs or ())]
    ids = prompt + given
    assert len(found) == len(ids) - 1
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
