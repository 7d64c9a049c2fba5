"""config.json with errors that name the file and the field, and bounds beyond which a number is a mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenwell.wire.errors import CheckpointError

MOST_LAYERS = 4096
_MOST = 1 << 32  # of any size: larger ones are no model's
_MOST_HEADS = 1 << 16
# config.json's word for a dtype (a leading "torch." is dropped) -> a header's word.
DTYPES = {"bfloat16": "BF16", "float16": "F16", "half": "F16", "float32": "F32", "float": "F32"}


class Fields:
    """An object of config.json. Every method raises CheckpointError for a value that is missing or absurd."""

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self.values = values
        self.where = where

    def part(self, key: str) -> Fields | None:
        """The object under `key`; None when it is missing or null."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.wrong(key, "an object", value)
        return Fields(value, f"{self.where}, {key}")

    def inner(self, key: str) -> Fields:
        """The object under `key`, or this one when there is none."""
        return self.part(key) or self

    def get(self, *keys: str, default: Any = None) -> Any:
        """The first of `keys` that is there and not null, whatever it is."""
        for key in keys:
            if self.values.get(key) is not None:
                return self.values[key]
        return default

    def size(self, *keys: str, default: int | None = None, least: int = 1, most: int = _MOST) -> int:
        """A whole number from `least` to `most`."""
        value = self.get(*keys, default=default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(" or ".join(keys), f"a whole number from {least} to {most}", value)
        return value

    def layers(self, *keys: str) -> int:
        """A number of layers."""
        return self.size(*(keys or ("num_hidden_layers",)), most=MOST_LAYERS)

    def number(self, key: str, default: float) -> float:
        """A number of any kind."""
        value = self.get(key, default=default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number", value)
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(key, default=default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false", value)
        return value

    def text(self, *keys: str, default: str) -> str:
        """A text."""
        value = self.get(*keys, default=default)
        if not isinstance(value, str):
            raise self.wrong(" or ".join(keys), "a text", value)
        return value

    def words(self, key: str, default: list[str] | None = None) -> list[str]:
        """A list of texts."""
        value = self.get(key, default=default)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.wrong(key, "a list of texts", value)
        return value

    def kinds(self, count: int, default: list[str], allowed: tuple[str, ...]) -> list[str]:
        """`layer_types`: a word of `allowed` for each of `count` layers."""
        kinds = self.words("layer_types", default)
        if len(kinds) != count:
            raise CheckpointError(f"{self.where}: layer_types lists {len(kinds)} layers, num_hidden_layers says {count}")
        for index, kind in enumerate(kinds):
            if kind not in allowed:
                raise CheckpointError(
                    f"{self.where}: layer_types[{index}] is {_shown(kind)}, which is not known; known are {', '.join(allowed)}"
                )
        return kinds

    def list_of(self, key: str, count: int, default: list[Any] | None = None) -> list[Any]:
        """A list of exactly `count` entries."""
        value = self.get(key, default=default)
        if not isinstance(value, list | tuple) or len(value) != count:
            raise self.wrong(key, f"a list of {count} entries", value)
        return list(value)

    def heads(self) -> tuple[int, int, int]:
        """Attention heads, KV heads and head size; the latter two have the usual defaults."""
        heads = self.size("num_attention_heads", most=_MOST_HEADS)
        kv_heads = self.size("num_key_value_heads", default=heads, most=_MOST_HEADS)
        if heads % kv_heads:
            raise CheckpointError(f"{self.where}: {heads} num_attention_heads cannot share {kv_heads} num_key_value_heads evenly")
        usual = max(1, self.size("hidden_size") // heads)
        return heads, kv_heads, self.size("head_dim", default=usual, most=_MOST_HEADS)

    def dtype(self) -> str | None:
        """config.json's word for the dtype of what is not quantised ("bfloat16"); None where it says none."""
        word = self.get("dtype", "torch_dtype")
        if word is None:
            return None
        word = str(word).removeprefix("torch.")
        if word not in DTYPES:
            raise self.wrong("dtype", " or ".join(DTYPES), word)
        return word

    def wrong(self, key: str, wanted: str, value: Any) -> CheckpointError:
        """The error for a field that is not what it must be."""
        if value is None:
            return CheckpointError(f"{self.where}: {key} is missing; it must be {wanted}")
        return CheckpointError(f"{self.where}: {key} must be {wanted}, it is {_shown(value)}")


def _shown(value: Any) -> str:
    """A value in an error, not longer than a line."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of more than 70 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
