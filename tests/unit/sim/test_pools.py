"""Machines' caches in simulation: what is loaded, pulled, and too dear."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.description.file import parse_description
from prfaas.policies.costs import ProfileCosts
from prfaas.sim.machines import lan_rates, machines_of
from prfaas.sim.pools import Pools
from prfaas.sim.world import MachineModel

MACHINES = (
    MachineModel("near", "west", ("d0", "d1"), 1e9, answers=True),
    MachineModel("other", "west", ("d2",), 1e9),
)
BLOCKS = list(range(10))


def pools(rate: float) -> Pools:
    """A prefill takes 1 ms a token, 100 tokens a block, KV has 1000 bytes a token."""
    names = [name for machine in MACHINES for name in machine.engines]
    costs = ProfileCosts(
        {name: lambda tokens: tokens / 1000 for name in names}, lambda tokens: 1000.0 * tokens
    )
    rates = {("near", "other"): (rate, 0.0), ("other", "near"): (rate, 0.0)}
    return Pools(MACHINES, rates, costs, block_tokens=100, state_bytes=0.0)


def test_engines_of_a_machine_share_its_cache() -> None:
    found = pools(1e3)
    found.computed("d0", BLOCKS)
    reaches = found.reaches(BLOCKS, 1100)
    assert {name: reach.blocks for name, reach in reaches.items()} == {"d0": 10, "d1": 10}
    assert all(reach.source is None and 0 < reach.fetch_s < 0.01 for reach in reaches.values())


def test_what_another_machine_has_is_pulled_where_that_is_sooner() -> None:
    found = pools(1e7)
    found.computed("d0", BLOCKS)
    reach = found.fetch("d2", BLOCKS, 1100)
    assert (reach.blocks, reach.source, found.pulls) == (10, "near", 1)
    assert reach.fetch_s == pytest.approx(0.1, rel=0.05)
    assert found.fetch("d2", BLOCKS, 1100).source is None  # it has it now
    assert found.pulls == 1


def test_what_is_sooner_computed_is_not_pulled() -> None:
    found = pools(1.1e6)
    found.computed("d0", BLOCKS)
    assert "d2" not in found.reaches(BLOCKS, 1100)
    assert found.fetch("d2", BLOCKS, 1100).blocks == 0
    assert found.pulls == 0


def test_answers_are_kept_where_the_machine_keeps_them() -> None:
    found = pools(0.0)
    for engine in ("d0", "d2"):
        found.answered(engine, BLOCKS)
    assert set(found.reaches(BLOCKS, 1100)) == {"d0", "d1"}


DEPLOYMENT = """
clusters:
  - name: west
    kind: pd
    lan: {rate: 10 Gbit/s}
    prefix_cache: agents
    machines:
      - {name: w1, engines: [{name: d1, role: decode, url: "http://h:2"}],
         agent: {name: a1, arena: 64 MiB, plaintext: true, cache: {answers: true}}}
      - {name: w2, engines: [{name: d2, role: decode, url: "http://h:3"}],
         agent: {name: a2, arena: 64 MiB, plaintext: true, cache: {size: 8 MiB}}}
"""


def test_machines_are_those_of_the_file() -> None:
    deployment = parse_deployment(DEPLOYMENT, source="test")
    assert machines_of(deployment, ["d1", "d2"]) == (
        MachineModel("w1", "west", ("d1",), 32 << 20, answers=True),
        MachineModel("w2", "west", ("d2",), 8 << 20),
    )
    assert lan_rates(deployment) == {"west": 1.25e9}


def test_instances_have_no_agents() -> None:
    text = "clusters: [{name: west, kind: pd, prefix_cache: agents, instances: {count: 1}}]"
    with pytest.raises(ConfigError, match="needs machines"):
        machines_of(parse_description(text, source="test"), [])
