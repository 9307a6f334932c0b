"""Divides a line's rate among its senders: the other side of `line_share`.

Theory of operation. The divider keeps, for each sender, every grant that may still be in force
there: all that were given since the one that the sender last said it holds. The most that a sender
may send, over the time that a new lease could live, is the largest of them, where a pledge counts
only if it outlasts that time. A grant is given only as far as the largest of all senders together
stay within the rate. So one sender's part is first taken back, which needs no consent of others;
once it has confirmed, or its lease has ended, another gets it.

What each should have is the max-min fair division by need: nobody gets more than it needs while
another needs more than it has, and what nobody needs is spread evenly. A sender that has not been
heard of keeps its fair share, unless it is known to be cut off from the line (`gone`): then it has
the least there is, since it begins with that when it comes back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prfaas.link.protocol.line_share import (
    GRANT_S,
    PLEDGE_S,
    Demand,
    Grant,
    fair_share,
    least_share,
)

_GONE_S = 0.75 * PLEDGE_S
"""What is relied upon of a pledge that nobody made: its sender may have come back a moment before
we see its connection."""
_MOST_CLAIMS = 64
"""Of a sender, that are not confirmed and not over. One that confirms none is granted no more until
they are over: every grant costs as much as there are."""
_WORTH_SAYING = 0.05
"""Of a fair share: smaller changes wait for the sender's next demand."""


def divide(rate: float, needs: Mapping[str, float]) -> dict[str, float]:
    """Max-min fair parts of ``rate``; what nobody needs is spread evenly."""
    parts: dict[str, float] = {}
    left = rate
    waiting = sorted(needs, key=lambda name: needs[name])
    for index, name in enumerate(waiting):
        parts[name] = min(needs[name], left / (len(waiting) - index))
        left -= parts[name]
    return {name: part + left / len(parts) for name, part in parts.items()}


@dataclass(frozen=True, slots=True)
class _Claim:
    """A grant that may be in force; after ``until`` its sender has its fair share."""

    serial: int
    limit: float
    until: float


@dataclass(slots=True)
class _Sender:
    claims: list[_Claim]
    session: int | None = None
    serial: int = 0
    need: float = 0.0
    heard_at: float = -math.inf
    asked_at_us: int = 0
    said: float = 0.0
    """The latest grant's limit."""


class LineDivider:
    """One line's. Not thread-safe.

    Args:
        rate_bytes_per_s: of the line.
        senders: names of all agents that send over it.
        ident: of this process, at random, above zero.
    """

    def __init__(self, rate_bytes_per_s: float, *, senders: Sequence[str], ident: int) -> None:
        self._ident, self._serial = ident, 0
        self._fair = fair_share(rate_bytes_per_s, len(senders))
        # Not a byte more: while a line is cut in two, each half may have a divider of its own.
        self._rate = self._fair * len(senders)
        self._least = least_share(self._fair)
        self._senders = {name: _Sender([self._fair_claim()]) for name in senders}

    def gone(self, name: str, *, now: float) -> None:
        """``name`` has no connection over which it could send on this line. To be said again at
        least every half second, for as long as it is so."""
        sender = self._senders[name]
        self._serial += 1
        sender.claims = [_Claim(self._serial, self._least, now + _GONE_S)]
        sender.session, sender.heard_at = None, -math.inf

    def demanded(self, name: str, demand: Demand, *, now: float) -> list[tuple[str, Grant]]:
        """A sender says what it needs: what to tell whom."""
        sender = self._senders.get(name)
        if sender is None or not self._note(sender, demand, now):
            return []
        if len(sender.claims) >= _MOST_CLAIMS:
            return []
        parts = self._parts(now)
        grants = [(name, self._grant(name, parts[name], now))]
        worth = _WORTH_SAYING * self._fair
        waiting = any(part - self._senders[n].said >= worth for n, part in parts.items())
        for other in parts:
            if other == name or len(self._senders[other].claims) >= _MOST_CLAIMS:
                continue
            change = self._allowed(other, parts[other], now) - self._senders[other].said
            if change >= worth or (waiting and change <= -worth):
                grants.append((other, self._grant(other, parts[other], now)))
        return grants

    def _note(self, sender: _Sender, demand: Demand, now: float) -> bool:
        """Take down what a sender says, unless it said something newer before."""
        if sender.session == demand.session and demand.serial <= sender.serial:
            return False
        if sender.session != demand.session:
            # Another process, or one that was cut off: in time it has its fair share.
            sender.claims.append(self._fair_claim())
        sender.session, sender.serial = demand.session, demand.serial
        sender.need, sender.asked_at_us = demand.need_bytes_per_s, demand.asked_at_us
        sender.heard_at = now
        if demand.divider == self._ident:
            since = [claim for claim in sender.claims if claim.serial >= demand.holds]
            sender.claims = since or sender.claims
        over = [claim for claim in sender.claims if claim.until <= now]
        if len(over) > 1:
            # Each means the fair share from now on: one is as good as all.
            last = max(claim.serial for claim in over)
            sender.claims = [claim for claim in sender.claims if claim.until > now]
            sender.claims.append(_Claim(last, self._fair, now))
        return True

    def _parts(self, now: float) -> dict[str, float]:
        """What each that is heard of should have."""
        heard = {n: s for n, s in self._senders.items() if now - s.heard_at < GRANT_S}
        silent = sum(self._most(s, now) for n, s in self._senders.items() if n not in heard)
        needs = {n: min(max(s.need, self._least), self._rate) for n, s in heard.items()}
        return divide(max(self._rate - silent, self._least * len(heard)), needs)

    def _grant(self, name: str, part: float, now: float) -> Grant:
        sender = self._senders[name]
        limit = int(self._allowed(name, part, now))
        self._serial += 1
        until = now + PLEDGE_S if limit < self._fair else sender.heard_at + GRANT_S
        sender.claims.append(_Claim(self._serial, limit, until))
        sender.said = limit
        return Grant(self._ident, self._serial, sender.asked_at_us, limit, self._fair)

    def _allowed(self, name: str, part: float, now: float) -> float:
        """As much of ``part`` as keeps all together within the rate while a grant lives; never less
        than what is accounted for anyway."""
        sender = self._senders[name]
        others = sum(self._most(s, now) for s in self._senders.values() if s is not sender)
        accounted = min(min(claim.limit, self._fair) for claim in sender.claims)
        return min(part, max(self._rate - others, accounted))

    def _most(self, sender: _Sender, now: float) -> float:
        """The most it may send in the next `GRANT_S`."""
        return max(self._worst(claim, now) for claim in sender.claims)

    def _worst(self, claim: _Claim, now: float) -> float:
        if claim.limit < self._fair:
            return claim.limit if claim.until > now + GRANT_S else self._fair
        return claim.limit if claim.until > now else self._fair

    def _fair_claim(self) -> _Claim:
        return _Claim(self._serial, self._fair, -math.inf)
