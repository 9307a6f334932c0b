"""Frames of the engine socket: who is to blame for a broken one."""

from __future__ import annotations

import pytest

from prfaas.core.errors import EngineError, PeerError
from prfaas.core.extents import Extent
from prfaas.engine_socket.framing import (
    FrameBuffer,
    decode_from_agent,
    decode_from_engine,
    encode,
)
from prfaas.engine_socket.messages import MAX_FRAME_BYTES, ExportSlot, ImportFailed, LeaseSlots

TOO_LONG = (MAX_FRAME_BYTES + 1).to_bytes(4, "little")


def test_byte_ranges_travel_as_they_are() -> None:
    message = ExportSlot("x", 3, (Extent(1, 2, 3), Extent(4, 5, 6)))
    (body,) = FrameBuffer().feed(encode(message))
    decoded = decode_from_engine(body)
    assert decoded == message
    assert isinstance(decoded, ExportSlot)
    assert decoded.extents[1].arena_offset == 5


def test_an_engine_is_to_blame_for_what_it_sends() -> None:
    with pytest.raises(EngineError, match="cannot be read"):
        decode_from_engine(encode(ImportFailed("x", "y"))[4:])
    with pytest.raises(EngineError, match="exceeds"):
        FrameBuffer(EngineError).feed(TOO_LONG)


def test_an_agent_is_to_blame_for_what_it_sends() -> None:
    with pytest.raises(PeerError, match="cannot be read"):
        decode_from_agent(encode(LeaseSlots(1))[4:])
    with pytest.raises(PeerError, match="exceeds"):
        FrameBuffer().feed(TOO_LONG)


@pytest.mark.parametrize("extent", [b"\x92\x01\x02", b"\x93\x01\x02\xa1x", b"\x94\x01\x02\x03\x04"])
def test_a_range_of_another_shape_is_refused(extent: bytes) -> None:
    whole = encode(ExportSlot("x", 3, (Extent(1, 2, 3),)))[4:]
    assert whole.count(b"\x93\x01\x02\x03") == 1
    with pytest.raises(EngineError):
        decode_from_engine(whole.replace(b"\x93\x01\x02\x03", extent))
