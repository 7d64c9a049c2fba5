"""A real engine process with grammars: mixed batches, preemption, chunks, shared prefixes, compilation beside other work."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zmq
from tests.conftest import Tiny
from tests.tiny.tokenizer import special_ids
from tests.waiting import PATIENCE_S
from tokenizers import Tokenizer

from tokenwell.wire.channel import decode_from_engine, encode
from tokenwell.wire.messages import Abort, Generate, Outputs, Ready, Shutdown, Stats, ToEngine
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec, encode_spec

STOP = special_ids("qwen")["<|im_end|>"]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "tags": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 999}, "maxItems": 4},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
COMPACT = {"x-guidance": {"whitespace_flexible": False}}
LONG = "start: %json " + json.dumps(COMPACT | {"type": "array", "items": {"enum": [0, 1, 2]}, "minItems": 60, "maxItems": 64})
GRAMMAR = "start: %json " + json.dumps(COMPACT | SCHEMA)
SLOW = "start: /(({}{{1000}}){{1000}}){{1000}}/"  # takes about a second, and becomes too complex then
WAIT_MS = 30_000


@dataclass
class Answer:
    """Everything that one request brought."""

    tokens: list[int] = field(default_factory=list)
    cached: int = 0
    finish: str | None = None
    stop_id: int | None = None
    error: str = ""


class Engine:
    """The gateway's end of one engine process."""

    def __init__(self, push: zmq.Socket[bytes], pull: zmq.Socket[bytes], folder: Path) -> None:
        self._push, self._pull = push, pull
        self.words = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.answers: dict[str, Answer] = {}
        self.ended: list[str] = []  # in order
        self.stats = Stats()
        self.ready = self._await_ready()

    def send(self, *messages: ToEngine) -> None:
        for message in messages:
            self._push.send(encode(message))

    def wait(self, *names: str) -> list[Answer]:
        """The answers to these requests, when all have ended."""
        while not set(names) <= set(self.ended):
            self._receive()
        return [self.answers[name] for name in names]

    def generate(self, *requests: Generate) -> list[Answer]:
        """Send requests and wait for all of them."""
        self.send(*requests)
        return self.wait(*(request.id for request in requests))

    def text(self, answer: Answer) -> str:
        return self.words.decode(answer.tokens, skip_special_tokens=True)

    def _await_ready(self) -> Ready:
        while not isinstance(message := self._receive(), Ready):
            pass
        return message

    def _receive(self) -> Any:
        assert self._pull.poll(WAIT_MS), "the engine is silent"
        message = decode_from_engine(self._pull.recv())
        if isinstance(message, Outputs):
            self.stats = message.stats
            for output in message.items:
                answer = self.answers.setdefault(output.id, Answer())
                answer.tokens += output.tokens
                answer.cached += output.cached_tokens
                if output.finish is not None:
                    assert answer.finish is None, f"{output.id} ended twice"
                    answer.finish, answer.stop_id = output.finish, output.stop_id
                    answer.error = output.error.message if output.error is not None else ""
                    self.ended.append(output.id)
        return message


@contextmanager
def engine(folder: Path, **spec: Any) -> Iterator[Engine]:
    """An engine process that is ready."""
    with tempfile.TemporaryDirectory() as sockets, zmq.Context() as context:
        push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        commands, events = f"ipc://{sockets}/commands", f"ipc://{sockets}/events"
        push.bind(commands)
        pull.bind(events)
        order = EngineSpec(str(folder), commands, events, device="cpu", dtype="float32", threads=1, log_level="warning", **spec)
        process = subprocess.Popen([sys.executable, "-m", "tokenwell.engine", "--spec", encode_spec(order)])
        try:
            peer = Engine(push, pull, folder)
            yield peer
            peer.send(Shutdown())
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            process.wait()
            push.close(0)
            pull.close(0)


@pytest.fixture(scope="module")
def roomy(tiny: Tiny) -> Iterator[Engine]:
    with engine(tiny("qwen2"), max_num_seqs=16, kv_cache_gib=0.05) as running:
        yield running


@pytest.fixture(scope="module")
def tight(tiny: Tiny, roomy: Engine) -> Iterator[Engine]:
    """Steps of 16 tokens at most, and a cache for about two whole rows."""
    window = 192
    pages = 2 * window // 16 + 4
    gib = (pages + 0.5) * roomy.ready.page_bytes / 2**30
    with engine(tiny("qwen2"), max_num_seqs=8, max_num_batched_tokens=16, max_model_len=window, kv_cache_gib=gib) as running:
        yield running


def prompt(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(256), k=length)


def request(name: str, tokens: list[int] | None = None, grammar: str | None = GRAMMAR, **sampling: Any) -> Generate:
    settings = {"max_tokens": 150, "stop_ids": (STOP,), "temperature": 1.0, "seed": len(name), "grammar": grammar, **sampling}
    return Generate(name, tokens or prompt(1, 20), Sampling(**settings))


def check_json(running: Engine, answers: Iterable[Answer]) -> None:
    for answer in answers:
        assert answer.finish == "stop", answer
        value = json.loads(running.text(answer))
        assert set(value) == {"name", "tags"} and len(value["name"]) <= 12 and len(value["tags"]) <= 4


