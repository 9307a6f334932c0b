"""Any split, loss, reordering and damage of the byte streams yields the same delivered bytes."""

from __future__ import annotations

import itertools
import random
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.core.errors import LinkError, PeerError
from prfaas.link.api import Refusal, TransferKey, TransferOffer
from prfaas.link.protocol.receiving_connection import ReceivingConnection
from prfaas.link.protocol.receiving_end import ReceivingEnd
from prfaas.link.protocol.receiving_records import Completed, Failed, Stored
from prfaas.link.protocol.sending_connection import SendingConnection
from prfaas.link.protocol.sending_end import SendingEnd

CHUNK = 512


@dataclass
class Memory:
    """The sink of one transfer: its bytes, and which of them were reported stored."""

    total: int
    data: bytearray = field(default_factory=bytearray)
    stored: list[tuple[int, int]] = field(default_factory=list)
    outcome: str = ""

    def __post_init__(self) -> None:
        self.data = bytearray(self.total)

    def views(self, offset: int, length: int) -> list[memoryview]:
        cut = offset + length // 3
        view = memoryview(self.data)
        return [view[offset:cut], view[cut : offset + length]]


class Wire:
    """Two ends joined by connections whose bytes move only when told."""

    def __init__(self, seed: int, refusals: int = 0) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.sender = SendingEnd()
        self.receiver = ReceivingEnd(peer_grace_s=1e9)
        self.memories: dict[TransferKey, Memory] = {}
        self.refusals = refusals
        self.pairs: list[Pair] = []
        self.numbers = 0

    def offered(self, peer: str, offer: TransferOffer) -> Memory | Refusal:
        if self.refusals:
            self.refusals -= 1
            return Refusal("no slot is free", retry=True)
        assert offer.key not in self.memories, "one offer, one question"
        self.memories[offer.key] = Memory(offer.total_bytes)
        return self.memories[offer.key]

    def dial(self) -> None:
        self.numbers += 1
        self.pairs.append(Pair(self, self.numbers))

    def settle(self) -> None:
        """Deliver events and check both books."""
        self.receiver.check_integrity()
        self.sender.check_integrity()
        while self.sender.events:
            self.sender.events.popleft()()
        while self.receiver.events:
            match self.receiver.events.popleft():
                case Stored(offer, offset, length):
                    self.memories[offer.key].stored.append((offset, length))
                case Completed(offer):
                    self.memories[offer.key].outcome = "complete"
                case Failed(offer, why):
                    self.memories[offer.key].outcome = why

    def step(self) -> None:
        self.now += 0.01
        self.sender.tick(now=self.now)
        self.receiver.tick(now=self.now)
        pair = self.random.choice(self.pairs)
        try:
            pair.step()
        except (PeerError, LinkError):
            pair.kill(orderly=False)
        self.settle()


class Pair:
    """One connection: two byte pipes."""

    def __init__(self, wire: Wire, number: int) -> None:
        self.wire = wire
        self.out = SendingConnection(
            wire.sender, number, guard=nullcontext(), chunk_bytes=CHUNK, keepalive_s=1e9, now=0.0
        )
        self.inn = ReceivingConnection(
            wire.receiver,
            "east",
            7,
            number,
            guard=nullcontext(),
            ask=wire.offered,
            wake=lambda: None,
            max_chunk_bytes=CHUNK,
        )
        self.there, self.back = bytearray(), bytearray()

    def step(self) -> None:
        wire = self.wire
        if wire.random.random() < 0.5:
            self.out.fill(now=wire.now)
            if self.out.pending:
                part = self.out.pending[0][: wire.random.randint(1, CHUNK)]
                self.there += part
                self.out.sent(len(part), now=wire.now)
        if wire.random.random() < 0.5:
            self.deliver(wire.random.randint(0, 2 * CHUNK))
        if self.inn.severed:
            raise LinkError("severed")

    def deliver(self, most: int) -> None:
        for pipe, end in ((self.there, self.inn), (self.back, self.out)):
            left = min(most, len(pipe))
            while left:
                buffer = end.get_buffer()
                count = min(left, len(buffer))
                buffer[:count] = pipe[:count]
                del pipe[:count], buffer
                left -= count
                end.received(count, now=self.wire.now)
            self.back += self.inn.take_output()

    def kill(self, *, orderly: bool) -> None:
        """Lose the connection; orderly: what was sent still arrives first."""
        if orderly:
            with suppress(PeerError):
                self.deliver(1 << 30)
        self.wire.pairs.remove(self)
        self.out.closed(now=self.wire.now)
        self.inn.closed(now=self.wire.now)
        self.wire.dial()

    def flip(self) -> None:
        if self.there:
            self.there[self.wire.random.randrange(len(self.there))] ^= (
                1 << self.wire.random.randrange(8)
            )


