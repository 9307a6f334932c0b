"""A gateway's journal as a trace: what the scheduler was asked for.

Only arrivals and ends are read here, so that planning needs nothing of the scheduler. Prompts are
what no cache held of them (at the engine that held most); answers are as long as they became, and
where that is not known as long as was allowed. `prfaas simulate --journal` reads all of it.
"""

from __future__ import annotations

import msgspec

from prfaas.core.errors import UNREADABLE, ConfigError
from prfaas.workload.trace import RecordedTrace

_ARRIVED, _COMPLETED = '"type":"RequestArrived"', '"type":"RequestCompleted"'


class _Arrival(msgspec.Struct, frozen=True):
    """The fields of `prfaas.scheduler.events.RequestArrived` that a trace has."""

    at: float
    request_id: str
    total_tokens: int
    max_output_tokens: int
    cached: dict[str, int] = {}


class _Completed(msgspec.Struct, frozen=True):
    """Of `prfaas.scheduler.events.RequestCompleted`."""

    request_id: str
    output_tokens: int | None = None


def is_journal(text: str) -> bool:
    """Whether the first line is one that only journals have."""
    return text.startswith('{"at":') and '"type":"' in text.partition("\n")[0]


def parse_journal(text: str) -> RecordedTrace:
    """The arrivals of a journal. Raises ConfigError for a line that is none."""
    arrived = msgspec.json.Decoder(_Arrival).decode
    completed = msgspec.json.Decoder(_Completed).decode
    arrivals: list[_Arrival] = []
    answers: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if _ARRIVED in line:
                arrivals.append(arrived(line))
            elif _COMPLETED in line:
                end = completed(line)
                answers[end.request_id] = end.output_tokens or 0
        except UNREADABLE as error:
            raise ConfigError(f"line {number} is no arrival of a journal: {error}") from error
    arrivals = [a for a in arrivals if a.total_tokens > 0 and a.max_output_tokens > 0]
    arrivals.sort(key=lambda arrival: arrival.at)
    return RecordedTrace(
        arrivals=[arrival.at - arrivals[0].at for arrival in arrivals],
        prompts=[_uncached(arrival) for arrival in arrivals],
        outputs=[answers.get(a.request_id) or a.max_output_tokens for a in arrivals],
        blocks=[],
    )


def _uncached(arrival: _Arrival) -> int:
    return max(1, arrival.total_tokens - max(arrival.cached.values(), default=0))
