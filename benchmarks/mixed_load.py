"""Does anything leak, fail or stall under hours of mixed work? 5,000 requests of 1 to 16,384 tokens through an engine in this
process: prompts that continue earlier ones, aborts, stop ids, all kinds of sampling, as many at once as --clients says.

Lengths are log-uniform, so that short and long ones are equally at home. TPOT is a request's mean time between its tokens, of
requests with at least --tokens-for-tpot of them. What an engine prepares in idle moments is prepared before. Requests come in
quarters: all of one are answered before the next begins, and memory is counted in between, when the engine is idle. Living
tensors must stay the same; what allocators and the process hold may wander a little. Prints one JSON line; the ratio is the
allowed p99 of TPOT (5 medians) over the p99.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.cases import SMALL, add_options, chosen  # noqa: E402
from benchmarks.gpu.engine import Engine  # noqa: E402
from tokenwell.engine.load import scheduler_for  # noqa: E402
from tokenwell.engine.loop import Loop  # noqa: E402
from tokenwell.wire.channel import EngineChannel  # noqa: E402
from tokenwell.wire.messages import Abort, Generate, Message, Outputs, Shutdown, Stats, ToEngine  # noqa: E402
from tokenwell.wire.sampling import Sampling  # noqa: E402

ALLOWED = 5.0  # p99 of TPOT in medians
_QUARTERS = 4
# Growth from the end of the first quarter to the end. The last rows' token counts live until the next step: some 100 kB each.
_LEAKS_MB = {"tensors": 4.0, "allocator": 256.0, "card": 256.0, "host": 64.0}
_REMEMBERED = 64  # texts that later prompts may continue


@dataclass
class Asked:
    """One request under way."""

    request: Generate
    abort_at: int | None  # leave after so many tokens
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


@dataclass
class Noted:
    """Memory of an idle engine, in MB."""

    tensors: float  # living ones on the card
    allocator: float  # what torch keeps of the card for them
    card: float  # in use on the card, whoever uses it
    host: float  # resident in this process


class Pulse:
    """Nobody listens."""

    step_started: float | None = None


class Clients(EngineChannel):
    """The other end of the engine's channel: keeps a number of requests open, leaves some, and checks every answer."""

    def __init__(self, options: argparse.Namespace, engine: Engine) -> None:
        self._options = options
        self._device = engine.worker.device
        self._vocabulary = engine.ready.vocab_size
        self._window = engine.ready.max_model_len
        self._chance = random.Random(options.seed)
        self._texts: deque[list[int]] = deque([[]], maxlen=_REMEMBERED)
        self._leaving: list[str] = []
        self._open: dict[str, Asked] = {}
        self.asked = self.ended = self.aborted = self.stopped = 0
        self.tpot: list[float] = []
        self.gaps: list[float] = []  # between tokens, of a sample of requests
        self.complaints: list[str] = []
        self.stats = Stats()
        self.noted: list[Noted] = []  # by quarter
        self._sent = self._told = time.perf_counter()
        self._longest_gap = 0.0

    def receive(self, timeout_ms: int) -> Iterator[ToEngine]:
        for id in self._leaving:
            yield Abort(id)
        self._leaving.clear()
        if not self._open and timeout_ms > 1 and self.asked == self._due():
            self.noted.append(memory(self._device))
            if len(self.noted) == _QUARTERS:
                yield Shutdown()
        while len(self._open) < self._options.clients and self.asked < self._due():
            asked = self._ask()
            self._open[asked.request.id] = asked
            yield asked.request
            if asked.abort_at == 0:
                self._leave(asked.request.id)

    def _due(self) -> int:
        """Requests to ask until the quarter in progress is over."""
        return int(self._options.requests * min(len(self.noted) + 1, _QUARTERS) // _QUARTERS)

    def send(self, message: Message) -> None:
        assert isinstance(message, Outputs)
        now = time.perf_counter()
        self.stats = message.stats
        self._longest_gap, self._sent = max(self._longest_gap, now - self._sent), now
        if now - self._told > self._options.progress:
            self._tell(now)
        for output in message.items:
            asked = self._open.get(output.id)
            if asked is None:
                continue  # left meanwhile
            asked.tokens += output.tokens
            asked.times += [now] * len(output.tokens)
            if output.finish is not None:
                self._end(asked, output.finish, output.stop_id)
            elif asked.abort_at is not None and len(asked.tokens) >= asked.abort_at:
                self._leave(output.id)

    def _tell(self, now: float) -> None:
        stats, done = self.stats, self.ended + self.aborted
        figures = f"{stats.steps} steps, longest {self._longest_gap:.2f} s, {stats.generated_tokens} tokens, {stats.running} rows"
        print(f"{done} of {self._options.requests} requests, {figures}", file=sys.stderr, flush=True)
        self._told, self._longest_gap = now, 0.0

    def _length(self, shortest: int, longest: int) -> int:
        """Log-uniform."""
        return min(longest, int(math.exp(self._chance.uniform(math.log(shortest), math.log(longest + 1)))))

    def _ask(self) -> Asked:
        chance = self._chance
        tokens = self._length(1, min(self._options.most_tokens, self._window - 1))
        length = self._length(1, min(self._options.longest, self._window) - tokens)
        text = chance.choice(self._texts) if chance.random() < self._options.shared else []
        prompt = text[: chance.choice([len(text), chance.randint(0, len(text))])][: length - 1]
        prompt = prompt + chance.choices(range(self._vocabulary), k=length - len(prompt))
        ending = chance.random() < 0.1
        sampling = Sampling(
            temperature=chance.choice([0.0, 0.6, 1.0]),
            top_p=chance.choice([1.0, 1.0, 0.9]),
            top_k=chance.choice([0, 0, 50]),
            seed=self.asked,
            max_tokens=tokens,
            # Random weights hardly ever choose a given token: with a bias it comes about once in a hundred.
            stop_ids=(7,) if ending else (),
            logit_bias={7: math.log(self._vocabulary / 100)} if ending else {},
            presence_penalty=0.5 if chance.random() < 0.05 else 0.0,
            logprobs=2 if chance.random() < 0.05 else None,
        )
        self.asked += 1
        leaves = chance.random() < self._options.aborts
        return Asked(Generate(str(self.asked), prompt, sampling), chance.randint(0, tokens) if leaves else None)

    def _leave(self, id: str) -> None:
        del self._open[id]
        self._leaving.append(id)
        self.aborted += 1

    def _end(self, asked: Asked, finish: str, stop_id: int | None) -> None:
        request = asked.request
        del self._open[request.id]
        self.ended += 1
        self.stopped += finish == "stop"
        whole = finish == "length" and len(asked.tokens) == request.sampling.max_tokens
        if not whole and not (finish == "stop" and asked.tokens[-1] == stop_id and stop_id in request.sampling.stop_ids):
            self.complaints.append(f"request {request.id}: {finish} after {len(asked.tokens)} tokens")
        if len(asked.times) >= self._options.tokens_for_tpot:
            self.tpot.append(1000 * (asked.times[-1] - asked.times[0]) / (len(asked.times) - 1))
        if self.ended % 8 == 0:
            self.gaps += [1000 * (after - before) for before, after in zip(asked.times, asked.times[1:], strict=False)]
        self._texts.append(request.prompt + asked.tokens)


def memory(device: torch.device) -> Noted:
    """What is held now."""
    gc.collect()
    resident = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    tensors = allocator = card = 0
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
        tensors, allocator = torch.accelerator.memory_allocated(device), torch.accelerator.memory_reserved(device)
        free, whole = torch.accelerator.get_memory_info(device)
        card = whole - free
    return Noted(tensors / 2**20, allocator / 2**20, card / 2**20, int(resident.split()[1]) / 1024)


def percentile(values: list[float], share: float) -> float:
    """The value below which so many lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else math.nan


def main(arguments: list[str] | None = None) -> dict[str, object]:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=96, help="requests that are open at once")
    parser.add_argument("--longest", type=int, default=16_384, help="tokens of prompt and output together")
    parser.add_argument("--most-tokens", type=int, default=1024, help="tokens to generate at most")
    parser.add_argument("--tokens-for-tpot", type=int, default=16)
    parser.add_argument("--shared", type=float, default=0.5, help="share of prompts that continue an earlier text")
    parser.add_argument("--aborts", type=float, default=0.1, help="share of requests that are left")
    parser.add_argument("--kv-cache-gib", type=float, default=None, help="less of it makes rows give way to others")
    parser.add_argument("--max-num-batched-tokens", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", type=float, default=10.0, help="seconds between two lines about it on stderr")
    options = parser.parse_args(arguments)
    case = chosen(options, (SMALL,))[0]
    engine = Engine(
        case.spec(
            options.device, max_num_seqs=max(8, options.clients * 3 // 4), max_model_len=options.longest,
            kv_cache_gib=options.kv_cache_gib, max_num_batched_tokens=options.max_num_batched_tokens,
        )
    )  # fmt: skip
    engine.worker.forget_rows()
    while engine.worker.prepare():
        pass
    clients = Clients(options, engine)
    scheduler = scheduler_for(engine.ready, prefix_cache=True)
    before, started = memory(engine.worker.device), time.perf_counter()
    Loop(clients, scheduler, engine.worker, engine.ready.vocab_size, Pulse()).run()  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    scheduler.check()
    stats = scheduler.stats()
    median, p99 = statistics.median(clients.tpot), percentile(clients.tpot, 0.99)
    grown = {what: getattr(clients.noted[-1], what) - getattr(clients.noted[0], what) for what in _LEAKS_MB}
    passes = {
        "no_error": not clients.complaints,
        "all_answered": clients.ended + clients.aborted == options.requests,
        "pages": stats.pages_active == stats.running == stats.waiting == 0,
        "memory": all(grown[what] <= allowed for what, allowed in _LEAKS_MB.items()),
        "tpot": p99 <= ALLOWED * median,
    }
    line: dict[str, object] = {
        "benchmark": "mixed_load", "model": case.name, "requests": options.requests, "ended": clients.ended,
        "stopped": clients.stopped, "aborted": clients.aborted, "clients": options.clients, "seconds": round(seconds, 1),
        "steps": stats.steps, "prompt_tokens": stats.prompt_tokens, "cached_tokens": stats.cached_tokens,
        "generated_tokens": stats.generated_tokens, "preemptions": stats.preemptions, "pages": stats.pages_total,
        "pages_cached": stats.pages_cached, "tpot_median_ms": round(median, 2), "tpot_p99_ms": round(p99, 2),
        "gap_median_ms": round(percentile(clients.gaps, 0.5), 2), "gap_p99_ms": round(percentile(clients.gaps, 0.99), 2),
        "memory_mb": {what: [round(getattr(noted, what), 2) for noted in (before, *clients.noted)] for what in _LEAKS_MB},
        "passes": passes, "complaints": clients.complaints[:5], "device": engine.ready.device,
        "ratio": round(ALLOWED * median / p99, 2),
    }  # fmt: skip
    print(json.dumps(line), flush=True)
    return line


if __name__ == "__main__":
    sys.exit(not all(main()["passes"].values()))  # type: ignore[attr-defined]
