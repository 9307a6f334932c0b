"""Counts that something else keeps, and Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class ReadCounter(Collector):
    """A counter whose values are set when metrics are read. ``name`` is without ``_total``."""

    def __init__(
        self, name: str, text: str, labels: tuple[str, ...], *, registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._values: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def set(self, *labels: str, to: float) -> None:
        """So many by now."""
        self._values[labels] = to

    def remove(self, *labels: str) -> None:
        """Say no more of it."""
        self._values.pop(labels, None)

    def collect(self) -> Iterator[Metric]:
        """All that was set."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family
