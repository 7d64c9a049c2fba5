"""A backend's answers compared with the reference's on the same device, before it is trusted with a kind of layer.

Random pages, queries and rows at the layer's real shapes: a prompt, a chunk behind a cached prefix, and rows that decode with
short and long contexts, alone and mixed. Apart from that, rows that share pages, which may be read for each of them instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch

from tokenwell.engine.attention.reference import ReferenceAttention
from tokenwell.engine.attention.spec import AttentionSpec, Backend, Fold, LayerCache, Shared, fold_for
from tokenwell.engine.kernels.compiling import side_by_side
from tokenwell.engine.run.batch import Batch, GroupBatch, Span
from tokenwell.engine.run.shared import SETS

log = logging.getLogger("tokenwell.engine")

# Relative error (norm of the difference over norm) by dtype: some ten roundings of the dtype.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}
_LONG = 1500  # tokens of the longest context: beyond most windows, and enough to be split
_TURNING = 8  # pairs that turn where keys are folded into values
_PAGE_TOKENS = 16

_SHARED = 1024  # tokens that rows have in common

_known: dict[Any, str | None] = {}  # by backend, spec and device
_known_to_share: dict[Any, str | None] = {}  # likewise

Rows = tuple[tuple[int, int], ...]  # (tokens before the step, tokens of the step), single tokens first
_BATCHES: tuple[Rows, ...] = (
    ((_LONG, 1),), ((0, 1), (70, 1), (_LONG, 1)), ((95, 400), (0, 40)), ((300, 1), (0, 40), (0, 9)),
    ((300, 1), (0, 40), (95, 17)),
)  # fmt: skip
_TOGETHER: Rows = ((_SHARED + 6, 1), (_SHARED + 100, 1), (_LONG, 1))


def disagreement(backend: Backend, spec: AttentionSpec, device: torch.device) -> str | None:
    """What is wrong with a backend's attention for layers like `spec`; None when it agrees with the reference."""
    try_out([(backend, spec)], device)
    return _known[backend, spec, device]


def sharing_disagreement(backend: Backend, spec: AttentionSpec, device: torch.device) -> str | None:
    """What is wrong with a backend's attention for rows that share pages; None when it agrees with the reference."""
    if not _may_share(backend, spec):
        return "it reads pages for each row"
    try_out([(backend, spec)], device)
    return _known_to_share[backend, spec, device]


def _may_share(backend: Backend, spec: AttentionSpec) -> bool:
    """Whether a backend looks at what rows share."""
    return backend.name == "triton" and spec.window is None


def try_out(pairs: Iterable[tuple[Backend, AttentionSpec]], device: torch.device) -> None:
    """Compare several backends for several kinds of layers side by side; `disagreement` knows the results then."""
    new = [pair for pair in dict.fromkeys(pairs) if (*pair, device) not in _known]
    together = [pair for pair in new if _may_share(*pair)]
    calls = [
        partial(_error, backend, spec, device, rows, number) for backend, spec in new for number, rows in enumerate(_BATCHES)
    ] + [partial(_error, backend, spec, device, _TOGETHER, len(_BATCHES), shared=_SHARED) for backend, spec in together]
    errors = iter(side_by_side(calls, device))
    for backend, spec in new:
        _known[backend, spec, device] = wrong = _wrong(spec, [next(errors) for _ in _BATCHES])
        if wrong is not None:
            log.warning("attention by %s is not used for heads of %d on %s: %s", backend.name, spec.head_dim, device, wrong)
    for backend, spec in together:
        _known_to_share[backend, spec, device] = wrong = _wrong(spec, [next(errors)])
        if wrong is not None and _known[backend, spec, device] is None:
            log.warning("pages that rows share are read for each of them, for heads of %d: %s", spec.head_dim, wrong)


def _wrong(spec: AttentionSpec, errors: Sequence[float | Exception]) -> str | None:
    for error in errors:
        if isinstance(error, Exception):
            said = str(error).splitlines()
            return f"it fails with {type(error).__name__}: {said[0] if said else 'without a word'}"
        if not error <= TOLERANCE[spec.dtype]:  # NaN is no agreement
            return f"its answer is off by {error:.2g} of the reference's, {TOLERANCE[spec.dtype]:.2g} is allowed"
    return None


