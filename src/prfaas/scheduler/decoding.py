"""Decode slots: which engine can use what a request has, who gets the next free slot, who waits.

A hand-off lies in the memory of one machine, laid out for the engine it was made for, and one that
begins at token *a* can be used only where the first *a* tokens are cached; a request without a
hand-off can be answered by whichever engine serves its model. Where no decode engine is up that
does, prefill engines of PD clusters stand in.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from prfaas.policies.api import Route
from prfaas.scheduler import hedging
from prfaas.scheduler.commands import CancelDecode, StartDecode
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.lifecycle import State, Trigger
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.reservations import Reservations
from prfaas.scheduler.state import ClusterState, EngineState, Hedge, Record


class Decoding:
    """``packs``: prefilled requests fill the fullest engine first (`Policy.packs_decode`)."""

    def __init__(
        self, requests: Requests, reservations: Reservations, fleet: FleetState, *, packs: bool
    ) -> None:
        self._requests = requests
        self._reservations = reservations
        self._fleet = fleet
        self._packs = packs

    def take_slot(self, record: Record) -> bool:
        """Nothing is missing but a slot: take one, or wait in line. False: no engine that is up can
        use what this request has."""
        engine = record.decode
        assert engine is not None
        if record.state is State.READY:
            engine.place.ready.drop(record.request_id)
        if record.route is not Route.DIRECT:
            self._reservations.release_prefill(record, done=True)
            self._reservations.release_link(record, arrived=True)
        if self._takes_assigned(record, engine):
            self.start_decode(record, "")
            return True
        free = self._free_decode_engine(record)
        usable = [] if free is not None else self.usable_engines(record)
        if usable:  # Prefill engines that stand in may be among them.
            free = self._free_engine(record, usable)
        if free is not None:
            self._reservations.assign(record, free)
            self.start_decode(record, "")
            return True
        if usable:
            self._wait(record, engine if engine in usable else usable[0])
            for other in usable:  # Where it was held back it may be the next in line.
                self.fill_slots(other)
        return bool(usable)

    def start_decode(self, record: Record, _why: str) -> None:
        """Begin the answer on the engine it is assigned to, which has a free slot."""
        engine = record.decode
        assert engine is not None
        self._requests.move(record, State.DECODING)
        engine.take_slot(record)
        self._tell_to_decode(record, engine)

    def ask_as_well(self, record: Record, why: str) -> bool:
        """Have another engine that has a free slot decode beside the first; False if none has."""
        others = [e for e in self.usable_engines(record) if e is not record.decode]
        second = self._free_engine(record, [e for e in others if e.name not in record.failed])
        if second is None:
            return False
        self._reservations.release_prefill(record, done=False)
        hedging.begin(record, second)
        record.reason = f"{record.reason}; {second.name} asked as well: {why}"
        self._tell_to_decode(record, second)
        return True

    def keep_first(self, record: Record) -> None:
        """Of two that are at it the one that was asked first goes on alone."""
        self._reservations.release_prefill(record, done=False)
        self._end_other(record, hedging.forget_second(record))

    def keep_second(self, record: Record) -> None:
        """Of two the one that was asked last; nothing where there is one."""
        if record.hedge is not None:
            self._end_other(record, hedging.forget_first(record))

    def of_first(self, record: Record, trigger: Trigger) -> None:
        """News of the attempt that was made first, while another was made beside it."""
        if trigger is Trigger.DECODE_FAILED:
            self.keep_second(record)
        elif trigger in (Trigger.FIRST_TOKEN, Trigger.REQUEST_COMPLETED):
            self.keep_first(record)
            self._requests.trigger(record, trigger, "")

    def lose_first(self, record: Record, engine: EngineState) -> None:
        """``engine`` is gone: if it was asked first, the other goes on."""
        if record.hedge is not None and record.hedge.engine is engine:
            self.keep_second(record)

    def _end_other(self, record: Record, other: Hedge) -> None:
        record.failed |= {other.engine.name}
        self._requests.out.append(CancelDecode(record.request_id, other.attempt, other.engine.name))
        self.fill_slots(other.engine)

    def _tell_to_decode(self, record: Record, engine: EngineState) -> None:
        record.asked_at = self._requests.now
        if record.route is Route.DIRECT:
            self._reservations.book_prefill(record, engine)
        self._requests.out.append(
            StartDecode(
                record.request_id,
                record.attempt,
                engine.name,
                record.transfer_id,
                record.from_token,
                record.to_token,
                record.route,
                record.reason,
            )
        )

    def fill_slots(self, engine: EngineState) -> None:
        """A slot of ``engine`` may be free: start whoever waits for one, in order; those of its own
        cluster first, then those of others that need no hand-off."""
        while engine.running < engine.max_requests:
            record = self._next_in_line(engine)
            if record is None or not engine.has_slot(record):
                return
            _place_of(record).ready.serve(record)
            self._reservations.assign(record, engine)
            self._requests.trigger(record, Trigger.SLOT_FREED, "")

    def fill_all(self) -> None:
        """An engine is usable no more. To who waits for it what is free may be all that is left:
        an engine that has failed it, or a prefill engine in its stead. Nothing ends on those."""
        clusters = self._fleet.pd_clusters
        if any(cluster.ready for cluster in clusters):
            for engine in [e for cluster in clusters for e in cluster.engines if e.up]:
                self.fill_slots(engine)

    def streaming(self, record: Record, _why: str) -> None:
        """The client has its first token."""
        self.keep_second(record)
        self._requests.move(record, State.STREAMING)
        self._reservations.release_prefill(record, done=True)
        if record.sequences == 1:  # Others may still have to read what was handed over.
            self._reservations.release_memory(record)

    def complete(self, record: Record, _why: str) -> None:
        """The answer is complete: its slot goes to the next in line."""
        self.keep_second(record)
        self._reservations.release_prefill(record, done=True)
        engine = record.decode
        self._reservations.release_memory(record)
        self._reservations.release_decode(record)
        self._requests.move(record, State.COMPLETED)
        if engine is not None:
            engine.place.completed += 1
            self.fill_slots(engine)

    def usable_engines(self, record: Record) -> list[EngineState]:
        """Engines that can use what this request has."""
        clusters = self._reachable(record)
        usable = [e for c in clusters for e in c.decode_engines if self._usable(record, e)]
        if usable or record.route is not Route.DIRECT:
            return usable
        return [e for c in clusters for e in c.engines if self._usable(record, e)]

    def _next_in_line(self, engine: EngineState) -> Record | None:
        for record in engine.place.ready.in_turn():
            if self._usable(record, engine):
                return record
        for cluster in self._fleet.pd_clusters:
            if cluster.ready and cluster is not engine.place:
                for record in cluster.ready.in_turn():
                    if record.route is Route.DIRECT and self._usable(record, engine):
                        return record
        return None

    def _wait(self, record: Record, engine: EngineState) -> None:
        """In line for the slots of the cluster of ``engine``."""
        self._reservations.assign(record, engine)
        if record.state is not State.READY:
            self._requests.move(record, State.READY)
        engine.place.ready.add(record, record.kv_tokens)

    def _takes_assigned(self, record: Record, engine: EngineState) -> bool:
        packs = self._packs and record.route is not Route.DIRECT
        free = self._has_slot(record, engine) and engine.name not in record.failed
        return free and not packs and self._usable(record, engine)

    def _free_decode_engine(self, record: Record) -> EngineState | None:
        """`_free_engine` of the decode engines that can use what this request has."""
        best: EngineState | None = None
        for cluster in self._reachable(record):
            best = self._better(record, cluster.decode_engines, best, check=True)
        return best

    def _free_engine(self, record: Record, usable: list[EngineState]) -> EngineState | None:
        """The least full with a free slot; where the policy packs the fullest, but engines that
        prefill beside their batch last. Near ones come first."""
        return self._better(record, usable, None, check=False)

    def _better(
        self,
        record: Record,
        engines: list[EngineState],
        best: EngineState | None,
        *,
        check: bool,
    ) -> EngineState | None:
        """The first that goes before ``best`` and all others. ``check``: some may not be usable;
        that is asked last, for it takes longest, and a thousand engines are looked at."""
        packs = self._packs and record.route is not Route.DIRECT
        best_class, best_load = 4, inf
        if best is not None:
            best_class, best_load = _class(best, packs=packs), _load(best, packs=packs)
        for engine in engines:
            if engine.running >= engine.max_requests and engine.running:
                continue  # It is full, as many are.
            of_class, load = _class(engine, packs=packs), _load(engine, packs=packs)
            if of_class > best_class or (of_class == best_class and load >= best_load):
                continue
            if self._has_slot(record, engine) and (not check or self._usable(record, engine)):
                best, best_class, best_load = engine, of_class, load
        return best

    def _has_slot(self, record: Record, engine: EngineState) -> bool:
        """Where KV memory is the bound, or who is first in line needs several slots, some may be
        free while others wait: nobody overtakes, or the large ones would never fit."""
        ready = engine.place.ready
        if ready.records:
            first = ready.first()
            if engine.kv_tokens < inf or (first is not None and first.sequences > 1):
                return False
        return engine.has_slot(record)

    def _usable(self, record: Record, engine: EngineState) -> bool:
        """An engine that has failed this request is asked again where no other can be, and not
        since it is free: what fails at once is free at all times, and would get every retry."""
        if engine.name in record.failed and self._has_others(record):
            return False
        return self._can_use(record, engine)

    def _has_others(self, record: Record) -> bool:
        """Whether engines that have not failed this request can use what it has."""
        others = (e for c in self._reachable(record) for e in c.engines)
        return any(e.name not in record.failed and self._can_use(record, e) for e in others)

    def _reachable(self, record: Record) -> Sequence[ClusterState]:
        """A transfer lies on one machine."""
        return self._fleet.pd_clusters if record.route is Route.DIRECT else [_place_of(record)]

    def _can_use(self, record: Record, engine: EngineState) -> bool:
        return (
            (engine.up or (engine.finishes and self._was_promised(record, engine)))
            and record.served_by(engine)
            and engine.name not in record.full
            and (record.route is Route.DIRECT or self._holds_handoff(record, engine))
            and (engine.role == "decode" or self._may_stand_in(record, engine))
            and (not engine.draining or self._is_bound(record, engine))
            and (record.from_token == 0 or record.cached_on(engine) >= record.from_token)
        )

    def _is_bound(self, record: Record, engine: EngineState) -> bool:
        """What may be usable nowhere else is still answered by an engine that changes its role."""
        return record.decode is engine and (record.from_token > 0 or record.serves is not None)

    def _was_promised(self, record: Record, engine: EngineState) -> bool:
        """What was handed over to a cordoned engine is still answered by it."""
        return record.decode is engine and record.route is not Route.DIRECT

    def _holds_handoff(self, record: Record, engine: EngineState) -> bool:
        """Whether ``engine`` can read what was, or is to be, handed over for this request."""
        assert record.decode is not None
        return engine.takes_handoffs and self._fleet.pairing.alike(record.decode, engine)

    def _may_stand_in(self, record: Record, engine: EngineState) -> bool:
        """Once assigned to a stand-in it may stay, whatever comes up meanwhile."""
        return record.route is Route.DIRECT and (
            record.decode is engine or self._fleet.stands_in(engine, record)
        )


def _place_of(record: Record) -> ClusterState:
    assert record.decode is not None
    return record.decode.place


def _class(engine: EngineState, *, packs: bool) -> int:
    """A lower one goes first."""
    found = 1 if packs and engine.prefills > 0 else 0
    return found + 2 if engine.place.far else found


def _load(engine: EngineState, *, packs: bool) -> float:
    load = engine.running / engine.max_requests
    return -load if packs else load
