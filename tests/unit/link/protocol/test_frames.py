"""Framing: bounds, checksums, and any split of the stream."""

from __future__ import annotations

import msgspec
import pytest
from xxhash import xxh3_64_intdigest

from prfaas.core.errors import PeerError
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.frames import (
    HEADER_BYTES,
    MAX_BODY_BYTES,
    Frame,
    FrameReader,
    Hello,
    Kind,
    Reason,
    control,
    decode,
    pack,
    reason,
    unpack,
)


def read(stream: bytes, *, step: int, into: bytearray | None = None) -> list[Frame]:
    reader = FrameReader(max_chunk_bytes=1024)
    frames: list[Frame] = []
    place = 0
    while place < len(stream):
        buffer = reader.get_buffer()
        count = min(step, len(buffer), len(stream) - place)
        buffer[:count] = stream[place : place + count]
        place += count
        frame = reader.received(count)
        if frame is not None:
            frames.append(frame)
            if frame.data_follows:
                if into is None:
                    reader.discard()
                else:
                    half = frame.header.length // 2
                    reader.into([memoryview(into)[:half], memoryview(into)[half:]])
    return frames


@pytest.mark.parametrize("step", [1, 7, 44, 10_000])
def test_any_split_gives_the_same_frames(step: int) -> None:
    payload = bytes(range(200))
    hello = Hello("east", "west", 2**63 - 1, 3)
    data = pack(Kind.DATA, length=200, handle=5, offset=9, digest=xxh3_64_intdigest(payload))
    memory = bytearray(200)
    frames = read(
        control(Kind.HELLO, hello) + data + payload + pack(Kind.PING), step=step, into=memory
    )
    assert decode(frames[0].body, Hello) == hello
    assert frames[1].data_follows
    assert frames[2].intact
    assert frames[3].header.kind is Kind.PING
    assert memory == payload


def test_a_damaged_payload_is_told_from_a_whole_one() -> None:
    data = pack(Kind.DATA, length=4, handle=1, digest=xxh3_64_intdigest(b"good"))
    frames = read(data + b"evil", step=100, into=bytearray(4))
    assert frames[-1].intact is False


def test_every_bit_of_a_header_is_guarded() -> None:
    header = pack(Kind.DATA, length=100, handle=7, offset=3, digest=9)
    for bit in range(8 * HEADER_BYTES):
        damaged = bytearray(header)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(PeerError, match="checksum"):
            unpack(memoryview(damaged), max_chunk_bytes=1024)


@pytest.mark.parametrize(
    "header",
    [
        pack(Kind.DATA, length=1025, handle=1),
        pack(Kind.DATA, length=0, handle=1),
        pack(Kind.OFFER, length=MAX_BODY_BYTES + 1),
        pack(Kind.OFFER, length=0),
        pack(Kind.ACK, length=1),
        pack(99),  # type: ignore[arg-type]
    ],
)
def test_lengths_and_kinds_are_bounded_before_memory_is_taken(header: bytes) -> None:
    with pytest.raises(PeerError):
        unpack(memoryview(header), max_chunk_bytes=1024)


def test_a_damaged_body_ends_the_connection() -> None:
    frame = bytearray(control(Kind.REFUSE, Reason("no", True)))
    frame[-1] ^= 1
    with pytest.raises(PeerError, match="wrong checksum"):
        read(bytes(frame), step=100)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", TransferKey("../t", 0, 1)),
        ("key", TransferKey("t\n", 0, 1)),
        ("key", TransferKey("t" * 65, 0, 1)),
        ("key", TransferKey("t", 0, -1)),
        ("key", TransferKey("t", 0, 2**63)),
        ("from_token", -1),
        ("to_token", 2**64 - 1),
        ("total_bytes", -1),
        ("total_bytes", 2**63),
        ("deadline_s", 0.0),
        ("deadline_s", 86401.0),
        ("deadline_s", float("nan")),
        ("deadline_s", float("inf")),
    ],
)
def test_offers_out_of_bounds_are_refused(field: str, value: object) -> None:
    offer = TransferOffer(TransferKey("t", 0, 1), "layout", 0, 256, 2**63 - 1, 86400.0)
    assert decode(msgspec.msgpack.encode(offer), TransferOffer) == offer
    bad = msgspec.structs.replace(offer, **{field: value})
    with pytest.raises(PeerError, match=f"malformed TransferOffer.*{field}"):
        decode(msgspec.msgpack.encode(bad), TransferOffer)


def test_long_reasons_are_shortened_and_odd_bodies_refused() -> None:
    (frame,) = read(reason(Kind.FAILED, "x" * 100_000), step=4096)
    assert len(decode(frame.body, Reason).reason) == 1000
    with pytest.raises(PeerError, match="malformed Hello"):
        decode(b"\xc1nonsense", Hello)
    with pytest.raises(ValueError, match="exceeds"):
        control(Kind.HELLO, Hello("e" * MAX_BODY_BYTES, "west", 1, 1))
