"""From logits to tokens on accelerators: the vocabulary is read once in chunks, and once more where the token lies.

    survey   one program a row and chunk: the best logit, its place, and the sum of exp((logit - best) / temperature)
    weigh    only with filters, the same: the sum of those weights over the tokens that the filters leave
    settle   one program a row: the best of the chunks, or the token where the distribution function passes the row's uniform
             number times the whole: first among the chunks, then inside one

Filters (top_k, top_p, min_p) only say which tokens count; they are sampling_filters. Sums are float32 in an order that depends
on the vocabulary alone: no other row of a batch changes a draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tokenwell.engine.platform import accelerator

CHUNK = 4096  # tokens a program looks at; a part of the definition of every sum, so the same for all batches

# The columns of the rows' parameters, float32.
HEAT = tl.constexpr(0)  # the temperature; 0: the best token
UNIFORM = tl.constexpr(1)  # in [0, 1)
TOP_K = tl.constexpr(2)  # 0: all
TOP_P = tl.constexpr(3)
MIN_P = tl.constexpr(4)
COLUMNS = 5
_COLUMNS = tl.constexpr(COLUMNS)

# Of the filters' search.
ROUNDS = 2
BINS = 128


@triton.jit
def weigh(x, top, heat):  # type: ignore[no-untyped-def]
    """exp((x - top) / heat); 0 for logits of -inf, also where `top` is one of them."""
    return tl.exp((x - tl.maximum(top, -3e38)) * (1.0 / tl.maximum(heat, 1e-30)))


@triton.jit
def unit(heat):  # type: ignore[no-untyped-def]
    """What depths multiply logits with."""
    return 67108864.0 / tl.maximum(heat, 1e-30)


@triton.jit
def depths(x, top, unit):  # type: ignore[no-untyped-def]
    """How far logits lie below the best one, times `unit`: int32, less than 2^31 for all. Never rises with x."""
    return tl.minimum((tl.maximum(top, -3e38) - x) * unit, 2080374784.0).to(tl.int32)


@triton.jit
def weight_at(depth):  # type: ignore[no-untyped-def]
    """The weight of tokens at a depth."""
    return tl.exp(depth.to(tl.float32) * -1.4901161193847656e-08)


@triton.jit
def load_chunk(logits_at, row, stride, chunk, vocabulary, CHUNK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The token ids of a chunk and their logits: -inf behind the vocabulary and for what is not a number."""
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits_at + row.to(tl.int64) * stride + ids, mask=ids < vocabulary, other=float("-inf")).to(tl.float32)
    return ids, tl.where(x == x, x, float("-inf"))


