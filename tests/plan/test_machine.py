"""This machine as a plan sees it: recorded machines become cards with their free memory, or a processor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenwell.host.cpu import CpuFacts
from tokenwell.host.gpus import cards
from tokenwell.host.memory import MemoryFacts
from tokenwell.host.recording import RecordedMachine
from tokenwell.host.software import TorchFacts
from tokenwell.plan.machine import cards_here, processor_here

MACHINES = Path(__file__).parents[1] / "machines"
GIB = 1 << 30
MEMORY = MemoryFacts(64 * GIB, 48 * GIB, False)
CPU = CpuFacts("Zen", 8, 16, 8, None, frozenset({"avx2", "avx512", "avx512_bf16"}))


def machine(name: str) -> RecordedMachine:
    return RecordedMachine(json.loads((MACHINES / f"{name}.json").read_text()))


@pytest.mark.parametrize(
    ("name", "gpus"),
    [
        ("b580", {"Arc B580"}),
        ("two-a770", {"Arc A770"}),
        ("rtx-3060-3090", {"RTX 3060", "RTX 3090"}),
        ("a100", {"A100 80GB PCIe", "A100 80GB SXM"}),
    ],
)
def test_recorded_machines_have_cards_of_the_table(name: str, gpus: set[str]) -> None:
    found = cards_here(cards(machine(name)), MEMORY)
    assert found is not None
    assert {gpu.name for gpu in found.gpus} <= gpus
    assert all(0 < gpu.memory_gib < 90 for gpu in found.gpus)
    assert found.notes == ()
    assert found.host_free_gib == 48


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, ["RTX 3090", "RTX 3060"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["RTX 3060"]),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, ["RTX 3060", "RTX 3090"]),
        ({"CUDA_VISIBLE_DEVICES": "0,7,1"}, ["RTX 3090"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-12ab"}, ["RTX 3090"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, None),
        ({"HIP_VISIBLE_DEVICES": "1"}, ["RTX 3090", "RTX 3060"]),
    ],
)
def test_hidden_cards_are_not_planned_for(variables: dict[str, str], names: list[str] | None) -> None:
    found = cards_here(cards(machine("rtx-3060-3090")), MEMORY, variables=variables)
    assert (None if found is None else [gpu.name for gpu in found.gpus]) == names


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({"ONEAPI_DEVICE_SELECTOR": "level_zero:gpu"}, 2),
        ({"ONEAPI_DEVICE_SELECTOR": "*:1"}, 1),
        ({"ONEAPI_DEVICE_SELECTOR": "!opencl:*"}, 2),
        ({"ONEAPI_DEVICE_SELECTOR": "opencl:gpu"}, None),
        ({"ZE_AFFINITY_MASK": ""}, 2),
        ({"ZE_AFFINITY_MASK": "0.0,1.0"}, 2),
        ({"ZE_AFFINITY_MASK": "1"}, 1),
    ],
)
def test_what_hides_arc_cards(variables: dict[str, str], count: int | None) -> None:
    found = cards_here(cards(machine("two-a770")), MEMORY, variables=variables)
    assert (None if found is None else len(found.gpus)) == count


def test_only_the_card_that_was_asked_for_counts() -> None:
    every = cards(machine("rtx-3060-3090"))
    found = cards_here(every, MEMORY, only=1)
    assert found is not None
    assert ([gpu.name for gpu in found.gpus], found.places) == (["RTX 3060"], (1,))
    assert cards_here(every, MEMORY, only=2) is None


@pytest.mark.parametrize(("cuda", "there"), [("13.0", True), (None, False)])
def test_torch_has_to_be_built_for_the_cards(cuda: str | None, there: bool) -> None:
    torch = TorchFacts("2.13.0", cuda, None, None)
    assert (cards_here(cards(machine("rtx-3060-3090")), MEMORY, torch) is not None) == there


@pytest.mark.parametrize("name", ["cpu-only", "rtx-4090-nouveau", "b580-vfio"])
def test_cards_that_no_engine_can_use_are_none(name: str) -> None:
    assert cards_here(cards(machine(name)), MEMORY) is None


def test_a_card_at_x1_has_a_slow_link() -> None:
    slow, whole = (cards_here(cards(machine(name)), MEMORY) for name in ("b580-x1", "b580"))
    assert slow is not None
    assert whole is not None
    assert slow.link.pcie_bytes_s < whole.link.pcie_bytes_s


def test_the_processor_is_a_card() -> None:
    found = processor_here(CPU, MEMORY, 40e9, 8)
    (gpu,) = found.gpus
    assert (gpu.vendor, gpu.memory_gib, gpu.bandwidth_gb_s) == ("cpu", 48, pytest.approx(40))
    assert gpu.tflops["bf16"] == pytest.approx(8 * 128 * 2.8 / 1000)


def test_engines_on_one_processor_share_it() -> None:
    found = processor_here(CPU, MEMORY, 40e9, 8, count=2)
    assert [gpu.memory_gib for gpu in found.gpus] == [24, 24]