FREE = [request(f"free {seed}", prompt(seed, 10 + seed), None, max_tokens=40, stop_ids=()) for seed in range(4)]


def test_rows_with_a_grammar_and_rows_without_share_steps(roomy: Engine) -> None:
    alone = [roomy.generate(message)[0].tokens for message in FREE]
    bound = [request(f"bound {seed}", prompt(seed, 15), seed=seed, temperature=seed % 2) for seed in range(4)]
    mixed = [Generate(f"again {message.id}", message.prompt, message.sampling) for message in FREE]
    steps = roomy.stats.steps
    roomy.send(*[message for pair in zip(bound, mixed, strict=True) for message in pair])
    answers = roomy.wait(*(message.id for message in (*bound, *mixed)))
    check_json(roomy, answers[:4])
    assert [answer.tokens for answer in answers[4:]] == alone
    assert roomy.stats.steps - steps < 40 + 150


def test_chunks_and_preemption_keep_answers_valid_and_the_same(roomy: Engine, tight: Engine) -> None:
    wanted = [request(f"row {seed}", prompt(seed, 20 + seed), LONG, seed=seed) for seed in range(8)]
    expected = roomy.generate(*wanted)
    answers = tight.generate(*wanted)
    assert tight.stats.preemptions > 0
    assert [(answer.tokens, answer.finish) for answer in answers] == [(answer.tokens, answer.finish) for answer in expected]
    assert all(60 <= len(json.loads(tight.text(answer))) <= 64 for answer in answers)


def test_a_prefix_from_the_cache_changes_nothing(roomy: Engine) -> None:
    tokens = prompt(77, 100)
    first, second = (roomy.generate(request(name, tokens, seed=5))[0] for name in ("cold", "warm"))
    assert first.cached == 0 and second.cached >= 80
    assert first.tokens == second.tokens
    check_json(roomy, [second])


def test_choices_share_a_grammar_but_not_a_state(roomy: Engine) -> None:
    answers = roomy.generate(*[request(f"choice {seed}", seed=seed) for seed in range(6)])
    check_json(roomy, answers)
    assert len({tuple(answer.tokens) for answer in answers}) > 1


def test_an_answer_ends_with_its_grammar(roomy: Engine) -> None:
    fixed = 'start: "{\\"a\\": [1, 2]}"'
    exact, ignoring, cut, none = roomy.generate(
        request("exact", grammar=fixed),
        request("ignoring", grammar=fixed, stop_ids=(), min_tokens=100),
        request("cut", grammar=fixed, max_tokens=3),
        request("none", grammar='start: ""', stop_ids=()),
    )
    assert roomy.text(exact) == roomy.text(ignoring) == '{"a": [1, 2]}'
    assert (exact.finish, exact.stop_id, ignoring.finish) == ("stop", None, "stop")
    assert (cut.finish, len(cut.tokens)) == ("length", 3) and roomy.text(exact).startswith(roomy.text(cut))
    assert (none.finish, none.tokens) == ("stop", [])


def test_a_stop_id_ends_an_answer_where_the_grammar_may_end(roomy: Engine) -> None:
    (answer,) = roomy.generate(request("open", grammar="start: /[0-9]{4}[0-9]*/", logit_bias={STOP: 1000.0}))
    assert (answer.finish, answer.stop_id, answer.tokens[-1]) == ("stop", STOP, STOP)
    assert len(roomy.text(answer)) >= 4 and roomy.text(answer).isdecimal()


def test_a_bad_grammar_is_answered_and_hurts_nobody(roomy: Engine) -> None:
    answers = roomy.generate(
        request("bad", grammar="start: nowhere"), request("good"), request("bad again", grammar="start: nowhere"),
    )  # fmt: skip
    assert [answer.finish for answer in answers] == ["error", "stop", "error"]
    assert "nowhere" in answers[0].error and answers[0].tokens == []
    check_json(roomy, answers[1:2])


def test_other_requests_go_on_while_a_grammar_is_compiled(roomy: Engine) -> None:
    answers = roomy.generate(request("slow", grammar=SLOW.format("a")), request("quick", grammar=None, max_tokens=3))
    assert roomy.ended.index("quick") < roomy.ended.index("slow")
    assert answers[0].finish == "error" and "too many" in answers[0].error


def test_a_request_can_be_aborted_while_its_grammar_is_compiled(roomy: Engine) -> None:
    slow = SLOW.format("b")
    roomy.send(request("left", grammar=slow), Abort("left"))
    roomy.generate(request("stayed", grammar=slow))
    assert "left" not in roomy.answers
    (answer,) = roomy.generate(request("left"))  # the id is free again
    check_json(roomy, [answer])


def test_an_id_in_use_is_refused_while_its_grammar_is_compiled(roomy: Engine) -> None:
    slow = SLOW.format("c")
    roomy.send(request("twice", grammar=slow), request("twice", grammar=None))
    (answer,) = roomy.wait("twice")
    assert answer.finish == "error" and "in progress" in answer.error
    roomy.ended.remove("twice")
    roomy.answers.clear()
    assert "too many" in roomy.wait("twice")[0].error
