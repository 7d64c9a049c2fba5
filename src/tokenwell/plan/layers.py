"""What each layer of a model keeps for a token or a sequence, from config.json alone: one function a family.

Rules as in the families' reference implementations (transformers 5.23) and in the engine's own model files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenwell.plan.fields import Fields
from tokenwell.wire.errors import CheckpointError

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
_STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CONV_BYTES = 2  # what the short convolution remembers is kept in 16 bits


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One layer. Heads are those of the whole model, not of a rank."""

    index: int
    kind: str  # "full" | "sliding" | "linear"
    window: int | None  # tokens that a query sees, itself included; None: all
    heads: int
    kv_heads: int
    head_dim: int
    owner: int  # its own index, or the layer whose K and V it reads
    folded: bool  # K follows from V, so that V alone has to be stored
    state_bytes: int  # recurrent state of one sequence; 0 for attention


@dataclass(frozen=True, slots=True)
class Family:
    """How the configs of one architecture are read."""

    layers: Callable[[Fields], tuple[LayerFacts, ...]]
    served: bool = True  # by the native engine
    tied: bool = False  # whether head and embedding are one tensor where the config does not say
    positions: int = 2048  # the window where the config does not say


def family_of(config: Fields) -> Family:
    """The family that config.json names. Raises CheckpointError with the known ones."""
    return FAMILIES[architecture_of(config)]


def architecture_of(config: Fields) -> str:
    """The first of `architectures` that is known. Raises CheckpointError with the known ones."""
    named = config.get("architectures", default=[])
    if isinstance(named, list):
        for name in named:
            if isinstance(name, str) and name in FAMILIES:
                return name
    said = ", ".join(map(str, named))[:200] if isinstance(named, list) and named else "no architecture"
    raise CheckpointError(f"{config.where}: architectures names {said}, which is not known. Known: {', '.join(FAMILIES)}")


def _attention(config: Fields, windows: list[int | None]) -> tuple[LayerFacts, ...]:
    """Layers that differ at most in their window."""
    heads, kv_heads, head_dim = config.heads()
    return tuple(
        LayerFacts(index, "full" if window is None else "sliding", window, heads, kv_heads, head_dim, index, False, 0)
        for index, window in enumerate(windows)
    )


def _llama(config: Fields) -> tuple[LayerFacts, ...]:
    return _attention(config, [None] * config.layers())


def _mistral(config: Fields) -> tuple[LayerFacts, ...]:
    window = config.size("sliding_window") if config.get("sliding_window") is not None else None
    return _attention(config, [window] * config.layers())


def _qwen(config: Fields) -> tuple[LayerFacts, ...]:
    """Windows only with `use_sliding_window`, then from layer `max_window_layers` on or as listed."""
    count = config.layers()
    if not config.flag("use_sliding_window") or config.get("sliding_window") is None:
        return _attention(config, [None] * count)
    window = config.size("sliding_window")
    full = config.size("max_window_layers", default=28, least=0)
    kinds = config.kinds(count, [FULL if index < full else SLIDING for index in range(count)], (FULL, SLIDING))
    return _attention(config, [window if kind == SLIDING else None for kind in kinds])


def _qwen_moe(config: Fields) -> tuple[LayerFacts, ...]:
    sliding = config.flag("use_sliding_window") and config.get("sliding_window") is not None
    return _attention(config, [config.size("sliding_window") if sliding else None] * config.layers())


def _gpt_oss(config: Fields) -> tuple[LayerFacts, ...]:
    count = config.layers()
    kinds = config.kinds(count, [FULL if index % 2 else SLIDING for index in range(count)], (FULL, SLIDING))
    window = config.size("sliding_window", default=128)
    return _attention(config, [window if kind == SLIDING else None for kind in kinds])


