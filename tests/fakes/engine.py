"""A fake engine: a real process that speaks the wire protocol and invents its tokens. Every fault has a switch.

Its tokens depend on seed, prompt and position alone, so that a replay gives the same answer. With --script they are that text,
encoded by the checkpoint's tokenizer, and then a stop id.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tokenwell.wire.cache import KvGroup
from tokenwell.wire.channel import EngineChannel, Speaker
from tokenwell.wire.messages import (
    Abort,
    Choice,
    Fatal,
    Generate,
    Heartbeat,
    Output,
    Outputs,
    Ready,
    Shutdown,
    Stats,
    TokenLogprob,
)
from tokenwell.wire.spec import EngineSpec, decode_spec

VOCAB = 400
PLAIN_TOKENS = range(20, 90)  # single printable bytes of the fake checkpoint


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", type=decode_spec, required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="tokens a second for each sequence; 0: as fast as possible")
    parser.add_argument("--script", help="text that every answer consists of")
    parser.add_argument("--burst", type=int, default=1, help="tokens in one output")
    parser.add_argument("--load-s", type=float, default=0.0)
    parser.add_argument("--prefill-s", type=float, default=0.0)
    parser.add_argument("--heartbeat-s", type=float, default=0.1)
    parser.add_argument("--quiet-s", type=float, default=0.0, help="tell that heartbeats may come so much later")
    parser.add_argument("--step-age-s", type=float, default=0.0, help="pretend that a step takes this long")
    parser.add_argument("--die-after", type=int, help="exit after this many tokens")
    parser.add_argument("--freeze-after", type=int, help="SIGSTOP itself after this many tokens")
    parser.add_argument("--error-after", type=int, help="fail each request with an error after this many tokens of it")
    parser.add_argument("--garbage-after", type=int, help="send an unreadable message after this many tokens")
    parser.add_argument("--fatal", choices=("retry", "final"), help="send Fatal instead of Ready")
    parser.add_argument("--once", type=Path, help="faults happen only while this file does not exist; it is made at start")
    parser.add_argument("--diary", type=Path, help="file for one JSON line per thing received")
    parser.add_argument("--max-model-len", type=int, default=512)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    wanted = parser.parse_args()
    if wanted.once is not None:
        if wanted.once.exists():
            wanted.die_after = wanted.freeze_after = wanted.fatal = wanted.garbage_after = None
            wanted.step_age_s = 0.0
        wanted.once.touch()
    return wanted


class Sequence:
    """One request."""

    def __init__(self, request: Generate, wanted: argparse.Namespace, script: list[int]) -> None:
        self.request = request
        self.sent = 0
        self.starts_at = time.monotonic() + wanted.prefill_s
        self._script = script
        self._burst = wanted.burst
        self._error_after = wanted.error_after

    def step(self) -> Output:
        sampling = self.request.sampling
        first = self.sent == 0
        tokens: list[int] = []
        finish = None
        stop_id = None
        while len(tokens) < self._burst and finish is None and sampling.max_tokens:
            token = self._token(self.sent)
            tokens.append(token)
            self.sent += 1
            if token in sampling.stop_ids and self.sent >= sampling.min_tokens:
                finish, stop_id = "stop", token
            elif self.sent >= sampling.max_tokens:
                finish = "length"
        if not sampling.max_tokens:
            finish = "length"
        if self._error_after is not None and self.sent >= self._error_after:
            from tokenwell.wire.errors import RequestError

            return Output(self.request.id, finish="error", error=RequestError("engine_failed", "this request broke the step"))
        prompt_logprobs = None
        if first and sampling.prompt_logprobs is not None:
            prompt_logprobs = [logprob_of(token, sampling.prompt_logprobs) for token in self.request.prompt[1:]]
        return Output(
            self.request.id,
            tokens,
            None if sampling.logprobs is None else [logprob_of(token, sampling.logprobs) for token in tokens],
            prompt_logprobs,
            len(self.request.prompt) // 2 if first else 0,
            finish,
            stop_id,
        )

    def _token(self, position: int) -> int:
        if self._script:
            return self._script[position] if position < len(self._script) else 2
        sampling = self.request.sampling
        return PLAIN_TOKENS[(sampling.seed * 31 + position * 7 + sum(self.request.prompt)) % len(PLAIN_TOKENS)]


def logprob_of(token: int, top: int) -> TokenLogprob:
    """Invented: the token itself is always the likeliest."""
    value = -0.1 - token % 7 / 10
    return TokenLogprob(value, [((token + k) % VOCAB, value - k) for k in range(top)])


def heart(spec: EngineSpec, wanted: argparse.Namespace, stage: list[str]) -> None:
    speaker = Speaker(spec.events)
    while True:
        if spec.parent_pid is not None and os.getppid() != spec.parent_pid:
            os._exit(0)
        speaker.send(Heartbeat(wanted.step_age_s if stage[0] == "serving" else 0.0, stage[0], wanted.quiet_s))
        time.sleep(wanted.heartbeat_s)


class Engine:
    """The loop: receive, one step for everybody, send."""

    def __init__(self, wanted: argparse.Namespace) -> None:
        self.wanted = wanted
        spec = wanted.spec
        self.channel = EngineChannel(spec.commands, spec.events)
        self.script = script_ids(spec, wanted.script)
        self.running: dict[str, Sequence] = {}
        self.tokens = self.steps = self.prompt_tokens = 0
        self.diary = wanted.diary.open("a", buffering=1) if wanted.diary else None

    def note(self, what: str, id: str) -> None:
        if self.diary is not None:
            self.diary.write(json.dumps({"what": what, "id": id, "pid": os.getpid(), "at": time.monotonic()}) + "\n")

    def run(self) -> None:
        interval_s = 1 / self.wanted.rate if self.wanted.rate else 0.0
        next_step = time.monotonic()
        while True:
            now = time.monotonic()
            wait_ms = 1000 if not self.running else max(0, round(1000 * (next_step - now)))
            for message in self.channel.receive(wait_ms):
                if isinstance(message, Generate):
                    self.running[message.id] = Sequence(message, self.wanted, self.script)
                    self.prompt_tokens += len(message.prompt)
                    self.note("generate", message.id)
                elif isinstance(message, Abort):
                    self.running.pop(message.id, None)
                    self.channel.send(Outputs([], self.stats()))  # the gauges must not stay at what they were
                    self.note("abort", message.id)
                elif isinstance(message, Shutdown):
                    self.note("shutdown", "")
                    self.channel.close()
                    return
            if self.running and time.monotonic() >= next_step:
                next_step = time.monotonic() + interval_s
                self.step()

    def step(self) -> None:
        now = time.monotonic()
        due = [sequence for sequence in self.running.values() if sequence.starts_at <= now][: self.wanted.max_num_seqs]
        items = [sequence.step() for sequence in due]
        self.steps += 1
        self.tokens += sum(len(item.tokens) for item in items)
        for item in items:
            if item.finish is not None:
                del self.running[item.id]
        if items:
            self.channel.send(Outputs(items, self.stats()))
        else:
            time.sleep(0.002)
        self.misbehave()

    def misbehave(self) -> None:
        wanted = self.wanted
        if wanted.die_after is not None and self.tokens >= wanted.die_after:
            self.channel.close()
            print("fake engine: dying as asked", file=sys.stderr, flush=True)
            os._exit(3)
        if wanted.freeze_after is not None and self.tokens >= wanted.freeze_after:
            os.kill(os.getpid(), signal.SIGSTOP)
        if wanted.garbage_after is not None and self.tokens >= wanted.garbage_after:
            self.channel._speaker._socket.send(b"\xc1 no msgpack")
            wanted.garbage_after = None

    def stats(self) -> Stats:
        running = len(self.running)
        return Stats(
            steps=self.steps,
            running=running,
            waiting=0,
            pages_total=1000,
            pages_active=running * 4,
            pages_cached=10,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.prompt_tokens // 2,
            generated_tokens=self.tokens,
            step_seconds=0.0015 * self.steps,
            model_seconds=0.001 * self.steps,
        )


def script_ids(spec: EngineSpec, text: str | None) -> list[int]:
    if text is None:
        return []
    from tokenizers import Tokenizer

    ids: list[int] = Tokenizer.from_file(str(Path(spec.checkpoint) / "tokenizer.json")).encode(text).ids
    return ids


def main() -> None:
    wanted = options()
    spec = wanted.spec
    stage = ["loading"]
    threading.Thread(target=heart, args=(spec, wanted, stage), daemon=True).start()
    engine = Engine(wanted)
    print("fake engine: started", file=sys.stderr, flush=True)
    time.sleep(wanted.load_s)
    if wanted.fatal is not None:
        engine.channel.send(Fatal("the checkpoint is broken: model.safetensors is truncated", wanted.fatal == "retry"))
        engine.channel.close()
        sys.exit(1)
    stage[0] = "serving"
    group = KvGroup("full", (0, 1), 2, 16, None, 256, 16)
    choices = [Choice("attention", "fake", "there is no other")]
    engine.channel.send(
        Ready("FakeForCausalLM", "cpu", "float32", VOCAB, wanted.max_model_len, wanted.max_num_seqs, 512, 1000, 4096, 1000,
              (group,), 0.1, choices)
    )  # fmt: skip
    engine.run()


if __name__ == "__main__":
    main()
