"""What the parts of an agent share, and the rule that keeps their threads apart.

Engine messages, HTTP and timers run on the event loop's thread; the KV link calls back from its
own threads. Whatever both touch (pool, receptions, exports, transfer table) is guarded by ``lock``,
held for bookkeeping and, where a local hand-off's slots are filled sparsely, while one is copied.
The link is never called with the lock held, because it may hold its own lock while it calls us.
Work for the loop goes through ``post``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from prfaas.agent.arena import Arena
from prfaas.agent.registry import EngineRegistry
from prfaas.agent.table import TransferTable
from prfaas.link.api import TransferKey
from prfaas.pool.slots import Pool


@dataclass
class Counters:
    """Totals since start, for the metrics."""

    exported_bytes: dict[str, int] = field(default_factory=lambda: {"local": 0, "link": 0})
    received_bytes: int = 0
    exports: dict[str, int] = field(default_factory=lambda: {"complete": 0, "failed": 0})
    receptions: dict[str, int] = field(default_factory=lambda: {"complete": 0, "failed": 0})
    imports: dict[str, int] = field(default_factory=lambda: {"ready": 0, "failed": 0})
    stalls: int = 0


@dataclass
class AgentState:
    """``post(f)`` runs ``f()`` on the event loop, from any thread. ``changed(transfer_id)`` is
    called on the loop whenever a transfer changes state."""

    name: str
    arena: Arena
    pool: Pool[TransferKey]
    registry: EngineRegistry
    post: Callable[[Callable[[], None]], object]
    monotonic: Callable[[], float] = time.monotonic
    unix_time: Callable[[], float] = time.time
    lock: threading.Lock = field(default_factory=threading.Lock)
    table: TransferTable = field(default_factory=TransferTable)
    counters: Counters = field(default_factory=Counters)
    changed: list[Callable[[str], None]] = field(default_factory=list)

    def announce(self, transfer_id: str) -> None:
        """From any thread: let those who wait for this transfer look again."""
        for listener in self.changed:
            self.post(partial(listener, transfer_id))
