"""Engines that ask for a key, or speak https with a certificate of their own authority."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.gateway.access import Access
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.testing.mock_deployment import MockDeployment, until
from prfaas.tls.authority import create_authority, issue

COMPLETIONS = "/v1/completions"
LONG = "a long prompt that is certainly longer than the threshold of forty tokens"


async def test_engines_that_want_a_key_are_locked_until_the_gateway_has_it(tmp_path: Path) -> None:
    keys = tmp_path / "engines"
    keys.write_text("wrong\n")
    mock = MockDeployment(engine_entry=f", api_key_file: {keys}", attempts=2)
    for engine in mock.engines.values():
        engine.api_key = "right"
    async with mock.running() as client:
        await until(lambda: all(e.locked for e in mock.gateway.engines.values()))
        assert not mock.gateway.fleet.up
        async with client.get("/ready") as response:
            assert response.status == 503, "no request can be answered"
            troubles = (await response.json())["troubles"]
        assert any("engine d1 answers 401: it wants an API key" in why for why in troubles)
        async with client.post(COMPLETIONS, json={"prompt": "x"}) as response:
            assert response.status == 503, "it is not the client's key that is wrong"
            assert "right" not in await response.text()

        keys.write_text("right\n")
        file = parse_deployment(mock.deployment_text(), source="f")
        mock.gateway.become(file, source="f")
        await mock.ready()
        for prompt in ("x", LONG):
            async with client.post(COMPLETIONS, json={"prompt": prompt}) as response:
                assert response.status == 200
        assert mock.engines["e1"].requests, "prefill engines are shown theirs as well"
        seen = [h for e in mock.engines.values() for _, _, h in e.requests]
        assert {headers["Authorization"] for headers in seen} == {"Bearer right"}


async def test_an_engine_that_refuses_the_key_draws_no_requests_from_those_that_answer() -> None:
    """It is free at all times: what was tried again came to it, until it had been tried enough."""
    mock = MockDeployment(engine_entry=", max_num_seqs: 1")
    async with mock.running() as client:
        await mock.ready()
        mock.engines["d1"].takes_s = 0.05
        mock.engines["d2"].api_key = "another"

        async def asked(number: int) -> int:
            body = {"prompt": str(number)}
            async with client.post(COMPLETIONS, json=body) as response:
                return response.status

        assert set(await asyncio.gather(*map(asked, range(12)))) == {200}
        async with client.get("/ready") as response:
            warnings = (await response.json())["warnings"]
        assert any("engine d2 answers 401: it wants an API key" in why for why in warnings)
        for engine in ("d1", "p1"):
            async with client.post("/drain", json={"target": engine}) as response:
                assert response.status == 200
        async with client.get("/ready") as response:
            assert response.status == 503, "the one that is left refuses"
        mock.engines["d2"].api_key = None
        async with asyncio.timeout(60):
            while (await client.get("/ready")).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await asked(0) == 200


async def test_a_key_that_cannot_be_read_stops_nothing_that_runs(tmp_path: Path) -> None:
    keys = tmp_path / "engines"
    keys.write_text("key\n")
    mock = MockDeployment(engine_entry=f", api_key_file: {keys}")
    async with mock.running() as client:
        await mock.ready()
        keys.unlink()
        with pytest.raises(ConfigError, match=r"engine 'e1': .*cannot be read"):
            mock.gateway.become(parse_deployment(mock.deployment_text(), source="f"), source="f")
        async with client.post(COMPLETIONS, json={"prompt": "x"}) as response:
            assert response.status == 200


async def test_engines_with_certificates_of_their_own_authority(tmp_path: Path) -> None:
    create_authority(tmp_path / "engines")
    files = issue(tmp_path / "engines", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    mock = MockDeployment(engine_entry=f", ca: {files.ca}", host="localhost")
    for engine in mock.engines.values():
        engine.tls = context
    async with mock.running() as client:
        await mock.ready()
        for prompt in ("x", LONG):
            async with client.post(COMPLETIONS, json={"prompt": prompt}) as response:
                assert response.status == 200
        assert mock.engines["e1"].url.startswith("https://")


@pytest.mark.parametrize(
    ("trusted", "host"), [("others", "localhost"), ("engines", "another.example")]
)
async def test_an_engine_of_another_authority_or_name_gets_nothing(
    tmp_path: Path, trusted: str, host: str
) -> None:
    for name in ("engines", "others"):
        create_authority(tmp_path / name)
    files = issue(tmp_path / "engines", host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    mock = MockDeployment(engine_entry=f", ca: {tmp_path / trusted / 'ca.pem'}", host="localhost")
    for engine in mock.engines.values():
        engine.tls = context
    async with mock.running() as client:
        async with client.post(COMPLETIONS, json={"prompt": "x"}) as response:
            assert response.status == 503
        assert not any(engine.requests for engine in mock.engines.values())


def test_the_gateways_own_certificates_say_when_they_expire(tmp_path: Path) -> None:
    create_authority(tmp_path)
    issue(tmp_path, "gateway", days=20)
    own = f"ca: {tmp_path}/ca.pem, cert: {tmp_path}/gateway.pem, key: {tmp_path}/gateway-key.pem"
    text = f"""
clusters: [{{name: w, kind: pd, agent: {{name: a}}, engines: [{{name: d, role: decode}}]}}]
gateway: {{agent_tls: {{{own}}}, tls: {{{own}}}}}
"""
    metrics = GatewayMetrics()
    Access(parse_deployment(text, source="test"), metrics)
    page = generate_latest(metrics.registry).decode()
    name = "prfaas_gateway_certificate_expires_timestamp_seconds"
    for file, days in (("certificate", 20), ("agent_certificate", 20), ("agent_ca", 3650)):
        (line,) = [x for x in page.splitlines() if x.startswith(f'{name}{{file="{file}"}}')]
        assert abs(float(line.split()[1]) - time.time() - days * 86400) < 3600
