"""A gateway's journal as a trace: what the scheduler was asked for.

Only the arrivals are read here, so that planning needs nothing of the scheduler. Prompts are what
no cache held of them (at the engine that held most); answers are what was allowed, since a
journal does not say how long they became. `prfaas simulate --journal` reads all of it.
"""

from __future__ import annotations

import msgspec

from prfaas.core.errors import UNREADABLE, ConfigError
from prfaas.workload.trace import RecordedTrace

_MARK = '"type":"RequestArrived"'


class _Arrival(msgspec.Struct, frozen=True):
    """The fields of `prfaas.scheduler.events.RequestArrived` that a trace has."""

    at: float
    total_tokens: int
    max_output_tokens: int
    cached: dict[str, int] = {}


def is_journal(text: str) -> bool:
    """Whether the first line is one that only journals have."""
    return text.startswith('{"at":') and '"type":"' in text.partition("\n")[0]


def parse_journal(text: str) -> RecordedTrace:
    """The arrivals of a journal. Raises ConfigError for a line that is none."""
    decode = msgspec.json.Decoder(_Arrival).decode
    arrivals = []
    for number, line in enumerate(text.split("\n"), 1):
        if _MARK in line:
            try:
                arrivals.append(decode(line))
            except UNREADABLE as error:
                raise ConfigError(f"line {number} is no arrival of a journal: {error}") from error
    arrivals = [a for a in arrivals if a.total_tokens > 0 and a.max_output_tokens > 0]
    arrivals.sort(key=lambda arrival: arrival.at)
    return RecordedTrace(
        arrivals=[arrival.at - arrivals[0].at for arrival in arrivals],
        prompts=[_uncached(arrival) for arrival in arrivals],
        outputs=[arrival.max_output_tokens for arrival in arrivals],
        blocks=[],
    )


def _uncached(arrival: _Arrival) -> int:
    return max(1, arrival.total_tokens - max(arrival.cached.values(), default=0))
