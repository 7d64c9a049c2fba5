"""What vLLM 0.19 holds on one rank after loading: its parameters, rope tables and buffers.

From the checkpoint's tensors: vLLM joins q, k and v, gate and up, and a layer's experts, splits them over ranks, copies key heads
where there are fewer than ranks, and may quantise while it loads. Sources: vLLM 0.19's model_executor/layers/linear.py,
vocab_parallel_embedding.py, fused_moe/, rotary_embedding/, quantization/{fp8,mxfp4}.py and models/*.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from tokenwell.plan.allocator import Made
from tokenwell.plan.card import ModelCard, TensorFacts
from tokenwell.plan.fields import Fields
from tokenwell.plan.vllm.device import Device

_VALUE = 2  # bytes of a value in 16 bits
_VOCABULARY_MULTIPLE = 64  # vocabularies are padded to it
_MXFP4_BLOCK = 32  # codes that share a scale
_MROPE_WINDOWS = 4
_MOST_POSITIONS = 1 << 32
# Matrices that vLLM keeps as one: (what their modules end in, what takes their place).
_JOINED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<=self_attn\.)[qkv]_proj$"), "qkv_proj"),
    (re.compile(r"experts(\.#)?\.(gate|up|gate_up)_proj$"), "experts.w13"),
    (re.compile(r"experts(\.#)?\.down_proj$"), "experts.w2"),
    (re.compile(r"(gate|up)_proj$"), "gate_up_proj"),
    (re.compile(r"in_proj_(qkv|z)$"), "in_proj_qkvz"),
    (re.compile(r"in_proj_[ba]$"), "in_proj_ba"),
)
# Where ranks hold a share each of rows, or of columns (then a bias is whole on every rank); all else is whole everywhere.
_BY_ROWS = re.compile(
    r"(^|\.)((q|k|v|gate|up|gate_up)_proj|in_proj_\w+|conv1d|A_log|dt_bias|sinks|per_layer_model_projection|"
    r"embed_tokens\w*|lm_head|attn\.qkv|linear_fc1)(\.|$)"
)
_BY_COLUMNS = re.compile(r"(^|\.)((o|out|down)_proj|attn\.proj|linear_fc2)(\.|$)")
REPLICATED_TOWERS = re.compile(r"(^|\.)(vision_tower|audio_tower|embed_vision|embed_audio)\.")  # Gemma's, run by transformers
_LEAF = re.compile(
    r"^(?P<module>.*?)[._](?P<leaf>weight|bias|blocks|scales|weight_scale|weight_scale_inv|weight_packed|weight_shape|"
    r"weight_zero_point|weight_g_idx|qweight|qzeros|g_idx|input_scale)$"
)
_KV = re.compile(r"self_attn\.[kv]_proj$")
_TOWER_MATRIX = re.compile(r"attn\.(qkv|proj)$|linear_fc\d$")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_FLOATS = ("BF16", "F16", "F32")


@dataclass(frozen=True, slots=True)
class Parameter:
    """What one rank holds under one name."""

    name: str
    nbytes: int
    made: Made  # how it came about


def _simply(name: str, nbytes: int) -> Parameter:
    """Allocated when the model is built, before anything is loaded."""
    return Parameter(name, nbytes, Made((nbytes,)))


def parameters(card: ModelCard, quantization: str | None, tp: int, device: Device, batched_tokens: int) -> list[Parameter]:
    """Everything that is counted as the model's, in about the order of creation."""
    online = quantization == "fp8" and card.stored is None
    mxfp4 = card.stored == "mxfp4"
    joined: dict[tuple[str, str], _Joined] = {}
    # Tensors come in the order of their names, as safetensors files have them; the model itself is built before.
    for place, tensor in enumerate(sorted(_as_vllm_has_them(card), key=lambda tensor: tensor.name), 1):
        layer, traits = _understood(tensor)
        if not (mxfp4 and tensor.role == "expert"):
            entry = joined.setdefault((traits.joined, layer), _Joined(traits))
            entry.add(tensor, _share(card, layer, traits, tp), place)
    held: list[Parameter] = []
    for (pattern, layer), entry in joined.items():
        name = pattern.replace("#", layer, 1)
        if online and entry.quantisable:
            held.extend(_online_fp8(name, entry, device))
        else:
            held.append(_simply(name, entry.nbytes))
    if mxfp4:
        held.extend(_mxfp4_experts(card, tp, device))
    return [*held, *_rope_tables(card), *_buffers(card, batched_tokens)]


