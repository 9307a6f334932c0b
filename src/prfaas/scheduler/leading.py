"""What is decided now and then, for all requests: roles and thresholds, by this scheduler or
another.

Theory of operation. Several gateways that each move engines from role to role would move too many,
and thresholds of their own would send unlike prompts over one line. So one of them leads; the
others look at queues and lines as it does, so that they can go on where it ends, and do what it has
decided.
"""

from __future__ import annotations

from prfaas.core.gateway_sessions import Decided
from prfaas.policies.api import MovesThresholds, Policy, RoleChange
from prfaas.scheduler.events import DecisionsTold, LeadBegun
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.membership import Membership
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.roles import Roles

_TOLD = "the gateway that leads has decided so"


class Leading:
    """Decides roles and thresholds until it is told that another scheduler leads."""

    def __init__(
        self,
        requests: Requests,
        fleet: FleetState,
        policy: Policy,
        *,
        membership: Membership,
        roles: Roles,
    ) -> None:
        self._requests = requests
        self._fleet = fleet
        self._policy = policy
        self._membership = membership
        self._roles = roles
        self._told: DecisionsTold | None = None

    @property
    def decided(self) -> Decided:
        """As it stands here."""
        roles = {}
        for name, engine in self._fleet.engines.items():
            role = "prefill" if engine.draining else engine.role
            if role != engine.configured_role:
                roles[name] = role
        policy = self._policy
        thresholds = policy.thresholds() if isinstance(policy, MovesThresholds) else {}
        return Decided(roles=roles, thresholds=thresholds)

    def adjust(self) -> None:
        """It is time to look at everything."""
        changes = self._policy.adjust(self._fleet, now=self._requests.now)
        if self._told is not None:
            self._follow(self._told)
            return
        for change in changes:
            self._membership.engine(change.engine)
            self._roles.change(change)

    def told(self, event: DecisionsTold) -> None:
        """Another leads."""
        self._told = event
        self._follow(event)

    def begun(self, _event: LeadBegun) -> None:
        """From now on this one decides, from where things stand. Where its policy changes nothing,
        engines have again the roles of the deployment file."""
        if self._policy.period_s is None:
            self._follow(DecisionsTold())
        self._told = None

    def _follow(self, told: DecisionsTold) -> None:
        if isinstance(self._policy, MovesThresholds):
            self._policy.follow(told.thresholds)
        for name, engine in self._fleet.engines.items():
            role = told.roles.get(name, engine.configured_role)
            if role != ("prefill" if engine.draining else engine.role):
                self._roles.change(RoleChange(name, role, _TOLD))