def _error(backend: Backend, spec: AttentionSpec, device: torch.device, rows: Rows, seed: int, shared: int = 0) -> float:
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    batch, pages = _batch(rows, device, shared)
    kv_dtype = spec.kv_dtype or spec.dtype
    k, v = normal(2, pages, _PAGE_TOKENS, spec.kv_heads, spec.head_dim).to(kv_dtype)
    fold: Fold | None = None
    if spec.folded:
        weight = (1 + 0.1 * normal(spec.head_dim)).to(spec.dtype)
        turning = min(_TURNING, spec.head_dim // 2)
        fold = fold_for(weight, normal(turning), 1.0, spec.head_dim // 2, _LONG + 2)
    layer = LayerCache(v if fold else k, v, fold=fold)
    sinks = normal(spec.heads).to(spec.dtype) if spec.sinks else None
    # Scores of random vectors at a model's own scale may be so large that one key has all the weight: nothing to compare.
    q = (normal(sum(count for _, count in rows), spec.heads, spec.head_dim) * (spec.head_dim**-0.5 / spec.scale)).to(spec.dtype)
    expected = ReferenceAttention().attend(spec, q, layer, batch, 0, sinks).float()
    actual = backend.attend(spec, q, layer, batch, 0, sinks).float()
    return float((actual - expected).norm() / expected.norm())


def _batch(rows: Rows, device: torch.device, shared: int) -> tuple[Batch, int]:
    """A batch whose rows own shuffled pages, and how many pages there are. Host spans are there as outside of graphs.

    The first `shared` tokens of all rows are in the same pages.
    """
    needs = [-(-(start + count) // _PAGE_TOKENS) for start, count in rows]
    width = -(-max(needs) // 16) * 16  # as wide as an engine's tables are: other kernels would be compiled for other widths
    order = torch.randperm(sum(needs), generator=torch.Generator().manual_seed(1)) + 1
    table = torch.zeros(len(rows), width, dtype=torch.int32)
    for row, pages in enumerate(order.to(torch.int32).split(needs)):
        table[row, : len(pages)] = pages
    table[:, : shared // _PAGE_TOKENS] = table[0, : shared // _PAGE_TOKENS]
    counts = [count for _, count in rows]
    starts = [sum(counts[:row]) for row in range(len(rows) + 1)]
    spans = tuple(Span(row, starts[row], start, count) for row, (start, count) in enumerate(rows))
    positions = torch.cat([torch.arange(start, start + count) for start, count in rows])
    token_rows = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts))
    batch = Batch(
        ids=torch.zeros(len(positions), dtype=torch.int64, device=device), positions=positions.to(device),
        slots=torch.arange(len(rows), dtype=torch.int32, device=device),
        starts=torch.tensor(starts, dtype=torch.int32, device=device),
        lengths=torch.tensor([start + count for start, count in rows], dtype=torch.int32, device=device),
        token_rows=token_rows.to(torch.int32).to(device), singles=counts.count(1), longest=max(map(sum, rows)), most=max(counts),
        spans=spans, groups=(GroupBatch(_PAGE_TOKENS, table.to(device)),), caches=(),
        keep=torch.arange(len(positions), device=device), keep_all=True, shared=_shared(len(rows), shared, device),
    )  # fmt: skip
    return batch, sum(needs) + 1


def _shared(rows: int, tokens: int, device: torch.device) -> Shared | None:
    """All rows are one set, if they share anything."""
    if not tokens:
        return None
    sets = torch.zeros((SETS, 4), dtype=torch.int32)
    sets[0, 1], sets[0, 2] = rows, tokens
    keys = torch.full((rows,), tokens, dtype=torch.int32, device=device)
    return Shared(0, keys, torch.arange(rows, dtype=torch.int32, device=device), sets.to(device))
