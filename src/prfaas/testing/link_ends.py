"""Transfers at the two ends of the link's protocol, without sockets, threads or clocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.frames import Header, Kind, unpack
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.link.protocol.sending_records import SendingTransfer

EMPTY_HEADER = Header(Kind.ACK, 0, 0, 0, 0, 0)
"""To be completed with ``_replace``."""


def an_offer(
    name: str = "t",
    *,
    total: int = 100,
    epoch: int = 1,
    allow_s: float = 10.0,
    priority: int = 0,
    layout: str = "layout",
) -> TransferOffer:
    """An offer of ``total`` bytes."""
    return TransferOffer(TransferKey(name, 0, epoch), layout, 0, 1, total, allow_s, priority)


def quiet(*_: object) -> None:
    """A callback that nobody waits for."""


def accepted(
    end: SendingEnd,
    name: str,
    size: int,
    *,
    priority: int = 0,
    step: int = 10**6,
    released: Callable[[int], None] = quiet,
) -> SendingTransfer:
    """A transfer that the receiver has accepted, with all of its bytes added in pieces of
    ``step``; ``released`` is told the offset of each piece."""
    offer = an_offer(name, total=size, priority=priority)
    transfer = end.open(offer, quiet, quiet, now=0.0)
    data = memoryview(bytearray(size))
    for at in range(0, size, step):
        end.add(transfer, at, data[at : at + step], partial(released, at))
    end.take(1, chunk_bytes=100, now=0.0)  # the offer
    accept = EMPTY_HEADER._replace(kind=Kind.ACCEPT, handle=transfer.handle)
    end.heard(1, accept, "", retry=False, now=0.0)
    return transfer


class FakeConnection:
    """A connection of the receiving end: ``said`` are the kinds of its replies."""

    def __init__(self) -> None:
        self.said: list[Kind] = []
        self.severed = False

    def reply(self, frame: bytes) -> None:
        """Note what kind it is."""
        self.said.append(unpack(memoryview(frame), max_chunk_bytes=1).kind)

    def sever(self) -> None:
        """Note it."""
        self.severed = True


class AnyMemory:
    """A `Reception` that gives fresh memory for every range."""

    def views(self, flat_offset: int, length: int) -> Sequence[memoryview]:
        """The range, in one piece."""
        return [memoryview(bytearray(length))]
