"""Connections of an HTTP server, by who is behind them: how many of whom may there be?

A *stranger* has shown no right to ask for anything: it may be in the middle of its handshake or its
headers, or say nothing. There is room for so many; where it is full, a newcomer takes the place of
the one that has been there longest, of its own network where that has more than its share. Whoever
shows a right at once, as clients do, is not there long enough to be pushed out. *Known* ones are
never pushed out by strangers; those that ask for nothing have room of their own, and there whoever
has more than a share pays for its newcomers, too.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

from prfaas.core.addresses import network_of
from prfaas.listening.crowd import Crowd


class Connection:
    """One of them; ``drop`` ends it at once, and may become another way to do so."""

    __slots__ = ("busy", "drop", "known", "network", "since", "whose")

    def __init__(self, network: str, now: float) -> None:
        self.network, self.since, self.whose = network, now, ""
        self.drop: Callable[[], object] = bool
        self.known = self.busy = False


class Connections:
    """All that are open. Times in seconds on one clock.

    Args:
        most: strangers, and known ones that ask for nothing, each.
        stranger_s: how long a stranger may say nothing complete.
        idle_s: how long a known one may ask for nothing.
        stuck_s: how long any of them may take nothing of what it is sent.
    """

    def __init__(
        self, *, most: int, stranger_s: float, idle_s: float, stuck_s: float = 120.0
    ) -> None:
        self.most, self._stranger_s, self._idle_s = most, stranger_s, idle_s
        self._stuck_s = stuck_s
        self._stuck: OrderedDict[Connection, float] = OrderedDict()
        self._strangers, self._idle = Crowd[Connection](), Crowd[Connection]()
        self.busy = 0
        self.dropped: Counter[str] = Counter()
        """So far, by why: ``room``, ``silent``, ``stuck``."""

    @property
    def strangers(self) -> int:
        """How many there are."""
        return len(self._strangers.all)

    @property
    def idle(self) -> int:
        """Known ones that ask for nothing."""
        return len(self._idle.all)

    def came(self, address: str, now: float) -> Connection:
        """A new one: say how to drop it. Another may be dropped for it."""
        connection = Connection(network_of(address), now)
        if self.strangers >= self.most:
            self._drop(self._strangers.makes_room(connection.network, self.most), "room")
        self._strangers.add(connection, connection.network)
        return connection

    def admitted(self, connection: Connection, whose: str = "") -> None:
        """It has asked for something that it may ask for, and is being answered."""
        self._forget(connection)
        connection.whose = whose
        if not connection.busy:
            self.busy += 1
        connection.known = connection.busy = True

    def answered(self, connection: Connection, now: float) -> None:
        """It asks for nothing now, and may do so again."""
        if connection.busy:
            self.busy -= 1
            connection.busy = False
        elif not self._forget(connection):
            return  # It is gone.
        connection.since = now
        if not connection.known:
            self._strangers.add(connection, connection.network)
            return
        if self.idle >= self.most:
            self._drop(self._idle.makes_room(connection.whose, self.most), "room")
        self._idle.add(connection, connection.whose)

    def stuck(self, connection: Connection, now: float) -> None:
        """It reads more slowly than it is written to: no more is sent until it has."""
        self._stuck.setdefault(connection, now)

    def flows(self, connection: Connection) -> None:
        """It has taken what there was."""
        self._stuck.pop(connection, None)

    def gone(self, connection: Connection) -> None:
        """It has ended, for whatever reason."""
        self._forget(connection)
        self._stuck.pop(connection, None)
        if connection.busy:
            self.busy -= 1
            connection.busy = False

    def make_room(self) -> None:
        """Drop a few strangers: this process has run out of descriptors."""
        for connection in list(self._strangers.all)[: max(1, self.strangers // 8)]:
            self._drop(connection, "room")

    def expire(self, now: float) -> None:
        """Drop those that have been silent for too long."""
        for connections, limit_s in (
            (self._strangers.all, self._stranger_s),
            (self._idle.all, self._idle_s),
        ):
            while connections:
                oldest = next(iter(connections))
                if now - oldest.since < limit_s:
                    break
                self._drop(oldest, "silent")
        while self._stuck and now - next(iter(self._stuck.values())) >= self._stuck_s:
            self._drop(next(iter(self._stuck)), "stuck")

    def _forget(self, connection: Connection) -> bool:
        """Whether it was waiting anywhere."""
        idle = self._idle.remove(connection, connection.whose)
        return self._strangers.remove(connection, connection.network) or idle

    def _drop(self, connection: Connection, why: str) -> None:
        self._forget(connection)
        self._stuck.pop(connection, None)
        self.dropped[why] += 1
        connection.drop()
