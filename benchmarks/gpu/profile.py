"""Where the microseconds of a decode step go: the device's kernels by name, from torch's profiler over some steps."""

from __future__ import annotations

from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.engine import Engine

_STEPS = 20
_NAME = 72  # characters of a kernel's name


def table(engine: Engine, prompts: list[list[int]], rows: int = 30) -> str:
    """Kernels with their calls and microseconds a step, the slowest first, and the sum."""
    device = engine.worker.device.type
    engine.greedy(prompts, _STEPS + 4)
    kinds = {"cuda": ProfilerActivity.CUDA, "xpu": ProfilerActivity.XPU}
    # What the profiler sees of prefill is taken away again: a run of one token has nothing else.
    kind = kinds.get(device, ProfilerActivity.CPU)
    counted = [_times(engine, prompts, tokens, kind) for tokens in (2, 2 + _STEPS)]
    steps: dict[str, tuple[float, float]] = {}
    for name, (calls, micros) in counted[1].items():
        before = counted[0].get(name, (0, 0.0))
        calls_step, micros_step = (calls - before[0]) / _STEPS, (micros - before[1]) / _STEPS
        if calls_step >= 0.5 and micros_step > 0:
            steps[name] = (calls_step, micros_step)
    total_calls, total = (sum(value[place] for value in steps.values()) for place in (0, 1))
    lines = [f"{'kernel':{_NAME}} {'calls':>7} {'us':>9} {'us each':>8} {'share':>6}"]
    for name, (each, spent) in sorted(steps.items(), key=lambda item: -item[1][1])[:rows]:
        lines.append(f"{name[:_NAME]:{_NAME}} {each:7.1f} {spent:9.1f} {spent / each:8.2f} {spent / total:6.1%}")
    lines.append(f"{'all ' + str(len(steps)) + ' kernels':{_NAME}} {total_calls:7.1f} {total:9.1f}")
    return "\n".join(lines)


def _times(engine: Engine, prompts: list[list[int]], tokens: int, kind: ProfilerActivity) -> dict[str, tuple[int, float]]:
    """Calls and microseconds on the device by kernel."""
    with profile(activities=[kind], acc_events=True) as seen:
        engine.greedy(prompts, tokens)
    # Calls into the driver are not the device's work.
    on_host = kind == ProfilerActivity.CPU
    times = {
        one.key: (one.count, one.self_cpu_time_total if on_host else one.self_device_time_total) for one in seen.key_averages()
    }
    return {name: (count, micros) for name, (count, micros) in times.items() if micros > 0}
