"""What the parts of the pool share, and what the event at hand leads to."""

from __future__ import annotations

from math import inf
from typing import Literal

import msgspec

from prfaas.core.handoff import LONGEST_DEADLINE_S
from prfaas.link.api import TransferKey
from prfaas.pool.effects import AnnounceTransfer, AnyEffect, ReportFailure
from prfaas.pool.engines import EngineEntry, Engines
from prfaas.pool.events import Reconfigured
from prfaas.pool.records import TransferRecords
from prfaas.pool.sessions import Sessions
from prfaas.pool.slots import SlotCounts, Slots


class PoolCounters(msgspec.Struct):
    """What the pool has moved and lost since its start."""

    exported_bytes_local: int = 0
    exported_bytes_link: int = 0
    received_bytes: int = 0
    exports_complete: int = 0
    exports_failed: int = 0
    receptions_complete: int = 0
    receptions_failed: int = 0
    imports_ready: int = 0
    imports_failed: int = 0
    stalls: int = 0
    """Times exports were stopped to free memory."""
    cache_stored: int = 0
    cache_evicted: int = 0
    loads_ready: int = 0
    loads_failed: int = 0
    copies_complete: int = 0
    copies_failed: int = 0
    """Of cached prefixes, to other agents."""
    copies_kept: int = 0
    """Of other agents', that are cached here now."""
    loaded_tokens: int = 0
    """Of prefixes that engines were given from the cache, beyond what they had."""
    spill_written: int = 0
    spill_written_bytes: int = 0
    spill_read: int = 0
    spill_read_bytes: int = 0
    spill_found: int = 0
    """Of an earlier life of this agent."""
    spill_missed: int = 0
    """Evicted from memory before the disk came to it."""
    spill_dropped: int = 0
    """From disk: for others, or as it could not be read."""
    spill_write_failures: int = 0
    spill_read_failures: int = 0


class _KeptPart(msgspec.Struct, frozen=True):
    transfer_id: str
    rank: int
    layout: str
    from_token: int
    to_token: int
    total_bytes: int


class CachedTransfer(_KeptPart, frozen=True):
    """One rank's part of a transfer that is kept, as the admin API shows it."""

    slots: int
    readers: int


class SpilledTransfer(_KeptPart, frozen=True):
    """One rank's part of a transfer that is on disk, as the admin API shows it. ``file_bytes``:
    with what says what it is."""

    file_bytes: int
    in_memory: bool


class PoolSnapshot(msgspec.Struct, frozen=True):
    """The pool at one moment; nothing in it changes any more."""

    slots: SlotCounts
    slot_bytes: int
    reception_slots: int
    """The share of receptions; exports never use it."""
    lease_waiters: int
    engines: tuple[EngineEntry, ...]
    exports: int
    """Not over, or not ended by their engine."""
    receptions: int
    """With memory."""
    imports: int
    """Open for reading."""
    cache_slots: int
    """At most so many are cached."""
    cached: tuple[CachedTransfer, ...]
    """What is cached, the least recently used first."""
    pinned: tuple[str, ...]
    """Transfers of which an operator wants what is cached to stay."""
    pinned_slots: int
    """Of them and of what they stand on."""
    most_pinned_slots: int
    disk_bytes: int
    """At most so many are on disk."""
    disk_used_bytes: int
    counters: PoolCounters
    """A copy."""


class Books:
    """Passed to every part of the pool. ``now`` is the time of the event at hand."""

    def __init__(
        self,
        *,
        slots: Slots,
        engines: Engines,
        records: TransferRecords,
        longest_deadline_s: float = LONGEST_DEADLINE_S,
        first_epoch: int = 0,
    ) -> None:
        self.slots, self.engines, self.records = slots, engines, records
        self._epoch = first_epoch
        self.sessions = Sessions()
        self.longest_deadline_s = longest_deadline_s
        self.counters = PoolCounters()
        self.now = -inf
        self.naming = 0
        """How often the key that names are made with was exchanged."""
        self.effects: list[AnyEffect] = []
        # What the pool still has to follow up before the event is dealt with:
        self.unsettled = False
        """Whether there is any of the following."""
        self.changed: list[str] = []
        """Transfers whose imports should look again."""
        self.local_ends: list[tuple[TransferKey, str | None]] = []
        """Local receptions that ended, for their exports: None for complete, else the reason."""
        self.memory_freed = False
        """A reception's memory came free: pending local hand-offs may go on."""
        self.read_back: list[tuple[TransferKey, str | None]] = []
        """What was read from disk, for who waits: None for all of it, else why not."""

    def reconfigured(self, event: Reconfigured) -> None:
        """Go by what its file says now."""
        self.engines.named(event.engines)
        self.longest_deadline_s = event.longest_deadline_s

    def next_epoch(self) -> int:
        """For a transfer that is sent from here. Greater after every restart, so late bytes of an
        earlier life match nothing."""
        self._epoch += 1
        return self._epoch

    def is_cancelled(self, transfer_id: str) -> bool:
        """Whether nobody wants it: its gateway has said so, or is gone."""
        return self.records.is_cancelled(transfer_id) or self.sessions.is_gone(transfer_id)

    def announce(self, transfer_id: str) -> None:
        """The transfer's record changed."""
        self.unsettled = True
        self.changed.append(transfer_id)
        self.effects.append(AnnounceTransfer(transfer_id))

    def local_ended(self, key: TransferKey, reason: str | None) -> None:
        """The reception of a local hand-off is complete (None) or gone."""
        self.unsettled = True
        self.local_ends.append((key, reason))

    def report(
        self,
        what: Literal["offer", "export", "reception", "import", "load", "copy", "spill"],
        transfer: str | TransferKey,
        reason: str,
        party: str = "",
    ) -> None:
        """Have a failure logged; ``party`` as in " to=west"."""
        if isinstance(transfer, TransferKey):
            context = self.records.context(transfer.transfer_id)
            transfer = f"{transfer.transfer_id} rank={transfer.rank} epoch={transfer.epoch}"
        else:
            context = self.records.context(transfer)
        self.effects.append(ReportFailure(what, transfer, party, reason, context))

    def take_effects(self) -> list[AnyEffect]:
        """What there is to do, handed over."""
        effects, self.effects = self.effects, []
        return effects
