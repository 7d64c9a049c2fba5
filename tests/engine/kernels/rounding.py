"""Triton 3.6's interpreter truncates where compiled kernels round to nearest, and carries wrongly into the exponent of 8-bit
floats. `correct()` gives it torch's conversions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8e4nv": torch.float8_e4m3fn, "fp8e5": torch.float8_e5m2}


def correct() -> None:
    """Replace the interpreter's narrowing of float32, once."""
    from triton.runtime import interpreter

    original = interpreter._convert_float
    if getattr(original, "rounds", False):
        return

    def convert(value: Any, source: Any, target: Any, mode: Any) -> Any:
        if source.name != "fp32" or target.name not in _TYPES:
            return original(value, source, target, mode)
        wide = torch.from_numpy(np.frombuffer(value.tobytes(), dtype=np.float32).copy())
        narrow = wide.to(_TYPES[target.name])
        bits = narrow.view(torch.uint8 if narrow.itemsize == 1 else torch.uint16)
        return bits.numpy().reshape(value.shape)

    convert.rounds = True  # type: ignore[attr-defined]
    interpreter._convert_float = convert
