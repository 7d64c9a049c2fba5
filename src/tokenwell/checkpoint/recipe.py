"""How a checkpoint stores its matrices and what they become on the device: config.json's quantization_config and the order.

Which modules are quantised is told by the tensors that are there; the config says how to read them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tokenwell.wire.errors import CheckpointError, SettingsError

Method = Literal["fp8", "compressed-tensors", "awq", "gptq", "mxfp4"]
Stored = Literal["fp8", "int4", "mxfp4"]
ORDERS = ("auto", "none", "fp8", "mxfp4")

# Small, or read for all tokens at once, or where small errors change what is chosen: these stay in the compute dtype.
_KEPT = re.compile(r"(.*\.)?(router(\.proj)?|gate|lm_head|embed_\w+|per_layer_\w+)")


@dataclass(frozen=True)
class Recipe:
    """The default stores and keeps everything in the compute dtype."""

    order: str = "auto"  # one of ORDERS
    method: Method | None = None
    stored: Stored | None = None  # of the modules that are not ignored
    block: tuple[int, int] | None = None  # fp8: rows and columns that share a scale
    per_channel: bool = False  # fp8 without blocks: a scale an output channel, not one a tensor
    group: int = 0  # int4: columns that share a scale; 0: all
    symmetric: bool = True  # int4: the zero is 8 and not stored
    less_one: bool = False  # GPTQ: zeros are stored less one
    by_activation: bool = False  # GPTQ's act-order: `g_idx` says which group a column is in
    ignored: tuple[str, ...] = ()

    @property
    def keeps_packed(self) -> bool:
        """Whether what is stored quantised stays so on devices that have kernels for it."""
        return self.order != "none"

    def quantises(self, module: str) -> bool:
        """Whether a module that is stored in a float dtype becomes e4m3 with a scale for each output channel."""
        return self.order == "fp8" and _KEPT.fullmatch(module) is None

    def ignores(self, module: str) -> bool:
        """Whether the config says that a module is not quantised."""
        for entry in self.ignored:
            if entry.startswith("re:"):
                if re.match(entry[3:], module):
                    return True
            elif module == entry or module.endswith("." + entry) or f".{entry}." in f".{module}.":
                return True
        return False


def read_recipe(config: Mapping[str, Any], order: str = "auto") -> Recipe:
    """The recipe of a whole config.json and EngineSpec.quantization.

    Raises SettingsError for an unknown order and CheckpointError for a format that is not supported.
    """
    if order not in ORDERS:
        raise SettingsError(f"--quantization {order!r} is not known; use {', '.join(ORDERS)}")
    found = config.get("quantization_config")
    if not found and isinstance(nested := config.get("text_config"), dict):
        found = nested.get("quantization_config")
    if not isinstance(found, dict) or not found:
        if order == "mxfp4":
            raise SettingsError(
                "--quantization mxfp4 keeps a checkpoint's own MXFP4 weights; this one has none. Use fp8 or none."
            )
        return Recipe(order)
    method = str(found.get("quant_method", "")).lower().replace("_", "-")
    ignored = tuple(str(name) for key in ("ignore", "modules_to_not_convert", "ignored_layers") for name in found.get(key) or ())
    if order == "mxfp4" and method != "mxfp4":
        raise SettingsError(f"--quantization mxfp4 keeps a checkpoint's own MXFP4 weights; this one is {method}. Use auto.")
    if method == "mxfp4":
        return Recipe(order, "mxfp4", "mxfp4", ignored=ignored)
    if method == "fp8":
        return Recipe(order, "fp8", "fp8", block=_block(found.get("weight_block_size")), ignored=ignored)
    if method in ("awq", "gptq"):
        return _packed(order, method, found, ignored)  # type: ignore[arg-type]
    if method == "compressed-tensors":
        return _compressed(order, found, ignored)
    raise CheckpointError(
        f"config.json: quantization_config has quant_method {method or None!r}, which is not supported; known are "
        "fp8, compressed-tensors, awq, gptq and mxfp4. Use another version of the model."
    )


def _block(size: Any) -> tuple[int, int] | None:
    if not size:
        return None
    if len(size) != 2 or min(size) < 1 or int(size[1]) & (int(size[1]) - 1):
        raise CheckpointError(f"config.json: scales for blocks of {size} are not supported; 128 x 128 is usual.")
    return int(size[0]), int(size[1])


def _group(size: Any) -> int:
    group = int(size or 0)
    if group <= 0:
        return 0
    if group & (group - 1) or group < 32:
        raise CheckpointError(
            f"config.json: groups of {group} columns are not supported; known are 32, 64, 128 and larger powers."
        )
    return group


def _four_bits(bits: Any) -> None:
    if bits != 4:
        raise CheckpointError(f"config.json: integer weights of {bits} bits are not supported, only of 4. Use another version.")


def _packed(order: str, method: Method, found: Mapping[str, Any], ignored: tuple[str, ...]) -> Recipe:
    """AWQ (GEMM layout) and GPTQ (layout of AutoGPTQ)."""
    _four_bits(found.get("bits", found.get("w_bit", 4)))
    version = str(found.get("version", "gemm")).lower()
    if method == "awq" and version != "gemm":
        raise CheckpointError(
            f"config.json: AWQ weights of version {version!r} are not supported, only gemm. Use another version."
        )
    group = _group(found.get("group_size", found.get("q_group_size", 128)))
    # Both store their zeros, symmetric or not.
    gptq = method == "gptq"
    return Recipe(
        order, method, "int4", group=group, symmetric=False, less_one=gptq and found.get("checkpoint_format") != "gptq_v2",
        by_activation=gptq and bool(found.get("desc_act", False)), ignored=ignored,
    )  # fmt: skip


def _compressed(order: str, found: Mapping[str, Any], ignored: tuple[str, ...]) -> Recipe:
    """compressed-tensors: one group of settings for all quantised modules."""
    groups = [group for group in (found.get("config_groups") or {}).values() if group.get("weights")]
    if not groups or any(group["weights"] != groups[0]["weights"] for group in groups):
        raise CheckpointError("config.json: compressed-tensors with several kinds of weights in one model is not supported.")
    weights = groups[0]["weights"]
    kind, bits, strategy = weights.get("type", "int"), weights.get("num_bits"), weights.get("strategy") or "tensor"
    if kind == "float" and bits == 8 and strategy in ("tensor", "channel", "block"):
        block = _block(weights.get("block_structure") or (128, 128)) if strategy == "block" else None
        per_channel = strategy == "channel"
        return Recipe(order, "compressed-tensors", "fp8", block=block, per_channel=per_channel, ignored=ignored)
    if kind == "int" and bits == 4 and strategy in ("group", "channel"):
        group = _group(weights.get("group_size")) if strategy == "group" else 0
        by_activation = weights.get("actorder") not in (None, False, "weight", "static")
        symmetric = bool(weights.get("symmetric", True))
        return Recipe(
            order, "compressed-tensors", "int4",
            group=group, symmetric=symmetric, by_activation=by_activation, ignored=ignored,
        )  # fmt: skip
    raise CheckpointError(
        f"config.json: compressed-tensors weights of type {kind!r} with {bits} bits by {strategy!r} are not supported; known are "
        "float 8 by tensor, channel or block and int 4 by group or channel. Use another version of the model."
    )
