"""Every setting has a rule, every rule takes what it says and nothing else."""

from __future__ import annotations

import math
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.config.allowed import ALLOWED, SECRET, Allowed, Number, Switch, Whole, Words, shown
from tokenwell.config.settings import Settings

TREE: dict[str, dict[str, Any]] = msgspec.to_builtins(Settings())
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text() | st.integers()), st.just({})
)


def test_every_setting_has_a_rule_and_no_rule_is_left_over() -> None:
    assert list(ALLOWED) == [f"{section}.{field}" for section, fields in TREE.items() for field in fields]
    assert set(ALLOWED) >= SECRET


@pytest.mark.parametrize("key", ALLOWED)
def test_defaults_are_allowed(key: str) -> None:
    section, field = key.split(".")
    if TREE[section][field] is not None:
        assert ALLOWED[key].check(TREE[section][field]) == TREE[section][field]


@pytest.mark.parametrize("key", ALLOWED)
@given(value=ANYTHING, text=st.text())
def test_a_rule_gives_a_value_of_the_settings_type_or_a_value_error(key: str, value: object, text: str) -> None:
    section, field = key.split(".")
    for given_value, rule in ((value, ALLOWED[key].check), (text, ALLOWED[key].read)):
        try:
            result = rule(given_value)  # type: ignore[arg-type]
        except ValueError:
            continue
        msgspec.convert({section: {field: result}}, Settings)


@given(st.integers(-3, 15))
def test_whole_numbers_have_two_bounds(value: int) -> None:
    rule = Whole(0, 10)
    if 0 <= value <= 10:
        assert rule.check(value) == rule.read(str(value)) == value
    else:
        assert _refused(rule, value)


@pytest.mark.parametrize("text", ["", " 1", "1.0", "1_0", "0x1", "1e3", "٣", "²", "9" * 400, "true", "None", "auto"])
def test_text_that_is_no_whole_number(text: str) -> None:
    with pytest.raises(ValueError):
        Whole(0, 10**9).read(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, True, "1", None, [1]])
def test_values_that_are_no_number(value: object) -> None:
    assert _refused(Number(0, 100), value)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1_0", "", " ", "1,5", "0x1p3", "1e999"])
def test_text_that_is_no_number(text: str) -> None:
    with pytest.raises(ValueError):
        Number(0, 100).read(text)


def test_numbers_may_be_written_with_a_point_and_an_exponent() -> None:
    assert [Number(0, 100).read(text) for text in ("1", "0.5", ".5", "5.", "1e1", "+2")] == [1, 0.5, 0.5, 5, 10, 2]


def test_auto_is_none_where_the_machine_decides() -> None:
    for rule in (Whole(1, 2, auto=True), Number(1, 2, auto=True)):
        assert rule.read("auto") is None
        assert rule.check("auto") is None
        assert rule.says.endswith('or "auto"')


@pytest.mark.parametrize("text", ["true", "True", "1", "yes", "YES"])
def test_on(text: str) -> None:
    assert Switch().read(text) is True


@pytest.mark.parametrize("text", ["false", "FALSE", "0", "no"])
def test_off(text: str) -> None:
    assert Switch().read(text) is False


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_numbers_and_text_are_no_switch_in_a_file(value: object) -> None:
    assert _refused(Switch(), value)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::", "localhost", "my-box.lan", "fe80::1%eth0"])
def test_hosts(host: str) -> None:
    assert ALLOWED["server.host"].read(host) == host


@pytest.mark.parametrize(
    "host", ["", " ", "http://localhost", "localhost:8000", "127.0.0.1:80", "[::1]", "1.2.3", "256.1.1.1", "a b", "*", "-a"]
)
def test_no_hosts(host: str) -> None:
    assert _refused(ALLOWED["server.host"], host)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "xpu", "xpu:1"])
def test_devices(device: str) -> None:
    assert ALLOWED["engine.device"].read(device) == device


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cpu:0", "CUDA", "cuda:0\n"])
def test_no_devices(device: str) -> None:
    assert _refused(ALLOWED["engine.device"], device)


def test_lists_are_cut_at_commas() -> None:
    assert Words("[a-z]+", "small").read("a, b ,c") == ["a", "b", "c"]
    assert Words("[a-z]+", "small").check(["b", "a", "b"]) == ["b", "a"]


@pytest.mark.parametrize("value", ["a", ["a", ""], ["a b"], [1], {"a": 1}, None])
def test_no_lists_of_keys(value: object) -> None:
    assert _refused(ALLOWED["server.api_key"], value)


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert ALLOWED["model.path"].check("~/models/x") == "/home/ada/models/x"
    assert ALLOWED["model.path"].check("models/x") == "models/x"


@given(st.text(min_size=1))
def test_a_secret_is_never_shown_in_full(secret: str) -> None:
    for key in SECRET:
        (visible,) = cast("list[str]", shown(key, [secret]))
        assert visible == f"{secret[:4] if len(secret) >= 16 else ''}... ({len(secret)} characters)"
    assert shown("server.host", secret) == secret


def _refused(rule: Allowed, value: object) -> bool:
    try:
        rule.check(value)
    except ValueError:
        return True
    return False
