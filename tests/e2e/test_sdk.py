"""The unmodified openai SDK against the real service: every way to ask that clients use, one at a time and many at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from tests.conftest import Tiny
from tests.e2e.checkpoints import variant
from tests.e2e.service import Service, serve

pytestmark = pytest.mark.anyio

MODEL = "llama3"
SLOTS, QUEUE = 64, 100
WINDOW = 1024
SUPPRESSED = 66  # by the checkpoint's generation_config.json


def user(text: str) -> list[Any]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


HELLO = user("Tell me about paged attention.")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def service(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("sdk")
    (folder / "tokenwell.toml").write_text(f"[server]\nmax_queue = {QUEUE}\n")
    flags = ("--dtype=float32", "--threads=1", f"--max-num-seqs={SLOTS}")
    checkpoint = variant(tiny(MODEL), folder / MODEL, generation={"suppress_tokens": [SUPPRESSED, 10**6]})
    with serve(checkpoint, folder / "service.log", *flags) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_left(service: Service) -> Iterator[None]:
    """Every test leaves an engine without work behind."""
    yield
    service.wait_until("an idle engine", service.idle)


@pytest.fixture(scope="module")
def sdk(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=service.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def asdk(service: Service, anyio_backend: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=service.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def text_of(answer: Any, choice: int = 0) -> str:
    """The content of one choice, which is never null here."""
    content = answer.choices[choice].message.content
    assert isinstance(content, str)
    return content


class Streamed:
    """What the chunks of one stream add up to."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.finishes: dict[int, str] = {}
        self.usages: list[Any] = []
        self.logprobs: list[Any] = []

    def add(self, chunk: ChatCompletionChunk) -> None:
        for choice in chunk.choices:
            assert choice.index not in self.finishes, "text after the end"
            self.texts[choice.index] = self.texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.logprobs is not None:
                self.logprobs += choice.logprobs.content or []
            if choice.finish_reason is not None:
                self.finishes[choice.index] = choice.finish_reason
        if chunk.usage is not None:
            self.usages.append(chunk.usage)


async def streamed(asdk: openai.AsyncOpenAI, **fields: Any) -> Streamed:
    found = Streamed()
    async for chunk in await asdk.chat.completions.create(model=MODEL, stream=True, **fields):
        found.add(chunk)
    return found


# ---------------------------------------------------------------- one request


def test_models(sdk: openai.OpenAI) -> None:
    [model] = sdk.models.list().data
    assert model.id == MODEL and model.object == "model" and isinstance(model.created, int)
    extra: Any = model.model_extra
    for name in ("max_model_len", "context_length", "context_window", "max_context_length"):
        assert extra[name] == WINDOW
    assert extra["meta"]["n_ctx"] == WINDOW
    assert sdk.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("gpt-4o")


def test_plain_answer(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=12, seed=1, extra_body={"ignore_eos": True})
    assert answer.object == "chat.completion" and answer.model == MODEL
    [choice] = answer.choices
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


async def test_sync_async_streaming_and_not_agree(sdk: openai.OpenAI, asdk: openai.AsyncOpenAI) -> None:
    fields: Any = {"messages": HELLO, "max_tokens": 60, "seed": 5}
    whole = sdk.chat.completions.create(model=MODEL, **fields)
    stream = Streamed()
    for chunk in sdk.chat.completions.create(model=MODEL, stream=True, **fields):
        stream.add(chunk)
    other = await streamed(asdk, **fields)
    assert (
        text_of(whole) == stream.texts[0] == other.texts[0] == text_of(await asdk.chat.completions.create(model=MODEL, **fields))
    )
    assert stream.finishes == other.finishes == {0: whole.choices[0].finish_reason}
    [usage] = stream.usages
    assert whole.usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    # The prompt was known by then: all of it but the token that has to be computed again.
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


async def test_two_choices(sdk: openai.OpenAI, asdk: openai.AsyncOpenAI) -> None:
    fields: Any = {"messages": HELLO, "max_tokens": 24, "n": 2, "temperature": 1, "extra_body": {"ignore_eos": True}}
    first = sdk.chat.completions.create(model=MODEL, seed=3, **fields)
    again = await streamed(asdk, seed=3, **fields)
    other = sdk.chat.completions.create(model=MODEL, seed=4, **fields)
    assert [choice.index for choice in first.choices] == [0, 1]
    assert text_of(first, 0) != text_of(first, 1)
    assert again.texts == {0: text_of(first, 0), 1: text_of(first, 1)} and again.finishes == {0: "length", 1: "length"}
    assert {text_of(other, 0), text_of(other, 1)}.isdisjoint(again.texts.values())
    assert first.usage is not None and first.usage.completion_tokens == 48
    assert first.usage.prompt_tokens == again.usages[0].prompt_tokens  # the prompt counts once


