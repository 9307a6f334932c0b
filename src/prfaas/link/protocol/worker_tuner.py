"""How many link workers pay: started when an interpreter is what bounds the link while cores are
idle, kept when goodput grows."""

from __future__ import annotations

import math

import msgspec

_BUSY = 0.75
"""Of a core: a process that uses more is bound by its interpreter's lock."""
_BUSY_LINK = 100e6
"""Bytes per second: an interpreter that is bound by the link moves more, also with TLS."""
_IDLE_CORES = 1.5
"""A worker needs a core at each end, which may be one machine, and the engines go first."""
_GAIN = 1.08
"""Goodput must grow by so much for another to stay."""
_SETTLE_S = 3.0
"""Connections are made anew, and then grow."""
_PAUSE_S = 60.0
"""Before it is tried again what did not pay."""
_SPARE_S = 60.0
"""So long without need, and one ends."""


class Load(msgspec.Struct, frozen=True):
    """What the link moved in the last second, and which cores were busy."""

    goodput_bytes_per_s: float
    """Both ways."""
    own_cores: float
    """What the agent's process used."""
    worker_cores: float
    """What its workers used, together."""
    idle_cores: float
    """What the machine did not use."""


class WorkerTuner:
    """``count`` is how many there should be. ``fixed``: not to be tuned."""

    def __init__(self, *, fixed: int | None, most: int) -> None:
        self.count = fixed or 0
        self._fixed, self._most = fixed is not None, most
        self._before = 0.0
        self._judged_at = math.inf
        self._next_at = -math.inf
        self._needed_at: float | None = None

    def observe(self, load: Load, *, now: float) -> None:
        """Adapt to a second's load."""
        if self._fixed:
            return
        if self._needed_at is None:
            self._needed_at = now
        busiest = load.own_cores if not self.count else load.worker_cores / self.count
        if self._judged_at < math.inf:
            if now >= self._judged_at:
                self._judge(load, now)
        elif busiest >= _BUSY:
            self._needed_at = now
            if self._another_may_pay(load) and now >= self._next_at:
                self._before, self._judged_at = load.goodput_bytes_per_s, now + _SETTLE_S
                # The first takes over what the agent did: only a second can add to it.
                self.count = min(self._most, max(2, self.count + (self.count + 1) // 2))
        elif busiest >= _BUSY / 2:
            self._needed_at = now
        elif self.count and now - self._needed_at >= _SPARE_S:
            self.count, self._needed_at = self.count - 1, now

    def _another_may_pay(self, load: Load) -> bool:
        return (
            self.count < self._most
            and load.idle_cores >= _IDLE_CORES
            and load.goodput_bytes_per_s >= _BUSY_LINK
        )

    def cannot(self, *, now: float) -> None:
        """None more can be started."""
        self._judged_at, self._next_at = math.inf, now + _PAUSE_S
        if not self._fixed:
            self.count = 0

    def _judge(self, load: Load, now: float) -> None:
        self._judged_at = math.inf
        if load.goodput_bytes_per_s < _GAIN * self._before:
            # Back to the last number that was worth it.
            self.count = 0 if self.count <= 2 else self.count * 2 // 3
            self._next_at = now + _PAUSE_S
