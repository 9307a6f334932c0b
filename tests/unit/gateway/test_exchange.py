"""One request between its arrival and its end."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import make_mocked_request

from prfaas.core.deployment import GatewayConfig
from prfaas.gateway.api_errors import ServiceUnavailable
from prfaas.gateway.body import RequestBody
from prfaas.gateway.exchange import Exchange
from prfaas.gateway.tenants import Tenants, read_tenants


def exchange(headers: dict[str, str] | None = None) -> Exchange:
    request = make_mocked_request("POST", "/v1/completions", headers=headers)
    body = RequestBody("/v1/completions", b"{}")
    use = next(iter(Tenants(read_tenants(GatewayConfig())))).begin()
    return Exchange("k", "r", request, body, use, deadline_s=30.0)


async def test_engines_get_the_trace_and_no_other_header() -> None:
    given = {"traceparent": "00-1-2-01", "tracestate": "\xe9", "Authorization": "Bearer key"}
    assert exchange(given).engine_headers == {"X-Request-Id": "r", "traceparent": "00-1-2-01"}


async def test_a_failure_before_anything_was_sent_is_the_answer() -> None:
    failed = exchange()
    assert 0.0 < failed.time_left_s() < 30.0
    failed.fail(ServiceUnavailable("nothing is up"))
    with pytest.raises(ServiceUnavailable, match="nothing is up"):
        failed.response.done.result()
    assert (failed.facts.status, failed.facts.outcome) == (503, "service_unavailable_error")


async def test_a_bug_in_an_attempt_is_ours() -> None:
    failed = exchange()

    async def fail() -> None:
        raise KeyError("a bug")

    failed.attempts.start("decode", 1, fail())
    await asyncio.wait([failed.response.done])
    assert failed.facts.status == 500
    failed.response.done.exception()
