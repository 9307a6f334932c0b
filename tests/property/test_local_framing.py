"""`FrameBuffer` against any split of the stream."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prfaas.core.extents import Extent
from prfaas.engine_socket.framing import FrameBuffer, decode_from_agent, encode
from prfaas.engine_socket.messages import ExportStopped, ImportReady, SlotsLeased


@given(st.lists(st.integers(0, 200), max_size=8))
def test_frames_survive_any_split(cuts: list[int]) -> None:
    messages = [
        SlotsLeased((1, 2, 3)),
        ExportStopped("x", "reason"),
        ImportReady("y", (Extent(0, 4096, 10), Extent(10, 0, 5))),
    ]
    stream = b"".join(encode(message) for message in messages)
    frames, found, position = FrameBuffer(), [], 0
    for cut in [*sorted(cuts), len(stream)]:
        found += frames.feed(stream[position:cut])
        position = max(position, min(cut, len(stream)))
    assert [decode_from_agent(body) for body in found] == messages
