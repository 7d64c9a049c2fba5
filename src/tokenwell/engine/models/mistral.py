"""Mistral 7B and its text-only successors (MistralForCausalLM): Llama with one sliding window for all layers, or none."""

from __future__ import annotations

from tokenwell.engine.models.build import Build
from tokenwell.engine.models.config import ModelFacts, Raw
from tokenwell.engine.models.decoder import Decoder, Style
from tokenwell.engine.models.llama import standard_facts


def read(raw: Raw) -> ModelFacts:
    """Facts from config.json."""
    window = raw.size("sliding_window") if raw.get("sliding_window") is not None else None
    return standard_facts(raw, "MistralForCausalLM", [window] * raw.size("num_hidden_layers"))


def build(build: Build, raw: Raw) -> Decoder:
    """Load the model."""
    return Decoder(build, Style())
