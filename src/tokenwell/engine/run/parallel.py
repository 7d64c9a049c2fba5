"""The ranks that share one model, and what they say to each other. World size 1 costs nothing; larger ones use torch.distributed.

Every rank runs the same plans. Only rank 0 chooses tokens and shares their ids: penalties, grammars and noise exist once, and
what the ranks compute next cannot drift apart by a rounding that differs between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed

from tokenwell.config.load import preset_environment
from tokenwell.engine.schedule.plan import StepPlan

BACKENDS = {"cuda": "nccl", "xpu": "xccl", "cpu": "gloo"}  # by device type; AMD's build of torch calls its devices cuda, too
DIRECT_DEVICES = ("cuda",)  # whose cards may see each other's memory
_DIRECT_BYTES = 1 << 20  # of one tensor: beyond this, reading every rank's whole tensor takes longer than a ring
_DIRECT_ALIGNMENT = 16  # bytes
_DIRECT_DTYPES = (torch.float32, torch.bfloat16)


class DirectSums:
    """Sums of small tensors by one kernel that reads the other cards' memory (torch's symmetric memory, one shot).

    Opening it is a collective call, which raises whatever torch raises where cards cannot see each other's memory.
    """

    def __init__(self, device: torch.device) -> None:
        # Only plain loads and stores are used: memory that the switch adds up need not be set up.
        preset_environment("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")
        from torch.distributed import _symmetric_memory as symmetric

        self._group = torch.distributed.group.WORLD.group_name
        self._buffer = symmetric.empty(_DIRECT_BYTES, dtype=torch.uint8, device=device)
        symmetric.rendezvous(self._buffer, self._group)

    def takes(self, x: torch.Tensor) -> bool:
        """Whether `x` can be summed here."""
        size = x.numel() * x.itemsize
        return 0 < size <= _DIRECT_BYTES and size % _DIRECT_ALIGNMENT == 0 and x.is_contiguous() and x.dtype in _DIRECT_DTYPES

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of `x` over all ranks, as a new tensor."""
        shared = self._buffer[: x.numel() * x.itemsize].view(x.dtype).view(x.shape)
        total: torch.Tensor = torch.ops.symm_mem.one_shot_all_reduce_copy(shared, x, "sum", self._group)
        return total


@dataclass
class Ranks:
    """This process's place among the ranks of one model. Collective calls must come in the same order on every rank."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # where tensors are exchanged
    tell: Callable[[StepPlan], None] | None = None  # sends a plan to the other ranks; rank 0 alone has it
    direct: DirectSums | None = field(default=None, init=False)  # for small sums, once it is trusted
    _apart: bool = field(default=False, init=False)

    @property
    def leads(self) -> bool:
        """Whether this is the rank that chooses tokens; on one's own everybody is."""
        return self.rank == 0 or self._apart

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Exchange nothing meanwhile: shapes and memory are as ever, numbers are not. For measuring on one's own."""
        self._apart = True
        try:
            yield
        finally:
            self._apart = False

    def announce(self, plan: StepPlan) -> None:
        """Let the other ranks run `plan`, too."""
        if self.tell is not None and not self._apart:
            self.tell(plan)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of `x` over all ranks, on every rank; `x` itself may be overwritten."""
        if self.world == 1 or self._apart:
            return x
        if self.direct is not None and self.direct.takes(x):
            return self.direct.sum(x)
        self._sum(x)
        return x

    def gather_last(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [..., n] of all ranks side by side: [..., n * world]."""
        if self.world == 1:
            return x
        if self._apart:
            return torch.cat([x] * self.world, dim=-1)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.world)]
        self._gather(parts, x.contiguous())
        return torch.cat(parts, dim=-1)

    def share(self, x: torch.Tensor) -> torch.Tensor:
        """`x` of rank 0, on every rank (in place)."""
        if self.world > 1 and not self._apart:
            self._spread(x)
        return x

    def least(self, values: Sequence[int]) -> list[int]:
        """The smallest of each value over all ranks. Waits for all of them."""
        if self.world == 1:
            return list(values)
        table = torch.zeros((self.world, len(values)), dtype=torch.int64, device=self.device)
        table[self.rank] = torch.tensor(values, dtype=torch.int64, device=self.device)
        self._sum(table)
        smallest: list[int] = table.amin(0).tolist()
        return smallest

    # The three that touch the group.

    def _sum(self, x: torch.Tensor) -> None:
        torch.distributed.all_reduce(x)

    def _gather(self, parts: list[torch.Tensor], x: torch.Tensor) -> None:
        torch.distributed.all_gather(parts, x)

    def _spread(self, x: torch.Tensor) -> None:
        torch.distributed.broadcast(x, 0)


def connect(rank: int, world: int, device: torch.device, store: Path, tell: Callable[[StepPlan], None] | None = None) -> Ranks:
    """Meet the other ranks through a file that all of them can open, in a folder that nobody else can."""
    torch.distributed.init_process_group(
        BACKENDS[device.type],
        store=torch.distributed.FileStore(str(store), world),
        rank=rank,
        world_size=world,
        device_id=None if device.type == "cpu" else device,
    )
    return Ranks(rank, world, device, tell)


def disconnect() -> None:
    """Leave the other ranks in order."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
