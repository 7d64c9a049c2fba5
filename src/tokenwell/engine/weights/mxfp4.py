"""MXFP4 weights (gpt-oss): 4-bit floats in blocks of 32 with one shared power of two. Knows the numbers, no files and no layers.

Formats: OCP Microscaling Formats (MX) v1.0, sections 5.3.3 (E2M1), 5.4.1 (E8M0) and 6.3. Layout of the gpt-oss checkpoints:
`<name>_blocks` [..., rows, K/32, 16] uint8 with element 2b in the low and 2b+1 in the high nibble of byte b;
`<name>_scales` [..., rows, K/32] uint8 with exponent bias 127, where 255 is NaN.
"""

from __future__ import annotations

import math
from functools import cache

import torch

from tokenwell.checkpoint.shard import Part, Span, resolve
from tokenwell.engine.weights.source import Source
from tokenwell.wire.errors import CheckpointError

BLOCK = 32  # elements that share a scale
PACKED_SCALES = (99, 128)  # 2^-28 to 2, which trained weights never leave: kernels that compute in float16 know no others
PACKED_ZERO = 98  # what they take for a scale of zero
_BLOCK_BYTES = BLOCK // 2
_PIECE_BLOCKS = 1 << 16  # 8 MiB of float32 at a time

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def dequantise(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights [..., K] of `blocks` [..., K/32, 16] and `scales` [..., K/32], both uint8, rounded once to `dtype`.

    Raises ValueError for other shapes or dtypes.
    """
    weights = torch.empty((*blocks.shape[:-2], math.prod(blocks.shape[-2:]) * 2), dtype=dtype, device=blocks.device)
    dequantise_into(weights, blocks, scales)
    return weights


def dequantise_into(destination: torch.Tensor, blocks: torch.Tensor, scales: torch.Tensor) -> None:
    """Like `dequantise`, into a given tensor of any floating-point dtype and layout; temporaries stay within a few MiB."""
    if blocks.dtype != torch.uint8 or scales.dtype != torch.uint8:
        raise ValueError(f"MXFP4 blocks and scales must be uint8, not {blocks.dtype} and {scales.dtype}")
    if blocks.shape != (*scales.shape, _BLOCK_BYTES):
        raise ValueError(f"MXFP4 blocks {list(blocks.shape)} do not fit scales {list(scales.shape)}")
    *lead, per_row = scales.shape
    if tuple(destination.shape) != (*lead, per_row * BLOCK):
        raise ValueError(f"MXFP4 weights of {[*lead, per_row * BLOCK]} do not fit a destination of {list(destination.shape)}")
    if len(lead) > 1:
        for index in range(lead[0]):
            dequantise_into(destination[index], blocks[index], scales[index])
        return
    if not lead:
        destination, blocks, scales = destination[None], blocks[None], scales[None]
    pairs = _byte_values(blocks.device)
    exponents = _powers(blocks.device)
    count = max(1, _PIECE_BLOCKS // max(1, per_row))
    for first in range(0, len(scales), count):
        rows = slice(first, first + count)
        values = pairs[blocks[rows].long()].view(torch.float32)  # [rows, K/32, 32]
        values *= exponents[scales[rows].long()].unsqueeze(-1)
        destination[rows].copy_(values.flatten(-2))


@cache  # a recorded step may not make it from numbers of the host
def _powers(device: torch.device) -> torch.Tensor:
    """What each scale stands for: [256] float32."""
    exponents = torch.pow(2.0, torch.arange(256, device=device, dtype=torch.float64) - 127).float()
    exponents[255] = math.nan
    return exponents


def read_into(destination: torch.Tensor, source: Source, name: str, shape: tuple[int, int, int], part: Part = ()) -> None:
    """Read `<name>_blocks` and `<name>_scales`, which hold a weight of whole `shape` [E, rows, K], an expert at a time.

    `part` cuts dimensions of `shape` as in Source.tensor; along K its span must start and end at multiples of 32.
    Raises CheckpointError as Source.tensor does, and if a block of 32 is split.
    """
    stored, experts, rows, columns = _cut(source, name, shape, part)
    for index, expert in enumerate(range(*experts)):
        cut = ((expert, expert + 1), rows, columns)
        blocks = source.tensor(f"{name}_blocks", (*stored, _BLOCK_BYTES), part=cut, dtype=torch.uint8)
        scales = source.tensor(f"{name}_scales", stored, part=cut, dtype=torch.uint8)
        dequantise_into(destination[index], blocks[0], scales[0])


def read_packed(
    codes: torch.Tensor, scales: torch.Tensor, source: Source, name: str, shape: tuple[int, int, int], part: Part = ()
) -> None:
    """Like `read_into`, but as stored: codes [E, rows, K/8] int32 as `words` makes them and scales [E, rows, >= K/32] uint8."""
    stored, experts, rows, columns = _cut(source, name, shape, part)
    for index, expert in enumerate(range(*experts)):
        one = ((expert, expert + 1), rows, columns)
        codes[index] = words(source.tensor(f"{name}_blocks", (*stored, _BLOCK_BYTES), part=one, dtype=torch.uint8)[0])
    used = scales[..., : columns[1] - columns[0]]
    source.read_into(used, f"{name}_scales", stored, part=(experts, rows, columns))
    used.clamp_(*PACKED_SCALES)


# A word has eight elements, two by two in its halves. These are the places, in a half, of the signs of the four pairs, and of the
# first of the three other bits of their codes. Pair 0 lies where a float16 has its sign, exponent and fraction, which makes its
# value times 2^-14, pair 1 three bits below, so that both come with one mask; pairs 2 and 3 fill what is left.
_SIGN_BITS = (15, 12, 14, 13)
_CODE_BITS = (9, 6, 3, 0)


def words(blocks: torch.Tensor) -> torch.Tensor:
    """Blocks [..., K/32, 16] uint8 of a checkpoint as kernels read them: words [..., K/8] int32.

    Elements 2p and 2p + 1 of a word are pair p in its low and high half.
    """
    elements = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-3).unflatten(-1, (-1, 4, 2)).to(torch.int32)
    halves = torch.zeros_like(elements[..., 0, :])
    for pair, (sign, code) in enumerate(zip(_SIGN_BITS, _CODE_BITS, strict=True)):
        element = elements[..., pair, :]
        halves |= (element >> 3) << sign | (element & 7) << code
    return halves[..., 0] | halves[..., 1] << 16


def blocks(words: torch.Tensor) -> torch.Tensor:
    """The inverse of `words`."""
    if words.dim() > 2:  # one after the other, for temporaries are some times as large
        return torch.stack([blocks(matrix) for matrix in words])
    halves = torch.stack((words, words >> 16), dim=-1)
    pairs = [(halves >> sign & 1) << 3 | halves >> code & 7 for sign, code in zip(_SIGN_BITS, _CODE_BITS, strict=True)]
    elements = torch.stack(pairs, dim=-2).to(torch.uint8)  # [..., K/8, 4, 2]
    return (elements[..., 0] | elements[..., 1] << 4).flatten(-2).unflatten(-1, (-1, _BLOCK_BYTES))


def _cut(source: Source, name: str, shape: tuple[int, int, int], part: Part) -> tuple[tuple[int, int, int], Span, Span, Span]:
    """The shape of the stored scales, and the spans of experts, rows and blocks that `part` of a weight of `shape` is."""
    experts, rows, columns = resolve(source.prefix + name, shape, part)
    if shape[2] % BLOCK or columns.step != 1 or columns.start % BLOCK or columns.stop % BLOCK:
        raise CheckpointError(
            f"Tensor {source.prefix + name!r} {list(shape)}: columns {columns.start} to {columns.stop} split an MXFP4 block. "
            "Use another number of ranks."
        )
    stored = (*shape[:2], shape[2] // BLOCK)
    blocks = (columns.start // BLOCK, columns.stop // BLOCK)
    return stored, (experts.start, experts.stop), (rows.start, rows.stop, rows.step), blocks


@cache
def _byte_values(device: torch.device) -> torch.Tensor:
    """[256] int64: the two float32 elements that a byte holds, low nibble first, so that one lookup brings both."""
    return torch.tensor([(_E2M1[byte & 15], _E2M1[byte >> 4]) for byte in range(256)], device=device).view(torch.int64).flatten()
