"""What is answered about a range, and about a transfer that is over."""

from __future__ import annotations

import pytest

from prfaas.link.protocol.frames import HEADER_BYTES, Header, Kind, Reason, decode, unpack
from prfaas.link.protocol.receiving_records import Session
from prfaas.link.protocol.receiving_replies import about, fate

DATA = Header(Kind.DATA, 0, 30, 1, 5, 0)
QUERY = Header(Kind.QUERY, 2, 0, 1, 5, 30)


def head(frame: bytes) -> Header:
    return unpack(memoryview(frame), max_chunk_bytes=1)


@pytest.mark.parametrize("asked", [DATA, QUERY])
def test_the_answer_names_the_range_that_was_asked_about(asked: Header) -> None:
    answer = head(about(Kind.NACK, asked))
    assert (answer.kind, answer.handle, answer.offset, answer.digest) == (Kind.NACK, 1, 5, 30)


@pytest.mark.parametrize(
    ("outcomes", "asked", "kind", "why"),
    [
        ({1: None}, None, Kind.ACCEPT, ""),
        ({1: None}, QUERY, Kind.ACK, ""),
        ({1: "cancelled"}, QUERY, Kind.FAILED, "cancelled"),
        ({}, DATA, Kind.FAILED, "unknown transfer"),
    ],
)
def test_how_a_transfer_ended_is_remembered(
    outcomes: dict[int, str | None], asked: Header | None, kind: Kind, why: str
) -> None:
    session = Session("east", 1)
    session.outcomes.update(outcomes)
    frame = fate(session, 1, asked)
    assert head(frame).kind is kind
    if why:
        assert decode(frame[HEADER_BYTES:], Reason).reason == why
