"""How long decode engines took to begin on what was handed over: told to `LearnedLoads`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from prfaas.policies.api import Route
from prfaas.policies.learned_loads import LearnedLoads, Sums
from prfaas.scheduler.events import FirstToken, RequestCompleted, RequestEvent
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.state import Record

_FASTEST_S = 1e-4
"""No engine computes tokens of one answer faster: what seems so was not streamed, and its first
token was seen with its last."""


class LearnedTimes(NamedTuple):
    """What a scheduler has learned, to be kept for a successor: sums by engine, as
    `PrefillLearner.learned` and `LearnedLoads.learned` give them."""

    prefills: Mapping[str, Sums]
    loads: Mapping[str, Sums]


class LoadTimes:
    """``learned``: what is told."""

    def __init__(self, learned: LearnedLoads) -> None:
        self.learned = learned

    def heard(self, record: Record, event: RequestEvent, now: float) -> None:
        """News of the attempt under way, before it has moved the request."""
        if isinstance(event, FirstToken):
            record.began_at = now
        elif isinstance(event, RequestCompleted) and event.output_tokens is not None:
            self._ended(record, event.output_tokens, now)

    def _ended(self, record: Record, output_tokens: int, now: float) -> None:
        """Only now it is known whether the first token was seen when it came."""
        engine = record.decode
        if engine is None or record.state is not State.STREAMING or record.attempt != 1:
            return
        streamed = now - record.began_at >= _FASTEST_S * (output_tokens - 1)
        if record.route is not Route.DIRECT and output_tokens > 1 and streamed:
            load_s = record.began_at - record.asked_at
            self.learned.seen(engine.name, record.handed_bytes, load_s)
