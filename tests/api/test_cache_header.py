"""The header and the log line that say what became of the turn before."""

from __future__ import annotations

from typing import Any

from tests.fakes.running import Running


def ask(gateway: Running, *messages: tuple[str, str], stream: bool = False) -> Any:
    body = {"messages": [{"role": role, "content": text} for role, text in messages], "max_tokens": 2, "stream": stream}
    answer = gateway.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.headers.get("x-tokenwell-cache")


def test_a_changed_prompt_is_told_streamed_or_not(gateway: Running) -> None:
    """The fake engine says that it cached half of every prompt, so a shorter prompt reuses too little."""
    first = ask(gateway, ("system", "nonce 1 and a text"), ("user", "cache header test"))
    assert first.startswith("reused ")
    told = ask(gateway, ("system", "Nonce 2"), ("user", "cache header test"))
    assert told.startswith('prompt changed: message 0 (system), character 0: "nonce 1 and a text" became "Nonce 2')
    told = ask(gateway, ("system", "!"), ("user", "cache header test"), stream=True)
    assert told.startswith("prompt changed: message 0 (system)")
    gateway.until(lambda: gateway.log().count("prompt changed: message 0") >= 2)


def test_excerpts_are_fit_for_a_header(gateway: Running) -> None:
    ask(gateway, ("system", "größe\r\nx: y and much more text"), ("user", "cache header excerpts"))
    told = ask(gateway, ("system", "東京\r\nx: z"), ("user", "cache header excerpts"))
    assert told.isascii() and "became" in told
