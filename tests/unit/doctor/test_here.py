"""What only an agent's own machine needs is not missed on others."""

from __future__ import annotations

import time

import pytest

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.doctor.certificates import check_certificates
from prfaas.doctor.here import agents_here
from prfaas.doctor.machine import check_machine

ELSEWHERE = "203.0.113.5"  # Of documentation: no machine has it.


def deployment(east: str, west: str) -> Deployment:
    def agent(name: str, host: str) -> str:
        tls = f"tls: {{ca: /none/ca.pem, cert: /none/{name}.pem, key: /none/{name}-key.pem}}"
        return f'{{name: {name}, arena: 1 GiB, listen: "{host}:7400", admin: "{host}:7401", {tls}}}'

    return parse_deployment(
        f"""
clusters:
  - name: east
    kind: prfaas
    agent: {agent("e", east)}
    engines: [{{name: p, role: prefill}}]
  - name: west
    kind: pd
    agent: {agent("w", west)}
    engines: [{{name: d, role: decode}}]
links: [{{from: east, to: west}}]
gateway: {{agent_tls: {{ca: a, cert: b, key: c}}}}
""",
        source="test",
    )


@pytest.mark.parametrize(
    ("east", "west", "here"),
    [
        ("127.0.0.1", ELSEWHERE, ["e"]),
        ("0.0.0.0", ELSEWHERE, ["e"]),
        ("127.0.0.1", "no-such-name.invalid", ["e", "w"]),
        (ELSEWHERE, "203.0.113.6", ["e", "w"]),
    ],
)
def test_an_agent_is_elsewhere_only_where_that_is_known(
    east: str, west: str, here: list[str]
) -> None:
    assert [agent.name for agent in agents_here(deployment(east, west))] == here


def test_files_and_memory_are_asked_of_agents_that_are_here() -> None:
    whole = deployment("127.0.0.1", ELSEWHERE)
    checked = {finding.check for finding in check_certificates(whole, now=time.time())}
    assert checked == {"certificate of e"}
    memory = next(f for f in check_machine(whole) if f.check == "shared memory")
    assert memory.found.endswith("the arenas want 1.0 GiB")
