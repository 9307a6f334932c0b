"""What became of one request, and of all of them: the figures that clients feel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

NO_ROUTE = "-"


class Outcome(msgspec.Struct, omit_defaults=True):
    """Seconds after the run began; None: it did not happen. ``due``: when it should have been sent.
    ``tokens_at``: when each event with text came. ``error``: its kind, in few words."""

    due: float
    prompt_tokens: int
    asked_tokens: int
    sent: float = 0.0
    ended: float | None = None
    tokens_at: list[float] = msgspec.field(default_factory=list)
    output_tokens: int | None = None
    """As the endpoint counts them; where it does not: the events."""
    status: int | None = None
    route: str | None = None
    error: str | None = None
    message: str | None = None

    @property
    def completed(self) -> bool:
        """Whether it was answered to the end."""
        return self.error is None and bool(self.tokens_at)

    @property
    def answered_tokens(self) -> int:
        """Of the answer."""
        return len(self.tokens_at) if self.output_tokens is None else self.output_tokens

    @property
    def ttft_s(self) -> float:
        """From sending to the first token."""
        return self.tokens_at[0] - self.sent

    @property
    def latency_s(self) -> float:
        """From sending to the last token."""
        return self.tokens_at[-1] - self.sent

    @property
    def tpot_s(self) -> float | None:
        """Mean time of a token after the first; None where there is no second."""
        more = self.answered_tokens - 1
        return (self.latency_s - self.ttft_s) / more if more > 0 else None


class Slo(msgspec.Struct, frozen=True):
    """What a request must stay within to count; None: anything does."""

    ttft_s: float | None = None
    tpot_s: float | None = None

    def met_by(self, outcome: Outcome) -> bool:
        """Whether it was answered in time."""
        tpot = outcome.tpot_s if outcome.completed else None
        return (
            outcome.completed
            and (self.ttft_s is None or outcome.ttft_s <= self.ttft_s)
            and (self.tpot_s is None or tpot is None or tpot <= self.tpot_s)
        )


class Spread(msgspec.Struct, frozen=True):
    """How some times are spread, in seconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """None where there are no values."""
        found = np.array([value for value in values if value is not None])
        if not found.size:
            return None
        p50, p90, p95, p99 = np.percentile(found, (50, 90, 95, 99)).tolist()
        return cls(float(found.mean()), p50, p90, p95, p99, float(found.max()))


class RouteSummary(msgspec.Struct, frozen=True):
    """The answers that came by one route of a PrfaaS gateway."""

    completed: int
    mean_prompt_tokens: float
    ttft_s: Spread | None


class Summary(msgspec.Struct, frozen=True):
    """A whole run. Rates are over ``duration_s``, from the first request to the last end.

    ``slo_share``: of all requests, those answered within the SLO; ``goodput_req_per_s`` likewise.
    ``late_s``: how much later than due requests were sent: where that is more than some
    milliseconds, this client was too slow for the rate.
    """

    model: str
    requests: int
    completed: int
    errors: dict[str, int]
    messages: dict[str, str]
    """What the endpoint said to the first of each kind of error."""
    duration_s: float
    input_tokens: int
    output_tokens: int
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    slo_share: float
    goodput_req_per_s: float
    most_concurrent: int
    ttft_s: Spread | None
    tpot_s: Spread | None
    itl_s: Spread | None
    latency_s: Spread | None
    late_s: Spread | None
    routes: dict[str, RouteSummary]


def summarise(model: str, outcomes: Sequence[Outcome], slo: Slo) -> Summary:
    """The figures of a run; of no requests all of them are zero."""
    done = [outcome for outcome in outcomes if outcome.completed]
    ends = [outcome.ended for outcome in outcomes if outcome.ended is not None]
    duration = max(ends, default=0.0) - min((o.sent for o in outcomes), default=0.0)
    taken = sum(outcome.prompt_tokens for outcome in done)
    given = sum(outcome.answered_tokens for outcome in done)
    good = sum(map(slo.met_by, outcomes))
    per_s = 1 / duration if duration > 0 else 0.0
    said = {o.error: o.message for o in reversed(outcomes) if o.error and o.message}
    return Summary(
        model=model,
        requests=len(outcomes),
        completed=len(done),
        errors=dict(Counter(o.error or "no token" for o in outcomes if not o.completed)),
        messages=said,
        duration_s=duration,
        input_tokens=taken,
        output_tokens=given,
        requests_per_s=len(done) * per_s,
        input_tokens_per_s=taken * per_s,
        output_tokens_per_s=given * per_s,
        slo_share=good / max(1, len(outcomes)),
        goodput_req_per_s=good * per_s,
        most_concurrent=concurrency(outcomes)[1],
        ttft_s=Spread.of(o.ttft_s for o in done),
        tpot_s=Spread.of(o.tpot_s for o in done),
        itl_s=Spread.of(float(gap) for o in done for gap in np.diff(o.tokens_at)),
        latency_s=Spread.of(o.latency_s for o in done),
        late_s=Spread.of(max(0.0, o.sent - o.due) for o in outcomes),
        routes=_by_route(done),
    )


def concurrency(outcomes: Sequence[Outcome]) -> tuple[list[tuple[float, int]], int]:
    """How many requests were under way: (time, from then on), and the most there were."""
    changes = [(o.sent, 1) for o in outcomes]
    changes += [(o.ended, -1) for o in outcomes if o.ended is not None]
    found, now, most = [], 0, 0
    for at, change in sorted(changes):
        now += change
        most = max(most, now)
        found.append((at, now))
    return found, most


def _by_route(done: Sequence[Outcome]) -> dict[str, RouteSummary]:
    routes: dict[str, list[Outcome]] = {}
    for outcome in done:
        if outcome.route is not None:
            routes.setdefault(outcome.route or NO_ROUTE, []).append(outcome)
    return {
        route: RouteSummary(
            len(some),
            sum(o.prompt_tokens for o in some) / len(some),
            Spread.of(o.ttft_s for o in some),
        )
        for route, some in sorted(routes.items())
    }
