"""The memory in which hand-offs arrive: booked before a prefill starts, so that none starts whose
KV cache cannot be received.

Theory of operation. A machine's agent reserves memory for a whole hand-off when it is offered, and
refuses what does not fit. A prefill whose hand-off is refused is wasted, or holds its engine until
there is room. So the scheduler books the same number of bytes when it starts the prefill, and gives
them back when the agent is told to drop the transfer. What others have reserved (other gateways)
comes from the agent's own counts (`MemoryReported`). Who does not fit waits with its prefill, in
turn (`turns`) for each memory; a hand-off that is larger than the whole is none. A machine of
which nothing was reported has room for everything.
"""

from __future__ import annotations

from collections.abc import Collection
from math import ceil, inf

from prfaas.core.errors import InvariantError
from prfaas.scheduler.events import MemoryReported
from prfaas.scheduler.state import EngineState, Record
from prfaas.scheduler.turns import Turns


class MachineMemory:
    """The memory of one machine, in bytes. ``line``: those that wait for some of it."""

    __slots__ = ("booked", "bytes_of", "line", "others", "slot_bytes", "total")

    def __init__(self) -> None:
        self.total = inf
        self.slot_bytes = 1
        self.booked = self.others = 0
        self.bytes_of: dict[str, int] = {}
        """Request -> what is booked for it."""
        self.line: Turns[Record] = Turns()

    def size(self, kv_bytes: float) -> int:
        """What a hand-off of so many bytes takes: whole slots."""
        return ceil(kv_bytes / self.slot_bytes) * self.slot_bytes

    def fits(self, size: int) -> bool:
        """Whether there is room for so much now."""
        return self.booked + self.others + size <= self.total


class Memories:
    """The memory of all machines, by name."""

    def __init__(self) -> None:
        self._by_machine: dict[str, MachineMemory] = {}

    def reported(self, event: MemoryReported) -> MachineMemory:
        """An agent has counted."""
        memory = self._by_machine.setdefault(event.machine, MachineMemory())
        memory.total, memory.slot_bytes = float(event.total_bytes), max(1, event.slot_bytes)
        memory.others = max(0, event.reserved_bytes - memory.booked)
        return memory

    def of(self, engine: EngineState) -> MachineMemory | None:
        """Where what is handed over to ``engine`` arrives; None where nothing is known of it."""
        return self._by_machine.get(engine.machine)

    def too_large(self, engine: EngineState, kv_bytes: float) -> bool:
        """Whether a hand-off to ``engine`` can never arrive."""
        memory = self.of(engine)
        return memory is not None and memory.size(kv_bytes) > memory.total

    def may_start(self, record: Record, kv_bytes: float) -> bool:
        """Whether its hand-off can arrive, and it is its turn; if not it is in line from now on."""
        memory = self._memory_of(record)
        if memory is None:
            return True
        line, size = memory.line, memory.size(kv_bytes)
        if not line and memory.fits(size):
            return True
        if record.request_id not in line:
            line.add(record, size)
        if line.first() is record and memory.fits(size):
            line.serve(record)
            return True
        return False

    def book(self, record: Record, kv_bytes: float) -> None:
        """Its prefill starts."""
        memory = self._memory_of(record)
        if memory is not None:
            size = memory.size(kv_bytes)
            memory.booked += size
            memory.bytes_of[record.request_id] = size
            assert record.decode is not None
            record.memory = record.decode.machine

    def release(self, record: Record) -> MachineMemory | None:
        """Its hand-off is dropped. Returns the memory that has more room."""
        machine, record.memory = record.memory, None
        if machine is None:
            return None
        memory = self._by_machine[machine]
        memory.booked -= memory.bytes_of.pop(record.request_id)
        return memory

    def leave_line(self, record: Record) -> MachineMemory | None:
        """It waits no more. Returns the memory whose line has moved."""
        memory = self._memory_of(record)
        if memory is not None and memory.line.drop(record.request_id):
            return memory
        return None

    def check_integrity(self, live: Collection[str]) -> None:
        """Raise InvariantError where something is booked for a request that has ended, or the sums
        are wrong. ``live``: the ids of live requests."""
        for machine, memory in self._by_machine.items():
            if memory.booked != sum(memory.bytes_of.values()):
                raise InvariantError(f"{machine}: {memory.booked} bytes are miscounted")
            ended = (memory.bytes_of.keys() | memory.line.records.keys()) - set(live)
            if ended:
                raise InvariantError(f"{machine}: memory is kept for {', '.join(ended)}")

    def _memory_of(self, record: Record) -> MachineMemory | None:
        return None if record.decode is None else self.of(record.decode)
