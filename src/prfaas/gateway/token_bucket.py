"""A rate with a burst; what is taken may leave a debt, which is paid before more is given."""

from __future__ import annotations


class TokenBucket:
    """Holds at most ``burst`` and fills by ``rate`` a second. Times in seconds, on one clock."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst = rate, burst
        self._level, self._at = burst, now

    def configure(self, rate: float, burst: float, now: float) -> None:
        """From now on so; what was taken stays taken."""
        self._fill(now)
        self.rate, self.burst = rate, burst
        self._level = min(self._level, burst)

    def wait_s(self, amount: float, now: float) -> float:
        """Until ``amount`` can be taken, if nobody else takes any; 0: now. More than the bucket
        holds can be taken where it is full."""
        self._fill(now)
        missing = min(amount, self.burst) - self._level
        # What rounding leaves is no reason to wait.
        return missing / self.rate if missing > 1e-9 * self.burst else 0.0

    def take(self, amount: float, now: float) -> None:
        """Whether or not it is there."""
        self._fill(now)
        self._level -= amount

    def _fill(self, now: float) -> None:
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