@triton.jit
def best_of_row(best_at, row, chunks, CHUNKS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The best logit of a row, from its chunks'."""
    of_chunks = tl.arange(0, CHUNKS)
    return tl.max(tl.load(best_at + row * chunks + of_chunks, mask=of_chunks < chunks, other=float("-inf")), 0)


@triton.jit
def _survey(  # type: ignore[no-untyped-def]
    logits_at, stride, vocabulary, parameters_at, best_at, place_at, mass_at, lowest_at, totals_at, chunks,
    RANDOM: tl.constexpr, FILTERS: tl.constexpr, TOTALS: tl.constexpr, CHUNK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    row = tl.program_id(1)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    _, x = load_chunk(logits_at, row, stride, chunk, vocabulary, CHUNK)
    best, place = tl.max(x, 0, return_indices=True)
    out = row * chunks + chunk
    tl.store(best_at + out, best)
    tl.store(place_at + out, chunk * CHUNK + place)
    if RANDOM:
        heat = tl.load(parameters_at + row * _COLUMNS + HEAT)
        heat = tl.where(heat > 0, heat, 1.0)
        tl.store(mass_at + out, tl.sum(weigh(x, best, heat), 0))
    if FILTERS:
        tl.store(lowest_at + out, tl.min(tl.where(x > float("-inf"), x, float("inf")), 0))
        if chunk == 0:
            at = tl.arange(0, CHUNK)
            tl.store(totals_at + row * TOTALS + at, at * 0, mask=at < TOTALS)


@triton.jit
def _weigh(  # type: ignore[no-untyped-def]
    logits_at, stride, vocabulary, parameters_at, best_at, mass_at, cut_at, tie_at, kept_at, chunks,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    row = tl.program_id(1)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    parameters_at += row * _COLUMNS
    heat = tl.load(parameters_at + HEAT)
    filters = (tl.load(parameters_at + TOP_K) > 0) | (tl.load(parameters_at + TOP_P) < 1) | (tl.load(parameters_at + MIN_P) > 0)
    top = best_of_row(best_at, row, chunks, CHUNKS)
    best = tl.load(best_at + row * chunks + chunk)
    kept = heat * 0.0
    if heat > 0:
        if filters:
            cut = tl.load(cut_at + row)
            if depths(best, top, unit(heat)) <= cut:
                tie = tl.load(tie_at + row)
                ids, x = load_chunk(logits_at, row, stride, chunk, vocabulary, CHUNK)
                depth = depths(x, top, unit(heat))
                stays = (depth < cut) | ((depth == cut) & (ids <= tie))
                kept = tl.sum(tl.where(stays, weigh(x, top, heat), 0.0), 0)
        else:
            # The very numbers that a batch without filters would use.
            kept = tl.load(mass_at + row * chunks + chunk) * weigh(best, top, heat)
            if chunk == 0:
                tl.store(cut_at + row, 0x7FFFFFFF)
    tl.store(kept_at + row * chunks + chunk, kept)


@triton.jit
def _first_past(cumulative, weights, limit, at, END: tl.constexpr):  # type: ignore[no-untyped-def]
    """The first place of positive weight whose cumulative weight passes `limit`; where rounding leaves none, the last."""
    first = tl.min(tl.where((cumulative > limit) & (weights > 0), at, END), 0)
    last = tl.max(tl.where(weights > 0, at, 0), 0)
    return tl.where(first < END, first, last)


@triton.jit
def _settle(  # type: ignore[no-untyped-def]
    logits_at, stride, vocabulary, parameters_at, best_at, place_at, mass_at, cut_at, tie_at, tokens_at, chunks,
    RANDOM: tl.constexpr, FILTERS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    at = tl.arange(0, CHUNKS)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    best = tl.load(best_at + row * chunks + at, mask=at < chunks, other=float("-inf"))
    top, where = tl.max(best, 0, return_indices=True)
    token = tl.load(place_at + row * chunks + where)
    if RANDOM:
        heat = tl.load(parameters_at + row * _COLUMNS + HEAT)
        if heat > 0:
            sums = tl.load(mass_at + row * chunks + at, mask=at < chunks, other=0.0)
            if not FILTERS:
                sums *= weigh(best, top, heat)
            limit = tl.load(parameters_at + row * _COLUMNS + UNIFORM) * tl.sum(sums, 0)
            chunk = _first_past(tl.cumsum(sums, 0), sums, limit, at, CHUNKS)
            limit -= tl.sum(tl.where(at < chunk, sums, 0.0), 0)
            ids, x = load_chunk(logits_at, row, stride, chunk, vocabulary, CHUNK)
            weights = weigh(x, top, heat)
            if FILTERS:
                cut = tl.load(cut_at + row)
                tie = tl.load(tie_at + row)
                depth = depths(x, top, unit(heat))
                weights = tl.where((depth < cut) | ((depth == cut) & (ids <= tie)), weights, 0.0)
            inside = tl.arange(0, CHUNK)
            token = chunk * CHUNK + _first_past(tl.cumsum(weights, 0), weights, limit, inside, CHUNK)
    tl.store(tokens_at + row, tl.minimum(token, vocabulary - 1).to(tl.int64))


@dataclass(frozen=True, slots=True)
class Survey:
    """What the chunks of every row hold, each [rows, chunks]."""

    best: torch.Tensor  # float32
    place: torch.Tensor  # int32, the first token that has it
    mass: torch.Tensor  # float32, relative to the chunk's best
    lowest: torch.Tensor  # float32, of the logits that are not -inf
    totals: torch.Tensor | None  # [rows, ROUNDS + 1, BINS] int32, zeros for the filters


def survey(logits: torch.Tensor, parameters: torch.Tensor | None, *, filters: bool = False) -> Survey:
    """Look at every chunk of `logits` [rows, vocabulary]; `mass` is for `parameters`, `lowest` for filters."""
    rows, vocabulary = logits.shape
    chunks = triton.cdiv(vocabulary, CHUNK)
    # One tensor each: addresses that are aligned in one batch and not in the next would compile kernels twice.
    best, mass, lowest = (torch.empty(rows, chunks, device=logits.device) for _ in range(3))
    place = torch.empty(rows, chunks, dtype=torch.int32, device=logits.device)
    totals = torch.empty(rows, ROUNDS + 1, BINS, dtype=torch.int32, device=logits.device) if filters else None
    launch = accelerator.launch(logits.device)
    _survey[chunks, rows](
        logits, logits.stride(0), vocabulary, parameters, best, place, mass, lowest, totals, chunks,
        RANDOM=parameters is not None, FILTERS=filters, TOTALS=(ROUNDS + 1) * BINS, CHUNK=CHUNK,
        num_warps=4, **launch,
    )  # fmt: skip
    return Survey(best, place, mass, lowest, totals)


def choose(logits: torch.Tensor, parameters: torch.Tensor | None, *, filters: bool = False) -> torch.Tensor:
    """A token for each row of `logits` [rows, vocabulary]: [rows] int64.

    `parameters` [rows, COLUMNS] float32; None takes every row's best token. `filters`: some row has a top_k, top_p or min_p.
    Waits for nothing and can be recorded in a graph.
    """
    from tokenwell.engine.kernels import sampling_filters

    rows, vocabulary = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows == 0:
        return tokens
    seen = survey(logits, parameters, filters=filters and parameters is not None)
    mass, cut, tie = seen.mass, None, None
    chunks = mass.shape[1]
    wide = triton.next_power_of_2(chunks)
    launch = accelerator.launch(logits.device)
    if filters and parameters is not None:
        kept = sampling_filters.keep(logits, parameters, seen)
        cut, tie, mass = kept.cut, kept.tie, torch.empty_like(seen.mass)
        _weigh[chunks, rows](
            logits, logits.stride(0), vocabulary, parameters, seen.best, seen.mass, cut, tie, mass, chunks,
            CHUNK=CHUNK, CHUNKS=wide, num_warps=4, **launch,
        )  # fmt: skip
    _settle[(rows,)](
        logits, logits.stride(0), vocabulary, parameters, seen.best, seen.place, mass, cut, tie, tokens, chunks,
        RANDOM=parameters is not None, FILTERS=cut is not None, CHUNK=CHUNK, CHUNKS=wide,
        num_warps=8, **launch,
    )  # fmt: skip
    return tokens


def choose_reference(logits: torch.Tensor, parameters: torch.Tensor | None) -> torch.Tensor:
    """The same by sorting, in float64."""
    if parameters is None:
        return logits.argmax(-1)
    kept, weights = kept_reference(logits, parameters)
    total = weights.where(kept, 0.0).cumsum(-1)
    limit = parameters[:, 1:2].double() * total[:, -1:]
    drawn = torch.searchsorted(total, limit, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)
    return torch.where(parameters[:, 0] > 0, drawn, logits.argmax(-1))


def kept_reference(logits: torch.Tensor, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens min_p, then top_k, then top_p leave, and all tokens' weights: [rows, vocabulary] bool and float64.

    Of tokens that are equally likely in float32 the lower ids come first.
    """
    heat, _, top_k, top_p, min_p = (column[:, None] for column in parameters.unbind(1))
    centred = logits - logits.amax(-1, keepdim=True)
    weights = (centred / heat.where(heat > 0, 1.0)).double().exp()
    ordered, ids = weights.sort(dim=-1, descending=True, stable=True)
    place = torch.arange(logits.shape[1], device=logits.device)
    ordered = ordered.where((ordered >= min_p) & ((place < top_k) | (top_k == 0)), 0.0)
    before = ordered.cumsum(-1) - ordered
    stays = (ordered > 0) & ((before < top_p * ordered.sum(-1, keepdim=True)) | (place == 0) | (top_p >= 1.0))
    return torch.zeros_like(stays).scatter(1, ids, stays), weights


@triton.jit
def _forbid(logits_at, stride, vocabulary, places_at, bits_at, octets, CHUNK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(1)
    ids = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    octet = tl.load(bits_at + row.to(tl.int64) * octets + ids // 8, mask=ids < vocabulary, other=255)
    banned = ((octet.to(tl.int32) >> (ids % 8)) & 1) == 0
    place = tl.load(places_at + row).to(tl.int64)
    tl.store(logits_at + place * stride + ids, float("-inf"), mask=banned & (ids < vocabulary))


def forbid(logits: torch.Tensor, places: torch.Tensor, bits: torch.Tensor) -> None:
    """Write -inf to tokens whose bit is 0, in place.

    `logits` [rows, vocabulary]; `places` [masks] int64, their rows; `bits` [masks, ceil(vocabulary / 8)] uint8, least
    significant bit first.
    """
    vocabulary = logits.shape[1]
    _forbid[triton.cdiv(vocabulary, CHUNK), len(places)](
        logits, logits.stride(0), vocabulary, places, bits, bits.shape[1], CHUNK=CHUNK, num_warps=4
    )
