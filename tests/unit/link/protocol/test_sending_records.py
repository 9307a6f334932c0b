"""Books that contradict each other are found out."""

from __future__ import annotations

import pytest

from prfaas.core.errors import InvariantError
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.link.protocol.sending_records import Chunk
from prfaas.testing.link_ends import accepted


def test_bytes_that_are_miscounted_are_found() -> None:
    transfer = accepted(SendingEnd(), "t", 100)
    transfer.check_integrity()
    transfer.unsent_bytes += 1
    with pytest.raises(InvariantError, match="100 bytes wait, counted as 101"):
        transfer.check_integrity()


def test_a_chunk_is_waiting_or_in_flight() -> None:
    end = SendingEnd()
    transfer = accepted(end, "t", 100)
    chunk, _ = end.take(1, chunk_bytes=100, now=0.0)
    assert isinstance(chunk, Chunk)
    end.check_integrity()
    chunk.carrier = None
    with pytest.raises(InvariantError, match="both waiting and in flight, or neither"):
        transfer.check_integrity()
