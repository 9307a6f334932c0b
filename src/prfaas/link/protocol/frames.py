"""The KV link's wire format: framing, bounds and checksums.

Theory of operation. A TCP connection carries frames in both directions. A frame is a header of
`HEADER_BYTES` and ``length`` bytes after it. The header carries its own checksum, which is
verified before any field is believed: a flipped bit in a length or an offset never moves a byte
to the wrong place, it ends the connection. The bytes after it carry a second one (``digest``):
a flipped bit in a payload costs that chunk only. Both are XXH3-64.

    kind u8 | version u8 | 0 u16 | connection u32 | length u32 | handle u64 | offset u64
    | digest u64 | check u64                                              (little endian)

This header, and HELLO and REJECT frames, stay as they are in every version: so two agents that have
no version in common can still tell each other. Bodies may gain fields within a version; who does
not know them passes over them.

``handle`` names a transfer within a sender's session; it is never used twice, so it carries the
epoch: bytes of a dead transfer match no living one. ACK, NACK and QUERY have no body and speak of
the range [offset, offset + digest). Every length is bounded per kind before memory is taken.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, TypeVar

import msgspec
from xxhash import xxh3_64, xxh3_64_intdigest

from prfaas.core.errors import UNREADABLE, PeerError
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.line_share import Demand, Grant

VERSION = 2
_FIELDS = struct.Struct("<BBHIIQQQ")
_CHECK = struct.Struct("<Q")
HEADER_BYTES = _FIELDS.size + _CHECK.size
MAX_BODY_BYTES = 4096
"""Offers and reasons are a few hundred bytes; this bounds what a stranger can make us hold."""
_DRAIN_BYTES = 64 * 1024
"""Payload that nobody wants is read in pieces of this."""


class OtherVersion(PeerError):
    """The peer speaks a version of the KV link that this agent does not."""


class Kind(IntEnum):
    """What a frame says. No value equals 0x16, the first byte of a TLS handshake."""

    HELLO = 1
    WELCOME = 2
    REJECT = 3
    OFFER = 4
    ACCEPT = 5
    REFUSE = 6
    DATA = 7
    ACK = 8
    NACK = 9
    QUERY = 10
    CANCEL = 11
    FAILED = 12
    PING = 13
    PONG = 14
    DEMAND = 15
    GRANT = 16


_WITH_BODY = frozenset(
    {
        Kind.HELLO,
        Kind.WELCOME,
        Kind.REJECT,
        Kind.OFFER,
        Kind.REFUSE,
        Kind.CANCEL,
        Kind.FAILED,
        Kind.DEMAND,
        Kind.GRANT,
    }
)
_KINDS = {int(kind): kind for kind in Kind}


class Header(NamedTuple):
    """A verified header; ``handle``, ``offset`` and ``digest`` mean what the kind says."""

    kind: Kind
    connection: int
    length: int
    handle: int
    offset: int
    digest: int


class Hello(msgspec.Struct, frozen=True):
    """The dialling side's first frame: who it is, whom it wants, which session and connection."""

    name: str
    target: str
    session: int
    connection: int


class Welcome(msgspec.Struct, frozen=True):
    """The answer to a Hello. ``incarnation`` changes when the receiver has lost its memory."""

    name: str
    incarnation: int
    max_chunk_bytes: int


