"""One tensor of a checkpoint, and the list in which a family writes down its tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tokenwell.checkpoint.recipe import Recipe
from tokenwell.plan.roles import role_of

# Bits of one value, by the names that safetensors headers use.
DTYPE_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "BF16": 16, "F16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What is known of one tensor without reading it."""

    name: str  # as on the hub
    shape: tuple[int, ...]
    dtype: str  # as in a safetensors header: "BF16", "F8_E4M3", ...
    nbytes: int
    role: str  # see role_of


@dataclass
class Inventory:
    """Tensors as they are written down, in the model's order; matrices are spelt as the recipe says they are stored.

    Layouts of quantised matrices: as AutoAWQ, GPTQModel, compressed-tensors and the makers of block-wise fp8 files write them.
    """

    dtype: str  # of what is not quantised, in a header's word
    recipe: Recipe = field(default_factory=Recipe)
    tensors: list[TensorFacts] = field(default_factory=list)

    def add(self, name: str, shape: tuple[int, ...], dtype: str | None = None) -> None:
        """One tensor, of the model's dtype unless told."""
        kind = dtype or self.dtype
        self.tensors.append(TensorFacts(name, shape, kind, math.prod(shape) * DTYPE_BITS[kind] // 8, role_of(name)))

    def packs(self, module: str) -> bool:
        """Whether a matrix of the decoder's layers is stored quantised."""
        return self.recipe.stored in ("fp8", "int4") and not self.recipe.ignores(module)

    def linear(self, module: str, rows: int, columns: int, bias: bool = False) -> None:
        """The tensors of one matrix [rows, columns] and of its bias."""
        if bias:
            self.add(f"{module}.bias", (rows,))
        if not self.packs(module):
            self.add(f"{module}.weight", (rows, columns))
        elif self.recipe.stored == "fp8":
            self._fp8(module, rows, columns)
        else:
            self._int4(module, rows, columns)

    def _fp8(self, module: str, rows: int, columns: int) -> None:
        recipe = self.recipe
        self.add(f"{module}.weight", (rows, columns), "F8_E4M3")
        if recipe.block is not None:
            name = "weight_scale_inv" if recipe.method == "fp8" else "weight_scale"
            self.add(f"{module}.{name}", (-(-rows // recipe.block[0]), -(-columns // recipe.block[1])))
        else:
            self.add(f"{module}.weight_scale", (rows, 1) if recipe.per_channel else (1,))

    def _int4(self, module: str, rows: int, columns: int) -> None:
        """Eight codes to a word, along rows or columns as the format has it."""
        recipe = self.recipe
        groups = -(-columns // (recipe.group or columns))
        if recipe.method == "compressed-tensors":
            self.add(f"{module}.weight_packed", (rows, -(-columns // 8)), "I32")
            self.add(f"{module}.weight_scale", (rows, groups))
            self.add(f"{module}.weight_shape", (2,), "I64")
            if not recipe.symmetric:
                self.add(f"{module}.weight_zero_point", (-(-rows // 8), groups), "I32")
            if recipe.by_activation:
                self.add(f"{module}.weight_g_idx", (columns,), "I32")
            return
        awq = recipe.method == "awq"
        self.add(f"{module}.qweight", (columns, -(-rows // 8)) if awq else (-(-columns // 8), rows), "I32")
        self.add(f"{module}.qzeros", (groups, -(-rows // 8)), "I32")
        self.add(f"{module}.scales", (groups, rows), "F16")
        if not awq:
            self.add(f"{module}.g_idx", (columns,), "I32")
