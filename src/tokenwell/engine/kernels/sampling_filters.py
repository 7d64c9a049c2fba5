"""Which tokens top_k, top_p and min_p leave, without sorting the vocabulary.

A token's depth is how far its logit lies below the row's best, in units of the temperature: its weight is exp(-depth). What
each filter leaves is the beginning of the tokens in order of depth, so all of them together leave the tokens above one depth,
the cut, and of those at the cut the ones with the lowest ids. Depths are fixed-point integers, finer than the weights'
rounding in float32: equal depths are equally likely tokens. Each row narrows an interval of depths that must hold the cut:

    narrow   (twice) one program a row and chunk: how many tokens of the interval are in each of some bins. top_k counts tokens;
             for top_p the numbers give bounds of the weight down to a bin, as the weight above the interval and that down to
             its end are known
    gather   the few tokens that are still in question become a list
    cut      one program a row: bisects the list to the one depth

A row whose interval is already small does nothing in between. With a top_k the interval begins at the best token, as top_p
then measures in what top_k leaves. An interval that stays large (thousands of equal tokens, a top_k of thousands with a top_p)
is bisected by reading the row itself: slower, and as exact. Tokens exp(-30) times as likely as the best are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from tokenwell.engine.kernels.sampling import (
    BINS,
    CHUNK,
    COLUMNS,
    HEAT,
    MIN_P,
    ROUNDS,
    TOP_K,
    TOP_P,
    best_of_row,
    depths,
    load_chunk,
    unit,
    weigh,
    weight_at,
)
from tokenwell.engine.platform import accelerator

if TYPE_CHECKING:
    from tokenwell.engine.kernels.sampling import Survey

LISTED = 2048  # tokens in question that are listed
CUT_WARPS = 4

_FIELDS = 5
_COLUMNS = tl.constexpr(COLUMNS)
_STATE = tl.constexpr(_FIELDS)
_DEEPEST = tl.constexpr(30.0)  # the depth of the last tokens that count
_UNIT = tl.constexpr(67108864.0)  # 2^26: fixed-point numbers in one unit of depth
_ALL = tl.constexpr(1 << 30)  # more tokens than any vocabulary has
_SHARES = tl.constexpr(1099511627776.0)  # 2^40: shares in a weight of 1; a list's are less than 2^63
_SLACK = tl.constexpr(1e-5)  # relative; more than the rounding of any sum of weights


@triton.jit
def _load_state(at):  # type: ignore[no-untyped-def]
    """begin, end: tokens of begin <= depth < end are in question, `count` of them; `above` lie above; keep: what top_k leaves,
    0 without one."""
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4)


@triton.jit
def _store_state(at, begin, end, above, keep, count):  # type: ignore[no-untyped-def]
    tl.store(at, begin)
    tl.store(at + 1, end)
    tl.store(at + 2, above)
    tl.store(at + 3, keep)
    tl.store(at + 4, count)


@triton.jit
def _shift(begin, end, BINS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The binary logarithm of a bin's width that fits the interval into BINS bins."""
    shift = begin * 0
    while ((end - begin - 1) >> shift) >= BINS:
        shift += 1
    return shift


