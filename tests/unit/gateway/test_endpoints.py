"""Addresses of a deployment: all of them, or which are missing."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.gateway.endpoints import resolve


def test_every_missing_address_is_named() -> None:
    text = """
clusters:
  - name: west
    kind: pd
    agent: {name: a}
    engines:
      - {name: d1, role: decode}
      - {name: p1, role: prefill, url: "ftp://localhost:8000"}
"""
    with pytest.raises(ConfigError) as caught:
        resolve(parse_deployment(text, source="x.yaml"), source="x.yaml")
    for part in ("x.yaml", "'a' has no fixed admin port", "'d1' has no url", "http://"):
        assert part in str(caught.value)
