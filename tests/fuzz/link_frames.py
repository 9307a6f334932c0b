"""Fuzz target of the KV link's frame parser and of both ends behind it.

Streams are valid conversations, mutated (bits flipped, pieces cut, doubled, swapped, lengths made
huge) with headers sometimes signed again, so that mutations reach what is behind the checksum. An
input may only be refused with PeerError, and whatever is stored must be what was sent.
"""

from __future__ import annotations

import random
import struct
from contextlib import nullcontext, suppress

import msgspec
from mutations import misshapen, mutated
from xxhash import xxh3_64_intdigest

from prfaas.core.errors import CallerError, PeerError
from prfaas.core.handoff import RequestContext
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.frames import (
    HEADER_BYTES,
    Hello,
    Kind,
    Reason,
    Welcome,
    control,
    decode,
    pack,
)
from prfaas.link.protocol.line_divider import LineDivider
from prfaas.link.protocol.line_share import Demand, Grant, LineShare
from prfaas.link.protocol.receiving_connection import ReceivingConnection
from prfaas.link.protocol.receiving_end import ReceivingEnd
from prfaas.link.protocol.sending_connection import SendingConnection
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.link.tcp.first_message import MOST_BYTES, is_for_link

CHUNK, TOTAL = 256, 2048
_FIRST = (
    b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03"
    + bytes(40)
    + b"\0\x10\0\x0c\0\x0a\x09prfaas-kv",
    control(Kind.HELLO, Hello("east", "west", 1, 1)),
    b"GET / HTTP/1.1\r\n\r\n",
)
RATE = 1_000_000
SOURCE = random.Random(0).randbytes(TOTAL)
CONTEXT = RequestContext("r", 1, f"00-{'a' * 32}-{'b' * 16}-01")


class Memory:
    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def views(self, offset: int, length: int) -> list[memoryview]:
        return [memoryview(self.data)[offset : offset + length]]


def conversation(rng: random.Random) -> list[bytes]:
    """Frames a sender could send, in some order."""
    key = TransferKey("fuzzed", 0, rng.randrange(3))
    frames = [
        said(rng, Kind.OFFER, TransferOffer(key, "x", 0, 1, TOTAL, 60.0, context=CONTEXT), handle=1)
    ]
    for start in range(0, TOTAL, CHUNK):
        payload = SOURCE[start : start + CHUNK]
        digest = xxh3_64_intdigest(payload)
        header = pack(Kind.DATA, length=CHUNK, handle=1, offset=start, digest=digest)
        frames.append(header + payload)
    frames.append(pack(Kind.QUERY, connection=9, handle=1, offset=0, digest=CHUNK))
    frames.append(pack(Kind.PING))
    frames.append(said(rng, Kind.CANCEL, Reason("why not", key=key), handle=rng.randrange(3)))
    frames.append(said(rng, Kind.DEMAND, Demand(*(any_number(rng) for _ in range(6)))))
    return frames


def said(rng: random.Random, kind: Kind, body: msgspec.Struct, *, handle: int = 0) -> bytes:
    """A whole frame; at times with another body than this one, and a right digest."""
    data = msgspec.msgpack.encode(body)
    data = misshapen(rng, data, msgspec.msgpack) if rng.random() < 0.2 else data
    return pack(kind, length=len(data), handle=handle, digest=xxh3_64_intdigest(data)) + data


def any_number(rng: random.Random) -> int:
    """Of those that may be said, rather the odd ones."""
    return rng.choice((0, 1, 7, RATE, 2**62, 2**63 - 1, rng.getrandbits(20), rng.getrandbits(62)))


def replies(rng: random.Random) -> list[bytes]:
    """Frames a receiver could send."""
    frames = [pack(Kind.ACCEPT, handle=1), pack(Kind.PONG)]
    for start in range(0, TOTAL, CHUNK):
        kind = rng.choice((Kind.ACK, Kind.NACK))
        frames.append(pack(kind, handle=1, offset=start, digest=CHUNK))
    frames.append(said(rng, Kind.REFUSE, Reason("full", True), handle=rng.randrange(3)))
    frames.append(said(rng, Kind.GRANT, Grant(*(any_number(rng) for _ in range(5)))))
    return frames


def mutate(rng: random.Random, frames: list[bytes]) -> bytes:
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(frames))
        frame = bytearray(frames[place])
        if not frame:
            continue
        match rng.randrange(6):
            case 0:
                frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
            case 1:
                del frame[rng.randrange(len(frame)) :]
            case 2:
                frames.insert(rng.randrange(len(frames)), bytes(frame))
            case 3:
                other = rng.randrange(len(frames))
                frames[place], frames[other] = frames[other], frames[place]
                continue
            case 4:
                field = rng.choice((4, 8, 12, 20, 28))
                value = rng.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, rng.getrandbits(64)))
                width = 4 if field < 12 else 8
                frame[field : field + width] = value.to_bytes(8, "little")[:width]
                sign(frame)
            case 5:
                frame[0] = rng.randrange(256)
                sign(frame)
        frames[place] = bytes(frame)
    return b"".join(frames)


