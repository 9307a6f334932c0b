"""Who is told to come back: by what waits, and whose it is."""

from __future__ import annotations

from math import inf

import pytest
from aiohttp.test_utils import make_mocked_request

from prfaas.core.deployment import GatewayConfig, TenantConfig
from prfaas.gateway.admission import too_late
from prfaas.gateway.api_errors import TooManyRequests
from prfaas.gateway.body import RequestBody
from prfaas.gateway.exchange import Exchange
from prfaas.gateway.tenants import Tenants, read_tenants
from prfaas.scheduler.queues import Asker, Queues

ALICE = TenantConfig(name="alice", api_keys=("a",))
MALLORY = TenantConfig(name="mallory", api_keys=("m",))


def asked_by(name: str, *tenants: TenantConfig, tokens: int = 10) -> Exchange:
    every = Tenants(read_tenants(GatewayConfig(tenants=tenants)))
    use = next(tenant for tenant in every if tenant.name == name).begin()
    request = make_mocked_request("POST", "/v1/completions")
    found = Exchange("k", "r", request, RequestBody("/v1/completions", b"{}"), use, deadline_s=30.0)
    found.facts.total_tokens = tokens
    return found


def refusal(
    queues: Queues, exchange: Exchange, *, most_tokens: int = 1000
) -> TooManyRequests | None:
    return too_late(queues, exchange, 1, by_all=True, longest_wait_s=inf, most_tokens=most_tokens)


async def test_a_flood_keeps_out_whoever_makes_it() -> None:
    queues = Queues()
    queues.of_all.changed(100, Asker("mallory"), 0.0)
    for _ in range(20):
        queues.of_all.freed(1, 0.0)
    queues.of_all._freed, queues.of_all._waited_s = 20.0, 20.0
    told = refusal(queues, asked_by("mallory", ALICE, MALLORY))
    assert told is not None
    assert "it would wait 101 s" in str(told)
    assert told.headers["Retry-After"] in ("71", "72")
    assert refusal(queues, asked_by("alice", ALICE, MALLORY)) is None


@pytest.mark.parametrize(
    ("whose", "tokens", "tenants", "begun"),
    [
        ("mallory", 10, (ALICE, MALLORY), False),
        ("alice", 100, (ALICE, MALLORY), True),
        ("alice", 101, (ALICE, MALLORY), False),
        ("mallory", 100, (MALLORY,), True),
        ("mallory", 101, (MALLORY,), False),
    ],
)
async def test_an_eighth_of_what_may_wait_is_for_others(
    whose: str, tokens: int, tenants: tuple[TenantConfig, ...], begun: bool
) -> None:
    queues = Queues()
    queues.tokens = queues.tokens_of["mallory"] = 900
    found = refusal(queues, asked_by(whose, *tenants, tokens=tokens))
    assert (found is None) is begun
    assert found is None or "900 prompt tokens wait" in str(found)
