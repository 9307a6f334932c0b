"""From a scenario to the world of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from prfaas.core.errors import ConfigError
from prfaas.core.planned import PlannedPool
from prfaas.description.experiments import OutageConfig, RunConfig, Split
from prfaas.description.file import Description
from prfaas.sim.build import build_workload, build_world
from prfaas.sim.runs import load_scenario
from prfaas.sim.world import World

EXAMPLES = Path(__file__).parents[3] / "examples"
SCENARIO = load_scenario(EXAMPLES / "paper.yaml")
WORKLOAD = build_workload(SCENARIO, beside=EXAMPLES).first(50)


def world(scenario: Description = SCENARIO, **instances: Split) -> World:
    run = RunConfig(name="r", instances=instances)
    return build_world(scenario, run, WORKLOAD, beside=EXAMPLES)


def experimenting(**changes: Any) -> Description:
    experiments = msgspec.structs.replace(SCENARIO.experiments, **changes)
    return msgspec.structs.replace(SCENARIO, experiments=experiments)


def test_every_instance_is_an_engine_of_its_clusters_role() -> None:
    found = world()
    by_pool: dict[tuple[str, str], int] = {}
    for engine in found.topology.engines:
        pool = (engine.cluster, engine.role)
        assert engine.name == f"{engine.cluster}-{engine.role}-{by_pool.get(pool, 0)}"
        by_pool[pool] = by_pool.get(pool, 0) + 1
    wanted = {
        (cluster.name, pool.role or "prefill"): pool.count
        for cluster in SCENARIO.clusters
        for pool in cluster.pools
    }
    assert by_pool == wanted
    assert [model.name for model in found.engines] == [e.name for e in found.topology.engines]


def test_a_run_may_split_the_nodes_otherwise() -> None:
    pd = next(cluster.name for cluster in SCENARIO.clusters if cluster.kind == "pd")
    engines = world(**{pd: Split(prefill=1, decode=2)}).topology.engines
    assert [e.name for e in engines if e.cluster == pd] == [
        f"{pd}-prefill-0", f"{pd}-decode-0", f"{pd}-decode-1",
    ]  # fmt: skip


def test_a_pool_that_is_not_there_cannot_be_resized() -> None:
    prfaas = next(cluster.name for cluster in SCENARIO.clusters if cluster.kind == "prfaas")
    with pytest.raises(ConfigError, match=f"cluster '{prfaas}' has no decode instances to resize"):
        world(**{prfaas: Split(prefill=1, decode=1)})


def test_costs_are_the_profiles() -> None:
    found = world()
    first = found.topology.engines[0].name
    assert found.costs.prefill_s(first, 8192) == pytest.approx(0.72)
    assert found.costs.kv_bytes(0, 1024) == pytest.approx(172 * 2**20 + 1024 * 17280)
    assert found.costs.kv_bytes(0, 0) == found.state_bytes == 172 * 2**20


def test_a_failure_names_an_engine_and_those_of_one_engine_do_not_overlap() -> None:
    name = world().topology.engines[0].name

    def failing(*failures: tuple[str, str, str]) -> Description:
        outages = tuple(OutageConfig(engine=e, at=at, duration=for_s) for e, at, for_s in failures)
        return experimenting(failures=outages)

    [outage] = world(failing((name, "5 s", "2 s"))).outages
    assert (outage.engine, outage.at, outage.for_s) == (name, 5.0, 2.0)
    with pytest.raises(ConfigError, match="no engine 'nobody'; known: "):
        world(failing(("nobody", "5 s", "2 s")))
    with pytest.raises(ConfigError, match="write both as one"):
        world(failing((name, "5 s", "2 s"), (name, "6 s", "2 s")))


def test_prompts_beyond_a_profile_are_refused_by_name() -> None:
    longer = msgspec.structs.replace(WORKLOAD, prompts=[200_000, *WORKLOAD.prompts[1:]])
    with pytest.raises(ConfigError, match=r"ends at 131072 tokens.*reach 200000.*--clip 131072"):
        build_world(SCENARIO, RunConfig(name="r"), longer, beside=EXAMPLES)


def test_the_same_seed_draws_the_same_workload() -> None:
    again = build_workload(SCENARIO, beside=EXAMPLES).first(50)
    assert again == WORKLOAD
    other = experimenting(seed=SCENARIO.experiments.seed + 1)
    assert build_workload(other, beside=EXAMPLES).first(50) != WORKLOAD


def test_planned_machines_cache_one_by_one() -> None:
    clusters = tuple(
        msgspec.structs.replace(cluster, prefix_cache=PlannedPool(memory="1 GiB"))
        for cluster in SCENARIO.clusters
    )
    description = msgspec.structs.replace(SCENARIO, clusters=clusters)
    workload = msgspec.structs.replace(WORKLOAD, blocks=[[1]] * len(WORKLOAD))
    found = build_world(description, RunConfig(name="r"), workload, beside=EXAMPLES)
    assert [m.engines for m in found.machines] == [(e.name,) for e in found.engines]
    assert not found.cache_blocks
