"""Identifiers and the styles they are written in; capitals."""

import re
from functools import lru_cache

STYLES = ("snake", "snake", "snake", "camel", "camel", "kebab", "pascal", "as is", "as is")
_HUMPS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\x00-\x7f]+")


@lru_cache(maxsize=8192)
def name_words(name: str) -> tuple[str, ...]:
    """The words of an identifier in any style, in lower case."""
    return tuple(word.lower() for word in _HUMPS.findall(name))


@lru_cache(maxsize=32768)
def restyle(name: str, style: str) -> str:
    """An identifier in snake, camel, pascal or kebab style; any other style leaves it alone."""
    words = name_words(name)
    if style == "snake":
        return "_".join(words)
    if style == "kebab":
        return "-".join(words)
    if style in ("camel", "pascal"):
        humps = "".join(word.capitalize() for word in words)
        return humps if style == "pascal" else words[0] + humps[len(words[0]) :]
    return name


def capital(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]
