"""Metrics with one label, for the agent's collectors."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """``prfaas_NAME``, one for each value of the label."""
    family = GaugeMetricFamily(f"prfaas_{name}", text, labels=[label])
    for value, amount in values.items():
        family.add_metric([value], amount)
    return family


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """The same, of what only grows."""
    family = CounterMetricFamily(f"prfaas_{name}", text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
