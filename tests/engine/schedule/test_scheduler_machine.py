"""The scheduler against a device that checks everything it is told: random groups, pools, budgets, requests and aborts.

Steps are planned with nothing or one step in flight, at random. The device executes late and keeps what every slot of every
page holds, so a stale row's write that damaged anything would be seen by whoever reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.engine.schedule.device import VOCABULARY, Device, continuation, group, prompt_logprob

from tokenwell.engine.schedule.scheduler import Scheduler
from tokenwell.wire.cache import KvGroup, sequence_pages
from tokenwell.wire.messages import Generate, Output
from tokenwell.wire.sampling import Sampling

kv_groups = st.builds(group, st.sampled_from([1, 2, 3, 4, 8]), st.none() | st.integers(1, 20))
samplings = st.builds(
    Sampling,
    max_tokens=st.integers(0, 30),
    min_tokens=st.sampled_from([0, 0, 3]),
    stop_ids=st.sampled_from([(), (0,), (1, 3)]),
    logprobs=st.sampled_from([None, None, 2]),
    prompt_logprobs=st.sampled_from([None, None, None, 0]),
    grammar=st.sampled_from([None, None, None, "ends 1", "ends 7", "over 1", "over 5", "breaks 4", "fails 3"]),
)


@dataclass
class Asked:
    """What a request wants and what has come of it."""

    request: Generate
    tokens: list[int] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)


class SchedulerMachine(RuleBasedStateMachine):
    """Clients that come, go and read, a loop that steps, and a device that executes."""

    @initialize(
        max_model_len=st.sampled_from([1, 12, 40, 40, 160]),
        groups=st.lists(kv_groups, min_size=1, max_size=3).map(tuple),
        spare=st.sampled_from([0, 0, 1, 3, 10, 60]),
        max_num_seqs=st.integers(1, 5),
        budget=st.sampled_from([1, 2, 3, 5, 16, 64]),
        mixed=st.sampled_from([None, None, 1, 5, 16, 64]),
        prefix_cache=st.sampled_from([True, True, True, False]),
    )
    def start(
        self,
        max_model_len: int,
        groups: tuple[KvGroup, ...],
        spare: int,
        max_num_seqs: int,
        budget: int,
        mixed: int | None,
        prefix_cache: bool,
    ) -> None:
        num_pages = sequence_pages(max_model_len, budget, groups) + 1 + spare
        self.scheduler = Scheduler(groups, num_pages, max_num_seqs, budget, max_model_len, prefix_cache, mixed)
        self.max_model_len = max_model_len
        self.device = Device(groups, num_pages, max_num_seqs, budget)
        self.max_num_seqs = max_num_seqs
        self.asked: dict[str, Asked] = {}
        self.texts: list[list[int]] = [[]]  # everything that was ever said: later prompts continue it
        self.count = 0

    @rule(
        data=st.data(),
        own=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=25),
        repeat=st.sampled_from([1, 1, 5]),
        sampling=samplings,
        twins=st.sampled_from([1, 1, 1, 3]),
    )
    def add(self, data: st.DataObject, own: list[int], repeat: int, sampling: Sampling, twins: int) -> None:
        text = data.draw(st.sampled_from(self.texts))
        cut = data.draw(st.integers(0, len(text)))
        prompt = (text[:cut] + own * repeat)[: self.max_model_len]
        for _ in range(twins):
            self.count += 1
            request = Generate(f"r{self.count}", prompt, sampling)
            assert self.scheduler.add(request) is None
            self.asked[request.id] = Asked(request)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.asked)))
        del self.asked[id]
        assert self.scheduler.abort(id)
        assert not self.scheduler.abort(id)

    @rule(steps=st.integers(1, 6))
    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.launch()
            if self.device.queue:
                self.collect()

    @rule(steps=st.integers(1, 12))
    def overlap(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    @precondition(lambda self: len(self.device.queue) < 2)
    @rule()
    def launch(self) -> None:
        if len(self.device.queue) > 1:
            return
        quiet = not self.device.queue
        plan = self.scheduler.schedule()
        self.scheduler.check()
        if quiet:
            assert (plan is None) == (not self.asked), "nothing to do exactly when nobody waits for anything"
        if plan is not None:
            self.device.launch(plan)

    @precondition(lambda self: self.device.queue)
    @rule()
    def collect(self) -> None:
        self.read(self.scheduler.apply(self.device.collect()))
        self.scheduler.check()

    @precondition(lambda self: len(self.device.queue) > 1)
    @rule()
    def plan_too_early(self) -> None:
        with pytest.raises(RuntimeError, match="before apply"):
            self.scheduler.schedule()

    def step(self) -> None:
        """As a loop does it: the result of the step before is read when the next step is under way."""
        before = len(self.device.queue)
        self.launch()
        if len(self.device.queue) > 1 or len(self.device.queue) == before > 0:
            self.collect()

    def read(self, outputs: list[Output]) -> None:
        assert len({output.id for output in outputs}) == len(outputs)
        for output in outputs:
            asked = self.asked[output.id]
            asked.outputs.append(output)
            asked.tokens += output.tokens
            if output.finish is not None:
                self.finished(asked)
                del self.asked[output.id]

    def finished(self, asked: Asked) -> None:
        prompt, sampling = asked.request.prompt, asked.request.sampling
        tokens, finish, stop_id = continuation(prompt, sampling, self.max_model_len)
        assert asked.tokens == tokens
        last = asked.outputs[-1]
        assert (last.finish, last.stop_id) == (finish, stop_id)
        assert (last.error is None) == (finish != "error")
        lengths = [len(output.tokens) for output in asked.outputs]
        assert lengths in ([1] * len(tokens), [1] * len(tokens) + [0])
        assert lengths[-1] or sampling.max_tokens == 0 or sampling.grammar or len(prompt) == self.max_model_len
        assert all(output.cached_tokens == 0 for output in asked.outputs[1:])
        assert 0 <= asked.outputs[0].cached_tokens < len(prompt)
        if sampling.logprobs is not None:
            places = range(len(prompt), len(prompt) + len(tokens))
            assert [item.logprob for output in asked.outputs for item in output.logprobs or []] == [-float(i) for i in places]
        got = [output.prompt_logprobs for output in asked.outputs]
        if sampling.prompt_logprobs is not None:
            assert asked.outputs[0].cached_tokens == 0
            assert got[0] == [prompt_logprob(at, prompt[at]) for at in range(1, len(prompt))]
            assert not any(got[1:])
        else:
            assert not any(got)
        self.texts.append(prompt + tokens)

    @invariant()
    def consistent(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.check()
        stats = self.scheduler.stats()
        assert stats.running <= self.max_num_seqs
        assert stats.running + stats.waiting <= len(self.asked)
        if not self.device.queue:
            assert stats.running + stats.waiting == len(self.asked)
        assert stats.pages_active + stats.pages_cached <= stats.pages_total
        assert self.scheduler.idle == (not self.asked)
        if not stats.running:
            assert stats.pages_active == 0

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        bound = self.device.steps + 200 * self.max_model_len * (len(self.asked) + 1)
        while self.asked or self.device.queue:
            assert self.device.steps < bound, "some sequence never ends"
            self.step()
        assert self.scheduler.schedule() is None
        self.consistent()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
