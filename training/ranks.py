"""The processes that train together, one a card, as `python -m torch.distributed.run` starts them; or this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, distributed


class Ranks:
    """Who this process is. `join` comes after everything that forks."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.first = self.rank == 0  # the one that tells and stores
        self.device = torch.device("cpu")

    def join(self) -> torch.device:
        """Take a card and wait for the others; the device to compute on."""
        cuda = torch.cuda.is_available()
        if cuda:
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
        if self.world > 1:
            distributed.init_process_group("nccl" if cuda else "gloo", device_id=self.device if cuda else None)
            distributed.barrier()
        return self.device

    def average(self, tensors: Iterable[Tensor | None]) -> None:
        """Make gradients the mean of all processes', in place."""
        if self.world == 1:
            return
        given = [tensor for tensor in tensors if tensor is not None]
        flat = torch.cat([tensor.flatten() for tensor in given])
        distributed.all_reduce(flat)
        flat /= self.world
        parts = flat.split([tensor.numel() for tensor in given])
        torch._foreach_copy_(given, [part.view_as(tensor) for part, tensor in zip(parts, given, strict=True)])

    def total(self, tensor: Tensor) -> list[float]:
        """The sum of all processes' tensors; waits for the card."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return [float(each) for each in tensor.tolist()]

    def leave(self) -> None:
        if self.world > 1:
            distributed.destroy_process_group()
