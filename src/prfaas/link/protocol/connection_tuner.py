"""How many connections a line needs: a first guess from what is known, then hill climbing.

Theory of operation. One TCP flow carries at most its window per RTT, and one loss halves it (or
worse) alone; so a long or fast line needs several. On a short one more connections only cost
threads. `first_guess` is the arithmetic. While there is more to send than the line takes, a
`ConnectionTuner` then tries half as many again: where goodput grows by at least `_GAIN` they stay,
else they go and the question rests. A line held by its rate limit is left alone.
"""

from __future__ import annotations

import math

_WINDOW_BYTES = 3_000_000
"""What one flow may have in flight with the kernel's default limit of 4 MB per socket."""
_THREAD_BYTES_PER_S = 300e6
"""What one connection's thread can surely encrypt or decrypt."""
_SHORT_RTT_S = 0.001
"""Below it the two ends share a machine or a rack, where CPU and not the window bounds a flow."""
_LOCAL, _DEFAULT, MOST = 2, 4, 16
"""On loopback two were fastest, three and four slower (docs/decisions/0024). Each costs a thread at
both ends, hence a bound."""
_TRIAL_S, _REST_S, _GAIN = 2.0, 60.0, 1.08
"""A trial lasts four times what goodput is smoothed over; the gain asked for is above its noise."""


def first_guess(rtt_s: float, rate_bytes_per_s: float | None) -> int:
    """Connections for a line of this RTT and, where known, rate: a rate is kept most evenly by as
    few as can carry it."""
    if rate_bytes_per_s is None:
        return _LOCAL if rtt_s < _SHORT_RTT_S else _DEFAULT
    by_window = rate_bytes_per_s * rtt_s / _WINDOW_BYTES
    by_thread = rate_bytes_per_s / _THREAD_BYTES_PER_S
    return min(max(1, math.ceil(max(by_window, by_thread))), MOST)


class ConnectionTuner:
    """``count`` is how many there should be, at most ``most``; `observe` may change it."""

    def __init__(self, count: int, *, most: int = MOST) -> None:
        self._most = min(most, MOST)
        self.count = min(count, self._most)
        self._before: tuple[int, float] | None = None
        self._since: float | None = None
        self._rest_until = 0.0

    def observe(self, goodput_bytes_per_s: float, *, limited: bool, now: float) -> int:
        """Call every 100 ms. ``limited``: nothing to send, or the rate limit holds the line."""
        if limited or now < self._rest_until:
            self._since = None
            return self.count
        if self._since is None:
            self._since = now
        if now - self._since < _TRIAL_S:
            return self.count
        self._since = now
        if self._before is not None:
            count, goodput = self._before
            self._before = None
            if goodput_bytes_per_s < goodput * _GAIN:
                self.count, self._rest_until = count, now + _REST_S
                return self.count
        if self.count < self._most:
            self._before = self.count, goodput_bytes_per_s
            self.count = min(self.count + max(1, self.count // 2), self._most)
        return self.count
