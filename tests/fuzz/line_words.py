"""Fuzz target of what agents say to each other of a line that several share."""

from __future__ import annotations

import random
from contextlib import suppress

import msgspec
from mutations import Made

from prfaas.core.errors import PeerError
from prfaas.link.protocol.frames import HEADER_BYTES, Kind, control, decode
from prfaas.link.protocol.line_divider import LineDivider
from prfaas.link.protocol.line_share import Demand, Grant
from prfaas.link.tcp.config import SharedLine
from prfaas.link.tcp.line_budget import LineBudget

_RATE = 1_000_000.0
_LINE = SharedLine(rate_bytes_per_s=_RATE, senders=("a", "b", "c"), receivers=("x", "y"))


class _Queue:
    """A link with something to send."""

    open_connections, queued_bytes = 1, 1 << 20

    def wake_idle(self, at_most: int = 64) -> None:
        pass


def _any(rng: random.Random) -> int:
    return rng.choice((0, 1, 7, int(_RATE), 2**62, 2**63 - 1, rng.getrandbits(20)))


def line_words(rng: random.Random) -> None:
    """What a divider grants, and what senders ask for: none stops the line for others."""
    Made.inputs += 1
    now = 100.0
    budget = LineBudget(_LINE, "a", ask=lambda demand, *, now: None, now=now)
    divider = LineDivider(_RATE, senders=_LINE.senders, ident=7)
    for peer in _LINE.receivers:
        budget.join(peer, _Queue())
    budget.opened(now=now)
    for _ in range(30):
        now += rng.choice((0.02, 0.1, 1.0, 3.0))
        asked = rng.choice((int(now * 1e6), _any(rng)))
        with suppress(PeerError):
            grant = Grant(rng.choice((7, 8, _any(rng))), _any(rng), asked, _any(rng), _any(rng))
            budget.granted(decode(msgspec.msgpack.encode(grant), Grant), now=now)
        budget.tick(now=now)
        word = budget.word("x", now=now)
        if word is not None:
            for _, granted in divider.demanded("a", decode(word[HEADER_BYTES:], Demand), now=now):
                budget.granted(granted, now=now)
        demand = Demand(_any(rng), _any(rng), _any(rng), _any(rng), _any(rng), rng.choice((7, 8)))
        for _, granted in divider.demanded("b", demand, now=now):
            assert 0 <= granted.limit_bytes_per_s <= _RATE
            control(Kind.GRANT, granted)
        budget.spend("x", rng.randrange(1000), now=now)
        assert 0 < budget.limit(now=now) <= _RATE
        assert 0 < budget.part("x", now=now) <= _RATE
        assert 0 < budget.burst_rate("x", now=now) <= _RATE
        assert budget.ready_at(now=now) < now + 1e4
    own = Demand(1, 1, int(now * 1e6), int(_RATE), 0, 7)
    assert divider.demanded("c", own, now=now + 10.0), "another's words cost it nothing"
