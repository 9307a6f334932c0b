"""Engines, lines, roles, refusals."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.errors import CallerError, ConfigError, InvariantError
from prfaas.policies.api import RoleChange, Route, View
from prfaas.policies.homogeneous import HomogeneousConfig, HomogeneousPolicy
from prfaas.policies.registry import make_policy
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.testing.scheduler_driver import LONG, Driver, topology


def test_prefill_engine_down_moves_its_requests_and_is_not_chosen_again() -> None:
    drive = Driver()
    drive.arrive(LONG)
    assert drive(e.EngineDown("east-1", "exit 9"))[-1].route is Route.PD_P
    [other] = drive.arrive(LONG, "s")
    assert other.route is Route.PD_P
    assert "no PrfaaS engine in reach" in other.reason
    drive(e.EngineUp("east-1"))
    assert drive.arrive(LONG, "t")[0].route is Route.OFFLOAD


def test_dead_line_moves_requests_after_its_grace_only() -> None:
    drive = Driver()
    drive.arrive(LONG)
    assert drive(e.LinkStateChanged("east", "west", up=False), at=1.0) == []
    assert drive.arrive(LONG, "s")[0].route is Route.PD_P
    drive(e.LinkStateChanged("east", "west", up=True), at=1.5)
    assert drive.alarm() == []
    drive(e.LinkStateChanged("east", "west", up=False), at=10.0)
    assert drive.alarm()[-1].route is Route.PD_P


class AlwaysPrefill(HomogeneousPolicy):
    period_s = 1.0

    def adjust(self, view: View, *, now: float) -> list[RoleChange]:
        return [RoleChange(e.name, "prefill", "why not") for e in view.engines.values()]


@pytest.mark.parametrize("changes_role", [False, True])
def test_an_engine_changes_its_role_only_if_it_can(changes_role: bool) -> None:
    topo = topology(decodes=2)
    engines = [msgspec.structs.replace(x, changes_role=changes_role) for x in topo.engines]
    topo = msgspec.structs.replace(topo, engines=tuple(engines))
    drive = Driver(topo, policy=AlwaysPrefill(HomogeneousConfig()))
    drive(e.TimerFired())
    out = drive(e.TimerFired(), at=1.0)
    changed = [command.engine for command in out if isinstance(command, c.ChangeRole)]
    assert changed == (["west-d0"] if changes_role else [])


def test_refusals() -> None:
    drive = Driver()
    drive.arrive(LONG)
    with pytest.raises(CallerError, match="in use"):
        drive.arrive(LONG)
    with pytest.raises(CallerError, match="unknown engine 'x'"):
        drive(e.EngineUp("x"))
    with pytest.raises(InvariantError, match="backwards"):
        drive(e.TimerFired(), at=-1.0)
    with pytest.raises(ConfigError, match=r"Known: .*threshold"):
        make_policy(SchedulerConfig(policy="best"))
