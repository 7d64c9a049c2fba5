"""A stored tensor, or a cut of it, into a torch tensor. Owns file reads and piecewise conversion; knows no names or ranks.

Plain reads, not mmap: mapped pages would count as resident memory of the process. A contiguous destination of the
stored dtype on the CPU is read into directly; anything else goes through one small buffer.
"""

from __future__ import annotations

import math
import os

import torch

from tokenwell.checkpoint.safetensors import TensorInfo
from tokenwell.checkpoint.shard import Cut
from tokenwell.wire.errors import CheckpointError

# Below torch's grain of 32768 elements a copy stays on this thread: reads are bound by memory or disk anyway, and pieces
# that fit the processor's cache beat a parallel copy, by far when other processes keep the cores busy.
_HOST_PIECE = 32_000
_DEVICE_PIECE = 4 << 20  # elements that travel to an accelerator at a time
_SEEK_BYTES = 64 << 10  # rows shorter than this are read whole and cut in memory: cheaper than one system call a row

TORCH_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
}


def read_cut(info: TensorInfo, cut: Cut, destination: torch.Tensor) -> None:
    """Fill `destination`, shaped as the lengths of `cut`, with that part of the tensor, converted to its dtype and device.

    Raises CheckpointError naming the file if it cannot be read or has become shorter.
    """
    try:
        descriptor = os.open(info.file, os.O_RDONLY)
        try:
            _Reader(descriptor, info).copy(info.begin, info.shape, cut, destination)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CheckpointError(f"{info.file} cannot be read: {error.strerror}.") from error


class _Reader:
    """One open file and the dtype of the tensor that is read from it."""

    def __init__(self, descriptor: int, info: TensorInfo) -> None:
        self._descriptor = descriptor
        self._file = info.file
        self._dtype = TORCH_DTYPES[info.dtype]
        self._buffer = torch.empty(0, dtype=self._dtype)

    def copy(self, offset: int, shape: tuple[int, ...], cut: Cut, destination: torch.Tensor) -> None:
        """Recursive over leading dimensions: a row is what one index of the first dimension selects."""
        if destination.numel() == 0:
            return
        if not shape:
            shape, cut, destination = (1,), (range(1),), destination.view(1)
        row_size = math.prod(shape[1:])
        row_bytes = row_size * self._dtype.itemsize
        rows = cut[0]
        piece_size = _HOST_PIECE if destination.device.type == "cpu" else _DEVICE_PIECE
        whole_rows = all(indices == range(size) for indices, size in zip(cut[1:], shape[1:], strict=True))
        if whole_rows and rows.step == 1 and self._direct(destination):
            self._fill(destination, offset + rows.start * row_bytes)
        elif row_size > piece_size or (row_bytes >= _SEEK_BYTES and not whole_rows):
            for index, row in enumerate(rows):
                self.copy(offset + row * row_bytes, shape[1:], cut[1:], destination[index])
        else:
            self._copy_staged(offset, shape, cut, destination, max(1, piece_size // (row_size * rows.step)))

    def _direct(self, destination: torch.Tensor) -> bool:
        return destination.device.type == "cpu" and destination.dtype == self._dtype and destination.is_contiguous()

    def _copy_staged(self, offset: int, shape: tuple[int, ...], cut: Cut, destination: torch.Tensor, count: int) -> None:
        """`count` rows of the cut at a time."""
        rows = cut[0]
        row_bytes = math.prod(shape[1:]) * self._dtype.itemsize
        inner = tuple(slice(indices.start, indices.stop, indices.step) for indices in cut[1:])
        for first in range(0, len(rows), count):
            piece = rows[first : first + count]
            staging = self._staging((piece[-1] - piece[0] + 1, *shape[1:]))
            self._fill(staging, offset + piece[0] * row_bytes)
            destination[first : first + len(piece)].copy_(staging[(slice(None, None, rows.step), *inner)])

    def _staging(self, shape: tuple[int, ...]) -> torch.Tensor:
        size = math.prod(shape)
        if self._buffer.numel() < size:
            self._buffer = torch.empty(size, dtype=self._dtype)
        return self._buffer[:size].view(shape)

    def _fill(self, destination: torch.Tensor, offset: int) -> None:
        flat = destination.as_strided((destination.numel(),), (1,))  # a dimension of one element may have any stride
        view = flat.view(torch.uint8).numpy().data
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                raise CheckpointError(f"{self._file} became shorter while it was read: it ends before byte {offset + len(view)}.")
            done += count
