"""Roles change while everything runs: an engine is drained before it turns to prefill.

A prefill engine that is to decode takes answers at once, beside the prefills it still has. A decode
engine that is to prefill takes no new answers; its role changes when nothing is assigned to it any
more. The last decode engine of a cluster stays one.

In a *dry run* what policies call for is told and not done: once, and again when it is something
else or a minute has passed.
"""

from __future__ import annotations

from math import inf
from typing import Literal

from prfaas.core.deployment import EngineRole
from prfaas.policies.api import RoleChange
from prfaas.scheduler.commands import ChangeRole
from prfaas.scheduler.decoding import Decoding
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.state import ClusterState, EngineState

_REMINDER_S = 60.0
"""So often a dry run says the same again: seen in a log, and not all that is in it."""


class Roles:
    """Carries out what policies call for; ``mode``: of `SchedulerConfig.roles`."""

    def __init__(
        self,
        requests: Requests,
        fleet: FleetState,
        decoding: Decoding,
        *,
        mode: Literal["live", "dry-run", "fixed"],
    ) -> None:
        self._mode = mode
        self._told: dict[str, tuple[EngineRole, str, float]] = {}
        """Cluster -> what a dry run has said last, why and when."""
        self._requests = requests
        self._fleet = fleet
        self._decoding = decoding
        self._reasons: dict[str, str] = {}
        """Why an engine is drained."""

    def change(self, change: RoleChange) -> None:
        """Begin or take back a change. One that the engine cannot make is ignored."""
        engine = self._fleet.engines[change.engine]
        if not engine.changes_role or self._mode == "fixed":
            return
        if self._mode == "dry-run":
            self._tell(engine, change)
        elif change.role == "decode":
            self._decode(engine, change.reason)
        elif engine in engine.place.decode_engines and len(engine.place.decode_engines) > 1:
            self._drain(engine, change.reason)

    def settle(self) -> None:
        """Let those that are drained prefill. To be called when a request has moved."""
        for engine in list(self._fleet.draining):
            if not engine.assigned:
                self._fleet.draining.remove(engine)
                engine.draining = False
                engine.changed()
                self._become(engine, "prefill", self._reasons.pop(engine.name))

    def keep(self, cluster: ClusterState) -> None:
        """No other decode engine of ``cluster`` is up: those that drain go on decoding."""
        for engine in [e for e in self._fleet.draining if e.place is cluster]:
            self._stop_draining(engine)
            self._decoding.fill_slots(engine)

    def _tell(self, engine: EngineState, change: RoleChange) -> None:
        now = self._requests.now
        role, why, at = self._told.get(engine.cluster, (change.role, "", -inf))
        if (role, why) != (change.role, change.reason) or now >= at + _REMINDER_S:
            self._told[engine.cluster] = (change.role, change.reason, now)
            self._requests.out.append(ChangeRole(engine.name, change.role, change.reason, True))

    def _decode(self, engine: EngineState, reason: str) -> None:
        if engine.draining:
            self._stop_draining(engine)
        elif engine.role == "prefill":
            self._become(engine, "decode", reason)
        else:
            return
        self._decoding.fill_slots(engine)

    def _drain(self, engine: EngineState, reason: str) -> None:
        engine.draining = True
        engine.changed()
        self._fleet.draining.append(engine)
        self._reasons[engine.name] = reason
        engine.place.sort_roles()

    def _stop_draining(self, engine: EngineState) -> None:
        engine.draining = False
        engine.changed()
        self._fleet.draining.remove(engine)
        del self._reasons[engine.name]
        engine.place.sort_roles()

    def _become(self, engine: EngineState, role: EngineRole, reason: str) -> None:
        engine.role = role
        engine.changed()
        engine.place.sort_roles()
        self._fleet.pairing.role_changed()
        self._requests.out.append(ChangeRole(engine.name, role, reason))