def sign(frame: bytearray) -> None:
    """Give a damaged header a right checksum."""
    if len(frame) >= HEADER_BYTES:
        check = xxh3_64_intdigest(bytes(frame[: HEADER_BYTES - 8]))
        frame[HEADER_BYTES - 8 : HEADER_BYTES] = struct.pack("<Q", check)


def feed(rng: random.Random, end: ReceivingConnection | SendingConnection, stream: bytes) -> None:
    place = 0
    while place < len(stream):
        buffer = end.get_buffer()
        assert 0 < len(buffer) <= 64 * 1024
        count = min(len(buffer), len(stream) - place, rng.randrange(1, 400))
        buffer[:count] = stream[place : place + count]
        del buffer
        place += count
        end.received(count, now=0.0)


def one_receiver(rng: random.Random) -> None:
    end, memories = ReceivingEnd(), list[Memory]()

    def ask(_peer: str, offer: TransferOffer) -> Memory:
        if not 0 < offer.total_bytes <= 2 * TOTAL:
            raise CallerError("more than there is")
        memories.append(Memory(offer.total_bytes))
        return memories[-1]

    divider = LineDivider(float(RATE), senders=("east", "north"), ident=7)
    promised: list[Grant] = []

    def demanded(peer: str, demand: Demand, *, now: float) -> None:
        promised.extend(grant for _, grant in divider.demanded(peer, demand, now=now))

    connection = ReceivingConnection(
        end,
        "east",
        1,
        1,
        guard=nullcontext(),
        ask=ask,
        wake=lambda: None,
        max_chunk_bytes=CHUNK,
        demanded=demanded,
    )
    try:
        feed(rng, connection, mutate(rng, conversation(rng)))
    except PeerError:
        pass
    finally:
        end.check_integrity()
        connection.closed(now=0.0)
    assert all(0 <= grant.limit_bytes_per_s <= RATE for grant in promised)
    stored = [e for e in end.events if type(e).__name__ == "Stored"]
    assert end.counters.bytes_stored == sum(e.length for e in stored)
    for memory in memories[:1]:
        for event in stored:
            span = slice(event.offset, event.offset + event.length)
            if len(memories) == 1 and event.length == CHUNK and event.offset % CHUNK == 0:
                assert memory.data[span] in (SOURCE[span], *_chunks()), "torn bytes were stored"


def _chunks() -> list[bytes]:
    """A signed header may move a chunk: its bytes are still one whole chunk's."""
    return [SOURCE[start : start + CHUNK] for start in range(0, TOTAL, CHUNK)]


def one_sender(rng: random.Random) -> None:
    end = SendingEnd()
    released: list[int] = []
    share = LineShare(float(RATE), senders=2, session=1, now=0.0)
    connection = SendingConnection(
        end,
        1,
        guard=nullcontext(),
        chunk_bytes=CHUNK,
        keepalive_s=1e9,
        now=0.0,
        granted=share.granted,
    )
    offer = TransferOffer(TransferKey("t", 0, 1), "x", 0, 1, TOTAL, 60.0, context=CONTEXT)
    transfer = end.open(offer, lambda: None, lambda _: None, now=0.0)
    end.add(transfer, 0, memoryview(SOURCE), lambda: released.append(1))
    try:
        for frame in mutate(rng, replies(rng)), mutate(rng, replies(rng)):
            feed(rng, connection, frame)
            for _ in range(5):
                connection.fill(now=0.0)
                if connection.pending:
                    connection.sent(sum(map(len, connection.pending)), now=0.0)
    except PeerError:
        pass
    end.check_integrity()
    for later in (0.0, 1.0, 5.0):
        assert 0 <= share.limit(now=later) <= RATE
    connection.closed(now=0.0)
    end.fail_all("over")
    while end.events:
        end.events.popleft()()
    assert released == [1], "memory is released exactly once"


def one_body(rng: random.Random) -> None:
    kind = rng.choice((Hello, Welcome, Reason, TransferOffer, Demand, Grant))
    with suppress(PeerError):
        decode(rng.randbytes(rng.randrange(80)), kind)


def first_message(rng: random.Random) -> None:
    """What the thread of the KV link looks at where HTTP comes to the same port."""
    seen = mutated(rng, rng.choice(_FIRST))[:MOST_BYTES]
    if seen:
        told = is_for_link(seen)
        assert isinstance(told, bool) or len(seen) < told <= MOST_BYTES


def link_frames(rng: random.Random) -> None:
    one_receiver(rng)
    one_sender(rng)
    one_body(rng)
