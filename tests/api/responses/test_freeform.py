"""The text of freeform tools, taken out of arguments that come in pieces."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.api.responses.freeform import Unwrapping, wrap


def told(arguments: str, cuts: list[int]) -> tuple[str, str]:
    """What the pieces gave, and what stood at the end."""
    unwrapping = Unwrapping()
    places = sorted({0, len(arguments), *(cut % (len(arguments) + 1) for cut in cuts)})
    pieces = [unwrapping.feed(arguments[a:b]) for a, b in pairwise(places)]
    pieces.append(unwrapping.finish())
    return "".join(pieces), unwrapping.text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.booleans(), st.lists(st.integers(0, 400)))
def test_any_text_in_any_pieces(text: str, ascii_only: bool, cuts: list[int]) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    assert told(arguments, cuts) == (text, text)
    assert json.loads(wrap(text)) == {"input": text}


@given(st.text())
def test_anything_else_never_raises(arguments: str) -> None:
    told(arguments, list(range(20)))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"other": 1, "input": "x"}', "x"),
        ('{"input": "a", "input": "b"}', "a"),
        ('{"input": 5}', '{"input": 5}'),
        ("{}", "{}"),
        ('{"input": "half \\', "half "),
        ('{"input": "\\ud83d', ""),
        ('{"input": "line\nbreak"}', "line\nbreak"),
    ],
)
def test_odd_arguments(arguments: str, text: str) -> None:
    assert told(arguments, list(range(60))) == (text, text)
