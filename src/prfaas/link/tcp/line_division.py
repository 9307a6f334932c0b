"""The lines that this agent divides among their senders (`line_divider`), and how it speaks to
them: over the connections that they push over."""

from __future__ import annotations

import secrets
import time
from contextlib import AbstractContextManager

from prfaas.link.protocol.frames import Kind, control
from prfaas.link.protocol.line_divider import LineDivider
from prfaas.link.protocol.line_share import Demand, Grant
from prfaas.link.protocol.receiving_records import Connection
from prfaas.link.protocol.sending_connection import HearGrant, nobody_asked
from prfaas.link.tcp.config import TcpLinkConfig

_LOOK_EVERY_S = 0.1
_GONE_AFTER_S = 0.25
"""A sender whose last connection is closed is given so long to dial again."""


class LineDivision:
    """Every line with several senders that ends at this agent; ``guard`` is held by whoever calls
    `connected`, `disconnected` and `tick`."""

    def __init__(self, config: TcpLinkConfig, guard: AbstractContextManager[object]) -> None:
        self._guard, self._name = guard, config.name
        self._dividers: dict[str, LineDivider] = {}
        """By sender: two clusters have one line in this direction."""
        self._watched: dict[str, float] = {}
        """Senders that reach this end of their line only, without a connection since when."""
        self._voices: dict[str, list[Connection]] = {}
        self._look_at = 0.0
        self.granted_here: HearGrant = nobody_asked
        """Takes the grants of this agent's own sending, where it divides what it sends over."""
        now = time.monotonic()
        for line in config.lines:
            if config.name in line.receivers and len(line.senders) > 1:
                ident = secrets.randbits(62) + 1
                divider = LineDivider(line.rate_bytes_per_s, senders=line.senders, ident=ident)
                self._dividers |= dict.fromkeys(line.senders, divider)
                if line.receivers == (config.name,):
                    self._watched |= dict.fromkeys(line.senders, now)

    def connected(self, peer: str, connection: Connection) -> None:
        """A sender can be spoken to over this connection."""
        if peer in self._dividers:
            self._voices.setdefault(peer, []).append(connection)

    def disconnected(self, peer: str, connection: Connection, *, now: float) -> None:
        """It cannot any more."""
        voices = self._voices.get(peer, [])
        if connection in voices:
            voices.remove(connection)
            if not voices and peer in self._watched:
                self._watched[peer] = now

    def demanded(self, peer: str, demand: Demand, *, now: float) -> None:
        """A sender says what it needs; without a line to divide it keeps its fair share."""
        divider = self._dividers.get(peer)
        if divider is None:
            return
        own: list[Grant] = []
        with self._guard:
            for other, grant in divider.demanded(peer, demand, now=now):
                if other == self._name:
                    own.append(grant)
                elif voices := self._voices.get(other):
                    voices[-1].reply(control(Kind.GRANT, grant))
        for grant in own:
            self.granted_here(grant, now=now)

    def tick(self, *, now: float) -> None:
        """Every 20 ms: who is cut off?"""
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY_S
        for peer, since in self._watched.items():
            if not self._voices.get(peer) and now - since >= _GONE_AFTER_S:
                self._dividers[peer].gone(peer, now=now)
