"""What a tensor is for, by its name: as on the hub, or as in GGUF files."""

from __future__ import annotations

import re
from functools import lru_cache

# In this order; the first that matches counts.
_RULES: tuple[tuple[str, str], ...] = (
    ("tower", r"(model\.)?(vision_tower|audio_tower|embed_vision|embed_audio|vision_embedder|audio_embedder|visual)\."),
    ("tower", r"(model\.)?(vision_model|multi_modal_projector)\.|(v|a|mm)\."),
    ("draft", r"(.*\.)?(mtp|nextn)\."),
    ("buffer", r".*rotary_emb\.|rope_freqs"),
    ("lookup", r".*(embed_tokens_per_layer|per_layer_token_embd)\."),
    ("embedding", r"(.*\.)?(embed_tokens|token_embd)\."),
    ("head", r"(.*\.)?(lm_head|output)\.weight"),
    ("buffer", r".*\.(layer_scalar|layer_output_scale)"),
    ("buffer", r".*\.([kv]_scale|input_scale)$"),
    ("other", r".*\.(sinks|A_log|dt_bias)$|.*\.(conv1d|attn_sinks|ssm_a|ssm_dt|ssm_conv1d)\b"),
    ("router", r".*\.(router|gate|shared_expert_gate|ffn_gate_inp|ffn_gate_inp_shexp)\."),
    ("expert", r".*(\.experts\.|_exps\b)"),
    ("norm", r"(.*\.)?\w*norm\w*\.(weight|bias)$|.*norm$"),
)
_NUMBER = re.compile(r"\d+")
_COMPILED = tuple((role, re.compile(pattern)) for role, pattern in _RULES)


def role_of(name: str) -> str:
    """One of: embedding head linear expert router norm lookup tower draft buffer other."""
    return _role(_NUMBER.sub("0", name))


@lru_cache(maxsize=4096)
def _role(name: str) -> str:
    """Of names that differ in numbers alone, of which a mixture of experts has tens of thousands, only one is looked at."""
    return next((role for role, pattern in _COMPILED if pattern.match(name)), "linear")
