"""From a side to a whole decision."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.api import Route
from prfaas.policies.costs import ProfileCosts
from prfaas.policies.registry import POLICIES, make_policy
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.state import Record
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.testing.policy_views import TOPOLOGY, decide, fleet


def test_no_line_means_local_and_no_prefill_engine_means_direct() -> None:
    view = fleet()
    view.links["east", "west"].up = False
    assert decide("naive", 5000, view).route is Route.PD_P
    for name in ("p0", "p1"):
        view.engines[name].up = False
    assert decide("naive", 5000, view).route is Route.DIRECT
    for name in ("d0", "d1"):
        view.engines[name].up = False
    record = Record(RequestArrived("r", 5000, 10), 0.0)
    for policy in POLICIES:
        assert make_policy(SchedulerConfig(policy=policy)).route(record, view, now=0.0) is None


def test_next_turn_stays_on_the_decode_engine_that_holds_the_conversation() -> None:
    decision = decide("threshold", 10_000, fleet(), cached={"d0": 9200, "e0": 9200, "p0": 6800})
    assert (decision.route, decision.decode_engine) == (Route.DIRECT, "d0")
    assert decision.reason == "uncached 800 <= threshold 1000, d0 holds 9200"
    stateless = decide("threshold", 10_000, fleet(), cached={"d0": 9200}, resumable={"d0": 0})
    assert stateless.route is Route.PD_P
    decision = decide("threshold", 10_000, fleet(), cached={"d0": 9200, "p0": 6900})
    assert (decision.route, decision.prefill_engine) == (Route.PD_P, "p0")


@pytest.mark.parametrize("policy", ["threshold", "adaptive-threshold", "adaptive", "naive"])
def test_a_line_that_is_idle_is_taken_before_one_that_is_full(policy: str) -> None:
    topology = Topology(
        (*TOPOLOGY.clusters, ClusterSpec("north", "prfaas")),
        (*TOPOLOGY.engines, EngineSpec("n0", "north", "prefill")),
        (*TOPOLOGY.links, LinkSpec("north", "west", 1e9, 0.02)),
        64,
    )
    costs = ProfileCosts(
        {e.name: lambda n: n / 4000 for e in topology.engines}, lambda n: 100.0 * n
    )
    view = FleetState(topology, costs)
    view.links["east", "west"].outstanding_bytes = 2e7
    for _ in range(20):
        decision = decide(policy, 9000, view)
        assert (decision.route, decision.prefill_engine) == (Route.OFFLOAD, "n0")
        view.engines["n0"].book(9000, 2.25, 0.0)
        view.links["east", "west"].outstanding_bytes += 9e5 * 3


SLOW, FAST = 1e6, 1e9


def fleet_of(sources: dict[str, float], targets: dict[str, float]) -> FleetState:
    """PrfaaS clusters and PD clusters; the line from one to another is as slow as the slower of
    the two figures (bytes/s)."""
    clusters = [ClusterSpec(name, "prfaas") for name in sources]
    clusters += [ClusterSpec(name, "pd") for name in targets]
    engines = [EngineSpec(f"p-{name}", name, "prefill", 64) for name in sources]
    engines += [EngineSpec(f"d-{name}", name, "decode", 64) for name in targets]
    links = [LinkSpec(a, b, min(rate, sources[a])) for a in sources for b, rate in targets.items()]
    costs = ProfileCosts(
        {e.name: lambda tokens: tokens / 1e5 for e in engines}, lambda tokens: 1e3 * tokens
    )
    return FleetState(Topology(tuple(clusters), tuple(engines), tuple(links), 64), costs)


@pytest.mark.parametrize("policy", ["threshold", "adaptive", "static-length", "naive"])
@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        ({"slow": SLOW, "fast": FAST}, {"west": FAST}),
        ({"east": FAST}, {"slow": SLOW, "fast": FAST}),
        ({"slow": SLOW, "fast": FAST}, {"dull": SLOW, "bright": FAST}),
    ],
)
def test_no_prompt_goes_over_a_full_line_beside_an_idle_one(
    policy: str, sources: dict[str, float], targets: dict[str, float]
) -> None:
    view = fleet_of(sources, targets)
    for link in view.links.values():
        if link.rate_bytes_per_s == SLOW:
            link.utilisation = link.congestion = 1.0
            link.outstanding_bytes = 50e6
    for _ in range(20):
        decision = decide(policy, 20_000, view)
        assert decision.route is Route.OFFLOAD
        assert decision.prefill_engine is not None
        source = view.engines[decision.prefill_engine].cluster
        target = view.engines[decision.decode_engine].cluster
        link = view.link(source, target)
        assert link is not None
        assert link.rate_bytes_per_s == FAST
        link.outstanding_bytes += 20e6
        view.engines[decision.decode_engine].assigned += 1


def test_decode_engines_are_filled_evenly_while_lines_have_room() -> None:
    view = fleet_of({"east": FAST}, {"one": FAST, "two": FAST})
    taken = []
    for _ in range(6):
        decision = decide("threshold", 20_000, view)
        taken.append(decision.decode_engine)
        view.engines[decision.decode_engine].assigned += 1
    assert taken == ["d-one", "d-two"] * 3


def test_a_pd_cluster_without_a_line_leaves_long_prompts_to_one_that_has_one() -> None:
    view = fleet_of({"east": FAST}, {"one": FAST, "two": FAST})
    del view.links["east", "one"]
    assert decide("threshold", 20_000, view).decode_engine == "d-two"
    view.engines["d-two"].assigned = 64  # Without a slot it would only make them wait.
    assert decide("threshold", 20_000, view).decode_engine == "d-one"
