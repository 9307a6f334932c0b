"""Clusters, engines and lines join and leave while requests run."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.errors import CallerError
from prfaas.models.kv_size import KvSize
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.journal import CostInputs, JournalOpened
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.replay import scheduler_from
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology

EAST, WEST, SOUTH = (
    ClusterSpec("east", "prfaas"),
    ClusterSpec("west", "pd"),
    ClusterSpec("south", "pd"),
)
E1 = EngineSpec("e1", "east", "prefill", 1)
D1, D2 = (EngineSpec(name, "west", "decode", 1, up=False) for name in ("d1", "d2"))
X1 = EngineSpec("x1", "south", "decode", 1, up=False)
LINE = LinkSpec("east", "west", 1e6)


def topology(
    *engines: EngineSpec,
    clusters: tuple[ClusterSpec, ...] = (EAST, WEST),
    links: tuple[LinkSpec, ...] = (LINE,),
) -> Topology:
    return Topology(clusters, engines, links, alignment_tokens=4)


class Harness:
    """e1 before d1, which is up."""

    def __init__(self) -> None:
        self.scheduler = scheduler_from(
            JournalOpened(
                driver="simulator",
                unix_time=None,
                topology=topology(E1, D1),
                scheduler=SchedulerConfig(policy="threshold", threshold=50),
                costs=CostInputs(kv_size=KvSize(0.0, 1.0)),
            )
        )
        self(e.EngineUp("d1"))

    def __call__(self, event: e.AnyEvent) -> list[c.AnyCommand]:
        commands = self.scheduler.handle(event, now=0.0)
        self.scheduler.check_integrity()
        return [command for command in commands if not isinstance(command, c.SetTimer)]

    def become(self, *engines: EngineSpec, **parts: tuple[object, ...]) -> list[c.AnyCommand]:
        return self(e.TopologyChanged(topology(*engines, **parts)))  # type: ignore[arg-type]

    @property
    def engines(self) -> set[str]:
        return set(self.scheduler.view.engines)


def test_an_engine_joins_and_takes_what_waits() -> None:
    h = Harness()
    h(e.RequestArrived("a", 8, 9))
    assert h(e.RequestArrived("b", 8, 9)) == []
    assert h.become(E1, D1, D2) == []
    (start,) = h(e.EngineUp("d2"))
    assert isinstance(start, c.StartDecode)
    assert (start.request_id, start.engine) == ("b", "d2")


def test_an_engine_leaves_when_it_has_answered() -> None:
    h = Harness()
    h(e.RequestArrived("a", 8, 9))
    assert h.become(E1, D2) == []
    assert h.engines == {"e1", "d1", "d2"}
    assert h(e.RequestCompleted("a", 1)) == [c.ReportDrained("d1")]
    assert h.engines == {"e1", "d2"}
    with pytest.raises(CallerError, match="unknown engine 'd1'"):
        h(e.EngineUp("d1"))


def test_a_prefill_engine_that_leaves_still_teaches() -> None:
    h = Harness()
    h(e.RequestArrived("a", 100, 9))
    h.become(D1)
    h(e.PrefillCompleted("a", 1))
    assert h.engines == {"d1"}
    (start,) = h(e.TransferCompleted("a", 1))
    assert isinstance(start, c.StartDecode)


def test_an_engine_that_is_named_again_stays() -> None:
    h = Harness()
    h(e.RequestArrived("a", 8, 9))
    h.become(E1, D2)
    h.become(E1, D1, D2)
    assert h(e.RequestCompleted("a", 1)) == []
    (start,) = h(e.RequestArrived("b", 8, 9))
    assert isinstance(start, c.StartDecode)
    assert start.engine == "d1"


def test_a_cordon_stays_with_an_engine_that_is_named_again() -> None:
    h = Harness()
    h(e.RequestArrived("a", 8, 9))
    h(e.EngineCordoned("d1", "an operator asked for it"))
    h.become(E1, D2)
    h.become(E1, D1, D2)
    assert h(e.RequestCompleted("a", 1)) == [c.ReportDrained("d1")]
    assert h.engines == {"e1", "d1", "d2"}


def test_clusters_come_and_go_with_their_engines() -> None:
    h = Harness()
    h.become(E1, D1, X1, clusters=(EAST, WEST, SOUTH))
    h(e.EngineUp("x1"))
    h(e.RequestArrived("a", 8, 9)), h(e.RequestArrived("b", 8, 9))
    assert [cluster.name for cluster in h.scheduler.view.pd_clusters] == ["west", "south"]
    h.become(E1, X1, clusters=(EAST, SOUTH), links=())
    h(e.RequestCompleted("a", 1)), h(e.RequestCompleted("b", 1))
    assert [cluster.name for cluster in h.scheduler.view.pd_clusters] == ["south"]
    assert h.scheduler.view.link("east", "west") is None


def test_a_line_that_leaves_is_lost_at_once() -> None:
    h = Harness()
    h(e.RequestArrived("a", 100, 9))
    commands = h.become(E1, D1, links=())
    assert [type(command) for command in commands] == [
        c.CancelPrefill,
        c.CancelTransfer,
        c.StartDecode,
    ]
    assert h.scheduler.state("a") is State.DECODING


def test_a_line_gets_another_rate() -> None:
    h = Harness()
    line = h.scheduler.view.link("east", "west")
    assert line is not None
    h.become(E1, D1, links=(LinkSpec("east", "west", 5e6),))
    assert line.rate_bytes_per_s == 5e6
    h(e.LinkStateChanged("east", "west", up=True, rate_bytes_per_s=2e6))
    h.become(E1, D1, links=(LinkSpec("east", "west", 4e6),))
    assert line.rate_bytes_per_s == 2e6
    h.become(E1, D1, links=(LinkSpec("east", "west", 1e6),))
    assert line.rate_bytes_per_s == 1e6


def test_more_slots_are_filled_and_fewer_are_waited_for() -> None:
    h = Harness()
    h(e.RequestArrived("a", 8, 9)), h(e.RequestArrived("b", 8, 9))
    two = EngineSpec("d1", "west", "decode", 2)
    (start,) = h.become(E1, two)
    assert isinstance(start, c.StartDecode)
    h.become(E1, D1)
    h(e.RequestArrived("c", 8, 9))
    assert h(e.RequestCompleted("a", 1)) == []
    (start,) = h(e.RequestCompleted("b", 1))
    assert isinstance(start, c.StartDecode)


@pytest.mark.parametrize(
    "other",
    [
        EngineSpec("d1", "east", "decode", 1),
        EngineSpec("d1", "west", "prefill", 1),
        EngineSpec("d1", "west", "decode", 1, machine="west-2"),
    ],
)
def test_an_engine_is_not_another_under_its_name(other: EngineSpec) -> None:
    h = Harness()
    with pytest.raises(CallerError, match="engine 'd1' cannot change"):
        h.become(D2, other)
    assert h.engines == {"e1", "d1"}
