"""How long decode engines took to begin on what was handed over, and for each token after that:
told to `LearnedLoads` and `LearnedSteps`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from prfaas.policies.api import Route
from prfaas.policies.fading_line import Sums
from prfaas.policies.learned_loads import LearnedLoads
from prfaas.policies.learned_steps import LearnedSteps
from prfaas.scheduler.events import FirstToken, RequestCompleted, RequestEvent
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.state import Record

_FASTEST_S = 1e-4
"""No engine computes tokens of one answer faster: what seems so was not streamed, and its first
token was seen with its last."""


class LearnedTimes(NamedTuple):
    """What a scheduler has learned, to be kept for a successor: sums by engine, as
    `PrefillLearner`, `LearnedLoads` and `LearnedSteps` give them; and what its driver has of
    ``fetches`` (`LearnedFetches`)."""

    prefills: Mapping[str, Sums] = {}
    loads: Mapping[str, Sums] = {}
    steps: Mapping[str, Sums] = {}
    fetches: Mapping[str, Sums] = {}


class LearnedDecodes(NamedTuple):
    """What is learned of decode engines."""

    loads: LearnedLoads
    steps: LearnedSteps


class DecodeTimes:
    """Measures how long decode engines take. ``learned``: what is told of it."""

    def __init__(self, learned: LearnedDecodes) -> None:
        self._loads, self._steps = learned

    @property
    def learned(self) -> tuple[Mapping[str, Sums], Mapping[str, Sums]]:
        """Of loads and of steps, to be kept for a successor."""
        return self._loads.learned(), self._steps.learned()

    def heard(self, record: Record, event: RequestEvent, now: float) -> None:
        """News of the attempt under way, before it has moved the request."""
        if isinstance(event, FirstToken):
            record.began_at = now
            record.began_beside = 0 if record.decode is None else record.decode.decoding
        elif isinstance(event, RequestCompleted) and event.output_tokens is not None:
            self._ended(record, event.output_tokens, now)

    def _ended(self, record: Record, output_tokens: int, now: float) -> None:
        """Only now it is known whether the first token was seen when it came."""
        engine = record.decode
        if engine is None or record.state is not State.STREAMING or record.attempt != 1:
            return
        steps = output_tokens - 1
        answer_s = now - record.began_at
        if steps < 1 or answer_s < _FASTEST_S * steps:
            return
        if record.route is not Route.DIRECT:
            load_s = record.began_at - record.asked_at
            self._loads.seen(engine.name, record.handed_bytes, load_s)
        if record.sequences == 1:
            # Of the batch its two ends are known: what came and went meanwhile evens out.
            batch = (record.began_beside + engine.decoding) / 2
            self._steps.seen(engine.name, max(1.0, batch), answer_s / steps, output_tokens)
