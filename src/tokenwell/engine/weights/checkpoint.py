"""A checkpoint folder whose tensors are read into torch. Knows files and names, no architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokenwell.checkpoint.folder import read_folder
from tokenwell.checkpoint.safetensors import TensorInfo
from tokenwell.checkpoint.shard import Cut
from tokenwell.engine.weights.read import read_cut


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder in Hugging Face layout, every header read and checked, no tensor data touched."""

    folder: Path
    config: dict[str, Any]  # config.json as it is
    names: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read config.json and the headers of all weight files.

        With an index, the files are those that it names; without one, all *.safetensors of the folder.
        Raises CheckpointError naming the folder, file or tensor that is wrong.
        """
        config, tensors = read_folder(folder)
        return cls(folder, config, tensors)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors together, as stored."""
        return sum(info.nbytes for info in self.names.values())

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self.names

    def expect(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """A tensor of this shape is about to be read, into this dtype: nothing to prepare for files."""

    def read(self, name: str, cut: Cut, destination: torch.Tensor) -> None:
        """Fill `destination` with that part of a tensor. Raises CheckpointError naming the file if it cannot be read."""
        read_cut(self.names[name], cut, destination)
