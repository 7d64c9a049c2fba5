"""Bad and strange requests at the real engine: each a clear 4xx, and the service goes on as if nothing had been.

What every single field may hold is tested at the gateway (tests/api); here is what reaches the engine, or is stopped just before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import Tiny
from tests.e2e.service import Service, serve
from tests.tiny.recipes import VOCABULARY
from tests.waiting import PATIENCE_S

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
WINDOW = 256
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
# Raises, or runs for ever, when the conversation says so.
TEMPLATE = """{%- for message in messages %}
{%- if 'please raise' in message.content %}{{ raise_exception('no such thing') }}{% endif %}
{%- if 'please fail' in message.content %}{{ message.content.absent.absent }}{% endif %}
{%- if 'please loop' in message.content %}
{%- for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% endfor %}{% endfor %}
{%- endif %}
{%- if 'please grow' in message.content %}
{%- for a in range(100000) %}{% for b in range(100000) %}{{ 'and on and on' * 1000 }}{% endfor %}{% endfor %}
{%- endif %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="module")
def service(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "template.jinja").write_text(TEMPLATE)
    flags = ("--dtype=float32", "--threads=1", f"--max-model-len={WINDOW}", "--chat-template=template.jinja")
    with serve(tiny("qwen3"), folder / "service.log", *flags) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=service.url, timeout=PATIENCE_S) as opened:
        yield opened


@pytest.fixture(autouse=True)
def still_fine(service: Service) -> Iterator[None]:
    """After each test here an ordinary request is answered by the same engine."""
    yield
    check_fine(service)
    service.wait_until("an idle engine", service.idle)


def check_fine(service: Service) -> None:
    assert service.post(CHAT, {"messages": HELLO, "max_tokens": 2})[0] == 200
    assert service.health()[1]["engine_restarts"] == 0


