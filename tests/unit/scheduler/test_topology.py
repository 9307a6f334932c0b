"""The scheduler's part of a deployment file."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.scheduler.topology import LinkSpec, topology_of

DEPLOYMENT = """
clusters:
  - name: east
    kind: prfaas
    engines: [{name: e0, role: prefill}]
    agent: {name: a-east}
  - name: west
    kind: pd
    engines: [{name: d0, role: decode, max_num_seqs: 4}]
    agent: {name: a-west}
  - name: south
    kind: pd
    engines: [{name: d1, role: decode}]
    agent: {name: a-south}
links: [{from: east, to: west, rate: 200 Mbit/s}, {from: east, to: south}]
scheduler: {%s}
"""


def parse(scheduler: str) -> Deployment:
    return parse_deployment(DEPLOYMENT % scheduler, source="test")


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ("attempt_share: 0", "attempt_share"),
        ("attempt_share: 1.5", "attempt_share"),
        ("max_attempts: 0", "max_attempts"),
        ("link_grace: '2'", "no unit"),
        ("threshold: 4Q", "token count"),
        ("treshold: 4K", "did you mean 'threshold'"),
    ],
)
def test_mistakes_are_named(scheduler: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(scheduler)


def test_topology_of_a_deployment() -> None:
    topology = topology_of(parse("policy: threshold"), alignment_tokens=256, up=False)
    assert [(e.name, e.cluster, e.max_requests, e.up) for e in topology.engines] == [
        ("e0", "east", 32, False),
        ("d0", "west", 4, False),
        ("d1", "south", 32, False),
    ]
    assert topology.links == (LinkSpec("east", "west", 25e6), LinkSpec("east", "south"))
