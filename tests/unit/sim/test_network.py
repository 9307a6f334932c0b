"""Which hand-off crosses which line, and what lines report."""

from __future__ import annotations

import pytest

from prfaas.policies.api import Route
from prfaas.policies.costs import ProfileCosts
from prfaas.scheduler.commands import StartPrefill
from prfaas.scheduler.events import LinkStateChanged, TransferProgressed
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.sim.clock import Clock
from prfaas.sim.network import LineNews, Network
from prfaas.sim.world import LineModel, World

TOPOLOGY = Topology(
    clusters=(ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
    engines=(
        EngineSpec("e", "east", "prefill"),
        EngineSpec("p", "west", "prefill"),
        EngineSpec("d", "west", "decode"),
    ),
    links=(LinkSpec("east", "west", 100.0),),
    alignment_tokens=8,
)


class Bench:
    def __init__(self, *changes: tuple[float, float], report_s: float | None = None) -> None:
        self.clock = Clock()
        self.news: list[LineNews] = []
        self.arrived: list[tuple[str, float]] = []
        world = World(
            topology=TOPOLOGY,
            engines=(),
            lines=(LineModel("east", "west", 100.0, changes=changes),),
            costs=ProfileCosts({}, lambda tokens: 50.0 + 10.0 * tokens),
            state_bytes=50.0,
            link_report_s=report_s,
        )
        self.network = Network(
            self.clock,
            world,
            TOPOLOGY.cluster_of,
            self.news.append,
            lambda key: self.arrived.append((key[0], self.clock.now)),
        )

    def run(self, until: float) -> None:
        while self.clock.next_at <= until:
            self.clock.run_next()


def handoff(engine: str, *, from_token: int = 0, to_token: int = 40) -> StartPrefill:
    return StartPrefill(
        request_id="r", attempt=1, engine=engine, decode_engine="d", transfer_id="t",
        from_token=from_token, to_token=to_token, route=Route.OFFLOAD, reason="",
    )  # fmt: skip


def test_inside_a_cluster_nothing_crosses() -> None:
    bench = Bench()
    assert bench.network.line_of(handoff("p")) is None
    bench.network.open(handoff("p"), 0, 1.0)
    bench.network.produced(handoff("p"))
    bench.run(1e6)
    assert bench.arrived == []


def test_kv_is_sent_while_it_is_made_and_the_state_at_the_end() -> None:
    bench = Bench()
    start = handoff("e")  # 400 bytes of KV in 10 s, and 50 of state.
    bench.clock.at(0.0, lambda _: bench.network.open(start, 0, 10.0), None)
    bench.clock.at(10.0, lambda _: bench.network.produced(start), None)
    bench.run(1e6)
    [(_, at)] = bench.arrived
    assert at == pytest.approx(10.5)


def test_only_what_the_receiver_lacks_is_sent_and_what_was_cached_goes_at_once() -> None:
    bench = Bench()
    start = handoff("e", from_token=8)  # 320 bytes, of which 160 lie in the cache.
    bench.clock.at(0.0, lambda _: bench.network.open(start, 24, 1.0), None)
    bench.clock.at(1.0, lambda _: bench.network.produced(start), None)
    bench.run(1e6)
    line = bench.network.lines["east", "west"]
    assert line.received_bytes == pytest.approx(370)
    [(_, at)] = bench.arrived
    assert at == pytest.approx(3.7)  # 100 bytes a second from the start on.


def test_a_cancelled_hand_off_never_arrives() -> None:
    bench = Bench()
    start = handoff("e")
    bench.clock.at(0.0, lambda _: bench.network.open(start, 0, 10.0), None)
    bench.clock.at(5.0, lambda _: bench.network.cancel(start), None)
    bench.run(1e6)
    assert bench.arrived == []


def test_changes_are_reported_at_once_and_the_rest_from_time_to_time() -> None:
    bench = Bench((2.5, 20.0), (4.5, 0.0), report_s=1.0)
    start = handoff("e")
    bench.clock.at(0.5, lambda _: bench.network.open(start, 0, 100.0), None)
    bench.run(5.0)
    states = [n for n in bench.news if isinstance(n, LinkStateChanged)]
    assert len(states) == 6 + 2
    assert [state.rate_bytes_per_s for state in states][:4] == [100, 100, 100, 20]
    assert [state.up for state in states][-2:] == [False, False]
    progressed = [n for n in bench.news if isinstance(n, TransferProgressed)]
    assert {(n.request_id, n.attempt) for n in progressed} == {("r", 1)}
