"""Frames of the engine-agent socket: 4-byte little-endian length, then one msgpack message."""

from __future__ import annotations

import struct

import msgspec

from prfaas.core.errors import UNREADABLE, EngineError, PeerError, PrfaasError
from prfaas.engine_socket.messages import MAX_FRAME_BYTES, AgentMessage, EngineMessage

_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()
_from_engine: msgspec.msgpack.Decoder[EngineMessage] = msgspec.msgpack.Decoder(EngineMessage)
_from_agent: msgspec.msgpack.Decoder[AgentMessage] = msgspec.msgpack.Decoder(AgentMessage)


def encode(message: EngineMessage | AgentMessage) -> bytes:
    """One frame. Raises PeerError for a message longer than `MAX_FRAME_BYTES`."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise PeerError(f"{type(message).__name__} of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def decode_from_engine(body: bytes | memoryview) -> EngineMessage:
    """Raises EngineError for anything that is not an engine's message."""
    try:
        return _from_engine.decode(body)
    except UNREADABLE as error:
        raise EngineError(f"engine sent a message that cannot be read: {error}") from error


def decode_from_agent(body: bytes | memoryview) -> AgentMessage:
    """Raises PeerError for anything that is not an agent's message."""
    try:
        return _from_agent.decode(body)
    except UNREADABLE as error:
        raise PeerError(f"agent sent a message that cannot be read: {error}") from error


class FrameBuffer:
    """Collects a byte stream, split anywhere, and gives back whole frame bodies.

    Args:
        fault: the error for a stream that breaks the rules; its sender is to blame.
    """

    def __init__(self, fault: type[PrfaasError] = PeerError) -> None:
        self._fault = fault
        self._bytes = bytearray()

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """Add received bytes and take out every frame body now complete.

        Raises ``fault`` as soon as a length prefix exceeds `MAX_FRAME_BYTES`.
        """
        self._bytes += data
        bodies: list[bytes] = []
        start = 0
        while len(self._bytes) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes, start)
            if length > MAX_FRAME_BYTES:
                raise self._fault(f"frame of {length} bytes exceeds {MAX_FRAME_BYTES}")
            end = start + _LENGTH.size + length
            if len(self._bytes) < end:
                break
            bodies.append(bytes(self._bytes[start + _LENGTH.size : end]))
            start = end
        del self._bytes[:start]
        return bodies
