"""What the benchmark of a shared line makes of the bytes that came."""

from __future__ import annotations

from typing import Any

from benchmarks.line_budget.__main__ import judge
from benchmarks.line_budget.ends import BIN_S

RATE = 1e6
PHASE_S = 8.0


def figures(
    *, draining_s: float, taking_over_s: float, pause_s: float = 0.0, start_s: float = 0.0
) -> dict[str, Any]:
    """Of a run in which those that are told to stop send on for ``draining_s``, the others have
    their part ``taking_over_s`` later, the line pauses once while three send, and all begin after
    ``start_s``."""
    names = ("e1", "e2", "e3", "e4")
    total: dict[str, dict[int, int]] = {name: {} for name in names}
    senders = (4, 3, 1, 4)
    for number in range(round(4 * PHASE_S / BIN_S)):
        at = number * BIN_S
        phase = int(at / PHASE_S + 1e-9)
        into, before = at - phase * PHASE_S, senders[max(phase - 1, 0)]
        fewer = senders[phase] < before
        sending = before if fewer and into < draining_s else senders[phase]
        late = fewer and into < draining_s + taking_over_s
        part = RATE / (before if late else sending)
        pausing = at < start_s or (phase == 1 and 4.0 <= into < 4.0 + pause_s)
        for name in names[:sending]:
            total[name][number] = 0 if pausing else round(part * BIN_S)
    return judge([PHASE_S * n for n in range(5)], total, RATE)


def test_what_was_under_way_when_a_machine_stopped_is_not_the_lines_fault() -> None:
    found = figures(draining_s=2.7, taking_over_s=0.3)
    assert 0.2 <= found["three"]["taken_over_s"] <= 0.4
    assert found["three"]["least_of_rate"] >= 0.99
    assert found["one"]["least_of_rate"] >= 0.99


def test_a_part_that_is_not_used_within_a_second_counts() -> None:
    found = figures(draining_s=0.0, taking_over_s=1.6)
    assert found["three"]["taken_over_s"] >= 1.5
    assert found["three"]["least_of_rate"] <= 0.9
    assert found["one"]["least_of_rate"] <= 0.6


def test_a_pause_counts_in_its_seconds() -> None:
    assert figures(draining_s=0.0, taking_over_s=0.2, pause_s=0.2)["three"]["least_of_rate"] <= 0.81


def test_processes_that_start_late_are_judged_later() -> None:
    found = figures(draining_s=0.0, taking_over_s=0.2, start_s=3.9)
    assert found["all four"]["least_of_rate"] >= 0.99