def test_without_a_seed_answers_differ(sdk: openai.OpenAI) -> None:
    answers = {text_of(sdk.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=12)) for _ in range(4)}
    assert len(answers) > 1


def test_temperature_zero_is_the_likeliest(sdk: openai.OpenAI) -> None:
    fields: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 20, "logprobs": True, "top_logprobs": 1}
    one = sdk.chat.completions.create(temperature=0, seed=1, **fields)
    assert text_of(one) == text_of(sdk.chat.completions.create(temperature=0, seed=2, **fields))
    assert one.choices[0].logprobs is not None
    for entry in one.choices[0].logprobs.content or []:
        assert entry.token == entry.top_logprobs[0].token


async def test_logprobs(sdk: openai.OpenAI, asdk: openai.AsyncOpenAI) -> None:
    fields: Any = {"messages": HELLO, "max_tokens": 30, "seed": 12, "logprobs": True, "top_logprobs": 4}
    fields["extra_body"] = {"ignore_eos": True}
    [whole] = sdk.chat.completions.create(model=MODEL, **fields).choices
    assert whole.logprobs is not None and whole.logprobs.content is not None
    for entry in whole.logprobs.content:
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 4 and tops == sorted(tops, reverse=True)
        assert sum(math.exp(top) for top in tops) <= 1.0001
        assert entry.logprob <= tops[0] <= 0
        for top in entry.top_logprobs:
            if entry.bytes and top.bytes == entry.bytes:  # ids that no text has are all alike
                assert top.logprob == entry.logprob
    said = b"".join(bytes(entry.bytes or ()) for entry in whole.logprobs.content)
    assert said.decode(errors="replace") == whole.message.content
    stream = await streamed(asdk, **fields)
    assert [entry.token for entry in stream.logprobs] == [entry.token for entry in whole.logprobs.content]
    assert [entry.logprob for entry in stream.logprobs] == pytest.approx(
        [entry.logprob for entry in whole.logprobs.content], abs=1e-4
    )
    plain = sdk.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2, logprobs=True).choices[0]
    assert plain.logprobs is not None and [e.top_logprobs for e in plain.logprobs.content or []] == [[], []]


async def test_stop_strings(sdk: openai.OpenAI, asdk: openai.AsyncOpenAI) -> None:
    """A stop string cut out of a known answer ends that answer just before it, also when it lies across tokens."""
    fields: Any = {"messages": HELLO, "max_tokens": 80, "seed": 11, "extra_body": {"ignore_eos": True}}
    free = text_of(sdk.chat.completions.create(model=MODEL, **fields))
    stop = next(free[at : at + 3] for at in range(20, len(free)) if free[at : at + 3].isascii() and len(free) > at + 10)
    expected = free[: free.index(stop)]
    cut = sdk.chat.completions.create(model=MODEL, stop=stop, **fields)
    assert text_of(cut) == expected and cut.choices[0].finish_reason == "stop"
    assert cut.usage is not None and cut.usage.completion_tokens < 80
    listed = await streamed(asdk, stop=["never said in this answer", stop], **fields)
    assert listed.texts == {0: expected} and listed.finishes == {0: "stop"}
    assert listed.usages[0].completion_tokens == cut.usage.completion_tokens
    kept = sdk.chat.completions.create(
        model=MODEL, stop=stop, **{**fields, "extra_body": {"ignore_eos": True, "include_stop_str_in_output": True}}
    )
    assert text_of(kept) == expected + stop


def test_stop_token_ids_and_min_tokens(sdk: openai.OpenAI) -> None:
    fields: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 40, "seed": 11}
    more = {"ignore_eos": True, "return_token_ids": True}
    free: Any = sdk.chat.completions.create(extra_body=more, **fields).choices[0]
    stop = free.token_ids[9]
    first = free.token_ids.index(stop)
    cut: Any = sdk.chat.completions.create(extra_body={**more, "stop_token_ids": [stop]}, **fields).choices[0]
    assert cut.finish_reason == "stop" and cut.stop_reason == stop
    assert cut.token_ids == free.token_ids[: first + 1]
    held: Any = sdk.chat.completions.create(
        extra_body={**more, "stop_token_ids": [stop], "min_tokens": first + 2}, **fields
    ).choices[0]
    assert held.token_ids[:first] == free.token_ids[:first] and stop not in held.token_ids[: first + 1]


