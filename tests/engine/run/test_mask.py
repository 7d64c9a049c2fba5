"""Masks and matchers without a model: random logits through the real sampler may only ever write what the grammar says."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny.tokenizer import special_ids, write_tokenizer
from tests.waiting import PATIENCE_S
from tokenizers import Tokenizer

from tokenwell.engine.run.grammar import GrammarError, Grammars
from tokenwell.engine.run.mask import Constraint, Mask, Masks
from tokenwell.engine.run.rows import Row
from tokenwell.engine.run.sampler import sample
from tokenwell.wire.sampling import Sampling

WIDTH = 400  # 343 tokens and padding
STOP = special_ids("qwen")["<|im_end|>"]
OTHER_STOP = special_ids("qwen")["<|endoftext|>"]
ANY_JSON = 'start: %json {"x-guidance": {"whitespace_flexible": false}, "type": "object", "required": ["a"]}'


class Bench:
    """Rows that sample from random logits under grammars."""

    def __init__(self, folder: Path) -> None:
        write_tokenizer("qwen", folder)
        self.words = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.grammars = Grammars(folder, WIDTH)
        self.masks = Masks(self.grammars)

    def row(self, grammar: str | None, output: list[int] | None = None, **sampling: Any) -> Row:
        """A row behind `output`."""
        settings = Sampling(**{"stop_ids": (STOP,), "temperature": 1.0, "grammar": grammar, **sampling})
        row = Row(0, [1, *(output or [])], 1, settings)
        if grammar is not None:
            row.constraint = self.masks.constrain(grammar, settings.stop_ids, output or [])
        return row

    def mask(self, *rows: Row) -> Mask | None:
        """The mask of the next step."""
        return self.masks.compute([row.constraint for row in rows])

    def step(self, rows: list[Row], logits: torch.Tensor) -> list[int]:
        """Sample a token for every row and go on by it."""
        tokens = [draw.token for draw in sample(logits, rows, self.mask(*rows))]
        for row, token in zip(rows, tokens, strict=True):
            row.tokens.append(token)
            if row.constraint is not None and not row.constraint.over:
                row.constraint.take(token)
        return tokens

    def allowed(self, row: Row) -> set[int]:
        """What a row may take next."""
        mask = self.mask(row)
        assert mask is not None
        return set((mask.barrier(WIDTH, torch.device("cpu"))[0] == 0).nonzero()[:, 0].tolist())

    def write(self, row: Row, seed: int, closing: float = 6.0, most: int = 3000) -> str:
        """The text that a row writes until its grammar ends it; `closing` makes the tokens that close things likelier."""
        generator = torch.Generator().manual_seed(seed)
        assert row.constraint is not None
        while not row.constraint.ended:
            assert row.constraint.error is None and len(row.tokens) < most, self.text(row)
            logits = 3 * torch.randn(1, WIDTH, generator=generator)
            logits[0, [self.words.token_to_id(token) for token in '"}],']] += closing
            self.step([row], logits)
        return self.text(row)

    def text(self, row: Row) -> str:
        """What was written; the stop token is none of it."""
        return self.words.decode(row.tokens[1:], skip_special_tokens=True)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A tokenizer, its grammars and masks."""
    return Bench(tmp_path_factory.mktemp("words"))


def ids(bench: Bench, text: str) -> list[int]:
    return list(bench.words.encode(text).ids)


scalars = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 2, "maxLength": 7},
        {"type": "string", "pattern": "^[a-c]{2,4}$"},
        {"type": "integer"},
        {"type": "integer", "minimum": -3, "maximum": 12},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["x", "Größe 🙂", 'say "hi"\n', 3, None]},
        {"const": {"k": [1, "ü"]}},
    ]
)


def nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(["a", "b", "name", "Straße", "with space"])
    return st.one_of(
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 3}, inner),
        st.builds(
            lambda properties, optional: {
                "type": "object",
                "properties": properties,
                "required": sorted(set(properties) - optional),
                "additionalProperties": False,
            },
            st.dictionaries(names, inner, max_size=3),
            st.sets(names),
        ),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
    )


@settings(max_examples=80)
@given(schema=st.recursive(scalars, nested, max_leaves=6), seed=st.integers(0, 10**6))
def test_only_valid_json_can_be_written(bench: Bench, schema: dict[str, Any], seed: int) -> None:
    style = {"x-guidance": {"whitespace_flexible": False}}
    text = bench.write(bench.row("start: %json " + json.dumps(style | schema), seed=seed), seed)
    jsonschema.validate(json.loads(text), schema)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 40))
