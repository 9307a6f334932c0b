"""This agent's part of a line's rate: one budget for its links to all agents at the other end.

Every chunk that any of these links sends is paid from the one budget, so none needs a part of its
own: what one does not use the next one does. How large the budget is, `line_share` says; the
demands and grants travel on the links' own connections, with the first receiver that there is a
connection to.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections import deque
from typing import Protocol

from prfaas.link.protocol.frames import Kind, control
from prfaas.link.protocol.line_share import DEMAND_EVERY_S, Demand, Grant, LineShare
from prfaas.link.protocol.pacing import Pacer
from prfaas.link.tcp.config import SharedLine

_WINDOW_S = 0.2
"""What was sent in the last so many seconds is what a sender sends: after a pause of this it is
idle, and others have its part."""
_DRAIN_S = 0.05
"""A queue is to be gone in about this."""
_HEADROOM = 1.25
"""A sender may grow by this before it has to ask."""
_GRAIN = 16
"""Needs are told in sixteenths of a fair share, so that noise is no change."""
_IDLE_WEIGHT = 1 / 64
"""In telemetry, where the parts of a line's links are summed: of a link with nothing to send."""


class Ask(Protocol):
    """Takes this agent's demand where it divides the line itself: a cluster's own network."""

    def __call__(self, demand: Demand, *, now: float) -> None: ...


class Member(Protocol):
    """A link of the line, as its budget sees it. Thread-safe."""

    @property
    def open_connections(self) -> int:
        """How many there are to the peer."""

    @property
    def queued_bytes(self) -> int:
        """Accepted by the peer, and not yet given to a connection."""

    def wake_idle(self, at_most: int = 64) -> None:
        """Have connections look for something to send."""


class LineBudget:
    """One a line that begins at this agent. Every method may be called from any thread, and with a
    member's lock held; none calls a member but `tick` and `granted`.

    Args:
        name: this agent's.
    """

    def __init__(self, line: SharedLine, name: str, *, ask: Ask, now: float) -> None:
        self._lock = threading.Lock()
        senders = len(line.senders)
        self._share = LineShare(
            line.rate_bytes_per_s, senders=senders, session=secrets.randbits(62), now=now
        )
        self._pacer = Pacer(line.rate_bytes_per_s)
        self._order, self._name, self._ask = line.receivers, name, ask
        self._alone = senders == 1
        self._members: dict[str, Member] = {}
        self._spent: dict[str, int] = {}
        self._history: deque[tuple[float, dict[str, int]]] = deque()
        self._busy: frozenset[str] = frozenset()
        self._open = 0
        self._need = self._told = 0.0
        self._speak_at, self._speaks_to = now, ""

    def join(self, peer: str, member: Member) -> None:
        """A link to one of the receivers is to be paid from this budget."""
        with self._lock:
            self._spent[peer] = 0
            self._members = {**self._members, peer: member}

    def limit(self, *, now: float) -> float:
        """Bytes per second of all links together."""
        with self._lock:
            return self._share.limit(now=now)

    def part(self, peer: str, *, now: float) -> float:
        """What of the limit is this link's at present; the parts of all links add up to it."""
        with self._lock:
            weights = {p: 1.0 if p in self._busy else _IDLE_WEIGHT for p in self._spent}
            return self._share.limit(now=now) * weights[peer] / sum(weights.values())

    def burst_rate(self, peer: str, *, now: float) -> float:
        """What this link's packets may be spread at: its part among those that are busy. Never
        below that of a fair share, or the first chunk of a link that was idle would leave so slowly
        that the demand for more waits behind it."""
        with self._lock:
            rate = max(self._share.limit(now=now), self._share.fair_bytes_per_s)
            return rate / len(self._busy | {peer})

    def ready_at(self, *, now: float) -> float:
        """See `pacing.Pacer`."""
        with self._lock:
            self._pacer.rate_bytes_per_s = self._share.limit(now=now)
            return self._pacer.ready_at(now=now)

    def spend(self, peer: str, count: int, *, now: float) -> None:
        """See `pacing.Pacer`."""
        with self._lock:
            self._spent[peer] += count
            self._pacer.spend(count, now=now)

    def opened(self, *, now: float) -> None:
        """A connection of a member is to be taken into use."""
        with self._lock:
            self._open += 1
            if self._open == 1 and not self._alone:
                self._share.connected(now=now)
                self._speak_at = now

    def closed(self) -> None:
        """A connection of a member is gone."""
        with self._lock:
            self._open -= 1

    def tick(self, *, now: float) -> None:
        """Every 20 ms: look at what there is to send, and ask for it."""
        members = self._members
        queued = {peer: member.queued_bytes for peer, member in members.items()}
        divider = self._divider(members)
        with self._lock:
            self._observe(queued, now)
            if self._alone or not self._open:
                return
            more = self._need > max(self._told, self._share.limit(now=now))
            if now < self._speak_at and not more:
                return
            self._speak_at, self._speaks_to = now, divider
            demand = self._demand(now) if divider == self._name else None
        if demand is not None:
            self._ask(demand, now=now)
        elif divider in members:
            members[divider].wake_idle(1)

    def word(self, peer: str, *, now: float) -> bytes | None:
        """The demand that a connection to this peer is to carry, if one is due."""
        if self._speaks_to != peer:
            return None
        with self._lock:
            return control(Kind.DEMAND, self._demand(now))

    def granted(self, grant: Grant, *, now: float) -> None:
        """The divider has answered."""
        with self._lock:
            changed = self._share.granted(grant, now=now)
            if changed:
                self._speak_at = now  # so that it knows what is in force
        if changed:
            for member in self._members.values():
                member.wake_idle()

    def _divider(self, members: dict[str, Member]) -> str:
        for peer in self._order:
            if peer == self._name or (peer in members and members[peer].open_connections):
                return peer
        return ""

    def _demand(self, now: float) -> Demand:
        self._speak_at, self._speaks_to, self._told = now + DEMAND_EVERY_S, "", self._need
        return self._share.demand(self._need, now=now)

    def _observe(self, queued: dict[str, int], now: float) -> None:
        """What is needed: what was sent lately, with room to grow, and the queue's sake."""
        history = self._history
        history.append((now, dict(self._spent)))
        while now - history[0][0] > _WINDOW_S and len(history) > 1:
            history.popleft()
        since, before = history[0]
        sent = {p: count - before.get(p, 0) for p, count in self._spent.items()}
        self._busy = frozenset(p for p, count in sent.items() if count or queued.get(p))
        rate = sum(sent.values()) / max(now - since, _WINDOW_S)
        need = _HEADROOM * rate + sum(queued.values()) / _DRAIN_S
        grain = self._share.fair_bytes_per_s / _GRAIN
        self._need = math.ceil(need / grain) * grain


class BudgetedPacer(Pacer):
    """A link's own pacer where the line's budget has to allow it as well."""

    def __init__(self, rate_bytes_per_s: float | None, budget: LineBudget, peer: str) -> None:
        super().__init__(rate_bytes_per_s)
        self._budget, self._peer = budget, peer

    def ready_at(self, *, now: float) -> float:
        """See `Pacer`."""
        return max(super().ready_at(now=now), self._budget.ready_at(now=now))

    def spend(self, count: int, *, now: float) -> None:
        """See `Pacer`."""
        super().spend(count, now=now)
        self._budget.spend(self._peer, count, now=now)
