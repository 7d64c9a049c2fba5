"""The unmodified anthropic SDK against the real service: an answer streamed and not, its cache figures, a long prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import pytest
from tests.conftest import Tiny
from tests.e2e.service import serve

HELLO: Any = [{"role": "user", "content": "Tell me about paged attention."}]


def text_of(message: Any) -> str:
    """All text of an answer."""
    return "".join(block.text for block in message.content if block.type == "text")


def test_messages(tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny("llama3", hub_style=True)
    flags = ("--name", "tiny", "--max-model-len", "512")
    with (
        serve(folder, tmp_path / "log", *flags) as service,
        anthropic.Anthropic(base_url=service.url, api_key="none", max_retries=0) as sdk,
    ):
        fields: Any = {"model": "tiny", "max_tokens": 24, "messages": HELLO, "extra_body": {"seed": 5}}
        whole = sdk.messages.create(**fields)
        with sdk.messages.stream(**fields) as stream:
            final = stream.get_final_message()
        assert text_of(whole) == text_of(final) and whole.stop_reason == final.stop_reason
        count = sdk.messages.count_tokens(model="tiny", messages=HELLO).input_tokens
        assert whole.usage.input_tokens == count and whole.usage.cache_read_input_tokens == 0
        # By the second time the prompt is known: all of it but the token that has to be computed again.
        assert (final.usage.input_tokens, final.usage.cache_read_input_tokens) == (1, count - 1)
        with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 512 maximum"):
            sdk.messages.create(model="tiny", max_tokens=5, messages=[{"role": "user", "content": "hello " * 3000}])
