"""How many connections: the first guess, and what is learned."""

from __future__ import annotations

import pytest

from prfaas.link.protocol.connection_tuner import ConnectionTuner, first_guess


@pytest.mark.parametrize(
    ("rtt_s", "rate", "count"),
    [
        (0.0001, None, 2),
        (0.03, None, 4),
        (0.0001, 25e6, 1),
        (0.03, 25e6, 1),
        (0.001, 1.25e9, 5),
        (0.03, 125e6, 2),
        (0.03, 1.25e9, 13),
        (0.08, 1.25e9, 16),
    ],
)
def test_the_first_guess(rtt_s: float, rate: float | None, count: int) -> None:
    assert first_guess(rtt_s, rate) == count


def climb(
    tuner: ConnectionTuner, goodput_of: dict[int, float], seconds: float, start: float
) -> float:
    steps = int(seconds * 10)
    for step in range(steps):
        goodput = goodput_of.get(tuner.count, 100.0)
        tuner.observe(goodput, limited=False, now=start + step / 10)
    return start + seconds


def test_connections_stay_where_they_help_and_go_where_they_do_not() -> None:
    tuner = ConnectionTuner(4)
    now = climb(tuner, {4: 50.0, 6: 75.0, 9: 76.0}, 10.0, 0.0)
    assert tuner.count == 6
    climb(tuner, {6: 75.0}, 30.0, now)
    assert tuner.count == 6, "the question rests"
    idle = ConnectionTuner(4)
    for step in range(100):
        idle.observe(0.0, limited=True, now=step / 10)
    assert idle.count == 4