def offer(number: int, total: int) -> TransferOffer:
    return TransferOffer(TransferKey(f"transfer-{number}", 0, 1), "layout", 0, 256, total, 86400.0)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(0, 9000), min_size=1, max_size=3),
    connections=st.integers(1, 4),
    kill=st.sampled_from([0.0, 0.01, 0.03]),
    flip=st.sampled_from([0.0, 0.01]),
    refusals=st.integers(0, 2),
)
def test_whatever_the_line_does_the_same_bytes_arrive(
    seed: int, sizes: list[int], connections: int, kill: float, flip: float, refusals: int
) -> None:
    wire = Wire(seed, refusals)
    for _ in range(connections):
        wire.dial()
    sources, done, released, failed = [], [], [0], []
    added = 0
    for number, total in enumerate(sizes):
        source = wire.random.randbytes(total)
        sources.append(source)
        transfer = wire.sender.open(
            offer(number, total), lambda n=number: done.append(n), failed.append, now=0.0
        )
        bounds = sorted({0, total, *(wire.random.randint(0, total) for _ in range(4))})
        parts = list(itertools.pairwise(bounds))
        wire.random.shuffle(parts)
        added += len(parts)
        for start, end in parts:
            view = memoryview(source)[start:end]
            wire.sender.add(transfer, start, view, lambda: released.__setitem__(0, released[0] + 1))
    for _ in range(200_000):
        wire.step()
        roll = wire.random.random()
        victim = wire.random.choice(wire.pairs)
        if roll < kill:
            victim.kill(orderly=wire.random.random() < 0.5)
        elif roll < kill + flip:
            victim.flip()
        if len(done) == len(sizes):
            break
    wire.settle()
    assert sorted(done) == list(range(len(sizes)))
    assert failed == []
    assert released[0] == added
    for number, source in enumerate(sources):
        memory = wire.memories[offer(number, 0).key]
        assert memory.outcome == "complete"
        assert bytes(memory.data) == source
        assert sum(length for _, length in memory.stored) == len(source), "counted once"
    assert wire.sender.counters.bytes_acknowledged == sum(sizes)
    assert wire.receiver.counters.bytes_stored == sum(sizes)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(0, 60),
    taken=st.booleans(),
    more=st.integers(0, 12),
    victim=st.integers(0, 1),
    orderly=st.booleans(),
)
def test_a_cancelled_transfer_frees_both_ends(
    seed: int, steps: int, taken: bool, more: int, victim: int, orderly: bool
) -> None:
    """Whichever connection is lost, and when: also soon after one has taken the CANCEL."""
    wire = Wire(seed)
    wire.dial()
    wire.dial()
    failed: list[str] = []
    released: list[int] = []
    source = wire.random.randbytes(6000)
    transfer = wire.sender.open(offer(0, 8000), lambda: None, failed.append, now=0.0)
    wire.sender.add(transfer, 0, memoryview(source), lambda: released.append(1))
    for _ in range(steps):
        wire.step()
    wire.sender.cancel(transfer, "client went away")
    wire.settle()
    assert failed == ["client went away"]
    while taken and wire.sender.sendable:
        wire.step()
    for _ in range(more):
        wire.step()
    wire.pairs[victim].kill(orderly=orderly)
    for _ in range(400):
        wire.step()
    assert released == [1]
    assert not wire.sender.busy
    for memory in wire.memories.values():
        assert memory.outcome == "client went away"