def test_logit_bias_and_penalties_reach_the_engine(sdk: openai.OpenAI) -> None:
    fields: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "temperature": 0}
    more = {"ignore_eos": True, "return_token_ids": True}
    forced: Any = sdk.chat.completions.create(logit_bias={"65": 100}, extra_body=more, **fields).choices[0]
    assert forced.token_ids == [65] * 12
    mixed: Any = sdk.chat.completions.create(
        logit_bias={"65": 10}, presence_penalty=2, frequency_penalty=2, extra_body={**more, "repetition_penalty": 9.0}, **fields
    ).choices[0]
    assert mixed.token_ids[0] == 65 and set(mixed.token_ids) != {65}
    free: Any = sdk.chat.completions.create(extra_body=more, **fields).choices[0]
    banned: Any = sdk.chat.completions.create(logit_bias={str(free.token_ids[0]): -100}, extra_body=more, **fields).choices[0]
    assert free.token_ids[0] not in banned.token_ids


def test_what_the_checkpoint_suppresses_is_never_said(sdk: openai.OpenAI) -> None:
    fields: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "temperature": 0}
    more = {"ignore_eos": True, "return_token_ids": True}
    for token, chosen in ((SUPPRESSED + 1, True), (SUPPRESSED, False)):
        answer: Any = sdk.chat.completions.create(logit_bias={str(token): 100}, extra_body=more, **fields).choices[0]
        assert (token in answer.token_ids) == chosen


def test_usage_in_streams(sdk: openai.OpenAI) -> None:
    """The last chunk carries it whether it was asked for or not; with include_usage the others carry null."""
    for options in (None, {"include_usage": True}):
        extra: Any = {} if options is None else {"stream_options": options}
        chunks = list(sdk.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=5, stream=True, **extra))
        assert chunks[-1].choices == [] and chunks[-1].usage is not None
        assert 1 <= chunks[-1].usage.completion_tokens <= 5
        assert chunks[-1].usage.prompt_tokens_details is not None
        assert all(chunk.usage is None and chunk.choices for chunk in chunks[:-1])


# ---------------------------------------------------------------- completions


def test_completions_take_text_ids_and_lists(sdk: openai.OpenAI, service: Service) -> None:
    texts = ["The quick brown fox", "Paged attention stores"]
    ids = [service.post("/tokenize", {"prompt": text})[1]["tokens"] for text in texts]
    fields: Any = {"model": MODEL, "max_tokens": 16, "temperature": 0}
    alone = [sdk.completions.create(prompt=text, **fields).choices[0].text for text in texts]
    assert alone[0] != alone[1]
    assert [sdk.completions.create(prompt=tokens, **fields).choices[0].text for tokens in ids] == alone
    for prompts in (texts, ids):
        together: Any = sdk.completions.create(prompt=prompts, n=2, **fields)
        assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
        assert [choice.text for choice in together.choices] == [alone[0], alone[0], alone[1], alone[1]]
        assert together.usage.prompt_tokens == sum(map(len, ids))
        stream: Any = sdk.completions.create(prompt=prompts, n=2, stream=True, **fields)
        pieces = ["", "", "", ""]
        for chunk in stream:
            for choice in chunk.choices:
                pieces[choice.index] += choice.text
        assert pieces == [alone[0], alone[0], alone[1], alone[1]]


def test_completions_echo_with_logprobs(sdk: openai.OpenAI, service: Service) -> None:
    prompt = "The quick brown fox jumps"
    count = service.post("/tokenize", {"prompt": prompt})[1]["count"]
    fields: Any = {"model": MODEL, "prompt": prompt, "temperature": 0, "echo": True, "logprobs": 2}
    answer: Any = sdk.completions.create(max_tokens=4, extra_body={"ignore_eos": True}, **fields).choices[0]
    assert answer.text.startswith(prompt)
    logprobs = answer.logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == count + 4
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert all(len(top) >= 2 for top in logprobs.top_logprobs[1:])
    assert logprobs.text_offset == sorted(logprobs.text_offset)
    scored: Any = sdk.completions.create(max_tokens=0, **fields)
    assert scored.choices[0].text == prompt and scored.usage.completion_tokens == 0
    assert scored.choices[0].logprobs.token_logprobs[1:] == pytest.approx(logprobs.token_logprobs[1:count], abs=1e-4)


