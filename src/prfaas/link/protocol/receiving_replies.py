"""What a receiver answers about ranges and about transfers that are over."""

from __future__ import annotations

from typing import Literal

from prfaas.link.protocol.frames import Header, Kind, pack, reason
from prfaas.link.protocol.receiving_records import Session

Verdict = Literal[Kind.ACK, Kind.NACK]


def of_range(kind: Verdict, handle: int, offset: int, length: int) -> bytes:
    """ACK: [offset, offset + length) is stored and verified. NACK: it must be sent again."""
    return pack(kind, handle=handle, offset=offset, digest=length)


def about(kind: Verdict, header: Header) -> bytes:
    """The same of the range that a DATA or QUERY frame names."""
    length = header.length if header.kind is Kind.DATA else header.digest
    return of_range(kind, header.handle, header.offset, length)


def fate(session: Session, handle: int, header: Header | None = None) -> bytes:
    """What became of a transfer that takes no bytes (any more); ``header``: the DATA or QUERY
    frame that asked, None for an OFFER."""
    why: str | None = "unknown transfer"
    transfer = session.transfers.get(handle)
    why = transfer.reason if transfer is not None else session.outcomes.get(handle, why)
    if why is not None:
        return reason(Kind.FAILED, why, handle=handle)
    return pack(Kind.ACCEPT, handle=handle) if header is None else about(Kind.ACK, header)
