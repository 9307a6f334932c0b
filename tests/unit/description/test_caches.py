"""What agents cache, of a running deployment and of a planned one."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.description.caches import lan_rates, machines_of
from prfaas.description.file import parse_description
from prfaas.workload.machine_cache import MachineModel

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
    assert machines_of(deployment, {"d1": "west", "d2": "west"}) == (
        MachineModel("w1", "west", ("d1",), 32 << 20, answers=True, slot_bytes=1 << 20),
        MachineModel("w2", "west", ("d2",), 8 << 20, disk_bytes=1 << 30, slot_bytes=64 << 10),
    )
    assert lan_rates(deployment) == {"west": 1.25e9}


def test_instances_have_a_planned_machine_each() -> None:
    text = """
clusters:
  - {name: west, kind: pd, prefix_cache: {memory: 1 GiB, disk: 2 GB}, instances: {count: 2}}
"""
    engines = {"w0": "west", "w1": "west", "e0": "east"}
    assert machines_of(parse_description(text, source="test"), engines) == tuple(
        MachineModel(n, "west", (n,), 1 << 30, disk_bytes=2e9, slot_bytes=1 << 20)
        for n in ("w0", "w1")
    )


def test_planned_sizes_stand_in_place_of_the_files() -> None:
    text = DEPLOYMENT.replace(
        "prefix_cache: agents", "prefix_cache: {memory: 1 GiB, answers: true}"
    )
    found = machines_of(parse_deployment(text, source="test"), {"d1": "west", "d2": "west"})
    assert [m.cache_bytes for m in found] == [1 << 30] * 2
    assert [m.disk_bytes for m in found] == [0, 0]
    assert [(m.answers, m.slot_bytes) for m in found] == [(True, 1 << 20), (True, 64 << 10)]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("{memory: 64}", "cluster 'west': prefix_cache: memory: size '64' has no unit"),
        ("{memory: 1 GiB, disk: much}", "prefix_cache: disk: .*not a number"),
        ("{memory: 0 B, disk: 1 TB}", "memory: 0 B caches nothing"),
        ("{disk: 1 TB}", "'memory' is missing"),
        ("{memory: 1 GiB, ssd: 1 TB}", "unknown key 'ssd'"),
        ("agents", "needs machines with agents; of instances write sizes"),
        ("64 GiB", "prefix_cache: token count '64 GiB' has unit"),
    ],
)
def test_what_cannot_be_cached_is_refused_when_the_file_is_read(told: str, says: str) -> None:
    text = f"clusters: [{{name: west, kind: pd, prefix_cache: {told}, instances: {{count: 2}}}}]"
    with pytest.raises(ConfigError, match=says):
        parse_description(text, source="test")
