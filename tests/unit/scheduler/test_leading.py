"""One scheduler decides roles and thresholds, others do what it has decided."""

from __future__ import annotations

from collections.abc import Sequence

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.gateway_sessions import Decided
from prfaas.policies.api import Decision, RequestView, RoleChange, View
from prfaas.policies.registry import make_policy
from prfaas.policies.threshold import ThresholdConfig, ThresholdPolicy
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.testing.scheduler_driver import SHORT, Driver, topology


class Wants:
    """A policy that wants ``changes`` at every look, and knows thresholds."""

    name, packs_decode = "wants", False

    def __init__(self) -> None:
        self.period_s: float | None = 1.0
        self.changes: list[RoleChange] = []
        self.known: dict[str, int] = {"west": 5}
        self._routes = ThresholdPolicy(ThresholdConfig(threshold=1024))

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        return self._routes.route(request, view, now=now)

    def adjust(self, view: View, *, now: float) -> Sequence[RoleChange]:
        return self.changes

    def thresholds(self) -> dict[str, int]:
        return dict(self.known)

    def follow(self, thresholds: dict[str, int]) -> None:
        self.known |= thresholds


def roles(commands: list[c.AnyCommand]) -> list[tuple[str, str]]:
    return [(x.engine, x.role) for x in commands if isinstance(x, c.ChangeRole)]


def test_who_leads_tells_what_it_has_decided() -> None:
    policy = Wants()
    driver = Driver(topology(prefills=2, decodes=2), policy=policy)
    driver(e.TimerFired())
    assert driver.scheduler.leading.decided == Decided(thresholds={"west": 5})
    policy.changes = [RoleChange("west-p0", "decode", "answers wait")]
    assert roles(driver(e.TimerFired(), at=2.0)) == [("west-p0", "decode")]
    assert driver.scheduler.leading.decided.roles == {"west-p0": "decode"}


def test_who_follows_does_as_told_and_nothing_of_its_own() -> None:
    policy = Wants()
    driver = Driver(topology(prefills=2, decodes=2), policy=policy)
    driver(e.TimerFired())
    told = e.DecisionsTold({"west-p1": "decode", "gone": "decode"}, {"west": 99})
    assert roles(driver(told, at=1.0)) == [("west-p1", "decode")]
    policy.changes = [RoleChange("west-p0", "decode", "answers wait")]
    policy.known["west"] = 1
    assert roles(driver(e.TimerFired(), at=3.0)) == []
    assert policy.known == {"west": 99}
    # It goes on from there once it leads.
    driver(e.LeadBegun(), at=3.5)
    assert driver.scheduler.leading.decided.roles == {"west-p1": "decode"}
    assert roles(driver(e.TimerFired(), at=4.5)) == [("west-p0", "decode")]


def test_who_leads_and_never_changes_roles_goes_back_to_those_of_the_file() -> None:
    policy = Wants()
    policy.period_s = None
    driver = Driver(topology(prefills=2, decodes=2), policy=policy)
    assert roles(driver(e.DecisionsTold({"west-p1": "decode"}), at=1.0)) == [("west-p1", "decode")]
    assert roles(driver(e.LeadBegun(), at=2.0)) == [("west-p1", "prefill")]
    assert driver.scheduler.leading.decided.roles == {}


def test_a_role_is_taken_back_when_it_is_no_longer_told() -> None:
    driver = Driver(topology(prefills=1, decodes=2), policy=Wants())
    driver.arrive(SHORT, "a")
    assert roles(driver(e.DecisionsTold({"west-d0": "prefill"}), at=1.0)) == []
    assert driver.scheduler.leading.decided.roles == {"west-d0": "prefill"}, "it is turning to it"
    driver(e.DecisionsTold(), at=2.0)
    assert driver.scheduler.leading.decided.roles == {}


def test_adaptive_thresholds_are_followed() -> None:
    driver = Driver(policy=make_policy(SchedulerConfig(policy="adaptive", threshold=1024)))
    driver(e.TimerFired())
    driver(e.DecisionsTold(thresholds={"west": 4000}), at=1.0)
    assert driver.scheduler.leading.decided.thresholds == {"west": 4000}
    assert "offload" not in {x.route for x in driver.arrive(3000, "a") if hasattr(x, "route")}
