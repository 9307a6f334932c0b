"""Engines come up, fall ill, die, are cordoned and drained.

Theory of operation. Whether an engine gets new work follows from two things that know nothing of
each other: whether it answers (`EngineUp`, `EngineSuspected`, `EngineDown`) and whether an operator
has cordoned it (`EngineCordoned`, `EngineUncordoned`). A cordoned engine finishes what runs on it
and what was promised to it: answers whose KV cache is on its way to it already. What only waits for
it goes elsewhere. Once nothing is left the driver is told (`ReportDrained`), once per cordon.
"""

from __future__ import annotations

from prfaas.core.errors import CallerError
from prfaas.policies.api import RoleChange, Route
from prfaas.scheduler.commands import ReportDrained
from prfaas.scheduler.decoding import Decoding
from prfaas.scheduler.events import (
    EngineCordoned,
    EngineDown,
    EngineSuspected,
    EngineUncordoned,
    EngineUp,
    KvMemoryKnown,
)
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.lifecycle import State, Trigger
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.roles import Roles
from prfaas.scheduler.routing import Routing
from prfaas.scheduler.state import EngineState, Record


class Membership:
    """What becomes of requests where an engine comes or goes. Every method raises CallerError for
    an engine that is not known."""

    def __init__(
        self,
        requests: Requests,
        fleet: FleetState,
        *,
        routing: Routing,
        decoding: Decoding,
        roles: Roles,
    ) -> None:
        self._requests = requests
        self._fleet = fleet
        self._routing = routing
        self._decoding = decoding
        self._roles = roles

    def up(self, event: EngineUp) -> None:
        """It answers (again), or its agent does."""
        engine = self.engine(event.engine)
        self._able(engine, event)
        if engine.answers:
            return
        if engine.suspected:
            engine.suspected = False
        else:
            engine.came_up(self._requests.now)
            for record in self._requests.records.values():
                record.failed -= {engine.name}  # It has begun anew.
        engine.set_usable(answers=True)
        self._offer(engine)

    def kv_memory(self, event: KvMemoryKnown) -> None:
        """It has said how much it holds."""
        engine = self.engine(event.engine)
        engine.set_kv_memory(event.tokens, event.tokens_each)
        if engine.answers:
            self._decoding.fill_slots(engine)

    def _able(self, engine: EngineState, event: EngineUp) -> None:
        """What of its work it can do."""
        changes_role = engine.may_change_role and event.changes_role
        if not changes_role and engine.role != engine.configured_role:
            why = "its KV layout is not that of its cluster"
            self._roles.change(RoleChange(engine.name, engine.configured_role, why))
        engine.changes_role = changes_role
        engine.changed()
        if engine.takes_handoffs == event.takes_handoffs:
            return
        engine.takes_handoffs = event.takes_handoffs
        engine.changed()
        engine.place.sort_roles()
        if not event.takes_handoffs:
            why = f"the agent of {engine.name} is away"
            self._requests.trigger_each(engine.waiting.records, Trigger.PREFILL_ENGINE_LOST, why)

    def suspected(self, event: EngineSuspected) -> None:
        """It may be failing."""
        engine = self.engine(event.engine)
        if not engine.answers:
            return
        engine.suspected = True
        engine.set_usable(answers=False)
        why = f"engine {engine.name} is suspected: {event.reason}"
        self._requests.trigger_each(engine.waiting.records, Trigger.PREFILL_ENGINE_LOST, why)
        self._keep_roles(engine)
        self._decoding.fill_all()

    def down(self, event: EngineDown) -> None:
        """It is gone, and with it all that it was working on."""
        engine = self.engine(event.engine)
        if not engine.answers and not engine.suspected:
            return
        engine.suspected = False
        engine.set_usable(answers=False)
        why = f"engine {engine.name} lost: {event.reason}"
        for record in (*engine.prefill_records.values(), *engine.decode_records.values()):
            record.engines_lost += _computes(engine, record)
            self._decoding.lose_first(record, engine)
        self._requests.trigger_each(engine.prefill_records, Trigger.PREFILL_ENGINE_LOST, why)
        self._requests.trigger_each(engine.decode_records, Trigger.DECODE_ENGINE_LOST, why)
        self._keep_roles(engine)
        if engine.role == "decode":
            self._lose_machine(engine, why)
        self._decoding.fill_all()

    def _lose_machine(self, engine: EngineState, why: str) -> None:
        """A decode engine is gone. What was handed over to its machine can be used there only: by
        those beside it that serve the request."""
        beside = [e for e in engine.place.engines if self._fleet.pairing.alike(e, engine)]
        left = [e for e in beside if _decodes(e)]
        for other in beside:
            if not other.finishes:
                lost = {
                    name: record
                    for name, record in other.decode_records.items()
                    if not any(record.served_by(e) for e in left)
                }
                self._requests.trigger_each(lost, Trigger.DECODE_CLUSTER_LOST, why)

    def cordoned(self, event: EngineCordoned) -> None:
        """It is to take no more. Said again it only has another reason."""
        engine = self.engine(event.engine)
        if engine.cordon is not None:
            return
        engine.cordon = event.reason
        engine.set_usable(answers=engine.answers)
        self._fleet.cordoned.append(engine)
        why = f"engine {engine.name} drains: {event.reason}"
        self._requests.trigger_each(engine.waiting.records, Trigger.ENGINE_CORDONED, why)
        waits = {
            record.request_id: record
            for record in engine.decode_records.values()
            if record.state is State.WAITING
            or (record.state is State.READY and record.route is Route.DIRECT)
        }
        self._requests.trigger_each(waits, Trigger.ENGINE_CORDONED, why)
        self._keep_roles(engine)
        self._decoding.fill_all()

    def uncordoned(self, event: EngineUncordoned) -> None:
        """It takes work again."""
        engine = self.engine(event.engine)
        if engine.cordon is None:
            return
        engine.cordon = None
        engine.set_usable(answers=engine.answers)
        self._fleet.cordoned.remove(engine)
        if engine.answers:
            self._offer(engine)

    def settle(self) -> None:
        """Tell of engines that have nothing left. To be called when a request has moved."""
        for engine in self._fleet.cordoned:
            if not engine.told_drained and engine.idle:
                engine.told_drained = True
                engine.changed()
                self._requests.out.append(ReportDrained(engine.name))

    def engine(self, name: str) -> EngineState:
        """The engine of that name."""
        engine = self._fleet.engines.get(name)
        if engine is None:
            raise CallerError(f"unknown engine {name!r}; known: {', '.join(self._fleet.engines)}")
        return engine

    def _offer(self, engine: EngineState) -> None:
        """Give it what waits for an engine: to decode, or to be answered in a decode engine's
        stead."""
        if not engine.place.prfaas:
            self._routing.unpark(engine)
            self._decoding.fill_slots(engine)

    def _keep_roles(self, engine: EngineState) -> None:
        if _last_decoder(engine):
            self._roles.keep(engine.place)


def _computes(engine: EngineState, record: Record) -> bool:
    """Whether it is at work on the request now, before the first token."""
    if record.state is State.PREFILLING:
        return record.prefill is engine
    first = record.hedge is not None and record.hedge.engine is engine
    return record.state is State.DECODING and (first or record.decode is engine)


def _decodes(engine: EngineState) -> bool:
    """Whether it may be given answers."""
    return engine.up and engine.role == "decode" and not engine.draining


def _last_decoder(gone: EngineState) -> bool:
    """Whether its cluster has no decode engine left that may be given work."""
    return gone.role == "decode" and not any(e.up for e in gone.place.decode_engines)