def test_a_matcher_is_rebuilt_from_what_was_generated(bench: Bench, seed: int, cut: int) -> None:
    row = bench.row(ANY_JSON, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(cut):
        assert row.constraint is not None
        if row.constraint.over:
            break
        assert bench.allowed(row) == bench.allowed(bench.row(ANY_JSON, output=row.tokens[1:]))
        bench.step([row], 4 * torch.randn(1, WIDTH, generator=generator))


def test_characters_may_be_spread_over_tokens(bench: Bench) -> None:
    text = "日本🙂"
    row = bench.row(f'start: "{text}" /[0-9]/', seed=3)
    assert len(ids(bench, "本🙂")) > 2
    assert bench.write(row, 3)[:-1] == text


def test_stop_ids_are_allowed_where_the_grammar_may_end_and_nowhere_else(bench: Bench) -> None:
    row = bench.row("start: /a+b?/", stop_ids=(STOP, OTHER_STOP))
    assert not bench.allowed(row) & {STOP, OTHER_STOP}
    bench.step([row], torch.zeros(1, WIDTH))
    assert bench.allowed(row) >= {STOP, OTHER_STOP, *ids(bench, "b")}
    assert not bench.allowed(bench.row("start: /a+b?/", ids(bench, "a"), stop_ids=())) & {STOP, OTHER_STOP}


def test_a_stop_token_that_the_grammar_names_is_allowed_there(bench: Bench) -> None:
    row = bench.row("start: <|im_end|>", stop_ids=(STOP, OTHER_STOP))
    assert bench.allowed(row) == {STOP}
    assert bench.step([row], torch.zeros(1, WIDTH)) == [STOP]
    assert row.constraint is not None and row.constraint.ended


def test_a_grammar_that_can_only_end_ends_the_row_at_once(bench: Bench) -> None:
    row = bench.row('start: "ab"', stop_ids=())
    assert row.constraint is not None
    while not row.constraint.ended:
        bench.step([row], torch.zeros(1, WIDTH))
    assert bench.text(row) == "ab"


@pytest.mark.parametrize(("stop_ids", "allowed"), [((STOP,), {STOP}), ((), set(range(WIDTH)))])
def test_an_empty_answer(bench: Bench, stop_ids: tuple[int, ...], allowed: set[int]) -> None:
    row = bench.row('start: ""', stop_ids=stop_ids)
    assert bench.allowed(row) == allowed  # whatever a row that is over takes is not used
    assert row.constraint is not None and row.constraint.over == (not stop_ids)


def test_what_is_not_in_the_grammar_is_an_error_of_that_row_alone(bench: Bench) -> None:
    wrong, right = bench.row('start: "abc"', ids(bench, "zzz")), bench.row('start: "abc"')
    tokens = bench.step([wrong, right], torch.zeros(2, WIDTH))
    assert wrong.constraint is not None and "does not allow" in (wrong.constraint.error or "")
    assert right.constraint is not None and right.constraint.error is None
    assert bench.words.decode(tokens[1:]) in ("a", "ab", "abc")


def test_a_grammar_that_becomes_too_complex_ends_its_row_with_an_error(bench: Bench) -> None:
    rows = [bench.row("start: /((a{1000}){1000}){1000}/"), bench.row("start: /b{9}/")]
    heavy, light = rows[0].constraint, rows[1].constraint
    assert heavy is not None and light is not None
    while heavy.error is None:
        bench.step(rows, torch.zeros(2, WIDTH))
    assert "any further" in heavy.error and "too many" in heavy.error
    assert light.error is None and set(bench.text(rows[1])) == {"b"}


def test_a_grammar_that_only_names_tokens_without_a_logit_is_an_error(bench: Bench) -> None:
    narrow = Grammars(bench.grammars._folder, STOP)
    masks = Masks(narrow)
    row = masks.constrain(f"start: <[{STOP}]>", (), [])
    assert masks.compute([row]) is not None
    assert row.error is not None and "no token that the model has" in row.error


# ------------------------------------------------------------ beside other settings


def test_rows_without_a_grammar_are_not_touched(bench: Bench) -> None:
    logits = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    grammars = [None, ANY_JSON, None, "start: /[0-9]{8}/", None]
    for greedy in (0.0, 1.0):
        rows = [bench.row(grammar, seed=place, temperature=greedy) for place, grammar in enumerate(grammars)]
        together = bench.step(rows, logits.clone())
        for place in (0, 2, 4):
            alone = bench.row(None, seed=place, temperature=greedy)
            assert bench.step([alone], logits[place : place + 1].clone()) == [together[place]]
    assert bench.mask(*[bench.row(None)] * 3) is None


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_log_probabilities_are_those_of_the_free_distribution(bench: Bench, temperature: float) -> None:
    logits = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(2))
    row = bench.row('start: "a"', logprobs=2, temperature=temperature, logit_bias={5: 3.0})
    (draw,) = sample(logits.clone(), [row], bench.mask(row))
    table = logits[0].log_softmax(-1)
    assert draw.logprob is not None and [draw.token] == ids(bench, "a")
    assert draw.logprob.logprob == pytest.approx(table[draw.token].item())
    assert draw.logprob.top[0][1] == pytest.approx(table.max().item())


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.5}, {}])
def test_the_grammar_wins_over_biases_that_leave_nothing(bench: Bench, sampling: dict[str, Any]) -> None:
    banned = dict.fromkeys(range(WIDTH), -float("inf"))
    row = bench.row("start: /[0-9]+x/", logit_bias=banned, frequency_penalty=2.0, **sampling)
    logits = torch.full((1, WIDTH), -5.0)
    logits[0, ids(bench, "7")] = 9.0
    assert bench.step([row], logits) == ids(bench, "7")


