"""A GGUF file's metadata in the words of config.json, so that families are read in one way only.

Keys: gguf-py's constants and the converters of llama.cpp. What no key tells (whether the head is tied, whether K == V) is told
by which tensors there are.
"""

from __future__ import annotations

from typing import Any

from tokenwell.checkpoint.gguf import Counted, Gguf
from tokenwell.wire.errors import CheckpointError

_ARCHITECTURES = {
    "gemma4": "Gemma4ForCausalLM",
    "gpt-oss": "GptOssForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3moe": "Qwen3MoeForCausalLM",
    "qwen35": "Qwen3_5ForCausalLM",
    "qwen35moe": "Qwen3_5MoeForCausalLM",
}
# config.json's name -> the key behind "<architecture>."
_KEYS = {
    "hidden_size": "embedding_length",
    "max_position_embeddings": "context_length",
    "head_dim": "attention.key_length",
    "sliding_window": "attention.sliding_window",
    "num_kv_shared_layers": "attention.shared_kv_layers",
    "hidden_size_per_layer_input": "embedding_length_per_layer_input",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "full_attention_interval": "full_attention_interval",
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "linear_key_head_dim": "ssm.state_size",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
}
_WINDOWED = ("gemma4", "gpt-oss")  # llama and qwen files may name a window that nobody uses


def config_of(found: Gguf) -> dict[str, Any]:
    """A config.json. Raises CheckpointError naming the file and the key."""
    meta = _Metadata(found)
    names = {tensor.name for tensor in found.tensors}
    config: dict[str, Any] = {name: meta.get(key) for name, key in _KEYS.items() if meta.get(key) is not None}
    config["architectures"] = [_ARCHITECTURES[meta.architecture]]
    config["dtype"] = "bfloat16"
    config["num_hidden_layers"] = meta.layers
    config["vocab_size"] = _vocabulary(meta, found)
    config["tie_word_embeddings"] = "output.weight" not in names
    heads, kv_heads = meta.each("attention.head_count"), meta.each("attention.head_count_kv", "attention.head_count")
    config["num_attention_heads"], config["num_key_value_heads"] = max(heads), max(kv_heads)
    if (width := meta.get("feed_forward_length")) is not None:
        config["intermediate_size"] = max(width) if isinstance(width, list) and width else width
    if meta.architecture not in _WINDOWED:
        config.pop("sliding_window", None)
    if meta.architecture == "gemma4":
        _gemma4(meta, names, kv_heads, config)
    if meta.architecture.startswith("qwen35"):
        ranks, inner = meta.size("ssm.time_step_rank"), meta.size("ssm.inner_size")
        config["linear_value_head_dim"] = inner // ranks
    if not config.get("num_experts"):
        config.pop("num_experts", None)
    return config


def drafts_from(found: Gguf) -> int:
    """The first layer that belongs to a draft head: files count those layers, too."""
    return _Metadata(found).layers


def _gemma4(meta: _Metadata, names: set[str], kv_heads: list[int], config: dict[str, Any]) -> None:
    """Heads of two sizes; a full layer with keys and no values has K == V."""
    kinds = ["sliding_attention" if sliding else "full_attention" for sliding in meta.pattern()]
    config["layer_types"] = kinds
    config["global_head_dim"] = config.pop("head_dim", None)
    config["head_dim"] = meta.get("attention.key_length_swa")
    by_kind = {kind: heads for kind, heads in zip(kinds, kv_heads, strict=True) if heads}
    config["per_layer_config"] = {kind: {"num_key_value_heads": heads} for kind, heads in by_kind.items()}
    config["num_global_key_value_heads"] = by_kind.get("full_attention")
    config["attention_k_eq_v"] = any(
        kind == "full_attention" and f"blk.{index}.attn_k.weight" in names and f"blk.{index}.attn_v.weight" not in names
        for index, kind in enumerate(kinds)
    )
    config["enable_moe_block"] = bool(config.get("num_experts"))
    config.setdefault("hidden_size_per_layer_input", 0)


def _vocabulary(meta: _Metadata, found: Gguf) -> int:
    for tensor in found.tensors:
        if tensor.name == "token_embd.weight" and len(tensor.shape) == 2:
            return tensor.shape[0]
    tokens = found.metadata.get("tokenizer.ggml.tokens")
    return tokens.count if isinstance(tokens, Counted) else meta.size("vocab_size")


class _Metadata:
    """A file's metadata, keys of its architecture by their last part."""

    def __init__(self, found: Gguf) -> None:
        self.file = found.file
        self.values = found.metadata
        self.architecture = str(self.values.get("general.architecture"))
        if self.architecture not in _ARCHITECTURES:
            raise CheckpointError(
                f"{self.file}: general.architecture is {str(self.architecture)[:60]!r}, which is not known. "
                f"Known: {', '.join(_ARCHITECTURES)}"
            )
        drafts = self.get("nextn_predict_layers") or 0
        blocks = self.size("block_count", most=4096)
        if not isinstance(drafts, int) or not 0 <= drafts < blocks:
            raise self.wrong("nextn_predict_layers", f"from 0 to {blocks - 1}", drafts)
        self.layers = blocks - drafts

    def get(self, key: str) -> Any:
        return self.values.get(f"{self.architecture}.{key}")

    def size(self, key: str, most: int = 1 << 32) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise self.wrong(key, f"a whole number from 1 to {most}", value)
        return value

    def each(self, *keys: str) -> list[int]:
        """A number for each layer, from a list or from one for all."""
        value = next((found for key in keys if (found := self.get(key)) is not None), None)
        values: list[Any] = value[: self.layers] if isinstance(value, list) else [value] * self.layers
        if len(values) != self.layers or not all(type(one) is int and 0 <= one <= 1 << 16 for one in values) or not max(values):
            raise self.wrong(keys[0], f"a number of heads, or one for each of {self.layers} layers", value)
        return values

    def pattern(self) -> list[bool]:
        """Which layers slide."""
        value = self.get("attention.sliding_window_pattern")
        if isinstance(value, list) and len(value) >= self.layers:
            return [bool(one) for one in value[: self.layers]]
        if type(value) is int and value > 0:
            return [bool((index + 1) % value) for index in range(self.layers)]
        raise self.wrong("attention.sliding_window_pattern", f"a list of {self.layers} or a period", value)

    def wrong(self, key: str, wanted: str, value: Any) -> CheckpointError:
        said = "missing" if value is None else f"{str(value)[:60]}"
        return CheckpointError(f"{self.file}: {self.architecture}.{key} must be {wanted}, it is {said}")
