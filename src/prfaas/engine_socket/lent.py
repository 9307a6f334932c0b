"""What a caller holds of a session: a slot to fill, a transfer to read, the arena itself."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from prfaas.engine_socket.import_book import Extents, Ticket
from prfaas.engine_socket.load_book import Parts
from prfaas.engine_socket.session import Session


class Slot:
    """A leased slot: ``view`` is its writable memory, ``slot_bytes`` long. Hand it back exactly
    once, with `AgentClient.export_slot` or `AgentClient.return_slot`."""

    def __init__(self, session: Session, index: int) -> None:
        self.session, self.index = session, index
        self.offset = index * session.slot_bytes
        self.view = session.arena[self.offset : self.offset + session.slot_bytes]


class Import:
    """One caller's import. ``future`` resolves to the `Extents` of the whole part in
    ``session.arena``, or raises `TransferUnusable` or `AgentUnavailable`; it can be cancelled while
    unresolved. Close it exactly when the bytes are no longer read."""

    def __init__(self, session: Session, ticket: Ticket) -> None:
        self.session, self.ticket = session, ticket

    @property
    def future(self) -> Future[Extents]:
        """See the class."""
        return self.ticket.future


class Load:
    """A load of a cached prefix. ``future`` resolves to its `Parts` in ``session.arena``, or raises
    `TransferUnusable` or `AgentUnavailable`; it can be cancelled while unresolved. Close it exactly
    when the bytes are no longer read."""

    def __init__(self, session: Session, number: int, future: Future[Parts]) -> None:
        self.session, self.number, self.future = session, number, future


class ArenaUser(Protocol):
    """Is told which arenas there are. Neither call may block."""

    def arena_opened(self, arena: memoryview) -> None:
        """``arena`` will be used from now on."""

    def arena_unused(self, arena: memoryview) -> None:
        """Its connection has ended, no slot of it is out and no import open: nothing of it is used
        again. May be called more than once."""
