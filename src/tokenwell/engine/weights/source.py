"""Tensors by name for the layers of a model: checked, cut for this rank, converted, and accounted for.

Building a model is loading it: a layer asks for what it needs and `finish` tells what nobody asked for. Knows names and
shapes; no architecture and no file format.
"""

from __future__ import annotations

import difflib
import re

import torch

from tokenwell.checkpoint.recipe import Recipe
from tokenwell.checkpoint.safetensors import TensorInfo
from tokenwell.checkpoint.shard import Cut, Part, Shard, Span, resolve
from tokenwell.engine.weights.checkpoint import Checkpoint
from tokenwell.engine.weights.dummy import DummyCheckpoint
from tokenwell.engine.weights.read import TORCH_DTYPES
from tokenwell.wire.errors import CheckpointError

_NAMED = 5  # tensors that an error or log line names before it only counts


class Source:
    """A checkpoint seen through a name prefix by one rank, giving tensors of one dtype on one device."""

    def __init__(
        self, checkpoint: Checkpoint | DummyCheckpoint, device: torch.device, dtype: torch.dtype, rank: int = 0, world: int = 1,
        recipe: Recipe | None = None,
    ) -> None:  # fmt: skip
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world} ranks")
        self.checkpoint = checkpoint
        self.device = device
        self.dtype = dtype
        self.rank = rank
        self.world = world
        self.recipe = recipe or Recipe()  # how matrices are stored and what they become; `quant.read` asks
        self.prefix = ""
        self._used: set[str] = set()  # read or skipped; shared by all views of this source
        self._skips: list[str] = []  # log lines, shared too

    def at(self, prefix: str) -> Source:
        """The same source under a longer prefix, such as "layers.0."; "" gives an equal view."""
        if prefix and not prefix.endswith("."):
            raise ValueError(f'prefix {prefix!r} must end with "."')
        view = Source(self.checkpoint, self.device, self.dtype, self.rank, self.world, self.recipe)
        view.prefix = self.prefix + prefix
        view._used, view._skips = self._used, self._skips
        return view

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds this tensor (the prefix is added)."""
        return self.checkpoint.has(self.prefix + name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The stored whole shape. Raises CheckpointError if the tensor is missing."""
        return self._info(name).shape

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
        """An uninitialised tensor on the source's device, to be filled with `read_into`."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        shard_dim: int | None = None,
        rows: Span | None = None,
        part: Part = (),
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """This rank's part of a tensor, new, on the source's device, in `dtype` (default: the source's).

        `shape` is the whole tensor's shape as the model expects it. At most one of these cuts it: `shard_dim` takes this
        rank's equal part along a dimension, `rows` a span of the first dimension, `part` a span of each dimension (see
        `shard`). Raises CheckpointError naming the tensor if it is missing, has another shape, cannot be cut so, or is
        stored as integers where floating point is asked for (or the other way round).
        """
        info, cut = self._locate(name, shape, dtype or self.dtype, shard_dim, rows, part)
        destination = self.empty(tuple(len(indices) for indices in cut), dtype)
        self._read(name, info, cut, destination)
        return destination

    def read_into(
        self,
        destination: torch.Tensor,
        name: str,
        shape: tuple[int, ...],
        *,
        shard_dim: int | None = None,
        rows: Span | None = None,
        part: Part = (),
    ) -> None:
        """Like `tensor`, into a given tensor: any view of the right shape, such as rows of a fused weight or a transpose."""
        info, cut = self._locate(name, shape, destination.dtype, shard_dim, rows, part)
        if (wanted := tuple(len(indices) for indices in cut)) != tuple(destination.shape):
            raise ValueError(
                f"{self.prefix + name!r}: the part {wanted} does not fit a destination of {tuple(destination.shape)}"
            )
        self._read(name, info, cut, destination)

    def skip(self, pattern: str, why: str) -> int:
        """Leave out every unread tensor whose whole name matches `pattern` (no prefix is added); returns how many these are."""
        regex = re.compile(pattern)
        found = [name for name in self.checkpoint.names if name not in self._used and regex.fullmatch(name)]
        self._used.update(found)
        if found:
            mib = sum(self.checkpoint.names[name].nbytes for name in found) / 2**20
            self._skips.append(f"Skipped {len(found)} tensors ({mib:.1f} MiB) such as {found[0]}: {why}")
        return len(found)

    def leave(self, name: str) -> None:
        """Leave out a tensor that tells nothing new (the prefix is added)."""
        self._used.add(self.prefix + name)

    def note(self, line: str) -> None:
        """A log line about how tensors were read; repeated ones are said once."""
        if line not in self._skips:
            self._skips.append(line)

    def finish(self) -> list[str]:
        """Check that every tensor was read or skipped; returns log lines. Raises CheckpointError for tensors that were not."""
        left = [name for name in self.checkpoint.names if name not in self._used]
        if left:
            raise CheckpointError(
                f"{self.checkpoint.folder} holds {len(left)} tensors that the model of its config.json does not have: "
                f"{_some(left)}. "
                "Config and weights do not belong together, or the weights are in a format that is not supported."
            )
        return list(self._skips)

    def _info(self, name: str) -> TensorInfo:
        whole = self.prefix + name
        info = self.checkpoint.names.get(whole)
        if info is None:
            near = difflib.get_close_matches(whole, self.checkpoint.names, n=3, cutoff=0.5)
            closest = f" The closest names there are: {', '.join(near)}." if near else ""
            raise CheckpointError(
                f"{self.checkpoint.folder} has no tensor {whole!r}, which the model in its config.json needs.{closest} "
                "Download the checkpoint again if a file is incomplete."
            )
        return info

    def _locate(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, shard_dim: int | None, rows: Span | None, part: Part
    ) -> tuple[TensorInfo, Cut]:
        if (shard_dim is not None) + (rows is not None) + bool(part) > 1:
            raise ValueError(f"{self.prefix + name!r}: give only one of shard_dim, rows and part")
        self.checkpoint.expect(self.prefix + name, tuple(shape), dtype)
        info = self._info(name)
        whole = self.prefix + name
        if info.shape != tuple(shape):
            raise CheckpointError(
                f"{info.file}: tensor {whole!r} is {list(info.shape)}, the model in config.json needs {list(shape)}. "
                "Config and weights do not belong together."
            )
        if shard_dim is not None:
            part = Shard(shard_dim, self.rank, self.world).part(whole, info.shape)
        elif rows is not None:
            part = (rows,)
        return info, resolve(whole, info.shape, part)

    def _read(self, name: str, info: TensorInfo, cut: Cut, destination: torch.Tensor) -> None:
        stored = TORCH_DTYPES[info.dtype]
        convertible = stored.is_floating_point and destination.dtype.is_floating_point
        if stored != destination.dtype and not convertible:
            raise CheckpointError(
                f"{info.file}: tensor {self.prefix + name!r} is stored as {info.dtype}, the model needs {destination.dtype}. "
                "Its quantisation format is not supported."
            )
        self.checkpoint.read(self.prefix + name, cut, destination)
        self._used.add(self.prefix + name)


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
