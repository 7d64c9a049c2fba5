"""Token embeddings on accelerators: ids without a row of their own replaced, rows looked up and scaled, in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tokenwell.engine.platform import accelerator


@triton.jit
def _embed(  # type: ignore[no-untyped-def]
    ids_at, media_at, pad, table_at, table_stride, scale, shown_at, out_at,
    MEDIA: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.load(ids_at + token)
    for index in tl.static_range(MEDIA):
        row = tl.where(row == tl.load(media_at + index), pad, row)
    if tl.program_id(1) == 0:
        tl.store(shown_at + token, row)
    x = tl.load(table_at + row * table_stride + at, mask=at < DIM, other=0.0).to(tl.float32) * scale
    tl.store(out_at + token * DIM + at, x.to(out_at.dtype.element_ty), mask=at < DIM)


def embed(
    ids: torch.Tensor, table: torch.Tensor, scale: float = 1.0, media: torch.Tensor | None = None, pad: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of `table` [vocabulary, dim] times scale [tokens, dim], and the ids [tokens] that were looked up.

    ids [tokens] int64; those among `media` [few] int64 are read as `pad`.
    """
    tokens, dim = len(ids), table.shape[1]
    out = torch.empty((tokens, dim), dtype=table.dtype, device=table.device)
    shown = torch.empty_like(ids)
    if tokens:
        block = min(1024, triton.next_power_of_2(dim))
        launch = accelerator.launch(ids.device)
        _embed[(tokens, triton.cdiv(dim, block))](
            ids, media, pad, table, table.stride(0), scale, shown, out,
            MEDIA=0 if media is None else len(media), DIM=dim, BLOCK=block, num_warps=4, **launch,
        )  # fmt: skip
    return out, shown


def reference_embed(
    ids: torch.Tensor, table: torch.Tensor, scale: float = 1.0, media: torch.Tensor | None = None, pad: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """`embed` in plain torch; the rows in float32."""
    if media is not None:
        ids = ids.masked_fill(torch.isin(ids, media), pad)
    return table[ids].to(torch.float32) * scale, ids
