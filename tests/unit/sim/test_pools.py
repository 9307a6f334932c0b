"""Machines' caches in simulation: what is loaded, pulled, and too dear."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.description.file import parse_description
from prfaas.policies.costs import ProfileCosts
from prfaas.policies.learned_fetches import TIER_BYTES_PER_S, load_guess_s
from prfaas.sim.machines import lan_rates, machines_of
from prfaas.sim.pools import Pools, Reach
from prfaas.sim.world import MachineModel

MACHINES = (
    MachineModel("near", "west", ("d0", "d1"), 1e9, answers=True),
    MachineModel("other", "west", ("d2",), 1e9),
)
BLOCKS = list(range(10))


def pools(
    rate: float,
    machines: tuple[MachineModel, ...] = MACHINES,
    kv_tokens: dict[str, float] | None = None,
) -> Pools:
    """A prefill takes 1 ms a token, 100 tokens a block, KV has 1000 bytes a token."""
    names = [name for machine in machines for name in machine.engines]
    costs = ProfileCosts(
        {name: lambda tokens: tokens / 1000 for name in names}, lambda tokens: 1000.0 * tokens
    )
    rates = {("near", "other"): (rate, 0.0), ("other", "near"): (rate, 0.0)}
    return Pools(
        machines, rates, costs, block_tokens=100, state_bytes=0.0, kv_tokens=kv_tokens or {}
    )


def test_engines_of_a_machine_share_its_cache() -> None:
    found = pools(1e3)
    found.caches["near"].insert(BLOCKS)
    reaches = found.reaches(BLOCKS, 1100)
    assert {name: reach.blocks for name, reach in reaches.items()} == {"d0": 10, "d1": 10}
    assert all(reach.source is None and 0 < reach.fetch_s < 0.01 for reach in reaches.values())


def test_what_another_machine_has_is_pulled_where_that_is_sooner() -> None:
    found = pools(1e7)
    found.caches["near"].insert(BLOCKS)
    reach = found.fetch("d2", BLOCKS, 1100, 0.0)
    assert (reach.blocks, reach.source, found.pulls) == (10, "near", 1)
    assert reach.fetch_s == pytest.approx(0.1, rel=0.05)
    assert found.fetch("d2", BLOCKS, 1100, 0.0).source is None  # it has it now
    assert found.pulls == 1


def test_what_is_sooner_computed_is_not_pulled() -> None:
    found = pools(1.1e6)
    found.caches["near"].insert(BLOCKS)
    assert "d2" not in found.reaches(BLOCKS, 1100)
    assert found.fetch("d2", BLOCKS, 1100, 0.0).blocks == 0
    assert found.pulls == 0


def test_answers_are_kept_where_the_machine_keeps_them() -> None:
    found = pools(0.0)
    for engine in ("d0", "d2"):
        found.answered(engine, BLOCKS)
    assert set(found.reaches(BLOCKS, 1100)) == {"d0", "d1"}


def test_what_memory_evicts_is_read_from_disk_at_a_price_of_its_own() -> None:
    """Memory for 12 blocks, the disk for all."""
    machine = MachineModel("near", "west", ("d0",), 1.2e6, disk_bytes=1e9)
    found = pools(0.0, (machine,))
    cache = found.caches["near"]
    cache.insert(BLOCKS[:6])
    cache.insert(BLOCKS)
    in_memory = found.reaches(BLOCKS, 1100)["d0"]
    cache.insert(list(range(100, 110)))
    assert cache.held(BLOCKS) == (10, 0)
    from_disk = found.fetch("d0", BLOCKS, 1100, 0.0)
    assert from_disk.blocks == in_memory.blocks == 10
    assert from_disk.fetch_s - in_memory.fetch_s == pytest.approx(load_guess_s("disk", 1e6))
    assert (cache.held(BLOCKS), cache.read) == ((10, 10), 2)


def test_a_disk_that_is_too_slow_is_not_read_and_memory_is_read_nevertheless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(TIER_BYTES_PER_S, "disk", 0.5e6)  # half as fast as computing
    machine = MachineModel("near", "west", ("d0",), 0.6e6, disk_bytes=1e9)
    found = pools(0.0, (machine,))
    found.caches["near"].insert(BLOCKS[:6])
    found.caches["near"].disk.insert(BLOCKS)
    assert found.reaches(BLOCKS, 1100)["d0"].blocks == 6


def test_an_engines_own_cache_costs_nothing_and_is_gone_with_it() -> None:
    found = pools(0.0, kv_tokens={"d0": 1200, "d1": float("inf")})
    found.computed("d0", BLOCKS)
    found.computed("d1", BLOCKS)  # of whose memory nothing is known
    assert found.reaches(BLOCKS, 1100) == {"d0": Reach(10, 0.0, 10)}
    found.caches["near"].insert(BLOCKS[:5])
    assert found.reaches(BLOCKS, 1100)["d0"] == Reach(10, 0.0, 10)
    found.restarted("d0")
    assert found.reaches(BLOCKS, 1100)["d0"].blocks == 5
    cached: dict[str, int] = {}
    assert set(found.count(cached, BLOCKS, 1100)) == {"d0", "d1"}
    assert cached == {"d0": 500, "d1": 500}
    found.computed("d0", list(range(50, 60)))
    found.computed("d0", list(range(80, 90)))
    assert found.reaches(list(range(50, 60)), 1100) == {"d0": Reach(2, 0.0, 2)}, "of 12 blocks"


def test_what_was_missed_three_times_is_copied_within_bounds() -> None:
    """Too dear to be pulled; the copy is more than a tenth of a cache of 9 MB, and not of 11."""
    for size, copies in ((11e6, 1), (9e6, 0)):
        found = pools(1.1e6, (MACHINES[0], MachineModel("other", "west", ("d2",), size)))
        found.caches["near"].insert(BLOCKS)
        hits = [found.fetch("d2", BLOCKS, 1100, float(n)).blocks for n in range(4)]
        assert (hits, found.copies, found.pulls) == ([0, 0, 0, 10 * copies], copies, 0)


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
         agent: {name: a2, arena: 64 MiB, plaintext: true, slot: 64 KiB,
                 cache: {size: 8 MiB, spill: {path: /d, size: 1 GiB}}}}
"""


def test_machines_are_those_of_the_file() -> None:
    deployment = parse_deployment(DEPLOYMENT, source="test")
    assert machines_of(deployment, ["d1", "d2"]) == (
        MachineModel("w1", "west", ("d1",), 32 << 20, answers=True, slot_bytes=1 << 20),
        MachineModel("w2", "west", ("d2",), 8 << 20, disk_bytes=1 << 30, slot_bytes=64 << 10),
    )
    assert lan_rates(deployment) == {"west": 1.25e9}


def test_instances_have_no_agents() -> None:
    text = "clusters: [{name: west, kind: pd, prefix_cache: agents, instances: {count: 1}}]"
    with pytest.raises(ConfigError, match="needs machines"):
        machines_of(parse_description(text, source="test"), [])
