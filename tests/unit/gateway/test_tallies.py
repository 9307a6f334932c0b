"""What is counted here reads as what `prometheus_client` counts itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from prfaas.gateway.tallies import Tally, Times

ENDS = (0.01, 0.5, 1, 300)
SECONDS = st.one_of(st.floats(0, 1000), st.sampled_from(ENDS))
ROWS = st.lists(st.tuples(st.sampled_from('ab"\n'), st.sampled_from("xy"), SECONDS))


@given(ROWS)
def test_the_text_is_the_same(rows: list[tuple[str, str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = Tally("n_total", "So many.", ("a", "b"), registry=ours)
    plain = Tally("plain_total", "All.", registry=ours)
    times = Times("t_seconds", "So long.", ("a", "b"), buckets=ENDS, registry=ours)
    counter = Counter("n_total", "So many.", ("a", "b"), registry=theirs)
    all_of_them = Counter("plain_total", "All.", registry=theirs)
    histogram = Histogram("t_seconds", "So long.", ("a", "b"), buckets=ENDS, registry=theirs)
    for a, b, seconds in rows:
        tally.add((a, b), seconds)
        plain.add(())
        times.observe((a, b), seconds)
        counter.labels(a, b).inc(seconds)
        all_of_them.inc()
        histogram.labels(a, b).observe(seconds)
    assert lines(ours) == lines(theirs)


def lines(registry: CollectorRegistry) -> list[str]:
    """Without when a series began."""
    text = generate_latest(registry).decode().splitlines()
    return [line for line in text if "_created" not in line]
