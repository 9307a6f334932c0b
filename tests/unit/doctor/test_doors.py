"""A gateway that answers whoever comes is pointed at."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.doctor.doors import check_doors


@pytest.mark.parametrize(
    ("entry", "warned"),
    [
        ("listen: '0.0.0.0:8000', plaintext: true", True),
        ("listen: ':8000', tls: {cert: c, key: k}", True),
        ("listen: 'host.example:8000', tls: {cert: c, key: k}, operator_keys: [o]", True),
        ("listen: '127.0.0.1:8000'", False),
        ("listen: '0.0.0.0:8000', plaintext: true, api_keys_env: KEYS", False),
        ("listen: ':8000', plaintext: true, tenants: [{name: a, api_keys_file: f}]", False),
    ],
)
def test_a_door_at_which_nobody_is_asked_for_a_key_is_warned_of(entry: str, warned: bool) -> None:
    deployment = parse_deployment(
        f"""
clusters:
- name: west
  kind: pd
  agent: {{name: a, plaintext: true}}
  engines: [{{name: d, role: decode}}]
gateway: {{{entry}}}
""",
        source="test",
    )
    assert [finding.level for finding in check_doors(deployment)] == ["warning"] * warned
