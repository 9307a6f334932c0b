"""The scheduler's parts put together: who uses whom, and which method each action of the table
is."""

from __future__ import annotations

from typing import NamedTuple

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.api import Policy
from prfaas.policies.views import Costs, PrefillLearner
from prfaas.scheduler.decoding import Decoding
from prfaas.scheduler.ending import Ending
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.lifecycle import Action
from prfaas.scheduler.prefilling import Prefilling
from prfaas.scheduler.requests import Handler, Requests
from prfaas.scheduler.reservations import Reservations
from prfaas.scheduler.routing import Routing


class Parts(NamedTuple):
    """What the scheduler itself calls; the rest is reached through the table."""

    routing: Routing
    decoding: Decoding
    reservations: Reservations


def assemble(
    requests: Requests,
    fleet: FleetState,
    policy: Policy,
    config: SchedulerConfig,
    *,
    costs: Costs,
    learner: PrefillLearner | None,
) -> Parts:
    """Build every part and bind the actions of the table to them."""
    reservations = Reservations(requests, costs, learner)
    decoding = Decoding(requests, reservations, fleet, packs=policy.packs_decode)
    ending = Ending(requests, reservations, decoding)
    prefilling = Prefilling(
        requests, reservations, fleet, learner=learner, stall_s=config.transfer_stall_s
    )
    routing = Routing(
        requests,
        reservations,
        fleet,
        policy,
        config,
        costs,
        prefilling=prefilling,
        decoding=decoding,
        ending=ending,
    )
    fleet.threshold_of = getattr(policy, "threshold_tokens", fleet.threshold_of)
    requests.bind(_handlers(routing, prefilling, decoding, ending))
    return Parts(routing, decoding, reservations)


def _handlers(
    routing: Routing, prefilling: Prefilling, decoding: Decoding, ending: Ending
) -> dict[Action, Handler]:
    """What each action of the transition table is."""
    return {
        Action.ROUTE: routing.route,
        Action.REROUTE: routing.reroute,
        Action.START_PREFILL: prefilling.start_prefill,
        Action.PREFILLED: prefilling.prefilled,
        Action.PREFILLED_LAST: routing.prefilled_last,
        Action.STALLED: routing.stalled,
        Action.WATCH_TRANSFER: routing.watch_transfer,
        Action.RECEIVED: prefilling.received,
        Action.MAKE_READY: routing.make_ready,
        Action.START_DECODE: decoding.start_decode,
        Action.STREAMING: decoding.streaming,
        Action.COMPLETE: decoding.complete,
        Action.RETRY_DECODE: routing.retry_decode,
        Action.HEDGE_DECODE: routing.hedge_decode,
        Action.PREFILL_LATE: routing.prefill_late,
        Action.CANCEL: ending.cancel,
        Action.FAIL_DEADLINE: ending.fail_deadline,
        Action.FAIL_UNAVAILABLE: ending.fail_unavailable,
        Action.FAIL_ENGINE: ending.fail_engine,
    }
