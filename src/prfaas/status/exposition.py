"""Reading a Prometheus page: one number, or numbers by label."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_MOST = 2.0**62
"""Nothing that is counted comes to more; products of two are still numbers."""


class MetricsPage:
    """The samples of a ``/metrics`` answer, but those that are no numbers to compute with; an empty
    page where there was none, or none that can be read."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[Sample]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in filter(_is_number, family.samples):
                    self._samples.setdefault(sample.name, []).append(sample)
        except Exception:  # Whatever nonsense does to a parser.
            self._samples.clear()

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples with these labels; None where there is none that is a number."""
        found = [s.value for s in self._with(name, labels)]
        return sum(found) if found else None

    def by(self, name: str, *labels: str) -> dict[str, int]:
        """Whole numbers by the values of ``labels``, which are joined with a space."""
        found: dict[str, int] = {}
        for sample in self._samples.get(name, []):
            key = " ".join(sample.labels.get(label, "") for label in labels)
            found[key] = found.get(key, 0) + int(sample.value)
        return found

    def _with(self, name: str, labels: dict[str, str]) -> Iterator[Sample]:
        for sample in self._samples.get(name, []):
            if all(sample.labels.get(key) == value for key, value in labels.items()):
                yield sample


def _is_number(sample: Sample) -> bool:
    return abs(sample.value) <= _MOST
