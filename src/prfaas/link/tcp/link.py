"""`TcpLink`: the KV link endpoint of an agent over TCP (see `link.api.Link`)."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from prfaas.core.errors import LinkError
from prfaas.link.api import (
    LinkState,
    OutgoingTransfer,
    TransferKey,
    TransferOffer,
    TransferSink,
)
from prfaas.link.tcp.acceptor import Acceptor, Others
from prfaas.link.tcp.config import (
    LEAST_INCOMING,
    PeerConfig,
    TcpLinkConfig,
    check,
    check_peer,
)
from prfaas.link.tcp.line_budget import LineBudget
from prfaas.link.tcp.receiving_driver import ReceivingDriver
from prfaas.link.tcp.sending_driver import SendingDriver
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.link.tcp.telemetry import LinkCounters
from prfaas.link.tcp.worker import DoorLines
from prfaas.link.tcp.workers import Workers, may_have_workers
from prfaas.tls.files import TlsFiles
from prfaas.tls.live import LiveTls

log = logging.getLogger(__name__)

_TICK_S = 0.02
"""Deadlines, repeated offers and lost wake-ups are noticed within this."""


class Ticking(Protocol):
    """A part of the link that does something as time passes."""

    def tick(self, *, now: float) -> None:
        """Every 20 ms."""


class TcpLink:
    """Listens, dials and moves transfers from the moment it is constructed until ``close``.

    Raises ConfigError for settings or certificates that cannot work, and for a listening address
    that cannot be had. ``memory``: what every transfer lies in; only with it are there workers.
    ``others`` serve another protocol at the same port (`acceptor.Acceptor`).
    """

    def __init__(
        self,
        config: TcpLinkConfig,
        sink: TransferSink,
        memory: SharedMemory | None = None,
        *,
        others: Others | None = None,
    ) -> None:
        check(config)
        self._config = config
        security = config.security
        self.tls = LiveTls(security) if isinstance(security, TlsFiles) else None
        """Its certificates; they may be read again at any time."""
        self._receiving = ReceivingDriver(config, sink)
        self._peers: dict[str, SendingDriver] = {}
        incarnation = secrets.randbits(63)
        workers, lines = None, DoorLines()
        if memory is not None and may_have_workers(config):
            workers = Workers(
                config,
                memory,
                incarnation,
                self.tls,
                admit=self._receiving.admit_carried,
                moved_bytes=self._moved_bytes,
                spread=self._spread,
                lines=lines,
            )
        self.workers: Workers | None = workers
        self._acceptor = Acceptor(
            config,
            incarnation,
            self._receiving.admit,
            tls=self.tls,
            give_away=None if workers is None else workers.take,
            others=others,
            lines=lines,
        )
        self._budgets = self._line_budgets(config)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._acceptor.start()
        for name, peer in config.peers.items():
            self.set_peer(name, peer)
        self._ticker = threading.Thread(target=self._tick, name="kv-link-ticker", daemon=True)
        self._ticker.start()

    @property
    def address(self) -> str:
        """``host:port`` it listens on."""
        return self._acceptor.address

    def set_peer(self, name: str, peer: PeerConfig) -> None:
        """Add a peer, or change the address, rate or connections of a known one."""
        check_peer(name, peer)
        with self._lock:
            known = self._peers.get(name)
            if known is None:
                self._peers[name] = SendingDriver(
                    name, peer, self._config, self.tls, self._budgets.get(name), self.workers
                )
                return
        known.configure(peer)

    def reconfigure(
        self,
        peers: Mapping[str, PeerConfig],
        accept_from: frozenset[str],
        max_incoming_connections: int = LEAST_INCOMING,
    ) -> None:
        """Other peers than before, while everything goes on between those that stay. Transfers to
        one that has left fail; one that may push no more ends what it has begun, and begins
        nothing."""
        self._acceptor.accept_from = self._receiving.accept_from = accept_from
        self._receiving.most_connections = max_incoming_connections
        if self.workers is not None:
            self.workers.push_from(accept_from)
        for name, peer in peers.items():
            self.set_peer(name, peer)
        with self._lock:
            left = [self._peers.pop(name) for name in self._peers.keys() - peers.keys()]
        for driver in left:
            driver.close()

    def send(
        self,
        peer: str,
        offer: TransferOffer,
        *,
        on_complete: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> OutgoingTransfer:
        """See `link.api.Link.send`."""
        link = self._peers.get(peer)
        if link is None:
            known = ", ".join(sorted(self._peers)) or "none"
            raise LinkError(f"agent {self._config.name!r} has no peer {peer!r}; known: {known}")
        return link.open(offer, on_complete, on_failed)

    def abandon(self, key: TransferKey, reason: str) -> None:
        """See `link.api.Link.abandon`."""
        self._receiving.abandon(key, reason)

    def states(self) -> Sequence[LinkState]:
        """See `link.api.Link.states`."""
        return [peer.state() for peer in list(self._peers.values())]

    def counters(self) -> LinkCounters:
        """Everything metrics need; see `telemetry`."""
        receiving, received = self._receiving, self._receiving.counters()
        workers, turned_away = self.workers, Counter(self._acceptor.turned_away)
        if workers is not None:
            turned_away.update(workers.turned_away)
        return LinkCounters(
            peers={name: peer.telemetry() for name, peer in list(self._peers.items())},
            workers=0 if workers is None else workers.count,
            incoming_connections=receiving.connections,
            pending_connections=self._acceptor.pending + (workers.pending if workers else 0),
            turned_away=dict(turned_away),
            bytes_stored=received.bytes_stored,
            bytes_duplicate=received.bytes_duplicate,
            chunks_corrupt=received.chunks_corrupt,
            transfers_completed=received.transfers_completed,
            transfers_failed=received.transfers_failed,
            transfers_refused=received.transfers_refused,
        )

    def close(self) -> None:
        """See `link.api.Link.close`."""
        self._closing.set()
        self._ticker.join()
        self._acceptor.stop()
        self._acceptor.join()
        for peer in self._peers.values():
            peer.close()
        self._receiving.close()
        if self.workers is not None:
            self.workers.close()

    def _moved_bytes(self) -> int:
        sent = sum(peer.end.counters.bytes_acknowledged for peer in list(self._peers.values()))
        return sent + self._receiving.end.counters.bytes_stored

    def _spread(self) -> None:
        """Connections that are made from now on are the workers': make our own anew."""
        self._receiving.remake_own()
        for peer in list(self._peers.values()):
            peer.remake_own()

    def _line_budgets(self, config: TcpLinkConfig) -> dict[str, LineBudget]:
        """By receiver, for each line that begins here."""
        budgets: dict[str, LineBudget] = {}
        division = self._receiving.division
        for line in config.lines:
            if config.name in line.senders:
                ask = partial(division.demanded, config.name)
                budget = LineBudget(line, config.name, ask=ask, now=time.monotonic())
                budgets |= {name: budget for name in line.receivers if name != config.name}
                if config.name in line.receivers:
                    division.granted_here = budget.granted
        return budgets

    def _tick(self) -> None:
        while not self._closing.wait(_TICK_S):
            parts: list[Ticking] = [
                self._acceptor,
                self._receiving,
                *self._peers.values(),
                *set(self._budgets.values()),
                *([] if self.workers is None else [self.workers]),
            ]
            for part in parts:
                try:
                    part.tick(now=time.monotonic())
                except Exception:
                    log.exception("a fault of ours in the link's ticker; it goes on")