def test_the_grammar_wins_over_min_tokens(bench: Bench) -> None:
    row = bench.row('start: "" | "a"', ids(bench, "a"), min_tokens=50)
    assert row.constraint is not None and row.constraint.ended
    early = bench.row('start: ""', min_tokens=50)
    assert bench.step([early], torch.zeros(1, WIDTH)) == [STOP]
    assert early.constraint is not None and early.constraint.ended
    longer = bench.row("start: /a*/", min_tokens=3, temperature=0.0)
    logits = torch.zeros(1, WIDTH)
    logits[0, STOP] = 50.0
    written = [bench.step([longer], logits.clone())[0] for _ in range(4)]
    assert written[3] == STOP and STOP not in written[:3]


@settings(max_examples=60)
@given(data=st.data(), width=st.integers(1, 70))
def test_a_barrier_says_what_the_bits_say(data: st.DataObject, width: int) -> None:
    import numpy as np

    bits = data.draw(st.lists(st.binary(min_size=-(-width // 8), max_size=-(-width // 8)), min_size=1, max_size=3))
    mask = Mask(list(range(len(bits))), np.array([list(row) for row in bits], dtype=np.uint8))
    barrier = mask.barrier(width, torch.device("cpu"))
    expected = [[0.0 if row[token // 8] >> token % 8 & 1 else -float("inf") for token in range(width)] for row in bits]
    assert barrier.tolist() == expected


# ------------------------------------------------------------ compilation


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("", "mpty"),
        ("start: nowhere", "nowhere"),
        ('start: "a', "cannot be used"),
        ("start: <|nobody|>", "nobody"),
        ("start: <[9999]>", "9999"),
        ('start: %json {"type": "strin"}', "strin"),
        ('start: %json {"$ref": "#"}', "cannot be used"),
        ("start: " + "(" * 20000 + '"a"' + ")" * 20000, "deeply nested"),
        ("start: /" + "(" * 20000 + "a" + ")" * 20000 + "/", "regex"),
        ("start: %json " + '{"items":' * 5000 + "true" + "}" * 5000, "recursion"),
        ('{"grammars": 3}', "cannot be used"),
        ("\x00\ud7ff", "cannot be used"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused_with_a_reason(bench: Bench, grammar: str, words: str) -> None:
    future = bench.grammars.submit(grammar)
    with pytest.raises(GrammarError, match=words) as caught:
        future.result(PATIENCE_S)
    assert len(str(caught.value)) < 700 and "<state>" not in str(caught.value)


def test_the_same_text_is_compiled_once_and_rows_do_not_share_their_state(bench: Bench) -> None:
    assert bench.grammars.submit(ANY_JSON) is bench.grammars.submit(ANY_JSON)
    first, second = bench.row('start: "abc"'), bench.row('start: "abc"')
    bench.step([first], torch.zeros(1, WIDTH))
    assert bench.allowed(first) != bench.allowed(second)


def test_old_grammars_are_forgotten(bench: Bench) -> None:
    random.seed(0)
    first = bench.grammars.submit("start: /first/")
    for number in range(300):
        bench.grammars.submit(f"start: /n{number}/")
    assert bench.grammars.submit("start: /first/") is not first
    large = bench.grammars.submit("start: /large/ // " + "x" * 3_000_000)
    assert bench.grammars.submit("start: /larger/ // " + "x" * 3_000_000).result(PATIENCE_S)
    assert bench.grammars.submit("start: /large/ // " + "x" * 3_000_000) is not large
    assert isinstance(bench.row("start: /first/").constraint, Constraint)
