"""A client that reads nothing, or is gone."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request

from prfaas.gateway.api_errors import ServiceUnavailable
from prfaas.gateway.client_response import ClientResponse
from prfaas.gateway.facts import RequestFacts
from prfaas.testing.mock_deployment import MockDeployment, until
from prfaas.testing.mock_engine import MockEngine

BODY = {"prompt": "abc", "stream": True}
COMPLETIONS = "/v1/completions"


def endless(journal_file: Path | None = None) -> MockDeployment:
    """Decode engines that send more than all buffers on the way hold."""
    mock = MockDeployment(journal_file=journal_file)
    for name in ("d1", "d2"):
        mock.engines[name].script = [b"data: " + b"x" * (1 << 20) + b"\n\n"] * 64
    return mock


def answering(mock: MockDeployment) -> MockEngine:
    return next(mock.engines[n] for n in ("d1", "d2") if mock.engines[n].requests)


async def test_an_error_that_nobody_waits_for_any_more_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its client went as it was refused."""
    request = make_mocked_request("POST", COMPLETIONS)
    facts = RequestFacts(request_id="r-1", endpoint=COMPLETIONS, arrived_at=0.0)
    response = ClientResponse(request, facts)
    response.refuse(ServiceUnavailable("no engine came back in time"))
    del response
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_client_that_stops_reading_gives_its_decode_slot_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("prfaas.gateway.client_response._CLIENT_PATIENCE_S", 0.05)
    mock = endless(tmp_path / "events.jsonl")
    async with mock.running() as client:
        await mock.ready()
        async with client.post(COMPLETIONS, json=BODY):
            await until(lambda: len(answering(mock).cancelled) == 1)
            await until(lambda: mock.gateway.requests.inflight == 0)
    assert b"the client stopped reading" in (tmp_path / "events.jsonl").read_bytes()


async def test_an_engine_that_dies_under_a_client_that_stopped_reading_ends_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prfaas.gateway.client_response._CLIENT_PATIENCE_S", 5.0)
    mock = endless()
    async with mock.running() as client:
        await mock.ready()
        async with client.post(COMPLETIONS, json=BODY):
            (exchange,) = mock.gateway._driver._exchanges.values()  # type: ignore[union-attr]
            await until(lambda: exchange.response._request.protocol.writing_paused)
            victim = answering(mock)
            await victim.stop()
            mock.gateway.fleet.suspect(victim.name)
            await until(lambda: mock.gateway.requests.inflight == 0)
