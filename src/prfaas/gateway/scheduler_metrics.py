"""What Prometheus reads of the scheduler: queues, places, lines, what was learned. Gathered when it
asks, from the view that policies decide by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import isfinite

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prfaas.policies.api import View
from prfaas.policies.threshold_search import Optimum
from prfaas.policies.views import EngineView
from prfaas.scheduler.scheduler import Scheduler

_ENGINE = ("engine", "cluster", "role")
_LENGTH_TOKENS = 8192
"""Of the prompt whose expected prefill time is shown for each engine."""
_OF_ENGINES: dict[str, tuple[str, Callable[[EngineView], float]]] = {
    "engine_prefills": ("Prompts planned on or prefilled by the engine", lambda e: e.prefills),
    "engine_prefill_queue_tokens": ("Their uncached tokens", lambda e: e.prefill_tokens),
    "engine_prefill_queue_seconds": ("What they should take, by estimate", lambda e: e.queued_s),
    "engine_running_sequences": ("Sequences that hold decode slots", lambda e: e.running),
    "engine_assigned_sequences": ("These, and those on their way there", lambda e: e.assigned),
    "engine_slots": ("Sequences that may decode at a time", lambda e: e.max_requests),
    "engine_kv_reserved_tokens": ("KV memory kept for prompts and answers", lambda e: e.kv_used),
}


class SchedulerCollector(Collector):
    """``scheduler``: of now; ``thresholds``: those that were searched last, by PD cluster."""

    def __init__(
        self,
        scheduler: Callable[[], Scheduler],
        thresholds: Callable[[], Mapping[str, Optimum]],
    ) -> None:
        self._scheduler, self._thresholds = scheduler, thresholds

    def describe(self) -> list[Metric]:
        """Nothing is gathered before the gateway has begun."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One look at everything."""
        scheduler = self._scheduler()
        yield GaugeMetricFamily(
            "prfaas_scheduler_live_requests", "Requests that have not ended",
            scheduler.live_requests,
        )  # fmt: skip
        yield GaugeMetricFamily(
            "prfaas_scheduler_waiting_tokens", "Prompt tokens of requests that wait for a place",
            scheduler.waiting_tokens,
        )  # fmt: skip
        yield from _engines(scheduler.view)
        yield from _clusters(scheduler.view)
        yield from _lines(scheduler.view)
        yield from _thresholds(self._thresholds())


def _engines(view: View) -> Iterator[Metric]:
    for name, (text, value) in _OF_ENGINES.items():
        family = GaugeMetricFamily(f"prfaas_scheduler_{name}", text, labels=_ENGINE)
        for engine in view.engines.values():
            family.add_metric([engine.name, engine.cluster, engine.role], value(engine))
        yield family
    expected = GaugeMetricFamily(
        "prfaas_scheduler_expected_prefill_seconds",
        f"What {_LENGTH_TOKENS} uncached tokens should take an idle engine; learned from prefills",
        labels=("engine",),
    )
    for engine in view.engines.values():
        seconds = view.costs.prefill_s(engine.name, _LENGTH_TOKENS)
        if isfinite(seconds):
            expected.add_metric([engine.name], seconds)
    yield expected


def _clusters(view: View) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "prfaas_scheduler_waiting_requests",
        "Requests that wait for a decode slot with nothing else missing",
        labels=("cluster",),
    )
    for cluster in view.pd_clusters:
        waiting.add_metric([cluster.name], cluster.waiting_for_decode)
    yield waiting


def _lines(view: View) -> Iterator[Metric]:
    labels = ("source", "target")
    rate = GaugeMetricFamily(
        "prfaas_scheduler_line_rate_bytes_per_second",
        "What the line is taken to carry now",
        labels=labels,
    )
    outstanding = GaugeMetricFamily(
        "prfaas_scheduler_line_outstanding_bytes",
        "KV bytes planned for the line and not there yet",
        labels=labels,
    )
    for source in view.prfaas_clusters:
        for target in view.pd_clusters:
            line = view.link(source.name, target.name)
            if line is not None:
                rate.add_metric([source.name, target.name], line.rate_bytes_per_s)
                outstanding.add_metric([source.name, target.name], line.outstanding_bytes)
    yield rate
    yield outstanding


def _thresholds(found: Mapping[str, Optimum]) -> Iterator[Metric]:
    tokens = GaugeMetricFamily(
        "prfaas_scheduler_threshold_tokens",
        "Uncached tokens above which offloading would carry most: shown, not used",
        labels=("cluster",),
    )
    rate = GaugeMetricFamily(
        "prfaas_scheduler_threshold_prompts_per_second",
        "What prefill could carry with that threshold",
        labels=("cluster", "bound"),
    )
    for cluster, optimum in found.items():
        tokens.add_metric([cluster], optimum.threshold_tokens)
        rate.add_metric([cluster, optimum.bound], optimum.prompts_per_s)
    yield tokens
    yield rate
