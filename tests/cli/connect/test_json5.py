"""Values set in JSON, JSONC and JSON5: the rest of the text stays as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.cli.connect.json5 import NotReadable, plain_with_values, with_values

OPENCLAW = """// my settings
{
  gateway: {mode: "local"}, // stays
  'agents': {
    defaults: {
      model: { primary: "other/model", /* why */ fallbacks: [ "a/b", ], },
    },
  },
}
"""


def test_comments_and_other_settings_stay() -> None:
    values: dict[tuple[str, ...], object] = {
        ("agents", "defaults", "model", "primary"): "tokenwell/m",
        ("models", "providers", "tokenwell", "baseUrl"): "http://x/v1",
    }
    changed = with_values(OPENCLAW, values)
    provider = '    "providers": {\n      "tokenwell": {\n        "baseUrl": "http://x/v1"\n      }\n    }\n'
    expected = OPENCLAW.replace('"other/model"', '"tokenwell/m"')
    assert changed == expected.replace("  },\n}\n", f'  }},\n  "models": {{\n{provider}  }},\n}}\n')
    assert with_values(changed, values) == changed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", '{\n  "k": 1\n}\n'),
        ("{}", '{\n  "k": 1\n}'),
        ("{ // c\n}", '{\n  "k": 1 // c\n}'),
        ('{"a": 1}', '{"a": 1, "k": 1}'),
        ('{\n\t"a": 1 // one\n}', '{\n\t"a": 1, // one\n\t"k": 1\n}'),
        ('{\n\t"a": 1, // one\n}', '{\n\t"a": 1, // one\n\t"k": 1,\n}'),
        ('{"k": "x", "a": 2}', '{"k": 1, "a": 2}'),
        ("{k: 'x', a: 2}", "{k: 1, a: 2}"),
        ('{"\\u006b": 2}', '{"\\u006b": 1}'),
        ('{"k": 1}', '{"k": 1}'),
        ('{"a": "// no comment", "b": "}"}', '{"a": "// no comment", "b": "}", "k": 1}'),
    ],
)
def test_places(text: str, expected: str) -> None:
    assert with_values(text, {("k",): 1}) == expected


@pytest.mark.parametrize("text", ["{", "[", "{a}", "{a: }", '{"a": 1} x', "[1, 2]", '"text"', "{a: 1 b: 2}", "[" * 5000])
def test_what_cannot_be_changed_is_refused(text: str) -> None:
    with pytest.raises(NotReadable):
        with_values(text, {("k",): 1})


def test_a_setting_below_something_that_is_no_object_is_refused() -> None:
    with pytest.raises(NotReadable, match="a is not an object"):
        with_values('{"a": [1]}', {("a", "b"): 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(max_size=3), JSON, max_size=4),
    st.lists(st.text(max_size=3), min_size=1, max_size=3),
    JSON,
    st.sampled_from([None, 2, "\t"]),
)
def test_it_is_the_same_as_setting_it_in_the_data(tree: dict[str, Any], path: list[str], value: Any, indent: Any) -> None:
    text = json.dumps(tree, indent=indent, ensure_ascii=False)
    place: Any = tree
    for key in path[:-1]:
        place = place.setdefault(key, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        with pytest.raises(NotReadable):
            with_values(text, {tuple(path): value})
        return
    place[path[-1]] = value
    changed = with_values(text, {tuple(path): value})
    assert json.loads(changed) == tree
    assert with_values(changed, {tuple(path): value}) == changed


@pytest.mark.parametrize("text", ["", " \n", "{}", '\ufeff{"k": 2}', '{"a": [1, "// no comment"]}'])
def test_plain_json_may_hold_anything_that_json_may(text: str) -> None:
    assert json.loads(plain_with_values(text, {("k",): 1}).removeprefix("\ufeff"))["k"] == 1
