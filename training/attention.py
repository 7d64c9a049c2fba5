"""Attention over packed rows: a token sees its own dialogue, up to itself and no further back than the layer's window.

`flash` is for cards: it is told where dialogues start. `dense` has the whole mask, for processors and as the measure of the
other. A mask is made once a step, outside of what is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from training.pack import DIALOGUES, LONGEST

Mask: TypeAlias = Tensor | tuple[Tensor, int]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """q [rows, tokens, heads, head_dim], k and v with fewer heads -> as q. Scores are not scaled."""
    if isinstance(mask, tuple):
        return _flash(q, k, v, *mask)
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    # Repeated keys and values: the kernels that take both a mask and few of these are slow.
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], scale=1.0).transpose(1, 2)


def dense(documents: Tensor, window: int) -> Tensor:
    """The whole mask [rows, tokens, tokens] of documents [rows, tokens]."""
    at = torch.arange(documents.shape[1], device=documents.device)
    far = at[:, None] - at[None]
    return ((far >= 0) & (far < window))[None] & (documents[:, :, None] == documents[:, None])


def flash(documents: Tensor, window: int) -> tuple[Tensor, int]:
    """Where dialogues start in the flattened rows, filled up with the end, and the window; nothing waits for the card."""
    rows, tokens = documents.shape
    most = rows * (DIALOGUES + -(-tokens // LONGEST))  # the filling too
    first = torch.ones_like(documents, dtype=torch.bool)
    first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    slots = torch.where(first.flatten(), first.flatten().cumsum(0) - 1, most + 1)  # what starts nothing goes behind the end
    starts = torch.full((most + 2,), rows * tokens, dtype=torch.int32, device=documents.device)
    starts.scatter_(0, slots, torch.arange(rows * tokens, dtype=torch.int32, device=documents.device))
    return starts[: most + 1], window


def _flash(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, window: int) -> Tensor:
    tokens = q.shape[1]
    longest = min(tokens, LONGEST)  # the kernel starts blocks for as much of every dialogue
    flat = (tensor.flatten(0, 1) for tensor in (q, k, v))
    back = window - 1 if window < tokens else None
    found = torch.ops.aten._flash_attention_forward(
        *flat, starts, starts, longest, longest, 0.0, True, False, scale=1.0, window_size_left=back, window_size_right=0
    )
    return found[0].view_as(q)


WAYS: dict[str, Callable[[Tensor, int], Mask]] = {"flash": flash, "dense": dense}
