"""Fixtures that several test folders share: tiny checkpoints and what transformers computes for them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch  # imported by the fixtures only, so that tests of the gateway start without it

# The same examples every run: a failure is one of the change, not of the day. --hypothesis-profile=explore looks further.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile("repeatable")

# A shell's background jobs ignore Ctrl-C, and so would every process that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Tiny = Callable[..., Path]
Reference = Callable[[str, list[int], int], "tuple[list[int], torch.Tensor]"]

# transformers cannot run these itself on the CPU; the other checkpoint holds the same numbers.
SAME_NUMBERS = {"gpt-oss-mxfp4": "gpt-oss"}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """tiny(name, hub_style=False): the folder of a checkpoint of tests/tiny/recipes.py, built once a session; read-only."""
    import torch
    from tests.tiny.build import build

    torch.set_num_threads(1)  # nothing this small gains from threads, and they wait for each other when the cores are busy
    built: dict[tuple[str, bool], Path] = {}

    def get(name: str, *, hub_style: bool = False) -> Path:
        key = (name, hub_style)
        if key not in built:
            built[key] = build(
                name, tmp_path_factory.mktemp("tiny") / (f"{name}-hub" if hub_style else name), hub_style=hub_style
            )
        return built[key]

    return get


@pytest.fixture(scope="session")
def reference(tiny: Tiny) -> Reference:
    """reference(name, prompt ids, new tokens): greedy continuation by transformers in float32, and all log-probabilities.

    Row p of the log-probabilities [len(prompt) + new_tokens, vocabulary] is the distribution of the token after position p.
    """
    from tests.tiny.reference import continuation

    known: dict[tuple[str, tuple[int, ...], int], tuple[list[int], torch.Tensor]] = {}

    def get(name: str, prompt: list[int], new_tokens: int) -> tuple[list[int], torch.Tensor]:
        key = (name, tuple(prompt), new_tokens)
        if key not in known:
            known[key] = continuation(tiny(SAME_NUMBERS.get(name, name)), prompt, new_tokens)
        return known[key]

    return get
