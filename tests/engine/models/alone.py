"""A prompt and its sampled continuation by the engine alone, without a gateway."""

from __future__ import annotations

from pathlib import Path

from tokenwell.engine.load import load, scheduler_for
from tokenwell.wire.messages import Generate, TokenLogprob
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec


def continuation(
    folder: Path, prompt: list[int], new_tokens: int, *, device: str, dtype: str, chunk: int
) -> tuple[list[int], list[TokenLogprob]]:
    """Prompt and continuation with `chunk` tokens a step, and the log-probabilities of all of them but the first."""
    spec = EngineSpec(
        str(folder), "", "", device=device, dtype=dtype, max_model_len=160, max_num_seqs=4, max_num_batched_tokens=chunk,
        kv_cache_gib=0.02,
    )  # fmt: skip
    loaded = load(spec)
    scheduler = scheduler_for(loaded.ready, prefix_cache=False)
    sampling = Sampling(max_tokens=new_tokens, logprobs=0, prompt_logprobs=0)
    assert scheduler.add(Generate("one", prompt, sampling)) is None
    ids: list[int] = [*prompt]
    found: list[TokenLogprob] = []
    while (plan := scheduler.schedule()) is not None:
        for output in scheduler.apply(loaded.worker.run(plan)):
            ids += output.tokens
            found += [*(output.prompt_logprobs or ()), *(output.logprobs or ())]
    assert len(found) == len(ids) - 1
    return ids, found
