"""Addresses of a deployment: all of them, or which are missing."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.gateway.endpoints import parse_listen, resolve


def test_every_missing_address_is_named() -> None:
    text = """
clusters:
  - name: west
    kind: pd
    agent: {name: a}
    engines:
      - {name: d1, role: decode}
      - {name: p1, role: prefill, url: "localhost:8000"}
"""
    with pytest.raises(ConfigError) as caught:
        resolve(parse_deployment(text, source="x.yaml"), source="x.yaml")
    for part in ("x.yaml", "'a' has no fixed admin port", "'d1' has no url", "http://"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [("127.0.0.1:8000", ("127.0.0.1", 8000)), ("[::1]:80", ("::1", 80)), (":9", ("0.0.0.0", 9))],
)
def test_listen(listen: str, expected: tuple[str, int]) -> None:
    assert parse_listen(listen) == expected


@pytest.mark.parametrize("listen", ["8000", "host:", "host:http", "host:70000", ""])
def test_listen_that_is_none(listen: str) -> None:
    with pytest.raises(ConfigError, match="not host:port"):
        parse_listen(listen)
