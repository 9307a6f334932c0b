"""Machines' caches in simulation: what is loaded, pulled, and too dear."""

from __future__ import annotations

import pytest

from prfaas.core.tiers import TIER_BYTES_PER_S, load_guess_s
from prfaas.policies.costs import ProfileCosts
from prfaas.workload.machine_cache import MachineModel
from prfaas.workload.pools import Pools, Reach, pool_rates

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


def test_a_reader_pulls_what_it_was_counted_to_have_before_a_hand_off() -> None:
    """Otherwise its machine had the hand-off alone, on which nobody can go on."""
    found = pools(1e7)
    found.caches["near"].insert(BLOCKS[:6])
    assert found.reaches(BLOCKS, 1100)["d2"].blocks == 6
    found.handed_over("d0", "d2", BLOCKS, 600, 1000)
    assert found.caches["other"].held(BLOCKS).blocks == 10
    assert found.pulls == 1


def test_a_reader_whose_source_has_lost_it_pulls_nothing() -> None:
    found = pools(1e7)
    found.caches["near"].insert(BLOCKS[:5])
    found.handed_over("d0", "d2", BLOCKS, 600, 1000)
    assert (found.caches["other"].held(BLOCKS).blocks, found.pulls) == (0, 0)


def test_what_is_found_is_told_by_where_it_comes_from() -> None:
    """Memory for the last entry alone; the disk has both; d2 pulls from there."""
    machines = (
        MachineModel("near", "west", ("d0",), 0.5e6, disk_bytes=1e9),
        MachineModel("other", "west", ("d2",), 1e9),
    )
    found = pools(1e9, machines, kv_tokens={"d0": 200})
    found.caches["near"].insert(BLOCKS[:5])
    found.caches["near"].insert(list(range(100, 105)))
    found.computed("d0", BLOCKS[:2])
    reaches = found.reaches(BLOCKS, 1100)
    assert reaches["d0"]._replace(fetch_s=0.0) == Reach(5, 0.0, 2, read=3)
    assert reaches["d2"]._replace(fetch_s=0.0) == Reach(5, 0.0, 0, "near", pulled=5, read=5)


def test_machines_reach_each_other_over_their_network_or_a_line() -> None:
    east = MachineModel("far", "east", ("p0",), 1e9)
    rates = pool_rates((east, *MACHINES), {"west": 5.0}, {("east", "west"): (3.0, 0.1)})
    assert rates == {
        ("far", "near"): (3.0, 0.1),
        ("far", "other"): (3.0, 0.1),
        ("near", "other"): (5.0, 0.0),
        ("other", "near"): (5.0, 0.0),
    }
