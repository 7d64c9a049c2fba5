"""What Triton 3.6's interpreter lacks: loops between bounds that a kernel works out (numpy 2.4 no longer makes a number of an
array with one element by itself), and products of bfloat16, which it keeps as 16-bit integers and multiplies as such. And how to
make it as strict as another card's compiler.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def complete() -> None:
    """Add both, once."""
    from triton import language as tl
    from triton.runtime import interpreter

    patch, dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot
    if patch.__name__ == "patch_with_index":
        return

    def patch_with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def widened(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        wide = (x.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(wide, tl.float32)

    def dot_with_bfloat16(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return dot(self, widened(a), widened(b), *others)

    interpreter._patch_lang_tensor = patch_with_index
    interpreter.InterpreterBuilder.create_dot = dot_with_bfloat16


def be_battlemage(patch: pytest.MonkeyPatch) -> None:
    """Products have the least sizes of Intel's compiler for subgroups of 16 lanes (`min_dot_size` in its backend)."""
    from triton.runtime.interpreter import interpreter_builder

    from tokenwell.engine.platform import accelerator

    def least(left: Any, right: Any) -> tuple[int, int, int]:
        return 1, 16, 8 * min(8, 32 // max(left.scalar.primitive_bitwidth, right.scalar.primitive_bitwidth))

    patch.setitem(interpreter_builder.codegen_fns, "min_dot_size", least)
    patch.setattr(accelerator, "least_columns", lambda device: 16)
