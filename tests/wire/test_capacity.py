"""What may be held follows from the memory that is there; a plan's word is kept where it can be."""

from __future__ import annotations

import pytest

from tokenwell.wire.cache import KvGroup
from tokenwell.wire.capacity import (
    DEFAULTS,
    GIB,
    Space,
    Wanted,
    fitted,
    full_bytes,
    graph_bytes,
    largest_step,
    sizes_up_to,
    space_beside_steps,
    space_on_card,
    space_on_host,
    step_for_pool,
    wanted,
)
from tokenwell.wire.errors import CapacityError, SettingsError
from tokenwell.wire.messages import Choice
from tokenwell.wire.spec import EngineSpec

GROUPS = (KvGroup("full", (0, 1), 2, 64, None, 1024, 16),)
PAGE_BYTES = 16 * 1024
WANT = Wanted(40_000, "the model's whole window", 4, 8192)
VOCABULARY = 1000


def spec(**fields: object) -> EngineSpec:
    return EngineSpec("", "", "", **fields)  # type: ignore[arg-type]


def on_card(spec: EngineSpec, free: float, peak: float, choices: list[Choice], start: float = 24, limit: int = 1 << 30) -> Space:
    """On a card of `start` GiB, of which `free` are left; steps of up to `limit` tokens take `peak`, larger ones do not fit."""

    def measure(seqs: int, budget: int, window: int) -> int | None:
        return int(peak * GIB) if budget <= limit else None

    step = largest_step(spec, WANT, measure, choices)
    needed = full_bytes(WANT, GROUPS, PAGE_BYTES)
    return space_on_card(spec, WANT, step, VOCABULARY, int(start * GIB), int(free * GIB), needed, choices)


def test_the_cache_gets_what_weights_and_the_largest_step_leave() -> None:
    space = on_card(spec(graphs=False, gpu_memory_utilization=0.5), 13.0, 0.9, [])
    assert space.kv_bytes == int(0.5 * 24 * GIB) - 11 * GIB - int(0.9 * GIB)
    for number in ("50%", "24.00 GiB", "11.00 GiB", "0.90 GiB", "8192 tokens", "4 rows", "measured"):
        assert number in space.reason
    recorded = on_card(spec(gpu_memory_utilization=0.5), 13.0, 0.8, [])
    assert recorded.kv_bytes == int(0.5 * 24 * GIB) - 11 * GIB - int(0.8 * GIB) - graph_bytes(4, VOCABULARY)
    assert recorded.step_bytes == fitted(WANT, recorded, GROUPS, PAGE_BYTES, False, []).step_bytes == int(0.8 * GIB)


def test_no_more_is_taken_than_every_slot_can_use() -> None:
    space = on_card(spec(), 23.0, 0.5, [])
    assert space.kv_bytes == full_bytes(WANT, GROUPS, PAGE_BYTES) == (4 * 2500 + 1) * PAGE_BYTES
    assert "every slot can reach the full window" in space.reason
    assert space.left > 10 * GIB


def test_what_is_asked_for_is_given_or_cut_aloud() -> None:
    choices: list[Choice] = []
    given = on_card(spec(kv_cache_gib=0.5), 23.0, 0.5, choices)
    assert given.kv_bytes == GIB // 2
    assert given.reason.startswith("asked for")
    assert space_on_host(spec(kv_cache_gib=7), WANT, 10 * GIB, 0.4, 1 << 50, choices).kv_bytes == 7 * GIB
    assert not choices
    cut = on_card(spec(kv_cache_gib=50), 23.0, 0.5, choices)
    assert cut.kv_bytes == cut.left < 22 * GIB
    assert [choice.what for choice in choices] == ["kv cache cut"]
    assert "50.00 GiB" in choices[0].reason


def test_a_step_that_does_not_fit_is_made_smaller_or_said() -> None:
    choices: list[Choice] = []
    space = on_card(spec(), 20.0, 0.5, choices, limit=3000)
    assert space.budget == 2048
    assert [(choice.what, choice.chosen) for choice in choices] == [("max_num_batched_tokens", "2048")]
    with pytest.raises(CapacityError, match="8192 tokens and 4 rows does not fit"):
        on_card(spec(max_num_batched_tokens=8192), 20.0, 0.5, [], limit=3000)
    with pytest.raises(CapacityError, match="--quantization fp8"):
        on_card(spec(), 1.0, 0.5, [])
    with pytest.raises(SettingsError, match="--gpu-memory-utilization"):
        on_card(spec(gpu_memory_utilization=1.5), 20.0, 0.5, [])


def test_a_plan_is_kept_to_the_byte_or_cut_aloud() -> None:
    choices: list[Choice] = []
    planned = on_card(spec(kv_plan_bytes=123 * PAGE_BYTES + 7), 20.0, 0.5, choices)
    assert planned.kv_bytes == 123 * PAGE_BYTES + 7
    assert planned.reason.startswith("as planned")
    assert not choices
    free = on_card(spec(gpu_memory_utilization=0.5), 13.0, 0.9, [])
    cut = on_card(spec(gpu_memory_utilization=0.5, kv_plan_bytes=free.kv_bytes + 1), 13.0, 0.9, choices)
    assert cut.kv_bytes == free.kv_bytes
    assert [choice.what for choice in choices] == ["kv cache cut"]
    host = space_on_host(spec(kv_plan_bytes=5 * GIB), WANT, 10 * GIB, 0.4, 1 << 50, choices)
    assert host.kv_bytes == 4 * GIB
    assert len(choices) == 2


