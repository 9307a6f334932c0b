"""One connection of the receiving end, from its WELCOME on: bytes in, replies out.

Theory of operation. The driver reads into ``get_buffer()`` and reports with ``received``; what is
to be written back accumulates in ``take_output``. Many connections share a `ReceivingEnd`, so
calls into it run under ``guard`` (the driver's lock, or a null context). The sink is asked outside
of it: it may take locks of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from prfaas.core.errors import PeerError
from prfaas.link.api import Reception, Refusal, TransferOffer
from prfaas.link.protocol.frames import Frame, FrameReader, Header, Kind, Reason, decode, pack
from prfaas.link.protocol.line_share import Demand
from prfaas.link.protocol.receiving_end import ReceivingEnd
from prfaas.link.protocol.receiving_records import Claim

Ask = Callable[[str, TransferOffer], Reception | Refusal]


class HearDemand(Protocol):
    """Called without the guard, with what the sender says of the line's rate."""

    def __call__(self, peer: str, demand: Demand, *, now: float) -> None: ...


class PayloadReader(Protocol):
    """Who reads the payload behind a DATA header."""

    def into(self, views: Sequence[memoryview]) -> None:
        """It goes here (together exactly the announced length)."""

    def discard(self) -> None:
        """It is read and forgotten."""


def _fair_shares_for_all(peer: str, demand: Demand, *, now: float) -> None:
    pass


class ReceivingConnection:
    """``ask`` is the sink's ``offered``; ``wake`` is called when another connection's doing has
    left this one something to write or told it to close. ``payloads``: who reads them, where bytes
    are read elsewhere and `heard` is told the frames; else they come through `received`."""

    def __init__(
        self,
        end: ReceivingEnd,
        peer: str,
        session: int,
        connection: int,
        *,
        guard: AbstractContextManager[object],
        ask: Ask,
        wake: Callable[[], None],
        max_chunk_bytes: int,
        demanded: HearDemand = _fair_shares_for_all,
        payloads: PayloadReader | None = None,
    ) -> None:
        self._demanded = demanded
        self.peer, self.connection = peer, connection
        self.severed = False
        self._end, self._guard, self._ask, self._wake = end, guard, ask, wake
        self._reader = FrameReader(max_chunk_bytes=max_chunk_bytes)
        self._payloads = payloads or self._reader
        self._claim: Claim | None = None
        self._output = bytearray()
        with guard:
            self._session = end.opened(peer, session, connection, self)

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the socket belong."""
        return self._reader.get_buffer()

    def received(self, count: int, *, now: float) -> None:
        """``count`` bytes were read. Raises PeerError: the connection must be closed."""
        frame = self._reader.received(count)
        if frame is not None:
            self.heard(frame, now=now)

    def heard(self, frame: Frame, *, now: float) -> None:
        """A frame, or the header of a payload that follows, is there. Raises PeerError: the
        connection must be closed."""
        if frame.data_follows:
            self._data_follows(frame.header)
        elif frame.header.kind is Kind.DATA:
            self._data_arrived(intact=bool(frame.intact))
        else:
            self._control(frame, now=now)

    def reply(self, frame: bytes) -> None:
        """Queue a frame to the sender (called by the end, under the guard)."""
        self._output += frame
        self._wake()

    def sever(self) -> None:
        """The sender believes this connection lost."""
        self.severed = True
        self._wake()

    @property
    def output_bytes(self) -> int:
        """Replies that wait to be written."""
        return len(self._output)

    def take_output(self) -> bytes:
        """Replies to write now, in order."""
        with self._guard:
            taken = bytes(self._output)
            self._output.clear()
        return taken

    def closed(self, *, now: float) -> None:
        """The socket is closed; whatever was being received counts as never sent."""
        self._payloads = self._reader = FrameReader(max_chunk_bytes=1)
        with self._guard:
            self._end.closed(self._session, self.connection, self._claim, now=now)
            self._claim = None

    def _data_follows(self, header: Header) -> None:
        with self._guard:
            claim = self._end.claim(self._session, self, header)
        if claim is None:
            self._payloads.discard()
            return
        try:
            views = tuple(claim.reception.views(claim.offset, claim.length))
            if sum(map(len, views)) != claim.length:
                raise ValueError("the views do not add up to the range")
        except Exception as error:
            # Whatever went wrong is the sink's: its transfer fails, the connection lives on.
            with self._guard:
                self._end.give_up(claim, f"receiver has no memory for the chunk: {error}")
            self._payloads.discard()
            return
        self._claim = claim
        self._payloads.into([view for view in views if len(view)])

    def _data_arrived(self, *, intact: bool) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            with self._guard:
                self._end.settle(claim, self, intact=intact)

    def _control(self, frame: Frame, *, now: float) -> None:
        header, end, session = frame.header, self._end, self._session
        match header.kind:
            case Kind.OFFER:
                self._offered(header, decode(frame.body, TransferOffer), now=now)
            case Kind.QUERY:
                with self._guard:
                    end.query(session, self, header)
            case Kind.CANCEL:
                why = decode(frame.body, Reason)
                with self._guard:
                    end.cancel(session, self, header.handle, why)
            case Kind.DEMAND:
                self._demanded(self.peer, decode(frame.body, Demand), now=now)
            case Kind.PING:
                with self._guard:
                    self.reply(pack(Kind.PONG, handle=header.handle))
            case _:
                raise PeerError(f"a sender does not send {header.kind.name}")

    def _offered(self, header: Header, offer: TransferOffer, *, now: float) -> None:
        with self._guard:
            transfer = self._end.offer(self._session, self, header.handle, offer, now=now)
        if transfer is None:
            return
        try:
            answer = self._ask(self.peer, offer)
        except Exception as error:
            answer = Refusal(f"receiver failed to answer: {error}")
        with self._guard:
            self._end.answered(transfer, answer)