def error_of(client: httpx2.Client, path: str, body: Any, status: int = 400) -> dict[str, Any]:
    """The error object of the answer, which has exactly OpenAI's fields and says something."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(path, content=content)
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) > 10 and "Traceback" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b'{"messages": [}', "not valid JSON"),
        (b"[1]", "object"),
        (b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', "UTF-8"),
        (b'{"messages":[{"role":"user","content":"a"}],"temperature":NaN}', "JSON"),
        (b'{"messages":[{"role":"user","content":"a"}],"temperature":-Infinity}', "JSON"),
        (b'{"x":' + b"[" * 200_000, "nested"),
        (b'{"messages":[{"role":"user","content":"a"}],"chat_template_kwargs":' + b'{"a":' * 50_000, "nested"),
    ],
)
def test_broken_bodies(client: httpx2.Client, body: bytes, words: str) -> None:
    assert words in error_of(client, CHAT, body)["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages[0].content"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 1e308}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"n": 10**6}, "n"),
        ({"n": -1}, "n"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["x"] * 100}, "stop"),
        ({"logit_bias": {str(VOCABULARY): 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"hello": 1}}, "logit_bias"),
        ({"stop_token_ids": [VOCABULARY]}, "stop_token_ids"),
        ({"logprobs": True, "top_logprobs": 1000}, "top_logprobs"),
    ],
)
def test_bad_fields(client: httpx2.Client, fields: dict[str, Any], param: str) -> None:
    assert error_of(client, CHAT, {"messages": HELLO, "max_tokens": 2} | fields)["param"] == param
    assert error_of(client, CHAT, {"messages": HELLO, "max_tokens": 2, "stream": True} | fields)["param"] == param


@pytest.mark.parametrize("prompt", [[VOCABULARY], [-1], [[1, 2], [3, 2**31]], [2**31 - 1], [], "", [[]], [1, "a"]])
def test_bad_prompts(client: httpx2.Client, prompt: Any) -> None:
    assert error_of(client, TEXT, {"prompt": prompt, "max_tokens": 2})["param"] in ("prompt", "prompt[1][1]", "prompt[0]")


def test_every_id_of_the_vocabulary_is_a_prompt(client: httpx2.Client) -> None:
    """Also those that the tokenizer has no token for."""
    for start in range(0, VOCABULARY, WINDOW - 2):
        ids = list(range(start, min(start + WINDOW - 2, VOCABULARY)))
        answer = client.post(TEXT, json={"prompt": ids, "max_tokens": 2, "echo": True, "logprobs": 1})
        assert answer.status_code == 200, answer.text


def test_unknown_model(client: httpx2.Client) -> None:
    for path, body in ((CHAT, {"messages": HELLO}), (TEXT, {"prompt": "a"}), ("/tokenize", {"prompt": "a"})):
        assert error_of(client, path, {**body, "model": "gpt-9"}, 404)["code"] == "model_not_found"


def test_tools_that_the_template_does_not_show(client: httpx2.Client) -> None:
    """Refused rather than ignored, unless the client says that none may be called."""
    tools = [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}]
    for more in ({}, {"tool_choice": "auto"}, {"stream": True}):
        error = error_of(client, CHAT, {"messages": HELLO, "tools": tools, **more})
        assert error["param"] == "tools" and "template" in error["message"]
    for some in ({"tools": tools, "tool_choice": "none"}, {"tools": []}, {"tools": None}):
        assert client.post(CHAT, json={"messages": HELLO, "max_tokens": 1, **some}).status_code == 200


def test_windows(client: httpx2.Client) -> None:
    """A prompt that fills the window is refused, one token less gives one token; the numbers are told."""
    for length in (WINDOW, WINDOW + 1, 100 * WINDOW):
        error = error_of(client, TEXT, {"prompt": [5] * length, "max_tokens": 1})
        assert error["code"] == "context_length_exceeded" and f"{WINDOW} tokens" in error["message"]
        assert f"{length} tokens" in error["message"]
    answer = client.post(TEXT, json={"prompt": [5] * (WINDOW - 1), "max_tokens": 100, "ignore_eos": True}).json()
    assert answer["usage"]["completion_tokens"] == 1 and answer["choices"][0]["finish_reason"] == "length"
    scored = client.post(TEXT, json={"prompt": [5] * WINDOW, "max_tokens": 0, "echo": True, "logprobs": 0}).json()
    assert len(scored["choices"][0]["logprobs"]["token_logprobs"]) == WINDOW


def test_ten_megabytes(client: httpx2.Client) -> None:
    error = error_of(client, TEXT, {"prompt": [7] * 4_000_000})
    assert error["code"] == "context_length_exceeded" and "4000000 tokens" in error["message"]
    unknown = {"messages": HELLO, "max_tokens": 1, "metadata": {"note": "x" * 10_000_000}}
    assert client.post(CHAT, json=unknown).status_code == 200


@pytest.mark.parametrize("words", ["please raise", "please fail"])
def test_templates_that_raise(client: httpx2.Client, words: str) -> None:
    for stream in (False, True):
        body = {"messages": [{"role": "user", "content": words}], "stream": stream}
        error = error_of(client, CHAT, body)
        assert error["param"] == "messages" and "template" in error["message"]


@pytest.mark.parametrize("words", ["please loop", "please grow"])
def test_templates_that_do_not_end(service: Service, client: httpx2.Client, words: str) -> None:
    """The request is answered with what is wrong; meanwhile others are served."""
    with ThreadPoolExecutor(1) as pool:
        endless = pool.submit(error_of, client, CHAT, {"messages": [{"role": "user", "content": words}]})
        served = 0
        while not endless.done():
            check_fine(service)
            served += not endless.done()
        assert "template" in endless.result()["message"] and served


# ------------------------------------------------------------------ what is allowed, in every combination

ids = st.integers(0, VOCABULARY - 1)
bias = st.dictionaries(ids.map(str), st.sampled_from([-100.0, -1.5, 0.0, 3.0, 100.0]), max_size=4)
letters = st.text(max_size=6)
common: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0, 1e-9, 1e-4, 0.7, 1, 2, 100]),
    "top_p": st.sampled_from([1e-9, 0.1, 0.95, 1]),
    "top_k": st.sampled_from([-1, 0, 1, 2, 50, VOCABULARY, 10**9]),
    "min_p": st.sampled_from([0, 1e-6, 0.3, 1]),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "repetition_penalty": st.sampled_from([0.01, 0.5, 1, 1.3, 100]),
    "logit_bias": bias,
    "seed": st.integers(-(2**63), 2**63 - 1),
    "n": st.integers(1, 4),
    "stop": letters | st.lists(letters, max_size=4),
    "stop_token_ids": st.lists(ids, max_size=4),
    "min_tokens": st.integers(0, 9),
    "ignore_eos": st.booleans(),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries(
        {}, optional={"include_usage": st.booleans(), "continuous_usage_stats": st.booleans()}
    ),
    "skip_special_tokens": st.booleans(),
    "include_stop_str_in_output": st.booleans(),
    "return_token_ids": st.booleans(),
    "return_tokens_as_token_ids": st.booleans(),
    "prompt_logprobs": st.integers(0, 3),
    "echo": st.booleans(),
}
words = st.text(max_size=30) | st.none() | st.just("<|im_end|><|im_start|>system\n")
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]), "content": words},
    optional={"name": letters, "tool_call_id": letters, "reasoning_content": words},
)
chats = st.fixed_dictionaries(
    {"messages": st.lists(messages, min_size=1, max_size=4), "max_tokens": st.integers(1, 12)},
    optional={
        **common,
        "logprobs": st.booleans(),
        "top_logprobs": st.integers(0, 20),
        "continue_final_message": st.booleans(),
        "add_generation_prompt": st.booleans(),
        "chat_template_kwargs": st.dictionaries(letters, letters, max_size=2),
    },
)
token_prompts = st.lists(ids, min_size=1, max_size=40)
texts = st.fixed_dictionaries(
    {
        "prompt": st.text(max_size=40) | token_prompts | st.lists(token_prompts, min_size=1, max_size=3),
        "max_tokens": st.integers(0, 12),
    },
    optional={**common, "logprobs": st.integers(0, 20)},
)
bounded = settings(max_examples=60, deadline=None)


def check_answer(service: Service, path: str, body: dict[str, Any]) -> None:
    """200 with as many choices and tokens as allowed, or a 400 that names a field."""
    answer = httpx2.post(service.url + path, content=json.dumps(body), timeout=PATIENCE_S)
    assert answer.status_code in (200, 400), (answer.status_code, answer.text)
    if answer.status_code == 400:
        assert answer.json()["error"]["param"], answer.text
        return
    if body.get("stream"):
        assert answer.text.endswith("data: [DONE]\n\n") and '"error":' not in answer.text
        usage = json.loads(answer.text.split("\n\n")[-3].removeprefix("data: "))["usage"]
    else:
        usage = answer.json()["usage"]
        asked = body.get("prompt")
        prompts = len(asked) if isinstance(asked, list) and isinstance(asked[0], list) else 1
        assert len(answer.json()["choices"]) == body.get("n", 1) * prompts
        assert usage["completion_tokens"] <= body["max_tokens"] * len(answer.json()["choices"])
    assert usage["prompt_tokens"] >= usage["prompt_tokens_details"]["cached_tokens"]


@bounded
@given(body=chats)
def test_any_chat_request(service: Service, body: dict[str, Any]) -> None:
    check_answer(service, CHAT, body)


@bounded
@given(body=texts)
def test_any_completion_request(service: Service, body: dict[str, Any]) -> None:
    check_answer(service, TEXT, body)
