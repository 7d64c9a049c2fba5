"""What is known of a model before it is loaded: its layers and tensors, from config.json and the headers of its files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenwell.checkpoint.folder import read_object
from tokenwell.checkpoint.hub import ENDPOINT
from tokenwell.checkpoint.recipe import read_recipe
from tokenwell.plan.fields import DTYPES, Fields
from tokenwell.plan.headers import Header, folder_header, gguf_header, hub_header
from tokenwell.plan.layers import LayerFacts, architecture_of, family_of
from tokenwell.plan.tensors import TensorFacts, tensors_of
from tokenwell.wire.errors import CheckpointError, TokenwellError

__all__ = ["LayerFacts", "ModelCard", "TensorFacts", "card_of", "read_card"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_MOST_EXPERTS = 1 << 17  # of all layers together, each with tensors of its own: more are a mistake, and would take long
_WORDS = {word: name for name, word in reversed(DTYPES.items())}


@dataclass(frozen=True, slots=True, eq=False)
class ModelCard:
    """A model. Sizes are those of the whole model, not of a rank. One card is equal to itself alone, so that it can be a key."""

    architecture: str  # as config.json names it
    window: int  # tokens that the model knows
    vocabulary: int
    hidden: int
    dtype: str  # of what is not quantised: "bfloat16" | "float16" | "float32"
    layers: tuple[LayerFacts, ...]
    tensors: tuple[TensorFacts, ...]  # of the checkpoint, towers included
    experts: int  # of a layer that has a mixture; 0: no layer has
    experts_per_token: int
    stored: str | None  # how matrices are stored: "fp8" | "int4" | "mxfp4" | "gguf"; None: in `dtype`
    config: Mapping[str, Any]
    tied: bool = False  # the output head is the embedding
    served: bool = True  # whether the native engine knows the architecture and the format
    source: str = "config.json"  # what the tensors were told by: headers or config.json alone

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(tensor.nbytes for tensor in self.tensors)


def read_card(model: str | Path, endpoint: str = ENDPOINT, token: str | None = None) -> ModelCard:
    """The card of a checkpoint folder, a config.json, a GGUF file (or a part of one) or a model id of the hub at `endpoint`.

    Of a hub id only config.json and the headers are fetched. Raises CheckpointError naming file and field.
    """
    path = Path(model)
    try:
        if path.suffix == ".gguf":
            header = gguf_header(path)
        elif path.is_file():
            return card_of(read_object(path, "a plan needs it"), str(path))
        elif path.is_dir():
            header = folder_header(path)
        elif _HUB_ID.fullmatch(str(model)):
            header = hub_header(str(model), endpoint, token)
        else:
            raise CheckpointError(
                f"there is no {path}: give a checkpoint folder, a config.json, a .gguf file or a model id such as org/name"
            )
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    return card_of(header.config, header.where, header)


def card_of(config: Mapping[str, Any], where: str = "config.json", header: Header | None = None) -> ModelCard:
    """The card that a config.json and, where there are any, headers tell. Raises CheckpointError naming the field."""
    try:
        return _card(Fields(config, where), header)
    except RecursionError:
        raise CheckpointError(f"{where} is nested too deeply to be a model's") from None


def _card(fields: Fields, header: Header | None) -> ModelCard:
    family = family_of(fields)
    text = fields.inner("text_config")
    layers = family.layers(fields)
    stored = _stored(fields) if header is None or header.stored is None else header.stored
    vocabulary, hidden = text.size("vocab_size", most=1 << 24), text.size("hidden_size", most=1 << 20)
    tied = (text if text.get("tie_word_embeddings") is not None else fields).flag("tie_word_embeddings", family.tied)
    experts, chosen = _experts(text, len(layers))
    tensors = header.tensors if header is not None and header.tensors else tensors_of(fields.values)
    return ModelCard(
        architecture=architecture_of(fields),
        window=text.size("max_position_embeddings", default=family.positions), vocabulary=vocabulary, hidden=hidden,
        dtype=text.dtype() or fields.dtype() or _usual(tensors), layers=layers, tensors=tensors, experts=experts,
        experts_per_token=chosen, stored=stored, config=fields.values, tied=tied,
        served=family.served and stored != "gguf",
        source="headers" if header is not None and header.tensors else "config.json",
    )  # fmt: skip


def _experts(text: Fields, layers: int) -> tuple[int, int]:
    """Experts of a layer and how many serve a token; both 0 for dense models."""
    if text.get("enable_moe_block") is False or text.get("num_experts", "num_local_experts") in (None, 0):
        return 0, 0
    experts = text.size("num_experts", "num_local_experts", most=max(1, _MOST_EXPERTS // layers))
    return experts, text.size("num_experts_per_tok", "top_k_experts", "experts_per_token", most=experts)


def _stored(fields: Fields) -> str | None:
    """The format of quantised matrices."""
    for place in (fields, fields.inner("text_config")):
        place.part("quantization_config")  # an object or nothing
    try:
        return read_recipe(fields.values).stored
    except TokenwellError:
        raise
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(f"{fields.where}: quantization_config cannot be understood ({error})") from error


def _usual(tensors: tuple[TensorFacts, ...]) -> str:
    """The dtype of most of the weights that are stored in one to compute in."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if tensor.dtype in _WORDS:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return _WORDS[max(sizes, key=sizes.__getitem__)] if sizes else "bfloat16"
