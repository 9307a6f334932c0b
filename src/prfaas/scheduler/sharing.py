"""Engines that other gateways use as well: what of them this scheduler may take, what it has.

Theory of operation. Who lends engines out (the agents) says how many slots and prefill places of
each may be taken: to all that decides here an engine is as large as that. What others have queued
counts as work ahead of one's own. How long a prefill took says nothing of the engine where others'
were beside it, so such prefills are not learned from.
"""

from __future__ import annotations

from math import inf

from prfaas.core.gateway_sessions import MOST_COUNTED, MOST_KV_TOKENS, EngineUse, Use
from prfaas.scheduler.decoding import Decoding
from prfaas.scheduler.events import EngineShared
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.membership import Membership
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.reservations import Reservations


class Sharing:
    """Keeps the shares that this scheduler has of all engines."""

    def __init__(
        self,
        requests: Requests,
        fleet: FleetState,
        membership: Membership,
        reservations: Reservations,
        decoding: Decoding,
    ) -> None:
        self._requests = requests
        self._fleet = fleet
        self._membership = membership
        self._reservations = reservations
        self._decoding = decoding

    def shared(self, event: EngineShared) -> None:
        """More or less of it may be taken than before. It may have left meanwhile."""
        engine = self._fleet.engines.get(event.engine)
        if engine is None:
            return
        share, now = engine.share, self._requests.now
        more_slots = event.slots > engine.max_requests
        more_prefills = event.prefills > engine.max_prefills
        share.slots, share.prefills = event.slots, event.prefills
        share.others_kv = event.others_kv_tokens
        share.others_s, share.told_at = event.others_queued_s, now
        if event.others_prefills:
            share.contested_at = now
        engine.bound()
        if engine.answers:
            if more_slots:
                self._decoding.fill_slots(engine)
            if more_prefills:
                self._reservations.start_waiting(engine)

    def use_of(self, name: str) -> EngineUse:
        """What is outstanding at an engine, for those who share it. Raises CallerError for one that
        is not known."""
        engine = self._membership.engine(name)
        active = len(engine.prefill_records) - len(engine.waiting)
        return EngineUse(
            decode=Use(
                total=_told(engine.all_requests),
                held=_told(engine.running),
                wanted=_told(engine.running + len(engine.place.ready)),
                may=_told(engine.max_requests),
            ),
            prefill=Use(
                total=_told(engine.all_prefills),
                held=_told(active),
                wanted=_told(len(engine.prefill_records)),
                may=_told(engine.max_prefills),
            ),
            queued_s=min(engine.queued_s, 1e9) if engine.queued_s < inf else 1e9,
            kv_tokens=min(engine.kv_used, MOST_KV_TOKENS),
            begun=engine.share.begun,
        )


def _told(number: int) -> int:
    """As agents understand it: they refuse a larger one, and all that comes with it."""
    return min(number, MOST_COUNTED)
