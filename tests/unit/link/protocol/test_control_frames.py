"""What is kept for a receiver that is away, or that answers nothing, does not grow."""

from __future__ import annotations

import pytest

from prfaas.link.protocol.control_frames import MOST_CANCELS
from prfaas.link.protocol.frames import HEADER_BYTES, Kind, Reason, decode
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.testing.link_ends import an_offer, quiet

BEGUN = 5 * MOST_CANCELS


def frames(end: SendingEnd, carrier: int) -> list[bytes]:
    """All that a connection has to say now."""
    found: list[bytes] = []
    while True:
        frame, _ = end.take(carrier, chunk_bytes=100, now=0.0)
        if frame is None:
            return found
        assert isinstance(frame, bytes)
        found.append(frame)


@pytest.mark.parametrize("there", [False, True])
def test_what_was_given_up_is_forgotten(there: bool) -> None:
    end = SendingEnd()
    lives = end.open(an_offer("lives"), quiet, quiet, now=0.0)
    for number in range(BEGUN):
        transfer = end.open(an_offer(f"t{number}"), quiet, quiet, now=0.0)
        if there:
            frames(end, 1)
        end.cancel(transfer, f"{number}")
        if there:
            frames(end, 1)
        end.events.clear()
    assert len(end._control_frames) <= 3 * MOST_CANCELS + 2
    if there:
        end.lost(1, now=0.0)
    said = frames(end, 2)
    kinds = [Kind(frame[0]) for frame in said]
    assert kinds.count(Kind.OFFER) == 1
    assert kinds.count(Kind.CANCEL) <= 3 * MOST_CANCELS + 2
    # Of those that are over the last ones are said, in their order.
    numbers = [int(decode(f[HEADER_BYTES:], Reason).reason) for f in said if f[0] == Kind.CANCEL]
    assert numbers == list(range(BEGUN - len(numbers), BEGUN))
    assert len(numbers) >= MOST_CANCELS
    end.cancel(lives, "enough")
    assert [frame[0] for frame in frames(end, 2)] == [Kind.CANCEL]
