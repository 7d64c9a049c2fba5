"""Random weights of the right shapes from a config.json alone (`--load-format dummy`), for planning and benchmarks.

Every tensor that a model asks for exists, with the shape it asks for; values are drawn on the device, so that activations
keep their size from layer to layer and quantised codes and scales are valid. A tensor's values depend on its name alone.
Benchmarks may have them as vLLM draws its own (`DummyCheckpoint.within`): what activations are then decides how alike rows are.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from tokenwell.checkpoint.folder import read_object
from tokenwell.checkpoint.safetensors import DTYPE_BYTES, TensorInfo
from tokenwell.checkpoint.shard import Cut
from tokenwell.engine.weights.read import TORCH_DTYPES

_STORED = {dtype: name for name, dtype in TORCH_DTYPES.items()}

# What a published checkpoint holds only in some formats, by how the names end: (ending, the `quant_method`s that have it).
_FORMATS: tuple[tuple[str, frozenset[str]], ...] = (
    ("_blocks", frozenset({"mxfp4"})),
    ("_scales", frozenset({"mxfp4"})),
    (".weight_scale_inv", frozenset({"fp8"})),
    (".weight_scale", frozenset({"compressed-tensors"})),
    (".weight_packed", frozenset({"compressed-tensors"})),
    (".weight_shape", frozenset({"compressed-tensors"})),
    (".weight_zero_point", frozenset()),
    (".qweight", frozenset({"awq", "gptq"})),
    (".qzeros", frozenset({"awq", "gptq"})),
    (".scales", frozenset({"awq", "gptq"})),
    (".g_idx", frozenset({"gptq"})),
    (".input_scale", frozenset()),
    (".k_scale", frozenset()),
    (".v_scale", frozenset()),
)
# Tensors that an architecture's published checkpoints do not have, though those of a relative do.
_ABSENT: dict[str, str] = {"Qwen3MoeForCausalLM": r".*\.experts\.(gate_up|down)_proj"}

_E2M1_RMS = 2.93  # of uniformly random E2M1 codes (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives)
_INT4_RMS = 6.5  # of the difference of two uniformly random 4-bit numbers
_E4M3_RMS = 64.0  # of the e4m3 codes that are drawn here; the largest number is 448


@dataclass
class DummyCheckpoint:
    """A checkpoint that has every tensor that is asked for. Takes the place of Checkpoint in a Source."""

    folder: Path
    config: dict[str, Any]
    names: dict[str, TensorInfo] = field(default_factory=dict)  # what has been asked for so far

    within: ClassVar[float | None] = None  # if set, all that is not codes or their scales is uniform in +-this

    @classmethod
    def open(cls, path: Path) -> DummyCheckpoint:
        """`path` is a folder with a config.json, or a config file of any name. Raises CheckpointError."""
        file = path if path.is_file() else path / "config.json"
        return cls(file.parent, read_object(file, "random weights need a config.json, or the path of such a file"))

    @property
    def total_bytes(self) -> int:
        """Bytes of the tensors that were asked for, as they would be stored."""
        return sum(info.nbytes for info in self.names.values())

    def has(self, name: str) -> bool:
        """Whether the published checkpoints of this architecture and format hold such a tensor."""
        for architecture in self.config.get("architectures") or []:
            if re.fullmatch(_ABSENT.get(architecture, ""), name):
                return False
        found = self._quantisation()
        method = found.get("quant_method")
        if method == "fp8" and not found.get("weight_block_size"):
            method = "compressed-tensors"  # the same names: scales of whole tensors
        for ending, methods in _FORMATS:
            if name.endswith(ending):
                return method in methods
        # Packed formats put other tensors in the place of these.
        return not (method == "mxfp4" and name.endswith(("experts.gate_up_proj", "experts.down_proj")))

    def expect(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """A tensor of this shape is about to be read, into this dtype: from now on it is one of `names`."""
        stored = "BF16" if dtype.is_floating_point and dtype.itemsize > 1 else _STORED[dtype]
        nbytes = math.prod(shape) * DTYPE_BYTES[stored]
        self.names.setdefault(name, TensorInfo(self.folder / "config.json", stored, shape, 0, nbytes))

    def read(self, name: str, cut: Cut, destination: torch.Tensor) -> None:
        """Fill `destination` with that part of a tensor."""
        shape = self.names[name].shape
        if len(shape) < 3:
            self._read_whole(name, name, shape, cut, destination)
            return
        for place, index in enumerate(cut[0]):  # an expert at a time: large stacks are read in parts
            self._read_whole(name, f"{name}[{index}]", shape[1:], cut[1:], destination[place])

    def _read_whole(self, name: str, seed: str, shape: tuple[int, ...], cut: Cut, destination: torch.Tensor) -> None:
        """Draw all of a tensor, into place if all is wanted."""
        generator = torch.Generator(destination.device).manual_seed(zlib.crc32(seed.encode()))
        whole_cut = all(indices == range(size) for indices, size in zip(cut, shape, strict=True))
        if whole_cut and destination.is_contiguous():  # numbers are drawn in the order of memory
            self._draw(name, destination, generator)
            return
        whole = torch.empty(shape, dtype=destination.dtype, device=destination.device)
        self._draw(name, whole, generator)
        destination.copy_(whole[tuple(slice(indices.start, indices.stop, indices.step) for indices in cut)])

    def _draw(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        """Values by role, which the name and the dtype tell."""
        last = name.rsplit(".", 1)[-1]
        dim = self._dim()
        if tensor.dtype == torch.uint8:
            if last.endswith("_scales"):  # E8M0: 2 ** (code - 127)
                middle = 127 + round(-math.log2(_E2M1_RMS * math.sqrt(dim)))
                tensor.random_(middle - 1, middle + 2, generator=generator)
            else:
                tensor.random_(0, 256, generator=generator)
        elif last == "g_idx":
            group = int(self._quantisation().get("group_size", 128))
            torch.div(torch.arange(tensor.numel(), device=tensor.device), group, rounding_mode="floor", out=tensor)
        elif not tensor.is_floating_point():
            tensor.random_(generator=generator)
        elif tensor.dtype.itemsize == 1:
            values = torch.empty(tensor.shape, dtype=torch.bfloat16, device=tensor.device)
            tensor.copy_(values.normal_(0.0, _E4M3_RMS, generator=generator).clamp_(-448, 448))
        elif last in ("weight_scale", "weight_scale_inv"):
            tensor.fill_(1 / (_E4M3_RMS * math.sqrt(dim)))
        elif last == "scales":
            tensor.fill_(1 / (_INT4_RMS * math.sqrt(dim)))
        elif self.within is not None:
            tensor.uniform_(-self.within, self.within, generator=generator)
        elif "norm" in name.rsplit(".", 2)[-2 if last == "weight" else -1] or last.endswith(("scale", "scalar")):
            tensor.fill_(1.0)
        elif tensor.dim() < 2:  # biases, sinks
            tensor.normal_(0.0, 0.1, generator=generator)
        else:
            tensor.normal_(0.0, 1 / math.sqrt(tensor.shape[-1]), generator=generator)

    def _quantisation(self) -> Mapping[str, Any]:
        found = self.config.get("quantization_config") or self._text().get("quantization_config")
        return found if isinstance(found, dict) else {}

    def _text(self) -> Mapping[str, Any]:
        nested = self.config.get("text_config")
        return nested if isinstance(nested, dict) else self.config

    def _dim(self) -> int:
        """The width of the residual stream: what most matrices have as inputs, near enough for all of them."""
        return int(self._text().get("hidden_size", 1024))
