"""Settings that cannot work are refused by name."""

from __future__ import annotations

import pytest

from prfaas.core.errors import ConfigError
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig, check, check_peer


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"listen": "nowhere"}, "'nowhere' is not host:port"),
        ({"min_chunk_bytes": 1024}, "4 KiB <= min_chunk_bytes"),
        ({"min_chunk_bytes": 8192, "max_chunk_bytes": 4096}, "min_chunk_bytes <= max_chunk_bytes"),
        ({"dscp": 64}, r"dscp 64 is not in 0\.\.63"),
        ({"peers": {"west": PeerConfig(address="west")}}, "'west' is not host:port"),
    ],
)
def test_an_endpoint_that_cannot_work(settings: dict[str, object], told: str) -> None:
    check(TcpLinkConfig(name="east", security=Plaintext()))
    with pytest.raises(ConfigError, match=told):
        check(TcpLinkConfig(name="east", security=Plaintext(), **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rate_bytes_per_s": 0.0}, "the rate must be above zero"),
        ({"leave_to_others": 0.95}, r"leave_to_others must be in 0\.\.0\.9"),
        ({"connections": 0}, r"connections must be in 1\.\.64"),
        ({"connections": 65}, r"connections must be in 1\.\.64"),
    ],
)
def test_a_peer_that_cannot_be_sent_to_so(settings: dict[str, object], told: str) -> None:
    check_peer("west", PeerConfig(address="west:7400"))
    with pytest.raises(ConfigError, match=f"^peer 'west': {told}"):
        check_peer("west", PeerConfig(address="west:7400", **settings))  # type: ignore[arg-type]
