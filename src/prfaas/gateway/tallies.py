"""Counters and histograms that every request adds to, many times.

`prometheus_client` locks, looks labels up and searches buckets in Python at each addition, which
made a tenth of what a short request cost. Here an addition is one in a dictionary, by the one
thread that there is; the client's forms are made when somebody reads them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from math import inf

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]


class Tally(Collector):
    """A counter. ``name`` ends in ``_total``; one without labels begins at zero."""

    def __init__(
        self, name: str, what: str, labels: Labels = (), *, registry: CollectorRegistry
    ) -> None:
        self._name, self._what, self._labels = name.removesuffix("_total"), what, labels
        self.values: dict[Labels, float] = {} if labels else {(): 0.0}
        registry.register(self)

    def add(self, labels: Labels, amount: float = 1) -> None:
        """``labels``: values in the order of the names."""
        self.values[labels] = self.values.get(labels, 0) + amount

    def collect(self) -> Iterator[CounterMetricFamily]:
        """As `prometheus_client` asks collectors."""
        family = CounterMetricFamily(self._name, self._what, labels=self._labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        yield family


class Times(Collector):
    """A histogram of seconds. ``buckets``: their upper ends, the last but infinity."""

    def __init__(
        self,
        name: str,
        what: str,
        labels: Labels,
        *,
        buckets: tuple[float, ...],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._what, self._labels, self._buckets = name, what, labels, buckets
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        registry.register(self)

    def observe(self, labels: Labels, seconds: float) -> None:
        """``labels``: values in the order of the names."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._buckets) + 1)
            self._sums[labels] = 0.0
        counts[bisect_left(self._buckets, seconds)] += 1
        self._sums[labels] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """As `prometheus_client` asks collectors."""
        family = HistogramMetricFamily(self._name, self._what, labels=self._labels)
        ends = [_shown(end) for end in (*self._buckets, inf)]
        for labels, counts in self._counts.items():
            below, buckets = 0, []
            for end, count in zip(ends, counts, strict=True):
                below += count
                buckets.append((end, below))
            family.add_metric(labels, buckets, self._sums[labels])
        yield family


def _shown(end: float) -> str:
    """As Prometheus writes it."""
    return str(floatToGoString(end))  # type: ignore[no-untyped-call]
