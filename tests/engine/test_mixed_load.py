"""The mixed load in little, on the CPU: requests that share, leave and stop, and nothing that stays behind."""

from __future__ import annotations

from benchmarks import mixed_load


def test_a_mixed_load_leaves_nothing_behind() -> None:
    line = mixed_load.main(
        [
            "--model", "tiny", "--device", "cpu", "--requests", "40", "--clients", "6", "--longest", "120", "--most-tokens", "30",
            "--tokens-for-tpot", "2", "--aborts", "0.3", "--shared", "0.8", "--max-num-batched-tokens", "64",
        ]
    )  # fmt: skip
    passes = line["passes"]
    assert isinstance(passes, dict)
    assert [name for name, passed in passes.items() if not passed and name != "tpot"] == []  # time is not ours here
    assert line["complaints"] == []
    assert all(int(str(line[name])) > 0 for name in ("aborted", "stopped", "cached_tokens", "generated_tokens"))
