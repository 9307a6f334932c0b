"""Which of the kernel's congestion controls carries a line: BBR bears loss, CUBIC never pauses.

Theory of operation. BBR keeps its rate through random loss, but sends next to nothing for 0.2 s
about every 10 s, to measure the line's delay anew (PROBE_RTT). On a line of an unknown rate nothing
else finds what it carries. Where the rate is given we pace to it ourselves, and its seconds are
promised: there CUBIC stays at the rate for as long as nothing is lost. So such a line begins with
it, goes over to BBR where packets are lost, and comes back where none were for some minutes.
"""

from __future__ import annotations

from collections import deque

FINDS_THE_RATE, KEEPS_THE_RATE = "bbr", "cubic"
LOOK_BACK_S, MOST_RETRANSMITS = 10.0, 5
"""More in that time are no accident. CUBIC on a line of 1 Gbit/s and 30 ms loses a twentieth of its
rate at one loss in 10 s, and four fifths at ten."""
LOSSY_S = 300.0
"""For how long a line counts as lossy after the last time that so many were lost."""


class CongestionChoice:
    """Chooses for one peer's connections; times are of any one clock."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._lossy_until = 0.0

    def observe(self, retransmits: int, *, now: float) -> None:
        """So many segments were sent again since the last look."""
        seen = self._seen
        if retransmits > 0:
            seen.append((now, retransmits))
        while seen and seen[0][0] <= now - LOOK_BACK_S:
            seen.popleft()
        if sum(count for _, count in seen) > MOST_RETRANSMITS:
            self._lossy_until = now + LOSSY_S

    def name(self, *, rate_is_given: bool, now: float) -> str:
        """The one to use now."""
        return KEEPS_THE_RATE if rate_is_given and now >= self._lossy_until else FINDS_THE_RATE