def _gemma4(config: Fields) -> tuple[LayerFacts, ...]:
    """Heads of two sizes; the last layers may read an earlier layer's K and V; full layers may have K == V."""
    text = config.inner("text_config")
    count = text.layers()
    kinds = text.kinds(count, [SLIDING if (index + 1) % 6 else FULL for index in range(count)], (FULL, SLIDING))
    kinds = [*kinds[:-1], FULL]  # the reference implementation insists on it
    first_shared = count - text.size("num_kv_shared_layers", default=0, least=0, most=count)
    last: dict[str, int] = {kind: index for index, kind in enumerate(kinds[:first_shared])}
    layers = []
    for index, kind in enumerate(kinds):
        owner = index if index < first_shared else last.get(kind)
        if owner is None:
            raise CheckpointError(
                f"{text.where}: num_kv_shared_layers lets layer {index} share the keys of a {kind} layer, but none before has any"
            )
        layers.append(_gemma4_layer(text, index, kind, owner))
    return tuple(layers)


def _gemma4_layer(text: Fields, index: int, kind: str, owner: int) -> LayerFacts:
    full = kind == FULL
    folded = full and text.flag("attention_k_eq_v")
    heads, kv_heads, head_dim = text.heads()
    said = text.part("per_layer_config")  # files that transformers wrote list the layers that differ, by index or kind
    if full:
        head_dim = text.size("global_head_dim", default=512 if said is None else head_dim, most=1 << 16)
    if folded:
        kv_heads = text.size("num_global_key_value_heads", default=kv_heads, most=heads)
    own = (said.part(str(index)) or said.part(kind)) if said is not None else None
    if own is not None:
        kv_heads = own.size("num_key_value_heads", default=kv_heads, most=heads)
        head_dim = own.size("head_dim", default=head_dim, most=1 << 16)
    window = None if full else text.size("sliding_window", default=512)
    return LayerFacts(index, "full" if full else "sliding", window, heads, kv_heads, head_dim, owner, folded, 0)


def _qwen3_5(config: Fields) -> tuple[LayerFacts, ...]:
    """Gated DeltaNet layers with a state for each sequence, and every few layers full attention."""
    text = config.inner("text_config")
    count = text.layers()
    every = text.size("full_attention_interval", default=4)
    kinds = text.kinds(count, [LINEAR if (index + 1) % every else FULL for index in range(count)], (FULL, LINEAR))
    heads, kv_heads, head_dim = text.heads()
    keys, values = text.size("linear_num_key_heads", default=16), text.size("linear_num_value_heads", default=32)
    key_dim, value_dim = text.size("linear_key_head_dim", default=128), text.size("linear_value_head_dim", default=128)
    kept = text.size("linear_conv_kernel_dim", default=4) - 1
    stored = text.text("mamba_ssm_dtype", default="float32")
    if stored not in _STATE_BYTES:
        raise text.wrong("mamba_ssm_dtype", " or ".join(_STATE_BYTES), stored)
    state_bytes = values * key_dim * value_dim * _STATE_BYTES[stored]
    state_bytes += (2 * keys * key_dim + values * value_dim) * kept * _CONV_BYTES
    return tuple(
        LayerFacts(index, "full", None, heads, kv_heads, head_dim, index, False, 0)
        if kind == FULL
        else LayerFacts(index, "linear", None, values, keys, value_dim, index, False, state_bytes)
        for index, kind in enumerate(kinds)
    )


_GEMMA4 = Family(_gemma4, tied=True, positions=131_072)
_QWEN3_5 = Family(_qwen3_5, served=False, positions=32_768)
FAMILIES: dict[str, Family] = {
    "Gemma4ForCausalLM": _GEMMA4,
    "Gemma4ForConditionalGeneration": _GEMMA4,
    "GptOssForCausalLM": Family(_gpt_oss),
    "LlamaForCausalLM": Family(_llama),
    "MistralForCausalLM": Family(_mistral),
    "Qwen2ForCausalLM": Family(_qwen),
    "Qwen3ForCausalLM": Family(_qwen),
    "Qwen3MoeForCausalLM": Family(_qwen_moe),
    "Qwen3_5ForCausalLM": _QWEN3_5,
    "Qwen3_5ForConditionalGeneration": _QWEN3_5,
    "Qwen3_5MoeForCausalLM": _QWEN3_5,
    "Qwen3_5MoeForConditionalGeneration": _QWEN3_5,
}
