"""Templates are foreign code: what they may use, and that they always end."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Any

import jinja2
import pytest

from tokenwell.chat.sandbox import Limits, Program, RenderError, RunawayError

LIMITS = Limits(seconds=0.3, characters=100_000)


def render(source: str, limits: Limits = Limits(), **variables: Any) -> str:  # noqa: B008 (frozen)
    return Program(source, limits, lambda: datetime(2026, 3, 9, 14, 5)).render(variables)


def test_helpers_that_public_templates_expect() -> None:
    assert render("{{ x | tojson }}", x={"a<b": "é'\""}) == '{"a<b": "é\'\\""}'
    assert render("{{ x | tojson(indent=2) }}", x={"a": [1]}) == '{\n  "a": [\n    1\n  ]\n}'
    assert render("{{ x | tojson(sort_keys=true, separators=(',', ':')) }}", x={"b": 1, "a": None}) == '{"a":null,"b":1}'
    assert render("{{ x | tojson(ensure_ascii=true) }}", x="é") == '"\\u00e9"'
    assert render("{{ strftime_now('%d %b %Y') }}") == "09 Mar 2026"
    assert (
        render("{% for i in range(5) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}")
        == "02"
    )
    assert render("{% set n = namespace(self=1) %}{% set n.x = 2 %}{{ n.self }}{{ n.x }}") == "12"
    assert render("  {% if true %}\n  x\n  {% endif %}\n") == "  x\n"
    assert render("{{ missing }}{{ missing is defined }}") == "False"
    assert render("{{ m.role }}{{ m['role'] }}{{ m.get('no', 'd') }}", m={"role": "r"}) == "rrd"


def test_generation_blocks_are_their_body() -> None:
    assert render("a{% generation %}{% set x = 1 %}b{{ x }}{% endgeneration %}c{{ x }}") == "ab1c"
    assert render("{%- for m in ms -%}{%- generation -%}{{ m }}{%- endgeneration -%}{%- endfor -%}", ms=[1, 2]) == "12"


def test_a_template_that_raises_says_why_and_where() -> None:
    with pytest.raises(RenderError, match=r"rejects these messages: roles <must> alternate \(line 2 of the template\)"):
        render("\n{{ raise_exception('roles <must> alternate') }}")
    with pytest.raises(RenderError, match=r"fails on these messages: UndefinedError: 'm' is undefined \(line 1"):
        render("{{ m.content.x }}")
    with pytest.raises(RenderError, match="TypeError"):
        render("{{ 'a' + x }}", x={})
    with pytest.raises(RenderError, match="RecursionError"):
        render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ namespace(__class__=1) }}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{{ x.append(1) }}",
        "{{ x.__init__.__globals__ }}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ 10 ** 9 * [1] }}",
        "{{ 10 ** 100000000 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ range(10 ** 9) | list }}",
        "{% include 'x' %}",
    ],
)
def test_what_the_sandbox_forbids(source: str) -> None:
    with pytest.raises(RenderError):
        render(source, x=[])


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = b %}{% endfor %}{% endfor %}",
        "{% set n = namespace() %}{% for a in range(9999) %}{% for b in range(9999) %}{% set n.x = b %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
)
def test_a_loop_without_output_is_ended_and_leaves_no_thread(source: str) -> None:
    with pytest.raises(RunawayError, match=r"did not finish within 0\.3 s"):
        render(source, LIMITS)
    assert not [thread for thread in threading.enumerate() if thread.name == "chat-template"]


def test_a_template_that_writes_without_end_is_ended() -> None:
    with pytest.raises(RunawayError, match="more than 100000 characters"):
        render("{% for a in range(99999) %}{{ 'abc' }}{% endfor %}", LIMITS)


def test_syntax_errors_are_found_when_compiled() -> None:
    for source in ("{% if %}", "{{ x | no_such_filter }}", "{% for x in y %}", "{% generation %}"):
        with pytest.raises(jinja2.TemplateSyntaxError):
            Program(source, Limits(), datetime.now)
