"""What a page is told of a journal: requests, news, samples; no more than it has room for."""

from __future__ import annotations

import json

import msgspec

from prfaas.core.deployment import SchedulerConfig
from prfaas.page.recorder import Recorder
from prfaas.page.records import Sample
from prfaas.policies.api import Route
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.journal import CostInputs, JournalOpened, RequestEnded
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology

TOPOLOGY = Topology(
    clusters=(ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
    engines=(
        EngineSpec("e1", "east", "prefill", machine="m1"),
        EngineSpec("d1", "west", "decode", machine="m2"),
    ),
    links=(LinkSpec("east", "west"),),
    alignment_tokens=4,
)
OPENED = JournalOpened(
    driver="gateway",
    unix_time=1000.0,
    topology=TOPOLOGY,
    scheduler=SchedulerConfig(policy="naive"),
    costs=CostInputs(),
)


def recorder() -> Recorder:
    def sample(at: float, of: Recorder) -> Sample:
        number = of.deployed.number
        return Sample(at=at, topology=number, clusters=[], lines=[], engines="", loads="")

    return Recorder(10.0, OPENED, sample)


def kept(of: Recorder, what: str) -> list[dict[str, object]]:
    history = json.loads(msgspec.json.encode(of.history(model="m", policy="naive")))
    return list(history[what])


def ended(request_id: str, *, status: int = 200, rendered_s: float | None = 0.1) -> RequestEnded:
    return RequestEnded(
        request_id=request_id,
        client_request_id="c",
        endpoint="/v1/completions",
        stream=True,
        received_at=11.0,
        rendered_s=rendered_s,
        status=status,
        outcome="ok" if status == 200 else "refused",
    )


def decode(request_id: str) -> c.StartDecode:
    return c.StartDecode(request_id, 1, "d1", None, 0, 0, Route.DIRECT, "why")


def test_a_request_is_live_until_it_has_ended() -> None:
    of = recorder()
    of.take(11.0, e.RequestArrived("r", 100, 5), decode("r"))
    assert [row.request_id for row in of.sampled(11.5).live] == ["r"]
    of.take(12.0, e.FirstToken("r", 1))
    of.take(13.0, e.RequestCompleted("r", 1, 5), ended("r"))
    tick = of.sampled(13.5)
    assert not tick.live
    (row,) = tick.ended
    assert (row.arrived_at, row.first_token_s, row.output_tokens) == (1001.0, 1.0, 5)
    assert not of.sampled(14.0).ended
    assert len(kept(of, "ended")) == 1
    assert [row["at"] for row in kept(of, "samples")] == [1001.5, 1003.5, 1004.0]


def test_a_history_holds_what_ticks_have_told() -> None:
    of = recorder()
    of.take(11.0, e.EngineDown("d1", "gone"), ended("a"))
    assert not kept(of, "ended")
    assert not kept(of, "news")
    of.sampled(12.0)
    assert len(kept(of, "ended")) == len(kept(of, "news")) == 1


def test_only_what_turns_is_news() -> None:
    of = recorder()
    up, down = (e.LinkStateChanged("east", "west", up=state) for state in (True, False))
    of.take(11.0, up, up, e.EngineUp("d1"), e.TimerFired())
    assert not of.sampled(11.0).news
    of.take(12.0, down, down, e.EngineDown("d1", "gone"), e.EngineUp("d1"), e.EngineUp("d1"), up)
    found = [type(item.entry).__name__ for item in of.sampled(12.0).news]
    assert found == ["LinkStateChanged", "EngineDown", "EngineUp", "LinkStateChanged"]
    assert [row["at"] for row in kept(of, "news")] == [1002.0] * 4


def test_a_refusal_before_the_scheduler_was_asked_is_news() -> None:
    of = recorder()
    of.take(11.0, ended("a", status=429, rendered_s=None), ended("b"), ended("c", status=400))
    assert [item.entry.request_id for item in of.sampled(12.0).news] == ["a"]  # type: ignore[union-attr]


def test_suspicion_ends_with_life_or_death() -> None:
    of = recorder()
    of.take(11.0, e.EngineSuspected("d1", "silent"))
    assert of.suspected == {"d1"}
    of.take(12.0, e.EngineDown("d1", "dead"))
    assert not of.suspected
    of.take(13.0, e.EngineSuspected("d1", "silent"), e.EngineUp("d1"))
    assert not of.suspected


def test_a_new_topology_has_a_number_of_its_own() -> None:
    of = recorder()
    assert of.machines_of("west") == {"m2"}
    grown = (*TOPOLOGY.engines, EngineSpec("d2", "west", "decode", machine="m3"))
    of.take(12.0, e.TopologyChanged(msgspec.structs.replace(TOPOLOGY, engines=grown)))
    assert of.machines_of("west") == {"m2", "m3"}
    assert of.sampled(12.0).sample.topology == 1
    assert [row["number"] for row in kept(of, "deployed")] == [0, 1]


def test_a_storm_is_cut_short_in_a_tick_and_kept_bounded() -> None:
    of = recorder()
    for number in range(30_000):
        of.take(11.0, ended(str(number)), e.EngineDown("d1", "again"))
    tick = of.sampled(12.0)
    assert len(tick.ended) == len(tick.news) == 500
    assert len(kept(of, "ended")) == 20_000
    assert len(kept(of, "news")) == 2_000
