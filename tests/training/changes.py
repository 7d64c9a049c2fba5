"""What a maker of tools does to the tools of a language."""

from collections.abc import Callable
from random import Random

from training.world import ToolWords, Words


def changed(
    words: Words, make: Callable[[Random, Words, ToolWords], ToolWords], random: Random
) -> list[tuple[ToolWords, ToolWords]]:
    """The tools that it changes, each beside what it became."""
    made = ((tool, make(random, words, tool)) for tool in words.tools)
    return [(tool, other) for tool, other in made if other is not tool]
