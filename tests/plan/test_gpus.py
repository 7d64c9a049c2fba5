"""Cards by the names that people and drivers use, and what holds for all rows of the table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.plan.gpus import Gpu, find_gpu, find_gpus, known_gpus
from tokenwell.plan.link import link_of
from tokenwell.wire.errors import SettingsError

NAMES = {
    "rtx 4090": "RTX 4090", "RTX4090": "RTX 4090", "4090": "RTX 4090", "NVIDIA GeForce RTX 4090": "RTX 4090",
    "B580": "Arc B580", "arc b580": "Arc B580", "Intel(R) Arc(TM) B580 Graphics": "Arc B580", "b60": "Arc Pro B60",
    "a770": "Arc A770", "Intel(R) Arc(TM) A770 Graphics": "Arc A770", "A770 16GB": "Arc A770", "arc a770 8 gb": "Arc A770 8GB",
    "a100-80gb": "A100 80GB PCIe", "NVIDIA A100-SXM4-80GB": "A100 80GB SXM", "NVIDIA A100 80GB PCIe": "A100 80GB PCIe",
    "a100 40": "A100 40GB", "NVIDIA H200": "H200", "NVIDIA H100 80GB HBM3": "H100 SXM", "h100 pcie": "H100 PCIe",
    "NVIDIA L4": "L4", "l40s": "L40S", "L40": "L40", "AMD Radeon RX 7900 XTX": "RX 7900 XTX", "7900xtx": "RX 7900 XTX",
    "AMD Instinct MI300X": "MI300X", "4070 ti super": "RTX 4070 Ti Super", "RTX 4070": "RTX 4070", "3090ti": "RTX 3090 Ti",
    "4080 super": "RTX 4080 Super", "RTX 4080 SUPER 32GB": "RTX 4080 Super 32GB", "4080s 32 gb": "RTX 4080 Super 32GB",
    "4060ti 16gb": "RTX 4060 Ti 16GB", "rtx a6000": "RTX A6000", "RTX 6000 Ada": "RTX 6000 Ada", "rtx 3080": "RTX 3080",
}  # fmt: skip


@pytest.mark.parametrize(("typed", "meant"), NAMES.items())
def test_names_as_people_and_drivers_write_them(typed: str, meant: str) -> None:
    assert find_gpu(typed).name == meant


@pytest.mark.parametrize(
    ("typed", "nearest"), [("b590", "B580"), ("rtx 4095", "RTX 4090"), ("7900 xtz", "7900 XT"), ("h300", "H"), ("", "")]
)
def test_unknown_cards_name_the_nearest(typed: str, nearest: str) -> None:
    with pytest.raises(SettingsError, match="not a known card") as error:
        find_gpu(typed)
    assert nearest in str(error.value)


@pytest.mark.parametrize(
    ("typed", "choices"),
    [("a100", ("A100 40GB", "A100 80GB PCIe")), ("4060 ti", ("4060 Ti 8GB", "4060 Ti 16GB")), ("v100", ("16GB", "32GB"))],
)
def test_names_of_several_cards_list_them(typed: str, choices: tuple[str, str]) -> None:
    with pytest.raises(SettingsError, match="say which") as error:
        find_gpu(typed)
    assert all(choice in str(error.value) for choice in choices)


@pytest.mark.parametrize(
    ("typed", "cards"),
    [
        ("B580x2", ["Arc B580"] * 2), ("2x b580", ["Arc B580"] * 2), ("a770 x 4", ["Arc A770"] * 4),
        ("rtx 3090, rtx 3060", ["RTX 3090", "RTX 3060"]), ("mi300x", ["MI300X"]), ("mi300xx8", ["MI300X"] * 8),
        ("RX 7900 XTX x2", ["RX 7900 XTX"] * 2), ("rtx4090x2+3060", ["RTX 4090", "RTX 4090", "RTX 3060"]),
    ],
)  # fmt: skip
def test_several_cards(typed: str, cards: list[str]) -> None:
    assert [gpu.name for gpu in find_gpus(typed)] == cards


@pytest.mark.parametrize("typed", ["B580x0", "B580x99", "x2", "rtx 3090,", ",", "h200x40,h200x40"])
def test_counts_that_make_no_sense(typed: str) -> None:
    with pytest.raises(SettingsError):
        find_gpus(typed)


@given(st.text(max_size=40))
def test_any_text_is_cards_or_an_error(text: str) -> None:
    try:
        assert 0 < len(find_gpus(text)) <= 64
    except SettingsError as error:
        assert "--gpu" in str(error)


@pytest.mark.parametrize("gpu", known_gpus(), ids=lambda gpu: gpu.name)
def test_every_row_is_found_by_its_name_and_plausible(gpu: Gpu) -> None:
    assert find_gpu(gpu.name) is gpu
    assert find_gpu(gpu.name.upper()) is gpu
    assert 4 <= gpu.memory_gib <= 300
    assert 150 <= gpu.bandwidth_gb_s <= 9000
    assert 0.5 < gpu.read_share < 1
    assert 10 <= gpu.tflops["bf16"] <= 2500
    assert gpu.tflops["fp8"] in (0.0, 2 * gpu.tflops["bf16"])
    assert gpu.pcie_gen in (3, 4, 5)
    assert gpu.pcie_lanes in (8, 16)
    assert len(gpu.source) > 20


def test_links_follow_the_cards_and_what_is_told() -> None:
    hopper, arc, geforce = find_gpus("h200x2"), find_gpus("b580x2"), find_gpus("rtx 3090x2")
    assert link_of(hopper).nvlink_gb_s == 900
    assert link_of(geforce).nvlink_gb_s is None  # a bridge has to be told
    assert link_of(geforce, nvlink=True).nvlink_gb_s == 112.5
    assert not link_of(geforce).p2p
    assert link_of(geforce, p2p=True).p2p
    assert (link_of(arc).pcie_gen, link_of(arc).pcie_lanes) == (4, 8)
    assert link_of(arc, pcie_gen=3, pcie_lanes=4).pcie_bytes_s < link_of(arc).pcie_bytes_s / 3
    assert link_of(find_gpus("rtx 3090, b580")).vendor == "mixed"


def test_sums_cost_least_over_nvlink_and_most_through_the_host() -> None:
    cards = find_gpus("a100-80gbx2")
    links = [link_of(cards, nvlink=True), link_of(cards), link_of(cards, p2p=False)]
    for size in (8e3, 8e6):
        costs = [link.all_reduce_ms(size, 2) for link in links]
        assert costs == sorted(costs)
    assert links[0].all_reduce_ms(8e6, 1) == 0