@triton.jit
def _sum_of_row(at, row, chunks, CHUNKS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The sum of a row's [chunks] numbers, which programs of this launch may have written."""
    of_chunks = tl.arange(0, CHUNKS)
    return tl.sum(tl.load(at + row * chunks + of_chunks, mask=of_chunks < chunks, other=0.0, cache_modifier=".cg"), 0)


@triton.jit
def _element(values, at, index):  # type: ignore[no-untyped-def]
    """values[index]; 0 where there is no such index."""
    return tl.sum(tl.where(at == index, values, 0), 0)


@triton.jit
def _advance(  # type: ignore[no-untyped-def]
    begin, end, above, keep, totals_at, masses_at, row, chunks, rows, top_p,
    ROUND: tl.constexpr, BINS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """The state behind round ROUND, which is complete, from that before it."""
    at = tl.arange(0, BINS)
    held = tl.load(totals_at + at, cache_modifier=".cg")
    tokens = tl.cumsum(held, 0)
    shift = _shift(begin, end, BINS)
    done = keep < 0
    first = row * 0
    if keep > 0:
        if ROUND == 0:
            every = tl.sum(held, 0)
            keep = tl.minimum(keep, every)
            done = (keep == every) & (top_p >= 1)  # the end of the interval is the cut
        last = tl.sum((above + tokens < keep).to(tl.int32), 0)
        if top_p >= 1:
            first = last
    else:
        # A bin's tokens weigh at most what one at its upper edge does, at least what one at its lower edge does.
        most = tl.cumsum(held.to(tl.float32) * weight_at(begin + (at << shift)), 0)
        least = tl.exp((1 << shift).to(tl.float32) / -_UNIT)
        below = tl.max(most, 0) - most
        limit = top_p * _sum_of_row(masses_at + rows * chunks, row, chunks, CHUNKS)
        over = _sum_of_row(masses_at + 2 * ROUND * rows * chunks, row, chunks, CHUNKS)
        down = _sum_of_row(masses_at + (2 * ROUND + 1) * rows * chunks, row, chunks, CHUNKS)
        reaches = tl.minimum(over + most, down - least * below) + _SLACK * down
        exceeds = tl.maximum(over + least * most, down - below) - _SLACK * down
        first = tl.sum((reaches < limit).to(tl.int32), 0)
        last = tl.sum((exceeds < limit).to(tl.int32), 0)
    last = tl.minimum(last, (end - begin - 1) >> shift)
    first = tl.minimum(first, last)
    before = _element(tokens, at, first - 1)
    count = tl.where(done, 0, _element(tokens, at, last) - before)
    end = tl.where(done, end, tl.minimum(end, begin + ((last + 1) << shift)))
    return begin + (first << shift), end, above + before, keep, count


@triton.jit(do_not_specialize=["rows"])  # one compilation for all batches
def _narrow(  # type: ignore[no-untyped-def]
    logits_at, stride, vocabulary, parameters_at, best_at, lowest_at, states_at, totals_at, masses_at, chunks, rows,
    ROUND: tl.constexpr, ROUNDS: tl.constexpr, BINS: tl.constexpr, LISTED: tl.constexpr, CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    row = tl.program_id(1)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    parameters_at += row * _COLUMNS
    heat = tl.load(parameters_at + HEAT)
    heat = tl.where(heat > 0, heat, 1.0)
    top_p = tl.load(parameters_at + TOP_P)
    top = best_of_row(best_at, row, chunks, CHUNKS)
    state_at = states_at + (row * (ROUNDS + 1) + ROUND) * _STATE
    totals_at += row * (ROUNDS + 1) * BINS
    if ROUND == 0:
        top_k = tl.load(parameters_at + TOP_K)
        min_p = tl.load(parameters_at + MIN_P)
        of_chunks = tl.arange(0, CHUNKS)
        lows = tl.load(lowest_at + row * chunks + of_chunks, mask=of_chunks < chunks, other=float("inf"))
        deepest = tl.minimum(_DEEPEST, -tl.log(tl.maximum(min_p, 1e-30))) * _UNIT
        end = tl.minimum(deepest.to(tl.int32), depths(tl.minimum(tl.min(lows, 0), top), top, unit(heat))) + 1
        searches = (tl.load(parameters_at + HEAT) > 0) & ((top_k > 0) | (top_p < 1)) & (top > float("-inf"))
        count = tl.where(searches, _ALL, 0)
        keep = tl.minimum(top_k, 16777216.0).to(tl.int32)
        begin, above = row * 0, row * 0
    else:
        begin, end, above, keep, count = _load_state(state_at)
    if count > LISTED:
        _, x = load_chunk(logits_at, row, stride, chunk, vocabulary, CHUNK)
        depth = depths(x, top, unit(heat))
        bin_ = (depth - begin) >> _shift(begin, end, BINS)
        held = tl.histogram(bin_, BINS, mask=(depth >= begin) & (depth < end))
        results_at = totals_at + ROUND * BINS
        tl.atomic_add(results_at + tl.arange(0, BINS), held, mask=held > 0, sem="relaxed")
        if keep == 0:
            weights = weigh(x, top, heat)
            out = (2 * ROUND * rows + row) * chunks + chunk
            tl.store(masses_at + out, tl.sum(tl.where(depth < begin, weights, 0.0), 0))
            tl.store(masses_at + out + rows * chunks, tl.sum(tl.where(depth < end, weights, 0.0), 0))
        # The row's last program sees what all have written.
        tl.debug_barrier()
        if tl.atomic_add(totals_at + ROUNDS * BINS + ROUND, 1, sem="acq_rel") == chunks - 1:
            begin, end, above, keep, count = _advance(
                begin, end, above, keep, results_at, masses_at, row, chunks, rows, top_p, ROUND, BINS, CHUNKS
            )  # fmt: skip
            _store_state(state_at + _STATE, begin, end, above, keep, count)
    elif chunk == 0:
        _store_state(state_at + _STATE, begin, end, above, keep, count)


@triton.jit(do_not_specialize=["rows"])
def _gather(  # type: ignore[no-untyped-def]
    logits_at, stride, vocabulary, parameters_at, best_at, states_at, totals_at, masses_at, listed_at, ids_at, chunks, rows,
    ROUNDS: tl.constexpr, BINS: tl.constexpr, LISTED: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    row = tl.program_id(1)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    begin, end, _above, keep, count = _load_state(states_at + (row * (ROUNDS + 1) + ROUNDS) * _STATE)
    if count > 0:
        heat = tl.load(parameters_at + row * _COLUMNS + HEAT)
        top = best_of_row(best_at, row, chunks, CHUNKS)
        mass = heat * 0.0
        if depths(tl.load(best_at + row * chunks + chunk), top, unit(heat)) < end:
            ids, x = load_chunk(logits_at, row, stride, chunk, vocabulary, CHUNK)
            depth = depths(x, top, unit(heat))
            if keep == 0:
                mass = tl.sum(tl.where(depth < begin, weigh(x, top, heat), 0.0), 0)
            if count <= LISTED:
                inside = (depth >= begin) & (depth < end)
                counter = totals_at + (row * (ROUNDS + 1) + ROUNDS) * BINS + ROUNDS
                place = tl.atomic_add(counter + tl.zeros([CHUNK], tl.int32), 1, mask=inside, sem="relaxed")
                inside = inside & (place < LISTED)
                tl.store(listed_at + row * LISTED + place, depth, mask=inside)
                tl.store(ids_at + row * LISTED + place, ids, mask=inside)
        tl.store(masses_at + (2 * ROUNDS * rows + row) * chunks + chunk, mass)


@triton.jit
def _tally(  # type: ignore[no-untyped-def]
    bound, listed, shares, in_list, begin, logits_at, row, stride, vocabulary, top, heat, CHUNK: tl.constexpr
):  # fmt: skip
    """How many tokens in question have a depth of at most `bound`, and their weight."""
    if in_list:
        count = tl.sum((listed <= bound).to(tl.int32), 0)
        mass = tl.sum(tl.where(listed <= bound, shares, 0), 0).to(tl.float32) / _SHARES
    else:
        counts = tl.zeros([CHUNK], tl.int32)
        masses = tl.zeros([CHUNK], tl.float32)
        chunk = row * 0
        while chunk * CHUNK < vocabulary:  # the interpreter's `range` wants numbers
            _, x = load_chunk(logits_at, row, stride, chunk, vocabulary, CHUNK)
            depth = depths(x, top, unit(heat))
            inside = (depth >= begin) & (depth <= bound)
            counts += inside.to(tl.int32)
            masses += tl.where(inside, weight_at(depth), 0.0)
            chunk += 1
        count = tl.sum(counts, 0)
        mass = tl.sum(masses, 0)
    return count, mass


@triton.jit
def _search(  # type: ignore[no-untyped-def]
    by_mass, limit, begin, end, above, over, listed, shares, in_list,
    logits_at, row, stride, vocabulary, top, heat, CHUNK: tl.constexpr,
):  # fmt: skip
    """The smallest depth down to which tokens reach `limit`, in weight or number; number and weight strictly above it."""
    up = begin - 1
    down = end - 1
    while down - up > 1:
        middle = up + ((down - up) >> 1)
        count, mass = _tally(middle, listed, shares, in_list, begin, logits_at, row, stride, vocabulary, top, heat, CHUNK)
        if tl.where(by_mass, over + mass, (above + count).to(tl.float32)) >= limit:
            down = middle
        else:
            up = middle
    count, mass = _tally(down - 1, listed, shares, in_list, begin, logits_at, row, stride, vocabulary, top, heat, CHUNK)
    return down, above + count, over + mass


@triton.jit(do_not_specialize=["rows"])  # one compilation for all batches
def _cut(  # type: ignore[no-untyped-def]
    logits_at, stride, vocabulary, parameters_at, best_at, states_at, masses_at, listed_at, ids_at, cut_at, tie_at, chunks, rows,
    ROUNDS: tl.constexpr, LISTED: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    state_at = states_at + (row * (ROUNDS + 1) + ROUNDS) * _STATE
    begin, end, above, keep, count = _load_state(state_at)
    cut = end - 1
    tie = vocabulary
    if count > 0:
        heat = tl.load(parameters_at + row * _COLUMNS + HEAT)
        top_p = tl.load(parameters_at + row * _COLUMNS + TOP_P)
        top = best_of_row(best_at, row, chunks, CHUNKS)
        over = _sum_of_row(masses_at + 2 * ROUNDS * rows * chunks, row, chunks, CHUNKS)
        in_list = count <= LISTED
        at = tl.arange(0, LISTED)
        listed = tl.load(listed_at + row * LISTED + at, mask=at < tl.where(in_list, count, 0), other=0x7FFFFFFF)
        # The list's order is that of arrival: sums of integers do not depend on it.
        shares = (weight_at(listed) * _SHARES).to(tl.int64)
        spare = begin * 0 + _ALL  # tokens at the cut that may stay
        whole = over
        if keep > 0:
            cut, tokens, mass = _search(
                False, keep.to(tl.float32), begin, end, above, over, listed, shares, in_list,
                logits_at, row, stride, vocabulary, top, heat, CHUNK,
            )  # fmt: skip
            spare = keep - tokens
            whole = mass + spare.to(tl.float32) * weight_at(cut)
            end = cut + 1
        else:
            whole = _sum_of_row(masses_at + rows * chunks, row, chunks, CHUNKS)
        if top_p < 1:
            limit = top_p * whole
            shallow, _, mass = _search(
                True, limit, begin, end, above, over, listed, shares, in_list,
                logits_at, row, stride, vocabulary, top, heat, CHUNK,
            )  # fmt: skip
            needed = tl.maximum(tl.minimum(tl.ceil((limit - mass) / weight_at(shallow)), 16777216.0), 1.0).to(tl.int32)
            spare = tl.where((keep > 0) & (shallow == cut), tl.minimum(spare, needed), needed)
            cut = shallow
        # The id of the last token at the cut that stays.
        if in_list:
            ids = tl.load(ids_at + row * LISTED + at, mask=listed == cut, other=0x7FFFFFFF)
            least_id = vocabulary * 0 - 1
            tie = vocabulary - 1
            if tl.sum((ids <= tie).to(tl.int32), 0) > spare:
                while tie - least_id > 1:
                    middle = (tie + least_id) >> 1
                    if tl.sum((ids <= middle).to(tl.int32), 0) >= spare:
                        tie = middle
                    else:
                        least_id = middle
        else:
            tie = vocabulary * 0 - 1
            met = vocabulary * 0
            chunk = row * 0
            while chunk * CHUNK < vocabulary:
                row_ids, logits = load_chunk(logits_at, row, stride, chunk, vocabulary, CHUNK)
                same = depths(logits, top, unit(heat)) == cut
                last_ids = tl.where(same & (met + tl.cumsum(same.to(tl.int32), 0) <= spare), row_ids, -1)
                tie = tl.maximum(tie, tl.max(last_ids, 0))
                met += tl.sum(same.to(tl.int32), 0)
                chunk += 1
    tl.store(cut_at + row, cut)
    tl.store(tie_at + row, tie)


@dataclass(frozen=True, slots=True)
class Kept:
    """What the filters leave: the tokens above a depth, and those at it up to one id."""

    cut: torch.Tensor  # [rows] int32
    tie: torch.Tensor  # [rows] int32


def keep(logits: torch.Tensor, parameters: torch.Tensor, survey: Survey) -> Kept:
    """Apply the filters of `parameters` to `logits` [rows, vocabulary], which were surveyed for filters."""
    rows, vocabulary = logits.shape
    device = logits.device
    chunks = survey.best.shape[1]
    wide = triton.next_power_of_2(chunks)
    launch = accelerator.launch(device)
    states = torch.empty(rows, ROUNDS + 1, _FIELDS, dtype=torch.int32, device=device)
    masses = torch.empty(2 * ROUNDS + 1, rows, chunks, device=device)
    listed = torch.empty(rows, LISTED, dtype=torch.int32, device=device)
    ids, cut, tie = (torch.empty(shape, dtype=torch.int32, device=device) for shape in ((rows, LISTED), rows, rows))
    row = (logits, logits.stride(0), vocabulary, parameters, survey.best)
    for round_ in range(ROUNDS):
        _narrow[chunks, rows](
            *row, survey.lowest, states, survey.totals, masses, chunks, rows,
            ROUND=round_, ROUNDS=ROUNDS, BINS=BINS, LISTED=LISTED, CHUNK=CHUNK, CHUNKS=wide,
            num_warps=4, **launch,
        )  # fmt: skip
    _gather[chunks, rows](
        *row, states, survey.totals, masses, listed, ids, chunks, rows,
        ROUNDS=ROUNDS, BINS=BINS, LISTED=LISTED, CHUNK=CHUNK, CHUNKS=wide, num_warps=4, **launch,
    )  # fmt: skip
    _cut[(rows,)](
        *row, states, masses, listed, ids, cut, tie, chunks, rows,
        ROUNDS=ROUNDS, LISTED=LISTED, CHUNK=CHUNK, CHUNKS=wide, num_warps=CUT_WARPS, **launch,
    )  # fmt: skip
    return Kept(cut, tie)
