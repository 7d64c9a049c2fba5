"""Which sequences compute which tokens in the next step, and what a step's result means for them.

Owns the queue, the rows, the token budget and the counters. Does not know time, devices, text, or how pages are found
(`blocks` does). add() and abort() may come at any moment.

A step serves decoding rows first (one token each); rows with more to compute take turns for what is left of the budget
(`shares`), new ones included. It is longer than usual where nobody waits for a token. Who finds no page makes the youngest row
wait: it gives everything back and later computes again what the cache has not kept.

schedule() and apply() alternate, or one more schedule() comes before the apply() of the step before, so that a device finds
its next step ready. What runs then counts as computed: every token that it computes is known by now, and the device executes
steps in the order of their plans, so pages may be offered, given back and handed out as if it were done. A row that waits for
its sampled token is planned for that token too (pending). If the token turns out to be its last, the row is stale in the plan
that is out already: its result there is ignored, and what it writes there does no harm to pages given back meanwhile. For it
writes one position behind all that was computed, so behind all that was offered, into a page that it alone held: copies of
that page are of plans that come later and of the positions before; and a page that is taken again is overwritten by plans
that come later, position by position before anybody reads it.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections import deque
from operator import attrgetter

from tokenwell.engine.schedule.blocks import Blocks
from tokenwell.engine.schedule.flight import Flight, answer
from tokenwell.engine.schedule.plan import AddRow, RunRow, StepPlan, StepResult
from tokenwell.engine.schedule.prefix import Hit, common_tokens
from tokenwell.engine.schedule.sequence import Sequence, Status
from tokenwell.engine.schedule.shares import Turns
from tokenwell.wire.cache import KvGroup, longest_sequence
from tokenwell.wire.errors import CapacityError, RequestError
from tokenwell.wire.messages import Generate, Output, Stats

# A sequence is admitted when it and all running ones can grow this much, so that it is not preempted a few steps later.
HEADROOM_TOKENS = 64
# A waiting sequence lets an older one that is computing the same prefix go ahead if that saves at least this much.
WORTH_WAITING_TOKENS = 64

_arrival = attrgetter("arrival")


class Scheduler:
    """Continuous batching over a paged cache: add, abort, schedule, apply."""

    def __init__(
        self,
        groups: tuple[KvGroup, ...],
        num_pages: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        prefix_cache: bool = True,
        max_num_mixed_tokens: int | None = None,
    ) -> None:
        """`num_pages` counts page 0. `max_num_mixed_tokens`: of a step in which rows decode; None: as many as of others.

        Raises CapacityError if one sequence of `max_model_len` tokens does not fit.
        """
        if not groups or min(max_num_seqs, max_num_batched_tokens, max_model_len) < 1:
            raise ValueError("a scheduler needs a group, a row, a token a step and a token a sequence at least")
        fits = longest_sequence(num_pages, max_num_batched_tokens, max_model_len, groups)
        if fits < max_model_len:
            raise CapacityError(
                f"max_model_len is {max_model_len} tokens, but {num_pages - 1} KV pages hold one sequence of {fits}: "
                "lower max_model_len or max_num_batched_tokens, or give the KV cache more memory"
            )
        self._blocks = Blocks(groups, num_pages, max_num_batched_tokens, prefix_cache)
        self._longest = max_num_batched_tokens
        self._budget = min(max_num_mixed_tokens or max_num_batched_tokens, max_num_batched_tokens)
        self.most_beside = self._longest  # prompt tokens of a step in which rows decode, at most; may be changed between steps
        self._max_model_len = max_model_len
        self._prefix_cache = prefix_cache
        self._worth_waiting = max(WORTH_WAITING_TOKENS, *(2 * group.page_tokens for group in groups))
        self._nothing_appended: tuple[tuple[int, ...], ...] = ((),) * len(groups)

        self._sequences: dict[str, Sequence] = {}  # waiting and running
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # oldest first
        self._rows = list(range(max_num_seqs - 1, -1, -1))  # free ones
        self._num_rows = max_num_seqs
        self._drops: list[int] = []  # rows that the devices still know
        self._flights: deque[Flight] = deque()  # at most two, oldest first
        self._turns: Turns[Sequence] = Turns()
        self._blocked: Sequence | None = None  # found too few pages; pointless to try again before some are given back

        self._steps = self._arrivals = self._preemptions = 0
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0

    # ------------------------------------------------------------ requests come and go

    def add(self, request: Generate) -> Output | None:
        """Queue a request. An Output (finish "error") tells why it can never run."""
        if request.id in self._sequences:
            return _refused(request, "invalid_request", f"a request with id {request.id!r} is in progress; use a new id")
        if not request.prompt:
            return _refused(request, "invalid_request", "the prompt is empty; send at least one token")
        if request.sampling.max_tokens < 0:
            return _refused(request, "invalid_request", f"max_tokens is {request.sampling.max_tokens}; send 0 or more")
        length = len(request.prompt)
        if length > self._max_model_len:
            message = (
                f"This model's maximum context length is {self._max_model_len} tokens. However, your prompt has "
                f"{length} tokens. Please reduce the length of the prompt."
            )
            return _refused(request, "context_length_exceeded", message)
        try:
            tokens = array("I", request.prompt)
        except (OverflowError, TypeError):
            return _refused(request, "invalid_request", "the prompt contains something that cannot be a token id")
        wants_prompt = request.sampling.prompt_logprobs is not None
        seq = Sequence(
            id=request.id,
            sampling=request.sampling,
            arrival=self._arrivals,
            tokens=tokens,
            prompt_tokens=length,
            limit=min(length + request.sampling.max_tokens, self._max_model_len),
            prompt_logprobs=[] if wants_prompt else None,
        )
        self._arrivals += 1
        self._sequences[seq.id] = seq
        self._waiting.append(seq)
        return None

    def abort(self, id: str) -> bool:
        """Forget a request; its pages are free at once, a result still to come is ignored. False: no such request."""
        seq = self._sequences.pop(id, None)
        if seq is None:
            return False
        self._end(seq)
        return True

    def _end(self, seq: Sequence) -> None:
        if seq.status is Status.RUNNING:
            self._leave(seq)
        elif seq.status is Status.WAITING:
            self._waiting.remove(seq)
        seq.status = Status.ENDED

    def _leave(self, seq: Sequence) -> None:
        self._running.remove(seq)
        self._blocks.release(seq)
        self._drops.append(seq.row)
        self._rows.append(seq.row)
        self._blocked = None

    def _preempt(self, seq: Sequence) -> None:
        self._leave(seq)
        seq.status, seq.computed = Status.WAITING, 0
        if seq.prompt_logprobs is not None and not seq.pending:
            seq.prompt_logprobs.clear()  # every prompt position is computed again
        self._waiting.appendleft(seq)
        self._preemptions += 1

    # ------------------------------------------------------------ before a step

    def schedule(self) -> StepPlan | None:
        """The next step; None if no sequence waits or runs.

        Rows that ended are dropped by the next plan that runs something: until then a device's record of them is not read.
        """
        if self._flights:
            if len(self._flights) > 1:
                raise RuntimeError(f"schedule() came again before apply() of step {self._flights[0].step}")
            self._foresee(self._flights[0])
        prefilling = [seq for seq in self._running if len(seq.tokens) + seq.pending - seq.computed > 1]
        decoding = len(self._running) - len(prefilling)
        budget = self._budget - decoding
        if decoding:
            budget = min(budget, self.most_beside)
        added, copies = self._admit(prefilling, budget)
        if not self._running:
            return None
        prefilling.sort(key=_arrival)
        rows: list[tuple[Sequence, RunRow]] = []
        while not rows:  # whose turn it was may have had to go for want of pages
            wanted = {seq: seq.todo() for seq in prefilling if seq.status is Status.RUNNING}
            rows = self._take_pages(self._turns.take(wanted, budget, budget if decoding else self._longest))
        self._blocks.settle()
        self._steps += 1
        self._flights.append(Flight(self._steps, rows))
        drops, self._drops = self._drops, []
        run = tuple([row for _, row in rows])
        return StepPlan(self._steps, tuple(drops), tuple(copies), tuple(added), run)

    def _foresee(self, flight: Flight) -> None:
        """Count the step that the device still runs as computed; tokens that it samples are pending, or known to be the last."""
        if flight.advanced:
            return
        self._advance(flight)
        for seq, _ in flight.rows:
            if seq.computed == len(seq.tokens) and seq.status is Status.RUNNING:
                if seq.computed + 1 < seq.limit:
                    seq.pending = 1
                else:
                    self._leave(seq)
                    seq.status = Status.CLOSING

    def _advance(self, flight: Flight) -> None:
        """Count a step's tokens as computed."""
        flight.advanced = True
        for seq, run in flight.rows:
            if seq.status is not Status.RUNNING:
                continue  # aborted, or ended by the step before
            seq.computed += run.count
            if seq.computed >= seq.mark:
                self._blocks.advance(seq)
            if run.count > 1 and seq.todo() <= 1:
                self._blocked = None  # from now on this row needs fewer pages of sliding groups

    def _admit(self, prefilling: list[Sequence], budget: int) -> tuple[list[AddRow], list[tuple[int, int]]]:
        """Move sequences from the queue to free rows; they join `prefilling`, of which there are no more than a step's tokens."""
        added: list[AddRow] = []
        copies: list[tuple[int, int]] = []
        owed: int | None = None  # pages that running rows still need: an admission must not cost a row its place
        place = 0
        while place < len(self._waiting) and self._rows and len(prefilling) < budget:
            seq = self._waiting[place]
            if seq is self._blocked:
                break
            if self._follows(seq):
                place += 1
                continue
            hit = self._blocks.find(seq)
            if self._find_leader(seq, hit):
                place += 1
                continue
            if owed is None:
                owed = sum(self._blocks.owed(other, self._foreseen(other)) for other in self._running)
            affordable = self._affordable_hit(seq, hit, self._blocks.pool.available - owed)
            if affordable is None:
                self._blocked = seq
                break
            del self._waiting[place]
            copies += self._blocks.admit(seq, affordable)
            added.append(self._start(seq))
            prefilling.append(seq)
            owed += self._blocks.owed(seq, self._foreseen(seq))
        return added, copies

    def _affordable_hit(self, seq: Sequence, hit: Hit, available: int) -> Hit | None:
        """The hit, or a shorter one that copies no page, if so many pages take `seq` to the end of what is known of it.

        A sequence alone always fits: nothing else is held, and the constructor saw to the rest.
        """
        if self._blocks.cost(seq, hit, self._foreseen(seq)) <= available:
            return hit
        hit = self._blocks.find(seq, whole=True)
        return hit if self._blocks.cost(seq, hit, self._foreseen(seq)) <= available else None

    def _foreseen(self, seq: Sequence) -> int:
        return min(seq.length + HEADROOM_TOKENS, seq.limit)

    def _start(self, seq: Sequence) -> AddRow:
        if seq.cached is None:
            seq.cached = seq.computed
            self._prompt_tokens += seq.prompt_tokens
            self._cached_tokens += seq.cached
        seq.status, seq.row, seq.leader = Status.RUNNING, self._rows.pop(), None
        insort(self._running, seq, key=_arrival)
        tables = tuple([tuple(table.pages) for table in seq.tables])
        return AddRow(seq.row, seq.tokens.tolist(), seq.prompt_tokens, seq.sampling, tables)

    def _follows(self, seq: Sequence) -> bool:
        """Whether `seq` still does better to wait for its leader's pages than to compute the same beside it."""
        leader = seq.leader
        if leader is None or leader.status is not Status.RUNNING:
            return False
        return leader.computed + self._worth_waiting <= seq.shared

    def _find_leader(self, seq: Sequence, hit: Hit) -> bool:
        """Whether an older row is about to compute much of what `seq` needs (for example the same prompt, n times).

        Only older ones count, so nobody waits for ever.
        """
        if not self._prefix_cache or seq.prompt_logprobs is not None:
            return False
        first = seq.tokens[0]
        for other in self._running:
            if other.tokens[0] != first or other.arrival > seq.arrival:
                continue
            ahead = max(hit.tokens, other.computed) + self._worth_waiting
            if min(len(other.tokens), len(seq.tokens) - 1) < ahead or other.tokens[ahead - 1] != seq.tokens[ahead - 1]:
                continue
            shared = min(common_tokens(seq.tokens.tobytes(), other.tokens.tobytes()), len(seq.tokens) - 1)
            if shared >= ahead:
                seq.leader, seq.shared = other, shared
                return True
        return False

    def _take_pages(self, counts: dict[Sequence, int]) -> list[tuple[Sequence, RunRow]]:
        """Pages for the rows that compute, oldest first: whoever has to give way has not been given any yet.

        `counts`: tokens for those who have more than one to compute, none for those whose turn comes later.
        """
        run: list[tuple[Sequence, RunRow]] = []
        place = 0
        while place < len(self._running):
            seq = self._running[place]
            place += 1
            count = counts.get(seq, 1) if counts else 1
            if not count:
                continue
            start, pages = seq.computed, self._nothing_appended
            if start + count > seq.capacity:
                count = self._make_room(seq, count)
                if not count:
                    break  # it was the youngest
                pages = self._blocks.grow(seq, count)
            end, known = start + count, len(seq.tokens)
            sample = end == known + seq.pending and end < seq.limit
            run.append((seq, RunRow(seq.row, start, count, pages, sample, start == known)))
        return run

    def _make_room(self, seq: Sequence, count: int) -> int:
        """Preempt the youngest rows until at least one token of `seq` has pages; how many have, 0 if `seq` had to go."""
        while not (affordable := self._blocks.affordable(seq, count)):
            youngest = self._running[-1]
            assert len(self._running) > 1, "one sequence alone does not fit, although the constructor checked that"
            self._preempt(youngest)
            if youngest is seq:
                return 0
        return affordable

    # ------------------------------------------------------------ after a step

    def apply(self, result: StepResult) -> list[Output]:
        """Book a step's result. Returns one Output for every row that got a token, prompt logprobs, or its end.

        Raises ValueError if the result is not that of the oldest plan in flight.
        """
        if not self._flights:
            raise ValueError(f"result of step {result.step}, but no step is in flight (or it was applied)")
        flight = self._flights[0]
        sampled = flight.match(result)
        self._flights.popleft()
        if not flight.advanced:
            self._advance(flight)
        outputs = []
        for seq, run in flight.rows:
            if seq.status is Status.ENDED:
                continue  # aborted meanwhile, or stale
            whole = run.start + run.count == len(seq.tokens)
            if seq.status is Status.WAITING and not whole:
                continue  # preempted amid its prompt
            if seq.prompt_logprobs is not None:
                seq.prompt_logprobs += result.prompt_logprobs.get(run.row, ())
            if whole:
                outputs.append(output := answer(seq, sampled.get(run.row)))
                self._generated_tokens += len(output.tokens)
                if output.finish is not None:
                    self._end(seq)
                    del self._sequences[seq.id]
        return outputs

    # ------------------------------------------------------------ looking in

    @property
    def idle(self) -> bool:
        """No sequence waits or runs."""
        return not self._sequences

    def stats(self) -> Stats:
        """Gauges and totals; the times are the loop's to fill in."""
        pool = self._blocks.pool
        return Stats(
            steps=self._steps,
            running=len(self._running),
            waiting=len(self._waiting),
            pages_total=pool.total,
            pages_active=pool.total - pool.available,
            pages_cached=pool.cached,
            preemptions=self._preemptions,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
        )

    def check(self) -> None:
        """Assert every invariant; meant for tests and for an idle engine (it visits all pages)."""
        self._blocks.check(self._running)
        assert all(seq.status is Status.WAITING and not seq.tables for seq in self._waiting), "a waiting sequence holds pages"
        assert all(seq.status is Status.RUNNING for seq in self._running), "a row is not running"
        closing = [seq for flight in self._flights for seq, _ in flight.rows if seq.status is Status.CLOSING]
        places = [*self._waiting, *self._running, *closing]
        assert self._sequences.keys() == {seq.id for seq in places}, "a sequence is lost"
        assert len(self._sequences) == len(places), "a sequence is in two places"
        assert self._running == sorted(self._running, key=_arrival), "rows are out of order"
        rows = [*self._rows, *(seq.row for seq in self._running)]
        assert sorted(rows) == list(range(self._num_rows)), "a row is lost or used twice"
        for seq in self._running:
            assert 0 <= seq.computed < seq.length <= self._max_model_len, f"{seq.id}: {seq.computed} of {seq.length}"


def _refused(request: Generate, code: str, message: str) -> Output:
    return Output(id=request.id, finish="error", error=RequestError(code, message))
