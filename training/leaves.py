"""What stands inside nested lists and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(value: Any) -> Iterator[Any]:
    """Everything in it that is neither list nor table, in its order."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def strings(value: Any) -> Iterator[str]:
    """The texts among them."""
    return (leaf for leaf in leaves(value) if isinstance(leaf, str))