def test_completions_return_token_ids(sdk: openai.OpenAI, service: Service) -> None:
    answer: Any = sdk.completions.create(
        model=MODEL, prompt="Block tables", max_tokens=7, seed=1, extra_body={"return_token_ids": True, "ignore_eos": True}
    ).choices[0]
    assert len(answer.token_ids) == 7
    assert answer.prompt_token_ids == service.post("/tokenize", {"prompt": "Block tables"})[1]["tokens"]
    assert service.post("/detokenize", {"tokens": answer.prompt_token_ids})[1]["prompt"] == "Block tables"


# ---------------------------------------------------------------- errors


def test_error_classes(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        sdk.chat.completions.create(model=MODEL, messages=HELLO, temperature=-1)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError):
        sdk.chat.completions.create(model=MODEL, messages=[])
    with pytest.raises(openai.BadRequestError):
        sdk.completions.create(model=MODEL, prompt=[10**6])


@pytest.mark.parametrize("stream", [False, True])
def test_overflow_is_recognised(sdk: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(
        openai.BadRequestError, match=f"maximum context length is {WINDOW} tokens. However, your messages"
    ) as long:
        sdk.chat.completions.create(model=MODEL, messages=user("word " * 2000), stream=stream)
    assert long.value.code == "context_length_exceeded" and long.value.param == "messages"


def test_max_tokens_beyond_the_window_is_clamped(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=MODEL, messages=user("word " * 150), max_tokens=10**6, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None and answer.usage.total_tokens == WINDOW
    assert answer.choices[0].finish_reason == "length"


def test_full_queue(sdk: openai.OpenAI) -> None:
    fields: Any = {"model": MODEL, "messages": HELLO, "n": 128, "stream": True, "extra_body": {"ignore_eos": True}}
    with sdk.chat.completions.create(**fields), sdk.chat.completions.create(**fields):
        with pytest.raises(openai.RateLimitError) as full:
            sdk.chat.completions.create(model=MODEL, messages=HELLO)
        assert full.value.code == "queue_full" and int(full.value.response.headers["retry-after"]) >= 1


def test_a_timeout_aborts(sdk: openai.OpenAI, service: Service) -> None:
    with pytest.raises(openai.APITimeoutError):
        sdk.with_options(timeout=0.2).chat.completions.create(model=MODEL, messages=HELLO, n=32, extra_body={"ignore_eos": True})
    service.wait_until("the abort", service.idle)


async def test_a_cancelled_task_aborts(asdk: openai.AsyncOpenAI, service: Service) -> None:
    async with asdk.chat.completions.stream(model=MODEL, messages=HELLO, extra_body={"ignore_eos": True}) as stream:
        async for event in stream:
            if event.type == "content.delta":
                break
    reading = asyncio.create_task(streamed(asdk, messages=HELLO, n=8, extra_body={"ignore_eos": True}))
    while service.metric("tokenwell_requests_running") < 8:
        await asyncio.sleep(0.005)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    service.wait_until("the abort", service.idle)


# ---------------------------------------------------------------- many at once


async def test_a_seed_gives_the_same_text_alone_and_in_a_busy_batch(asdk: openai.AsyncOpenAI, sdk: openai.OpenAI) -> None:
    fields: Any = {"messages": HELLO, "max_tokens": 60, "temperature": 1, "top_p": 0.9, "seed": 77}
    alone = text_of(sdk.chat.completions.create(model=MODEL, **fields))
    noise = [streamed(asdk, messages=user(f"Question {number}: " + "why " * number), max_tokens=90) for number in range(10)]
    *_, one, two = await asyncio.gather(*noise, streamed(asdk, **fields), streamed(asdk, **fields))
    assert one.texts[0] == two.texts[0] == alone


async def test_sixty_four_streams(asdk: openai.AsyncOpenAI) -> None:
    """Different prompts at once: each gives what it gave alone, so that no token was lost and none crossed."""
    requests: list[Any] = [
        {"messages": user(f"Client {number} says: " + "ab " * (number % 13)), "max_tokens": 16 + number // 2, "seed": number}
        for number in range(64)
    ]
    alone = [text_of(await asdk.chat.completions.create(model=MODEL, **fields)) for fields in requests]
    assert len(set(alone)) == 64
    together = await asyncio.gather(*(streamed(asdk, **fields) for fields in requests))
    assert [stream.texts[0] for stream in together] == alone
    assert all(len(stream.usages) == 1 and len(stream.finishes) == 1 for stream in together)
