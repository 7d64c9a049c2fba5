"""Text completions: prompts of every form, echo, log-probabilities and their legacy shapes."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from tests.fakes.running import Running


def post(gateway: Running, **fields: Any) -> Any:
    answer = gateway.client.post("/v1/completions", json={"prompt": "hello world", "max_tokens": 4, "seed": 1} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def streamed(gateway: Running, **fields: Any) -> list[Any]:
    body = {"prompt": "hello world", "max_tokens": 4, "seed": 1, "stream": True} | fields
    events = gateway.client.post("/v1/completions", json=body).text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def ids_of(gateway: Running, text: str) -> list[int]:
    tokens: list[int] = gateway.client.post("/tokenize", json={"prompt": text}).json()["tokens"]
    return tokens


def test_sdk(gateway: Running) -> None:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as sdk:
        answer = sdk.completions.create(model="fake", prompt="hello")
        assert answer.object == "text_completion" and answer.choices[0].finish_reason == "length"
        assert answer.usage is not None and answer.usage.completion_tokens == 16
        text = ""
        for chunk in sdk.completions.create(model="fake", prompt="hello", seed=4, stream=True):
            text += "".join(choice.text for choice in chunk.choices)
        assert text == sdk.completions.create(model="fake", prompt="hello", seed=4).choices[0].text


def test_every_form_of_prompt(gateway: Running) -> None:
    ids = ids_of(gateway, "hello world")
    texts = {post(gateway, prompt=prompt)["choices"][0]["text"] for prompt in ("hello world", ["hello world"], ids, [ids])}
    assert len(texts) == 1


def test_several_prompts_with_several_choices(gateway: Running) -> None:
    both = post(gateway, prompt=["hello", "hello world"], n=2)
    assert [choice["index"] for choice in both["choices"]] == [0, 1, 2, 3]
    alone = post(gateway, prompt="hello world", n=2)
    assert [choice["text"] for choice in both["choices"][2:]] == [choice["text"] for choice in alone["choices"]]
    assert both["usage"]["prompt_tokens"] == len(ids_of(gateway, "hello")) + len(ids_of(gateway, "hello world"))
    assert both["usage"]["completion_tokens"] == 16
    texts = ["", "", "", ""]
    for chunk in streamed(gateway, prompt=["hello", "hello world"], n=2):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in both["choices"]]


def test_lm_eval_scores_a_prompt(gateway: Running) -> None:
    """What lm-eval's local-completions reads: the prompt's log-probabilities, without any or with one generated token."""
    ids = ids_of(gateway, "hello world, hello there")
    for new in (0, 1):
        answer = post(gateway, prompt=[ids], echo=True, logprobs=1, max_tokens=new)
        [choice] = answer["choices"]
        found = choice["logprobs"]
        assert len(found["tokens"]) == len(found["token_logprobs"]) == len(found["top_logprobs"]) == len(ids) + new
        assert found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
        assert all(value <= 0 for value in found["token_logprobs"][1:])
        assert all(
            value <= max(top.values())
            for value, top in list(zip(found["token_logprobs"], found["top_logprobs"], strict=True))[1:]
        )
        assert "".join(found["tokens"]) == choice["text"]
        assert found["text_offset"][0] == 0
        assert all(
            choice["text"][offset:].startswith(token) for offset, token in zip(found["text_offset"], found["tokens"], strict=True)
        )
        assert choice["finish_reason"] == "length" and answer["usage"]["completion_tokens"] == new


@pytest.mark.parametrize("fields", [{}, {"echo": True}, {"logprobs": 2}, {"echo": True, "logprobs": 0, "return_token_ids": True}])
def test_stream_equals_whole(gateway: Running, fields: dict[str, Any]) -> None:
    [whole] = post(gateway, **fields)["choices"]
    chunks = [choice for chunk in streamed(gateway, **fields) for choice in chunk["choices"]]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    assert [chunk["finish_reason"] for chunk in chunks][-1] == whole["finish_reason"]
    for name in ("tokens", "token_logprobs", "text_offset"):
        joined = [item for chunk in chunks if chunk["logprobs"] for item in chunk["logprobs"][name]]
        assert joined == (whole["logprobs"][name] if whole["logprobs"] else [])
    if fields.get("return_token_ids"):
        assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
        assert [token for chunk in chunks for token in chunk["token_ids"]] == whole["token_ids"]


def test_prompt_logprobs_as_vllm_has_them(gateway: Running) -> None:
    ids = ids_of(gateway, "hello world")
    [choice] = post(gateway, prompt_logprobs=2, max_tokens=0)["choices"]
    first, *rest = choice["prompt_logprobs"]
    assert first is None and len(rest) == len(ids) - 1
    for token, row in zip(ids[1:], rest, strict=True):
        assert row[str(token)]["rank"] == 1 and set(row[str(token)]) == {"logprob", "rank", "decoded_token"}


def test_token_names_as_ids(gateway: Running) -> None:
    [choice] = post(gateway, logprobs=1, return_token_ids=True, return_tokens_as_token_ids=True)["choices"]
    assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]]


def test_tokenize_round_trip(gateway: Running) -> None:
    text = "Größe 東京 🙂"
    answer = gateway.client.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 512
    assert gateway.client.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": text}


def test_overflow_names_the_prompt(gateway: Running) -> None:
    answer = gateway.client.post("/v1/completions", json={"prompt": [20] * 512})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["code"] == "context_length_exceeded" and error["param"] == "prompt"
    assert "512 tokens. However, your prompt resulted in 512 tokens." in error["message"]
    assert post(gateway, prompt=[20] * 511)["usage"]["completion_tokens"] == 1
    assert post(gateway, prompt=[20] * 512, max_tokens=0, echo=True)["usage"]["completion_tokens"] == 0
