"""Engine ranks that an agent has registered, and how they hold their KV cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated

import msgspec

from prfaas.core.handoff import Bytes
from prfaas.core.layout import MAX_LAYOUT_BYTES, KvLayout

_TURN_S = 0.002
"""What reading layouts may take of the event loop at a time, before others have as much."""
_MOST_RANKS = 4096
"""Of one machine."""


class RegisteredRank(msgspec.Struct, frozen=True):
    """One tensor-parallel rank of an engine, as it registered with the agent."""

    engine: str
    pid: int
    layout: KvLayout


class MemoryCounts(msgspec.Struct, frozen=True):
    """An agent's memory for what is handed over to its engines."""

    total_bytes: Bytes
    reserved_bytes: Bytes
    slot_bytes: Bytes


class _Rank(msgspec.Struct, frozen=True):
    engine: str
    pid: int
    layout: msgspec.Raw


class Registered(msgspec.Struct, frozen=True):
    """What an agent answers to ``GET /engines``; one of a release before says no ``memory``."""

    engines: Annotated[list[_Rank], msgspec.Meta(max_length=_MOST_RANKS)]
    memory: MemoryCounts | None = None

    async def ranks(self, layout_of: Callable[[bytes], KvLayout]) -> AsyncIterator[RegisteredRank]:
        """All whose layout is no larger than any model's. One that is made to be takes long to be
        read: ten milliseconds for each of thousands. Raises as ``layout_of``."""
        for rank in self.engines:
            if len(layout := bytes(rank.layout)) > MAX_LAYOUT_BYTES:
                continue
            began = time.monotonic()
            yield RegisteredRank(rank.engine, rank.pid, layout_of(layout))
            if (took_s := time.monotonic() - began) > _TURN_S:
                await asyncio.sleep(took_s)
