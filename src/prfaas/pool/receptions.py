"""The receiving side: memory for transfers from the KV link and from engines beside us.

`Receptions` is the link's `TransferSink` (called from link threads); everything else runs on the
event loop. A reception's life:

    receiving -> complete -> dropped        (DELETE, deadline; memory waits for open imports)
        |-> failed                          (sender, link, deadline; memory waits for the link)

Only the memory's end differs between the two kinds: the link says itself when it holds no view
any more, a local hand-off ends with its export.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from prfaas.agent.state import AgentState
from prfaas.agent.table import Received
from prfaas.core.errors import CapacityError, LayoutMismatch, PeerError
from prfaas.link.api import Refusal, TransferKey, TransferOffer
from prfaas.pool.reception import Reception
from prfaas.pool.slots import ArenaFull

log = logging.getLogger(__name__)


@dataclass
class Incoming:
    """One transfer whose memory is here. ``on_dropped`` tells a local export that it ended."""

    offer: TransferOffer
    memory: Reception
    record: Received
    on_dropped: Callable[[str], None] | None = None


class LinkMemory:
    """`Reception` of `link.api`. Slots never change while the link writes: no lock."""

    def __init__(self, view: memoryview, memory: Reception) -> None:
        self._view, self._memory = view, memory

    def views(self, flat_offset: int, length: int) -> Sequence[memoryview]:
        return [self._view[at : at + n] for at, n in self._memory.locate(flat_offset, length)]


class Receptions:
    """See the module's docstring."""

    def __init__(self, state: AgentState) -> None:
        self._state = state
        self._by_key: dict[TransferKey, Incoming] = {}
        self._current: dict[tuple[str, int], TransferKey] = {}
        self.memory_freed: list[Callable[[], None]] = []
        """Called on the loop when a reception's memory was reclaimed."""
        self.abandoned: list[Callable[[TransferKey, str], None]] = []
        """Called on the loop when a transfer was dropped that the link still writes."""

    # from link threads

    def offered(self, peer: str, offer: TransferOffer) -> LinkMemory | Refusal:
        with self._state.lock:
            try:
                incoming = self._admit_remote(offer)
            except ArenaFull as error:
                return Refusal(str(error), retry=True)
            except (CapacityError, PeerError, LayoutMismatch) as error:
                log.warning("offer refused transfer=%s peer=%s: %s", offer.key, peer, error)
                self._note_failure(offer.key, offer.total_bytes, str(error))
                return Refusal(str(error))
            finally:
                self._state.announce(offer.key.transfer_id)
        return LinkMemory(self._state.arena.view, incoming.memory)

    def stored(self, key: TransferKey, flat_offset: int, length: int) -> None:
        with self._state.lock:
            incoming = self._by_key[key]
            incoming.memory.stored.add(flat_offset, flat_offset + length)
            self._count(incoming)

    def completed(self, key: TransferKey) -> None:
        with self._state.lock:
            incoming = self._by_key[key]
            incoming.memory.written_by_link = False
            if incoming.memory.complete and incoming.memory.dropped is None:
                self._complete(incoming)
            else:
                self._drop(incoming, "completed by the link without all of its bytes")
        self._state.announce(key.transfer_id)

    def failed(self, key: TransferKey, reason: str) -> None:
        with self._state.lock:
            incoming = self._by_key[key]
            incoming.memory.written_by_link = False
            self._drop(incoming, reason)
        self._state.announce(key.transfer_id)

    def withdrawn(self, key: TransferKey, reason: str) -> None:
        with self._state.lock:
            self._note_failure(key, 0, reason)
        self._state.announce(key.transfer_id)

    # local hand-off

    def admit_local(self, offer: TransferOffer, on_dropped: Callable[[str], None]) -> None:
        """Promise memory to an export on this machine. With the lock held.

        Raises ArenaFull (try again when memory was freed), TooLarge, PeerError.
        """
        self._admit(offer, local=True).on_dropped = on_dropped

    def hand_over(self, key: TransferKey, slot: int, spans: Sequence[tuple[int, int, int]]) -> bool:
        """Take a queued slot's bytes. With the lock held. True if the transfer is now complete."""
        incoming = self._by_key.get(key)
        if incoming is None or incoming.memory.dropped is not None:
            self._state.pool.release(slot)
            return False
        for source, target, length in self._state.pool.adopt(key, slot, spans):
            self._state.arena.copy(source, target, length)
        self._count(incoming)
        if incoming.memory.complete and incoming.record.state == "receiving":
            self._complete(incoming)
            return True
        return False

    def fail_local(self, key: TransferKey, reason: str) -> None:
        """The export ended early. With the lock held."""
        incoming = self._by_key.get(key)
        if incoming is not None:
            incoming.on_dropped = None
            self._drop(incoming, reason)

    # imports

    def find(self, transfer_id: str, rank: int) -> Incoming | None:
        """The transfer an import may wait for or read. With the lock held."""
        key = self._current.get((transfer_id, rank))
        return self._by_key[key] if key is not None else None

    def read(self, incoming: Incoming) -> None:
        """An import begins to read: the memory stays. With the lock held."""
        incoming.memory.readers += 1

    def unread(self, incoming: Incoming) -> None:
        """It has ended. With the lock held."""
        incoming.memory.readers -= 1
        self._reclaim(incoming)

    # ends

    def drop(self, transfer_id: str, reason: str) -> None:
        """The gateway needs the transfer no more."""
        with self._state.lock:
            of_it = [i for k, i in self._by_key.items() if k.transfer_id == transfer_id]
            for incoming in of_it:
                self._drop(incoming, reason)
        self._state.announce(transfer_id)

    def expire(self, now: float) -> None:
        """Drop what is past its deadline."""
        with self._state.lock:
            late = [self._by_key[key] for key in self._state.pool.expired(now=now)]
            for incoming in late:
                self._drop(incoming, "deadline passed")
        for incoming in late:
            self._state.announce(incoming.offer.key.transfer_id)

    # with the lock held

    def _admit_remote(self, offer: TransferOffer) -> Incoming:
        self._state.registry.check_offer(offer.key.rank, offer.layout_fingerprint)
        if self._state.table.is_cancelled(offer.key.transfer_id):
            raise PeerError("cancelled")
        return self._admit(offer, local=False)

    def _note_failure(self, key: TransferKey, total_bytes: int, reason: str) -> None:
        """Who waits for this transfer here should learn that it will not come."""
        table = self._state.table
        if table.received(key.transfer_id, key.rank) is None:
            record = Received(total_bytes, "failed", reason)
            table.add_received(key.transfer_id, key.rank, record, now=self._state.monotonic())

    def _admit(self, offer: TransferOffer, *, local: bool) -> Incoming:
        key, now = offer.key, self._state.monotonic()
        place = (key.transfer_id, key.rank)
        if place in self._current:
            raise PeerError(f"transfer {key.transfer_id} rank {key.rank} is here already")
        deadline = now + offer.deadline_s
        memory = self._state.pool.reserve(key, offer.total_bytes, deadline=deadline, local=local)
        incoming = Incoming(offer, memory, Received(offer.total_bytes))
        self._by_key[key] = incoming
        self._current[place] = key
        self._state.table.add_received(key.transfer_id, key.rank, incoming.record, now=now)
        return incoming

    def _count(self, incoming: Incoming) -> None:
        record, total = incoming.record, incoming.memory.stored.total
        if record.first_byte_at is None and total:
            record.first_byte_at = self._state.unix_time()
        self._state.counters.received_bytes += total - record.bytes_stored
        record.bytes_stored = total

    def _complete(self, incoming: Incoming) -> None:
        incoming.record.state = "complete"
        incoming.record.completed_at = self._state.unix_time()
        self._touch(incoming)
        self._state.counters.receptions["complete"] += 1

    def _touch(self, incoming: Incoming) -> None:
        transfer_id = incoming.offer.key.transfer_id
        self._state.table.touch(transfer_id, now=self._state.monotonic())

    def _drop(self, incoming: Incoming, reason: str) -> None:
        key, record = incoming.offer.key, incoming.record
        if record.state == "receiving":
            self._state.counters.receptions["failed"] += 1
            log.info("reception failed transfer=%s: %s", key, reason)
        if record.state != "failed":
            record.state, record.reason = "failed", reason
            self._touch(incoming)
        if self._current.get((key.transfer_id, key.rank)) == key:
            del self._current[key.transfer_id, key.rank]
        if incoming.on_dropped is not None:
            told, incoming.on_dropped = incoming.on_dropped, None
            self._state.post(lambda: told(reason))
        self._state.pool.drop(key, reason)
        if incoming.memory.written_by_link:
            for listener in self.abandoned:
                self._state.post(partial(listener, key, reason))
        self._reclaim(incoming)

    def _reclaim(self, incoming: Incoming) -> None:
        key = incoming.offer.key
        if incoming.memory.dropped is None or not self._state.pool.reclaim(key):
            return
        if self._by_key.pop(key, None) is not None:
            for listener in self.memory_freed:
                self._state.post(listener)
