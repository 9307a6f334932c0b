"""Where prefixes are cached, in any number of machines."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest
from tests.unit.planner.pools import KV, TEXT, described, site

from prfaas.models.profiles import load_profile
from prfaas.planner.pool_site import WalkCosts, is_walked, site_of
from prfaas.testing.conversation_trace import conversation_trace
from prfaas.workload.trace import RecordedTrace

TRACE = conversation_trace(3, rate=1.0)


def test_each_instance_has_a_machine() -> None:
    found = site(TRACE)
    assert [m.engines for m in found.machines] == [
        ("east-0",), ("west-0",), ("west-1",), ("west-2",),
    ]  # fmt: skip
    assert found.line == (12.5e9, 0.02)
    assert found.pd.lan_bytes_per_s == 12.5e9
    assert set(found.pd.engines.values()) == {inf}


def test_more_and_fewer_instances_have_more_and_fewer_machines() -> None:
    more = site(TRACE).of(0, 5)
    assert more.prfaas is None
    assert len(more.pd.engines) == len(more.machines) == 5
    assert {m.cache_bytes for m in more.machines} == {8 << 30}
    assert len({m.name for m in more.machines}) == 5
    fewer = site(TRACE).of(1, 2)
    assert [m.name for m in fewer.machines] == ["east-0", "west-0", "west-1"]
    sizes = {(m.cache_bytes, m.disk_bytes) for m in fewer.sized(2.0, 0.0).machines}
    assert sizes == {(16 << 30, 0.0)}


def test_machines_of_the_file_keep_their_engines() -> None:
    text = """
clusters:
  - name: west
    kind: pd
    profile: paper-1t-h20-fit
    prefix_cache: agents
    machines:
      - {name: w1, agent: {name: a1, arena: 1 GiB, plaintext: true},
         engines: [{name: d1, role: decode}, {name: p1, role: prefill, kv_tokens: 1M}]}
      - {name: w2, agent: {name: a2, arena: 2 GiB, plaintext: true},
         engines: [{name: d2, role: decode}]}
"""
    found = site(TRACE, text)
    assert found.pd.engines == {"p1": float(1 << 20), "d1": inf, "d2": inf}
    assert [(m.engines, m.cache_bytes) for m in found.machines] == [
        (("d1", "p1"), 1 << 29),
        (("d2",), 1 << 30),
    ]
    assert [m.engines for m in found.of(0, 1).machines] == [("p1",)]
    assert [m.engines for m in found.of(0, 4).machines] == [("d1", "p1"), ("d2",), ("d2+3",)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("prefix_cache: {memory: 8 GiB, disk: 100 GB}", "prefix_cache: 0"),
        ("    prefix_cache: {memory: 8 GiB, disk: 100 GB}\n    instances: {count: 1,",
         "    prefix_cache: 1M\n    instances: {count: 1,"),
        ("    prefix_cache: {memory: 8 GiB, disk: 100 GB}\n    instances: {count: 3,",
         "    instances: {count: 3,"),
        ("links:",
         "  - {name: n, kind: pd, profile: paper-1t-h20-fit, instances: {count: 2}}\nlinks:"),
    ],
)  # fmt: skip
def test_what_is_not_walked(old: str, new: str) -> None:
    assert old in TEXT
    description = described(TEXT.replace(old, new))
    assert not is_walked(description)
    assert site_of(description, TRACE, KV, beside=Path()) is None


def test_a_trace_that_knows_no_prefixes_is_not_walked() -> None:
    plain = RecordedTrace(arrivals=None, prompts=[10], outputs=[1], blocks=[])
    assert site_of(described(), plain, KV, beside=Path()) is None


def test_costs_are_the_profiles_of_each_cluster() -> None:
    profiles = {
        "east": load_profile("paper-1t-h200").prefill_or_refuse,
        "west": load_profile("paper-1t-h20-fit").prefill_or_refuse,
    }
    costs = WalkCosts(site(TRACE), profiles)
    assert costs.prefill_s("east-0", 8192) == profiles["east"].seconds(8192)
    assert costs.prefill_s("west-2", 8192) == profiles["west"].seconds(8192)
    assert costs.kv_bytes(512, 1024) == KV.constant_bytes + 512 * KV.bytes_per_token
