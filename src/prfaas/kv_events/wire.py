"""What an agent tells gateways of its engines' caches: frames of a compressed stream.

The stream is deflated as a whole and flushed after each frame; a frame is its length (4 bytes, big
endian) and a MessagePack object. It begins where the follower says it stopped, if that is still
known: else with `Begun`, all that is held, and `Reached`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Annotated, NamedTuple, Self

import msgspec

from prfaas.core.errors import UNREADABLE, EngineError
from prfaas.index.cache_events import BlocksGone, BlocksKeyed

MEDIA_TYPE = "application/x-prfaas-kv-events"
ALIVE_S = 1.0
"""So often a follower hears something."""
MOST_FRAME_BYTES = 4 * 1024 * 1024
Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
"""Of a change: what a follower says of it an agent takes."""
_LEVEL = 1
"""Keys are random: more effort gains nothing."""


class Stopped(NamedTuple):
    """Where a follower stopped: it knows all up to change ``number`` of ``epoch``; or, of what was
    held then, ``told`` pieces. Where it knows nothing ``epoch`` is empty."""

    epoch: str = ""
    number: int = 0
    told: int | None = None

    def query(self) -> str:
        """For an agent's path. An earlier release does not go on with what it was telling."""
        if self.number < 0:
            return ""
        if self.told is None:
            return f"epoch={self.epoch}&number={self.number}"
        # Not as `epoch`: agents of earlier releases would take it to know all of that.
        return f"begun={self.epoch}&number={self.number}&told={self.told}"

    @classmethod
    def of(cls, query: Mapping[str, str], number: int) -> Self:
        """The reverse."""
        told = query.get("told", "")
        if not (told.isascii() and told.isdecimal() and len(told) < 16):
            return cls(query.get("epoch", ""), number)
        return cls(query.get("begun", ""), number, int(told))


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """What was known is void; all that is held follows. ``epoch``: of the engine's cache, another
    one whenever it begins anew; ``key_id``: of the key that names and keys are made with;
    ``number``: of the change after which it is all (-1: an earlier release, which does not go on
    with what it was telling)."""

    epoch: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{1,64}\Z")]
    key_id: Annotated[str, msgspec.Meta(max_length=64)]
    number: Annotated[int, msgspec.Meta(ge=-1, le=1 << 53)] = -1


class Reached(msgspec.Struct, frozen=True, tag="reached"):
    """All has been told that was held after change ``number``."""

    number: Number


class Changed(msgspec.Struct, frozen=True, tag="changed"):
    """The events of change ``number``."""

    number: Number
    events: list[BlocksKeyed | BlocksGone]


class Held(msgspec.Struct, frozen=True, tag="held"):
    """A piece of all that is held."""

    events: list[BlocksKeyed | BlocksGone]


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """``live``: whether the agent hears of the engine's cache."""

    live: bool


Frame = Begun | Reached | Changed | Held | Alive
_DECODER: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


def packed(frame: Frame) -> bytes:
    """With its length, not compressed."""
    body = msgspec.msgpack.encode(frame)
    return len(body).to_bytes(4, "big") + body


class Deflater:
    """One stream's compression."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(_LEVEL)

    def __call__(self, frames: bytes) -> bytes:
        """Packed frames as bytes that can be read at once."""
        return self._stream.compress(frames) + self._stream.flush(zlib.Z_SYNC_FLUSH)


class FrameReader:
    """The frames of a stream, from bytes as they come. Raises EngineError for what is none."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Those that are complete now."""
        while data:
            try:
                self._rest += self._stream.decompress(data, MOST_FRAME_BYTES)
            except zlib.error as error:
                raise EngineError(f"cache events that are not deflated: {error}") from error
            data = self._stream.unconsumed_tail
            yield from self._complete()

    def _complete(self) -> Iterator[Frame]:
        while len(self._rest) >= 4:
            size = int.from_bytes(self._rest[:4], "big")
            if size > MOST_FRAME_BYTES:
                raise EngineError(f"a cache event of {size} bytes")
            if len(self._rest) < 4 + size:
                return
            body = bytes(self._rest[4 : 4 + size])
            del self._rest[: 4 + size]
            try:
                frame = _DECODER.decode(body)
            except UNREADABLE as error:
                raise EngineError(f"unreadable cache events: {str(error)[:300]}") from error
            yield frame