class Reason(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why something was rejected, refused, cancelled or failed. A CANCEL names the transfer: its
    OFFER may never have been heard."""

    reason: str
    retry: bool = False
    key: TransferKey | None = None


Body = TypeVar("Body", Hello, Welcome, Reason, TransferOffer, Demand, Grant)


def pack(
    kind: Kind,
    *,
    connection: int = 0,
    length: int = 0,
    handle: int = 0,
    offset: int = 0,
    digest: int = 0,
) -> bytes:
    """A header with its checksum."""
    fields = _FIELDS.pack(kind, VERSION, 0, connection, length, handle, offset, digest)
    return fields + _CHECK.pack(xxh3_64_intdigest(fields))


def with_digest(header: bytes, payload: memoryview) -> bytes:
    """A DATA header that was packed without the digest of its payload."""
    *fields, _ = _FIELDS.unpack_from(header)
    packed = _FIELDS.pack(*fields, xxh3_64_intdigest(payload))
    return packed + _CHECK.pack(xxh3_64_intdigest(packed))


def control(kind: Kind, body: msgspec.Struct, *, handle: int = 0) -> bytes:
    """A whole frame with a msgpack body. Raises ValueError above `MAX_BODY_BYTES`."""
    data = msgspec.msgpack.encode(body)
    if len(data) > MAX_BODY_BYTES:
        raise ValueError(f"a {kind.name} body of {len(data)} bytes exceeds {MAX_BODY_BYTES}")
    digest = xxh3_64_intdigest(data)
    return pack(kind, length=len(data), handle=handle, digest=digest) + data


def reason(
    kind: Kind, text: str, *, handle: int = 0, retry: bool = False, key: TransferKey | None = None
) -> bytes:
    """A frame that carries a `Reason`, shortened to fit."""
    return control(kind, Reason(text[:1000], retry, key), handle=handle)


def unpack(raw: memoryview, *, max_chunk_bytes: int) -> Header:
    """Verify and read a header. Raises PeerError for whatever no honest peer sends."""
    number, version, zero, *fields = _FIELDS.unpack_from(raw)
    (check,) = _CHECK.unpack_from(raw, _FIELDS.size)
    if check != xxh3_64_intdigest(raw[: _FIELDS.size]):
        raise PeerError("frame header has a wrong checksum: damaged line, or no KV link at all")
    kind = _KINDS.get(number)
    if version != VERSION and kind is not Kind.REJECT:
        raise OtherVersion(
            f"speaks version {version} of the KV link, this agent version {VERSION}: install "
            "releases of prfaas on both that have one in common"
        )
    if kind is None or zero:
        raise PeerError(f"frame of unknown kind {number}")
    header = Header(kind, *fields)
    if kind is Kind.DATA:
        limit, least = max_chunk_bytes, 1
    else:
        limit, least = (MAX_BODY_BYTES, 1) if kind in _WITH_BODY else (0, 0)
    if not least <= header.length <= limit:
        raise PeerError(f"{kind.name} frame of {header.length} bytes; allowed are {limit}")
    return header


def decode(body: bytes, kind: type[Body]) -> Body:
    """A frame's msgpack body. Raises PeerError."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except UNREADABLE as error:
        raise PeerError(f"malformed {kind.__name__}: {error}") from error


class Frame(NamedTuple):
    """What `FrameReader.received` found. ``data_follows``: a DATA header was read; say with
    ``into`` or ``discard`` where its payload goes. A finished payload has ``intact`` set."""

    header: Header
    body: bytes = b""
    data_follows: bool = False
    intact: bool | None = None


class FrameReader:
    """Turns any split of a byte stream into frames; payload goes straight to its place.

    The driver reads at most ``len(get_buffer())`` bytes into ``get_buffer()`` and says how many
    with ``received``. Never holds more than a header, a body and a small drain buffer.
    """

    def __init__(self, *, max_chunk_bytes: int) -> None:
        self.max_chunk_bytes = max_chunk_bytes
        self._head = memoryview(bytearray(HEADER_BYTES))
        self._targets: Sequence[memoryview] = (self._head,)
        self._index = self._filled = 0
        self._header: Header | None = None
        self._drain: memoryview | None = None
        self._to_drain = 0

    def get_buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._to_drain:
            if self._drain is None:
                self._drain = memoryview(bytearray(_DRAIN_BYTES))
            return self._drain[: self._to_drain]
        return self._targets[self._index][self._filled :]

    def into(self, views: Sequence[memoryview]) -> None:
        """The payload that follows goes here (together exactly the announced length)."""
        self._targets, self._index, self._filled = views, 0, 0

    def discard(self) -> None:
        """The payload that follows is read and forgotten."""
        assert self._header is not None
        self._to_drain = self._header.length

    def received(self, count: int) -> Frame | None:
        """``count`` bytes were read into ``get_buffer()``. Raises PeerError."""
        if self._to_drain:
            self._to_drain -= count
            return self._finish(intact=False) if self._to_drain == 0 else None
        self._filled += count
        if self._filled < len(self._targets[self._index]):
            return None
        self._index, self._filled = self._index + 1, 0
        if self._index < len(self._targets):
            return None
        if self._header is None:
            return self._read_header()
        digest = xxh3_64()
        for view in self._targets:
            digest.update(view)
        return self._finish(intact=digest.intdigest() == self._header.digest)

    def _read_header(self) -> Frame | None:
        header = unpack(self._head, max_chunk_bytes=self.max_chunk_bytes)
        self._index = 0
        if header.kind is Kind.DATA:
            self._header, self._targets = header, ()
            return Frame(header, data_follows=True)
        if header.length == 0:
            return Frame(header)
        self._header = header
        self.into((memoryview(bytearray(header.length)),))
        return None

    def _finish(self, *, intact: bool) -> Frame:
        header, targets = self._header, self._targets
        assert header is not None
        self._header = None
        self.into((self._head,))
        if header.kind is Kind.DATA:
            return Frame(header, intact=intact)
        if not intact:
            raise PeerError(f"{header.kind.name} frame has a wrong checksum: damaged line")
        return Frame(header, bytes(targets[0]))