def _as_vllm_has_them(card: ModelCard) -> Iterator[TensorFacts]:
    """The checkpoint's tensors less those that are not loaded, plus those that vLLM makes of others."""
    for tensor in card.tensors:
        if tensor.role == "draft" or (card.tied and tensor.role == "head"):  # drafters are loaded only to draft
            continue
        if tensor.role in ("embedding", "head", "lookup"):
            rows = _up(tensor.shape[0], _VOCABULARY_MULTIPLE)
            tensor = replace(tensor, shape=(rows, *tensor.shape[1:]), nbytes=tensor.nbytes // tensor.shape[0] * rows)
        if card.dtype == "float32" and tensor.dtype == "F32":  # --dtype auto serves such models in 16 bits
            tensor = replace(tensor, dtype="BF16", nbytes=tensor.nbytes // 2)
        yield tensor
        if tensor.role == "linear" and ".k_proj." in tensor.name:
            layer, traits = _understood(tensor)
            if traits.split == "heads" and card.layers[int(layer)].folded:
                # Where K == V, vLLM loads the key projection a second time as the value's.
                yield replace(tensor, name=tensor.name.replace(".k_proj.", ".v_proj."))


@dataclass(frozen=True, slots=True)
class _Traits:
    """What follows from a name, whatever the numbers in it."""

    joined: str  # the parameter that it becomes a part of; "#" is the layer
    split: str  # how ranks share it: "rows", "columns", "heads" (of keys) or "" (whole on every rank)
    quantisable: bool  # while loading, if it is a matrix in a float dtype


def _understood(tensor: TensorFacts) -> tuple[str, _Traits]:
    """The number of a tensor's layer ("" without one) and the traits."""
    layer = _NUMBER.search(tensor.name)
    return (layer[0] if layer else "", _traits(_NUMBER.sub("#", tensor.name), tensor.role))


@cache
def _traits(pattern: str, role: str) -> _Traits:
    found = _LEAF.match(pattern)
    module, leaf = (found["module"], found["leaf"]) if found else (pattern, "")
    joined = module
    for ending, replacement in _JOINED:
        joined, count = ending.subn(replacement, module)
        if count:
            break
    towers = REPLICATED_TOWERS.search(pattern) is not None
    if towers or role in ("norm", "router"):
        split = ""
    elif _KV.search(module):
        split = "heads"
    elif _BY_ROWS.search(pattern):
        split = "rows"
    else:
        split = "columns" if _BY_COLUMNS.search(pattern) and leaf != "bias" else ""
    if role == "tower":
        quantisable = not towers and leaf == "weight" and _TOWER_MATRIX.search(module) is not None
    else:
        quantisable = role in ("linear", "expert")
    return _Traits(f"{joined}.{leaf}", split, quantisable)


def _share(card: ModelCard, layer: str, traits: _Traits, tp: int) -> tuple[int, int]:
    """The part of a tensor that one rank holds: so many of so many."""
    if traits.split == "heads":
        kv_heads = card.layers[int(layer)].kv_heads
        return max(1, kv_heads // tp), kv_heads
    return (1, tp) if traits.split else (1, 1)


class _Joined:
    """Tensors that become one parameter of a rank."""

    def __init__(self, traits: _Traits) -> None:
        self.nbytes = 0
        self.rows = 0  # outputs of the matrix on this rank; over all experts where there are several
        self.matrices = 0
        self.quantisable = traits.quantisable
        self.by_columns = traits.split == "columns"
        self.begins = self.ends = 0  # places of its first and its last part in the checkpoint

    def add(self, tensor: TensorFacts, share: tuple[int, int], place: int) -> None:
        """One part more."""
        part, whole = share
        self.nbytes += -(-tensor.nbytes * part // whole)
        rows = math.prod(tensor.shape[:-1]) if len(tensor.shape) > 1 else 0
        self.rows += rows if self.by_columns else -(-rows * part // whole)
        self.matrices += tensor.shape[0] if len(tensor.shape) == 3 else 1
        self.quantisable = self.quantisable and len(tensor.shape) > 1 and tensor.dtype in _FLOATS
        self.begins, self.ends = self.begins or place, place


# ---------------------------------------------------------------- fp8 while loading


def _online_fp8(name: str, entry: _Joined, device: Device) -> list[Parameter]:
    """Codes of a byte with a float32 scale for each matrix; Marlin's are packed once more, with a scale in 16 bits an output."""
    codes, scales = entry.nbytes // 2, 4 * entry.matrices
    if not device.marlin_fp8:
        return [
            Parameter(name, codes, Made((entry.nbytes, codes), entry.begins, entry.ends)),
            Parameter(f"{name}_scale", scales, Made((scales,), entry.ends)),
        ]
    last = entry.rows * _VALUE
    return [
        Parameter(name, codes, Made((entry.nbytes, codes, codes), entry.begins, entry.ends)),
        Parameter(f"{name}_scale", last, Made((scales, last), entry.ends, entry.ends)),
    ]


# ---------------------------------------------------------------- MXFP4


def _mxfp4_experts(card: ModelCard, tp: int, device: Device) -> Iterator[Parameter]:
    """Codes of half a byte and a byte of scale for 32 of them, padded as the kernels want it."""
    form = device.mxfp4
    width = _up(-(-Fields(card.config).inner("text_config").size("intermediate_size") // tp), form.width_multiple)
    hidden = _up(card.hidden, form.hidden_multiple)
    for layer in card.layers:
        at = f"layers.{layer.index}.experts"
        for name, rows, columns in (("w13", 2 * width, hidden), ("w2", hidden, width)):
            yield _simply(f"{at}.{name}", card.experts * rows * columns // 2)
            yield _simply(f"{at}.{name}_scale", card.experts * rows * (columns // _MXFP4_BLOCK))
            if form.scale_rows:
                copied = card.experts * _up(rows, form.scale_rows) * (columns // _MXFP4_BLOCK)
                yield _simply(f"{at}.{name}_scale of the kernel", copied)
            yield _simply(f"{at}.{name}_bias", card.experts * rows * form.bias_bytes)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


# ---------------------------------------------------------------- tables and buffers


def _rope_tables(card: ModelCard) -> Iterator[Parameter]:
    """Cosines and sines of all positions that the model knows, once for each kind of rope, whatever window is served.

    [positions, rotated channels] in the model's dtype; float32 for gpt-oss. YaRN's has its stretched window; that of
    models with positions in three directions has four times the window, for long videos.
    """
    text = Fields(card.config).inner("text_config")
    rope = text.part("rope_parameters") or text.part("rope_scaling") or Fields({}, text.where)
    kinds = [key for key, value in rope.values.items() if isinstance(value, Mapping)]
    for kind in kinds or [""]:
        owners = [
            layer for layer in card.layers if layer.kind != "linear" and kind.removesuffix("_attention") in ("", layer.kind)
        ]
        if owners:
            value = 4 if "GptOss" in card.architecture else _VALUE
            channels = _rope_numbers(card, text, rope.inner(kind))
            yield _simply(f"rope {kind}".strip(), int(channels * owners[0].head_dim) * value)


def _rope_numbers(card: ModelCard, text: Fields, rope: Fields) -> float:
    """Numbers of a table for each channel of a head."""
    told = rope.get("rope_type", "type")
    share = 1.0 if told == "proportional" else rope.number("partial_rotary_factor", text.number("partial_rotary_factor", 1.0))
    positions = float(card.window)
    if told == "yarn":
        positions = rope.size("original_max_position_embeddings", default=card.window) * rope.number("factor", 1.0)
    if rope.get("mrope_section"):
        positions *= _MROPE_WINDOWS
    if not 0 <= share <= 1 or not 0 < positions <= _MOST_POSITIONS:
        raise rope.wrong("partial_rotary_factor or factor", "a share of the head and a stretch of the window", (share, positions))
    return positions * share


def _buffers(card: ModelCard, batched_tokens: int) -> Iterator[Parameter]:
    """Per-layer embeddings of a whole step, where a model has them, and the scales of each layer's attention."""
    width = next((tensor.shape[1] for tensor in card.tensors if tensor.role == "lookup"), 0)
    if width:
        yield _simply("per-layer embeddings", batched_tokens * width * _VALUE)
    for layer in card.layers:
        if layer.kind != "linear":
            yield from (_simply(f"layers.{layer.index}.{name}_scale", 4) for name in ("q", "k", "v", "prob"))
