"""One sender's part of a line's rate: what it may send now, and what it falls back to.

Theory of operation. The rate of a line is one budget. Each of its senders owns an even part of it,
its *fair share*, without asking anybody. One of the receiving agents is the line's *divider*
(`line_divider`): senders tell it what they have to send (`Demand`), it answers with a `Grant`. A
grant above the fair share is a lease: it ends `GRANT_S` after its demand was made. One below it is
a *pledge*: the sender keeps to it for `PLEDGE_S`, and others send what it leaves. After either it
has its fair share again, so a divider that is silent, dead or far away costs only what was lent.

Only spans of time count, each on one clock, and who could do harm counts them longer or shorter
than the other: a lease from when its demand was made, while the divider counts from when it heard
it; a pledge from when it arrived, while the divider counts from when it said it. So no delay makes
the sum exceed the rate. `DRIFT` is for clocks that run at different speeds.

A pledge may be relied upon by one divider only: until it ends no other's grants are taken. A
process that starts does not know what it had pledged, nor one that was cut off what its divider
takes it for: both begin with the least there is, as if they had pledged it.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

GRANT_S, PLEDGE_S = 1.0, 2.0
"""A pledge outlasts the leases that rest upon it. Grants are renewed every `DEMAND_EVERY_S`: both
survive a few round trips without news."""
DRIFT = 1.01
"""Clocks of two machines differ in speed by far less than a hundredth."""
DEMAND_EVERY_S = 0.1
_LEAST_SHARE = 0.01
"""Of its fair share, what every sender may send always: the first bytes of a machine that was idle
need not wait. Seven idle machines of eight leave 99.1% of the line to the last."""
_DIVIDERS_REMEMBERED = 8
_Rate = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Demand(msgspec.Struct, frozen=True, array_like=True):
    """What a sender has to send over a line.

    ``session`` is drawn when its process starts, ``serial`` grows with each demand. ``asked_at_us``
    is its own clock's, for the answer to repeat. ``holds`` is the grant in force, of ``divider``.
    """

    session: _Count
    serial: _Count
    asked_at_us: _Count
    need_bytes_per_s: _Rate
    holds: _Count
    divider: _Count


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """What a sender may send from now on. ``divider`` is drawn when the divider's process starts,
    ``serial`` grows with each grant, ``asked_at_us`` is the latest demand's. ``fair_bytes_per_s``
    is what the divider takes for a fair share: where the two were started with different numbers of
    senders, the smaller counts.
    """

    divider: _Count
    serial: _Count
    asked_at_us: _Count
    limit_bytes_per_s: _Rate
    fair_bytes_per_s: _Rate


def fair_share(rate_bytes_per_s: float, senders: int) -> int:
    """The even part of each sender, in whole bytes per second."""
    return int(rate_bytes_per_s) // senders


def least_share(fair_bytes_per_s: int) -> int:
    """What every sender may send always, in whole bytes per second."""
    return math.ceil(fair_bytes_per_s * _LEAST_SHARE)


class LineShare:
    """What one sender may send over one line. Not thread-safe.

    Args:
        rate_bytes_per_s: of the whole line.
        senders: how many share it.
        session: of this process, at random.
    """

    def __init__(self, rate_bytes_per_s: float, *, senders: int, session: int, now: float) -> None:
        self._own_fair = self.fair_bytes_per_s = fair_share(rate_bytes_per_s, senders)
        self._least = least_share(self._own_fair)
        self._rate, self._session, self._serial = rate_bytes_per_s, session, 0
        self._limit: float = self.fair_bytes_per_s
        self._until, self._since_us = now, 0
        self._divider = 0
        self._held: dict[int, int] = {}
        """By divider, the newest of its grants that was taken."""
        if senders > 1:
            self.connected(now=now)

    def limit(self, *, now: float) -> float:
        """Bytes per second it may send."""
        return self._limit if now < self._until else self.fair_bytes_per_s

    def connected(self, *, now: float) -> None:
        """There is a connection over the line again, after a time without any. What was said before
        is void: the divider may have forgotten it."""
        self._limit = min(self.limit(now=now), self._least)
        self._until, self._since_us = now + PLEDGE_S * DRIFT, int(now * 1e6)

    def demand(self, need_bytes_per_s: float, *, now: float) -> Demand:
        """What to tell the divider."""
        self._serial += 1
        need = round(min(need_bytes_per_s, self._rate))
        held = self._held.get(self._divider, 0)
        return Demand(self._session, self._serial, int(now * 1e6), need, held, self._divider)

    def granted(self, grant: Grant, *, now: float) -> bool:
        """Take a divider's word, unless a newer one is in force or another divider relies on a
        pledge. True if the limit has become another."""
        if grant.serial <= self._held.get(grant.divider, 0):
            return False
        if grant.divider != self._divider and self._pledged(now):
            return False
        asked_at = grant.asked_at_us / 1e6
        if grant.asked_at_us < self._since_us or asked_at > now:
            return False
        before = self.limit(now=now)
        self._divider = grant.divider
        self._held.pop(grant.divider, None)
        self._held[grant.divider] = grant.serial
        if len(self._held) > _DIVIDERS_REMEMBERED:
            del self._held[next(iter(self._held))]
        # Of this divider alone, and never nothing: no word of one outlasts it, or stops the line.
        fair = max(grant.fair_bytes_per_s, self._least)
        self.fair_bytes_per_s = min(fair, self._own_fair)
        least = least_share(self.fair_bytes_per_s)
        self._limit = min(max(grant.limit_bytes_per_s, least), int(self._rate))
        pledge = self._limit < self.fair_bytes_per_s
        self._until = now + PLEDGE_S * DRIFT if pledge else asked_at + GRANT_S / DRIFT
        return self.limit(now=now) != before

    def _pledged(self, now: float) -> bool:
        return self._limit < self.fair_bytes_per_s and now < self._until
