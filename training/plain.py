"""Requests in the words of the declaration: most of what people ask of a tool shares a word with its name or description."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from training.disguise import GRAMMAR, pairs, stems, telling
from training.spelling import name_words
from training.world import Frame


def plain(language: str, declaration: Mapping[str, Any], requests: Sequence[Frame]) -> list[Frame]:
    """The requests that share a word that means something with a tool's declaration; in Chinese two characters."""
    function = declaration["function"]
    told = _terms(language, " ".join(name_words(function["name"]))) | _terms(language, function.get("description", ""))
    for name, entry in function["parameters"]["properties"].items():
        told |= _terms(language, " ".join(name_words(name))) | _terms(language, entry.get("description", ""))
    return [request for request in requests if not told.isdisjoint(_said(language, request))]


@lru_cache(maxsize=65536)
def _terms(language: str, text: str) -> frozenset[str]:
    return frozenset(stems([text])) if language == "en" else pairs(text)


@lru_cache(maxsize=131072)
def _said(language: str, request: Frame) -> frozenset[str]:
    if language == "en":
        return frozenset(telling(request[::2]))
    return frozenset(pair for literal in request[::2] for pair in pairs(literal) if not GRAMMAR.issuperset(pair))
