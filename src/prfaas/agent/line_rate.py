"""An agent measures the line to another: test data over its own KV link, for a moment.

The data goes after all KV cache that waits for the same line, so requests hardly notice; on a line
that is full the measurement gets what they leave.
"""

from __future__ import annotations

import asyncio

from prfaas.core.errors import LinkError
from prfaas.link.api import Link, MeasuredLine
from prfaas.link.tcp.link_test_stream import LinkTestStream, goodput

LONGEST_S = 10.0
_FIRST_BYTES_S = 3.0
_LAST = 1_000_000
"""Priority: hand-offs have small numbers."""


class LineRates:
    """One measurement at a time: two at once would measure each other."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._under_way = asyncio.Lock()

    async def measure(self, peer: str, seconds: float) -> MeasuredLine | None:
        """None where another is under way. Raises LinkError for a peer that is not known, and for
        a line that nothing crosses."""
        if self._under_way.locked():
            return None
        async with self._under_way:
            return await asyncio.to_thread(_measure, self._link, peer, seconds)


def _measure(link: Link, peer: str, seconds: float) -> MeasuredLine:
    states = {state.peer: state for state in link.states()}
    if peer not in states:
        known = ", ".join(sorted(states)) or "nobody"
        raise LinkError(f"this agent sends nothing to {peer!r}; it sends to {known}")
    if not states[peer].connections:
        raise LinkError(f"there is no connection to {peer!r}")
    with LinkTestStream(link, peer, seconds, priority=_LAST) as stream:
        stream.wait_for_first_bytes(_FIRST_BYTES_S)
        marks = list(stream.marks())
        state = next(state for state in link.states() if state.peer == peer)
    return MeasuredLine(
        peer=peer,
        goodput_bytes_per_s=goodput(marks),
        all_bytes_per_s=state.goodput_bytes_per_s,
        limit_bytes_per_s=state.limit_bytes_per_s,
        connections=state.connections,
        rtt_s=state.rtt_s,
        min_rtt_s=state.min_rtt_s,
    )
