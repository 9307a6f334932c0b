"""The sending end on its own: what the property tests do not pin down."""

from __future__ import annotations

import pytest

from prfaas.link.api import TransferOffer
from prfaas.link.protocol.frames import HEADER_BYTES, Kind, decode
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.link.protocol.sending_records import Chunk
from prfaas.testing.link_ends import EMPTY_HEADER, accepted, an_offer, quiet


def test_what_was_accepted_and_waits_for_a_connection_is_counted() -> None:
    end = SendingEnd()
    offered = end.open(an_offer("u"), quiet, quiet, now=0.0)
    end.add(offered, 0, memoryview(bytes(50)), quiet)
    assert end.queued_bytes == 0, "not accepted yet"
    end.take(1, chunk_bytes=100, now=0.0)
    transfer = accepted(end, "t", 250, step=90)
    assert end.queued_bytes == 250
    chunk, _ = end.take(1, chunk_bytes=100, now=0.0)
    assert isinstance(chunk, Chunk)
    assert end.queued_bytes == 160
    about = EMPTY_HEADER._replace(handle=transfer.handle, digest=90)
    end.heard(1, about._replace(kind=Kind.NACK), "", retry=False, now=0.0)
    assert end.queued_bytes == 250
    end.heard(1, about, "", retry=False, now=0.0)
    assert end.queued_bytes == 160
    end.check_integrity()
    end.cancel(transfer, "enough")
    assert end.queued_bytes == 0


def test_a_restarted_receiver_fails_only_what_it_had_accepted() -> None:
    end, failed = SendingEnd(), list[str]()
    accepted(end, "accepted", 1000)
    end.open(an_offer("offered"), quiet, failed.append, now=0.0)
    first, _ = end.take(1, chunk_bytes=100, now=0.0)
    end.restarted("west has restarted")
    assert end.counters.transfers_failed == 1
    end.lost(1, now=0.0)
    again, _ = end.take(2, chunk_bytes=100, now=0.0)
    assert first == again is not None
    assert end.take(2, chunk_bytes=100, now=0.0) == (None, None)
    assert failed == []


def test_a_receiver_may_refuse_for_a_day() -> None:
    """With pauses of at most a second, and a deadline that never grows on its way."""
    end, now = SendingEnd(), 1e6 + 0.1
    transfer = end.open(an_offer(allow_s=86400.0), quiet, quiet, now=now)
    refuse = EMPTY_HEADER._replace(kind=Kind.REFUSE, handle=transfer.handle)
    for _ in range(2000):
        frame, _ = end.take(1, chunk_bytes=100, now=now)
        assert isinstance(frame, bytes)
        assert decode(frame[HEADER_BYTES:], TransferOffer).deadline_s <= 86400.0
        end.heard(1, refuse, "full", retry=True, now=now)
        now += 1.0
        end.tick(now=now)


def test_the_rate_decides_when_the_next_chunk_goes() -> None:
    end = SendingEnd(rate_bytes_per_s=1000.0)
    accepted(end, "t", 1000)
    sent, now = 0, 0.0
    while now < 0.5:
        chunk, again_at = end.take(1, chunk_bytes=10, now=now)
        if chunk is None:
            assert again_at is not None
            assert again_at > now
            now = again_at
        else:
            sent += 10
    assert sent == pytest.approx(500, abs=30)


def test_a_cancel_is_repeated_until_the_receiver_has_heard_it() -> None:
    end = SendingEnd()
    transfer = accepted(end, "t", 1000)
    end.cancel(transfer, "enough")
    first, _ = end.take(1, chunk_bytes=100, now=0.0)
    end.lost(1, now=0.0)
    second, _ = end.take(2, chunk_bytes=100, now=0.0)
    assert first == second is not None
    failed = EMPTY_HEADER._replace(kind=Kind.FAILED, handle=transfer.handle)
    end.heard(2, failed, "enough", retry=False, now=0.0)
    assert not end.busy


def test_memory_is_released_after_the_write_that_uses_it() -> None:
    end = SendingEnd()
    transfer = accepted(end, "t", 100)
    chunk, _ = end.take(1, chunk_bytes=100, now=0.0)
    assert isinstance(chunk, Chunk)
    end.cancel(transfer, "enough")
    assert len(end.events) == 1, "only the failure: a connection is still writing"
    end.written(chunk)
    assert len(end.events) == 2
