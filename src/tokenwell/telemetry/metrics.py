"""The Prometheus metrics of the gateway: names, labels and buckets. Knows neither engine nor HTTP; others bring the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TPOT_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1)
_E2E_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

# name -> (help, unit of the value is in the name). Read from the engine's state when scraped.
GAUGES: Mapping[str, str] = {
    "requests_running": "Sequences that the engine computes in its steps",
    "requests_waiting": "Sequences that wait for the engine",
    "kv_usage_ratio": "Share of the KV pages that running sequences hold",
    "engine_up": "1 when a request would be computed now",
}
COUNTERS: Mapping[str, str] = {
    "prompt_tokens": "Prompt tokens that the engine admitted",
    "generation_tokens": "Tokens generated",
    "cached_prompt_tokens": "Prompt tokens that came from the prefix cache",
    "preemptions": "Sequences that were preempted and computed again",
    "engine_steps": "Steps of the engine",
    "engine_step_seconds": "Wall-clock time of the engine's steps",
    "engine_model_seconds": "Part of the steps' time that was the model",
    "engine_restarts": "Engines started in place of a lost one",
}


class Metrics:
    """One registry. `observe_request` once a request; everything about the engine is read when scraped."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("tokenwell_requests", "HTTP requests answered", ("route", "status"), registry=self._registry)
        self._ttft = _histogram("ttft_seconds", "Time to the first token", _TTFT_S, self._registry)
        self._tpot = _histogram("tpot_seconds", "Time per output token after the first", _TPOT_S, self._registry)
        self._e2e = _histogram("e2e_seconds", "Time from request to the end of its answer", _E2E_S, self._registry)

    def count_request(self, route: str, status: int) -> None:
        """One more answered HTTP request. `status` 499 means that the client left before the answer."""
        self._requests.labels(route, str(status)).inc()

    def observe_generation(self, *, ttft_s: float, tpot_s: float | None, e2e_s: float) -> None:
        """The times of one generation; `tpot_s` is None for an answer of a single token."""
        self._ttft.observe(ttft_s)
        if tpot_s is not None:
            self._tpot.observe(tpot_s)
        self._e2e.observe(e2e_s)

    def watch_engine(self, read: Callable[[], EngineNumbers], by_replica: Callable[[], Mapping[str, EngineNumbers]]) -> None:
        """Ask for the numbers of all engines together and, where there are several, of each by its name, at every scrape."""
        self._registry.register(_EngineCollector(read, by_replica))

    def watch_plan(self, read: Callable[[], Mapping[str, Promised]]) -> None:
        """Ask for the plan's promises, by names that end in their unit, at every scrape."""
        self._registry.register(_PlanCollector(read))

    def render(self) -> bytes:
        """Everything in Prometheus text format."""
        return generate_latest(self._registry)


class Promised(Protocol):
    """One figure of a plan and what came of it; None: not known yet."""

    @property
    def planned(self) -> float: ...
    @property
    def measured(self) -> float | None: ...
    @property
    def ratio(self) -> float | None: ...


class _PlanCollector:
    """Turns promises into metric families, when scraped."""

    def __init__(self, read: Callable[[], Mapping[str, Promised]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        promises = self._read()
        planned = GaugeMetricFamily("tokenwell_plan_planned", "What the plan promised, in the unit of its name", labels=("what",))
        measured = GaugeMetricFamily("tokenwell_plan_measured", "What was measured of it", labels=("what",))
        ratio = GaugeMetricFamily(
            "tokenwell_plan_ratio", "Measured over planned; of times the median over requests", labels=("what",)
        )
        for name, one in promises.items():
            planned.add_metric((name,), one.planned)
            if one.measured is not None:
                measured.add_metric((name,), one.measured)
            if one.ratio is not None:
                ratio.add_metric((name,), one.ratio)
        yield from (planned, measured, ratio)


class EngineNumbers:
    """Values for every name in GAUGES and COUNTERS, and the KV pages by state."""

    def __init__(self, gauges: Mapping[str, float], counters: Mapping[str, float], kv_pages: Mapping[str, int]) -> None:
        self.gauges = gauges
        self.counters = counters
        self.kv_pages = kv_pages  # "active" | "cached" | "free"


class _EngineCollector:
    """Turns EngineNumbers into metric families, when scraped."""

    def __init__(self, read: Callable[[], EngineNumbers], by_replica: Callable[[], Mapping[str, EngineNumbers]]) -> None:
        self._read = read
        self._by_replica = by_replica

    def collect(self) -> Iterable[Metric]:
        numbers = self._read()
        for name, about in GAUGES.items():
            yield GaugeMetricFamily(f"tokenwell_{name}", about, value=numbers.gauges[name])
        for name, about in COUNTERS.items():
            yield CounterMetricFamily(f"tokenwell_{name}", about, value=numbers.counters[name])
        pages = GaugeMetricFamily("tokenwell_kv_pages", "Pages of the KV cache by state", labels=("state",))
        for state, count in numbers.kv_pages.items():
            pages.add_metric((state,), count)
        yield pages
        yield from self._replicas()

    def _replicas(self) -> Iterable[Metric]:
        """Under names of their own, so that sums over a name count nothing twice."""
        replicas = self._by_replica()
        for name, about in GAUGES.items() if replicas else ():
            gauge = GaugeMetricFamily(f"tokenwell_replica_{name}", f"{about}; by replica", labels=("replica",))
            for replica, numbers in replicas.items():
                gauge.add_metric((replica,), numbers.gauges[name])
            yield gauge
        for name, about in COUNTERS.items() if replicas else ():
            counter = CounterMetricFamily(f"tokenwell_replica_{name}", f"{about}; by replica", labels=("replica",))
            for replica, numbers in replicas.items():
                counter.add_metric((replica,), numbers.counters[name])
            yield counter


def _histogram(name: str, about: str, buckets: tuple[float, ...], registry: CollectorRegistry) -> Histogram:
    return Histogram(f"tokenwell_{name}", about, buckets=buckets, registry=registry)