def test_a_host_gives_a_share_of_what_is_free_to_all_its_processes() -> None:
    assert space_on_host(spec(), WANT, 10 * GIB, 0.4, 1 << 50, []).kv_bytes == 4 * GIB
    shared = space_on_host(spec(), WANT, 10 * GIB, 0.4, 1 << 50, [], sharers=4)
    assert shared.kv_bytes == GIB
    assert "shared by 4 processes" in shared.reason
    assert space_on_host(spec(), WANT, 10 * GIB, 0.4, GIB, []).reason == "every slot can reach the full window"


@pytest.mark.parametrize("asked", [True, False])
def test_the_window_is_fitted_to_the_cache(asked: bool) -> None:
    choices: list[Choice] = []
    limits = fitted(WANT, Space(1001 * PAGE_BYTES, "so it is", 8192, 1001 * PAGE_BYTES), GROUPS, PAGE_BYTES, asked, choices)
    assert (limits.max_model_len, limits.num_pages) == (16_000, 1001)
    told = {choice.what: choice for choice in choices}
    assert told["max_model_len"].chosen == "16000"
    assert "40000" in told["max_model_len"].reason
    assert told["kv cache"].reason == "so it is"
    with pytest.raises(CapacityError, match="not even one token"):
        fitted(WANT, Space(PAGE_BYTES, "", 8192, PAGE_BYTES), GROUPS, PAGE_BYTES, asked, [])


def test_windows_do_not_fill_the_pool_with_one_step() -> None:
    sliding = (*GROUPS, KvGroup("sliding-1024", (2, 3), 2, 64, 1024, 1024, 16))
    choices: list[Choice] = []
    large = Space(8192 * PAGE_BYTES, "", 8192, 0)
    assert step_for_pool(spec(), large, sliding, PAGE_BYTES, choices) == large
    small = step_for_pool(spec(), Space(3000 * PAGE_BYTES, "", 8192, 0), sliding, PAGE_BYTES, choices)
    assert small.budget == 4096
    assert choices[0].chosen == "4096"
    asked = spec(max_num_batched_tokens=8192)
    assert step_for_pool(asked, Space(3000 * PAGE_BYTES, "", 8192, 0), sliding, PAGE_BYTES, []).budget == 8192


@pytest.mark.parametrize(
    ("peak", "free", "sliding", "budget"),
    [
        (0.2, 23.0, False, 16_384),  # one part in 200 of the cache
        (3.0, 23.0, False, 8192),  # one in 13
        (0.2, 23.0, True, 16_384),
        (0.2, 13.0, True, 8192),  # a small pool that one step's windows would fill
        (3.0, 4.0, False, 8192),  # no cache at all beside it
    ],
)
def test_a_longer_step_must_cost_the_cache_next_to_nothing(peak: float, free: float, sliding: bool, budget: int) -> None:
    """`peak`: GiB of the longer step, of which a usual one takes half."""
    groups = (*GROUPS, KvGroup("sliding-1024", (2, 3), 2, 64, 1024, 128 << 10, 16)) if sliding else GROUPS
    page_bytes = max(group.bytes_per_token * group.page_tokens for group in groups)
    want = Wanted(1 << 24, "the model's whole window", 4, 8192, 2)
    asked: list[int] = []
    choices: list[Choice] = []

    def measure(seqs: int, tokens: int, window: int) -> int | None:
        asked.append(tokens)
        return int(peak * GIB * tokens / 16_384)

    space = space_beside_steps(
        spec(graphs=False), want, measure, VOCABULARY, 24 * GIB, lambda: int(free * GIB), 1 << 50, groups, page_bytes, choices
    )
    limits = fitted(want, space, groups, page_bytes, False, choices)
    assert (limits.max_num_batched_tokens, limits.max_num_mixed_tokens) == (budget, 8192)
    assert asked == [16_384, 8192][: 1 if budget == 16_384 else 2]
    told = [choice for choice in choices if choice.what == "max_num_batched_tokens"]
    assert [choice.chosen for choice in told] == (["16384"] if budget == 16_384 else [])


def test_a_cache_that_needs_little_pays_nothing_for_a_longer_step() -> None:
    want = Wanted(1000, "the model's whole window", 4, 8192, 2)
    needed = full_bytes(want, GROUPS, PAGE_BYTES)
    space = space_beside_steps(
        spec(), want, lambda *_: 3 * GIB, VOCABULARY, 24 * GIB, lambda: 23 * GIB, needed, GROUPS, PAGE_BYTES, []
    )
    assert (space.budget, space.kv_bytes) == (16_384, needed)


def test_longer_steps_are_for_weights_that_are_written_out() -> None:
    assert [wanted(spec(), 1024, DEFAULTS[kind], True).long for kind in ("cuda", "xpu", "cpu")] == [2, 1, 1]
    assert wanted(spec(), 1024, DEFAULTS["cuda"]).long == 1
    assert wanted(spec(max_num_batched_tokens=8192), 1024, DEFAULTS["cuda"], True).long == 1


def test_recorded_steps_are_counted() -> None:
    assert graph_bytes(64, 1000) >= 4000 * sum(sizes_up_to(64))


def test_a_batch_is_never_padded_by_more_than_a_third() -> None:
    for most in (1, 2, 5, 64, 100, 256):
        sizes = sizes_up_to(most)
        assert sizes[-1] == most
        for rows in range(1, most + 1):
            size = next(size for size in sizes if size >= rows)
            assert size - rows <= size / 3 + 1


def test_more_tokens_than_the_model_knows_are_refused() -> None:
    assert wanted(spec(max_num_seqs=9000), 1024, DEFAULTS["cuda"]).budget == 9000
    assert wanted(spec(), 1024, DEFAULTS["cpu"]) == Wanted(1024, "the model's whole window", 64, 256)
    with pytest.raises(SettingsError, match="longer than the 1024 tokens"):
        wanted(spec(max_model_len=2000), 1024, DEFAULTS["cuda"])
