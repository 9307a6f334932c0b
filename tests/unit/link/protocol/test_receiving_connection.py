"""One connection of the receiving end: bytes in, replies out, whatever the sink does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import pytest
from xxhash import xxh3_64_intdigest

from prfaas.core.errors import PeerError
from prfaas.link.api import Reception, Refusal, TransferOffer
from prfaas.link.protocol.frames import FrameReader, Kind, control, pack
from prfaas.link.protocol.receiving_connection import ReceivingConnection
from prfaas.link.protocol.receiving_end import ReceivingEnd
from prfaas.testing.link_ends import AnyMemory, an_offer

Answer = Callable[[str, TransferOffer], Reception | Refusal]


class Short:
    """Memory that is less than was asked for."""

    def views(self, flat_offset: int, length: int) -> Sequence[memoryview]:
        return [memoryview(bytearray(length - 1))]


class Rig:
    """A receiving end with one connection, and how often it was told to look at its output."""

    def __init__(self, ask: Answer = lambda peer, offer: AnyMemory()) -> None:
        self.end, self.wakes = ReceivingEnd(), 0
        self.connection = ReceivingConnection(
            self.end,
            "east",
            1,
            1,
            guard=nullcontext(),
            ask=ask,
            wake=self.wake,
            max_chunk_bytes=1024,
        )

    def wake(self) -> None:
        self.wakes += 1

    def hear(self, stream: bytes, *, step: int = 4096) -> list[Kind]:
        """Feed bytes; the kinds of all replies."""
        while stream:
            buffer = self.connection.get_buffer()
            count = min(step, len(buffer), len(stream))
            buffer[:count] = stream[:count]
            stream = stream[count:]
            self.connection.received(count, now=0.0)
        output, reader, kinds = self.connection.take_output(), FrameReader(max_chunk_bytes=1), []
        while output:
            buffer = reader.get_buffer()
            count = min(len(buffer), len(output))
            buffer[:count] = output[:count]
            output = output[count:]
            if (frame := reader.received(count)) is not None:
                kinds.append(frame.header.kind)
        return kinds


def chunk(offset: int, payload: bytes, *, digest: int | None = None) -> bytes:
    wanted = xxh3_64_intdigest(payload) if digest is None else digest
    head = pack(Kind.DATA, length=len(payload), handle=1, offset=offset, digest=wanted)
    return head + payload


OFFER = control(Kind.OFFER, an_offer(total=100), handle=1)


@pytest.mark.parametrize("step", [1, 10, 4096])
def test_a_transfer_arrives_in_any_portions(step: int) -> None:
    rig = Rig()
    assert rig.hear(OFFER + chunk(0, b"a" * 60), step=step) == [Kind.ACCEPT, Kind.ACK]
    assert rig.hear(chunk(60, b"b" * 40) + pack(Kind.PING), step=step) == [Kind.ACK, Kind.PONG]
    assert rig.end.counters.transfers_completed == 1
    assert rig.wakes == 4


def test_a_damaged_chunk_is_asked_for_again() -> None:
    rig = Rig()
    assert rig.hear(OFFER + chunk(0, b"a" * 100, digest=1)) == [Kind.ACCEPT, Kind.NACK]
    assert rig.hear(chunk(0, b"a" * 100)) == [Kind.ACK]
    assert rig.end.counters.chunks_corrupt == 1


def test_a_sink_without_memory_fails_its_transfer_and_nothing_else() -> None:
    rig = Rig(lambda peer, offer: Short())
    assert rig.hear(OFFER + chunk(0, b"a" * 100)) == [Kind.ACCEPT, Kind.FAILED]
    assert rig.end.counters.transfers_failed == 1
    assert rig.hear(pack(Kind.PING)) == [Kind.PONG], "the connection lives on"


def test_a_sink_that_raises_refuses() -> None:
    def ask(peer: str, offer: TransferOffer) -> Refusal:
        raise ZeroDivisionError

    assert Rig(ask).hear(OFFER) == [Kind.REFUSE]


def test_what_a_sender_does_not_send_ends_the_connection() -> None:
    with pytest.raises(PeerError, match="a sender does not send ACCEPT"):
        Rig().hear(pack(Kind.ACCEPT, handle=1))


def test_what_a_lost_connection_was_receiving_counts_as_never_sent() -> None:
    rig = Rig()
    rig.hear(OFFER + chunk(0, b"a" * 100)[:80])
    rig.connection.closed(now=1.0)
    assert rig.end.counters.bytes_stored == 0
    rig.end.check_integrity()


def test_who_is_believed_lost_is_told_to_close() -> None:
    rig = Rig()
    rig.connection.sever()
    assert rig.connection.severed
    assert rig.wakes == 1
