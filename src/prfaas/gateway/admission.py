"""Whether a request is begun, by what waits already: one that cannot be served in time is told so
at once."""

from __future__ import annotations

from prfaas.gateway.api_errors import TooManyRequests
from prfaas.gateway.body import RequestBody
from prfaas.gateway.exchange import Exchange
from prfaas.policies.api import View
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.queues import Asker, Queues

_FOR_OTHERS = 8
"""One part in so many of all that may wait is for tenants that have no more than that."""


def slots_of(body: RequestBody, view: View) -> int:
    """How many decode slots a request takes: one for each answer, or all that an engine has."""
    wanted = body.choices * body.prompts
    if wanted == 1:
        return 1
    assert isinstance(view, FleetState)
    return min(wanted, max((engine.all_requests for engine in view.engines.values()), default=1))


def too_late(
    queues: Queues,
    exchange: Exchange,
    sequences: int,
    *,
    by_all: bool,
    longest_wait_s: float,
    most_tokens: int,
) -> TooManyRequests | None:
    """Why a request is not begun; None if it is. ``by_all``: every engine serves it. Tenants wait
    for their own turns: what others have waiting keeps nobody out for longer than it takes to come
    to them."""
    tenant = exchange.use.tenant
    asker = Asker(tenant.name, tenant.config.priority, tenant.config.weight)
    wait_s = queues.slot_wait_s(sequences, asker, by_all=by_all)
    limit_s = min(exchange.time_left_s(), longest_wait_s)
    if wait_s > limit_s:
        message = (
            f"it would wait {wait_s:.0f} s for a place to be answered, and may wait {limit_s:.0f} s"
        )
        return TooManyRequests(message, retry_after_s=wait_s - limit_s)
    tokens, mine = queues.tokens, exchange.facts.total_tokens or 1
    few = most_tokens // _FOR_OTHERS
    if tenant.has_others() and queues.tokens_of[tenant.name] + mine > few:
        most_tokens -= few
    if tokens and tokens + mine > most_tokens:
        message = f"{tokens} prompt tokens wait, and at most {most_tokens} may"
        return TooManyRequests(message, retry_after_s=wait_s)
    return None
