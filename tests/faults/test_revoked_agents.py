"""An agent that is revoked while a gateway follows it, and asks engines through it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.faults.test_carried import Engine, certificates, make_deployment

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError, LinkError
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.http_answer import Timeouts
from prfaas.gateway.rereading import Rereading
from prfaas.gateway.upstream_errors import CONNECTION_ERRORS, EngineUnreachable
from prfaas.kv_events.wire import Stopped
from prfaas.launch.addresses import free_address
from prfaas.testing.mock_deployment import until
from prfaas.tls import authority
from prfaas.tls.authority import issue, revoke
from prfaas.tls.expiry import list_expiry


@pytest.fixture
async def followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Gateway, Engine]]:
    """A gateway with a revocation list (which names nobody of these), an agent and its engine."""
    monkeypatch.setenv("CARRIED_TEST_KEY", "an-engine-key")
    certs, server = tmp_path / "certs", Engine()
    certificates(certs, "a", "b", "gateway")
    revoke(certs, "b")
    await server.start()
    events = f"tcp://{free_address()}", f"tcp://{free_address()}"
    text = make_deployment(tmp_path, server.url, *events, crl=certs / "crl.pem")
    agent = Agent(settings_for(text, "a"))
    await agent.start()
    gateway = Gateway(text, resolve(text, source="test"))
    await gateway.start()
    try:
        yield gateway, server
    finally:
        server.release.set()
        await gateway.close()
        await agent.close()
        await server.stop()


@asynccontextmanager
async def asking(gateway: Gateway, server: Engine) -> AsyncIterator[asyncio.Future[list[None]]]:
    """Streams of an agent, and an answer through it, which has begun and does not end."""
    begun: set[str] = set()

    async def follow(what: str, news: AsyncIterator[object]) -> None:
        async for _ in news:
            begun.add(what)

    async def until_it_breaks(what: str, news: AsyncIterator[object]) -> None:
        with pytest.raises((LinkError, *CONNECTION_ERRORS)):
            await follow(what, news)

    async def answer() -> AsyncIterator[bytes]:
        async with await gateway._http.request(
            "POST",
            server.url,
            "/v1/completions",
            timeouts=Timeouts(None, 2.0),
            tls=gateway.engines["d"].credentials.tls,
        ) as found:
            async for piece in found.pieces():
                yield piece

    agent = gateway.agents["a"]
    task = asyncio.ensure_future(
        asyncio.gather(
            until_it_breaks("links", agent.link_states()),
            until_it_breaks("cache", agent.cache_news()),
            until_it_breaks("engine's cache", agent.kv_events("d", Stopped())),
            until_it_breaks("answer", answer()),
        )
    )
    try:
        await until(lambda: task.done() or len(begun) == 4)
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_was_asked_of_an_agent_ends_when_it_is_revoked(
    followed: tuple[Gateway, Engine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway, server = followed
    async with asking(gateway, server) as asked:
        issue(tmp_path / "certs", "c")
        revoke(tmp_path / "certs", "c")
        gateway.become(gateway.deployment, source="test")
        await asyncio.sleep(1.5)
        assert not asked.done(), "somebody else was revoked"
        revoke(tmp_path / "certs", "a")
        gateway.become(gateway.deployment, source="test")
        await asyncio.wait_for(asked, 30)
        assert "CN=a ended: its certificate is revoked" in caplog.text
        await until(lambda: not gateway.fleet.up)


async def test_an_agent_is_revoked_while_the_deployment_file_is_refused(
    followed: tuple[Gateway, Engine], tmp_path: Path
) -> None:
    """And where the gateway's own certificate and key are just being exchanged."""
    gateway, server = followed

    def refused() -> Deployment:
        raise ConfigError("unknown key 'nonsense'")

    async with asking(gateway, server) as asked:
        issue(tmp_path / "certs", "gateway").key.write_text("half of a key")
        revoke(tmp_path / "certs", "a")
        with pytest.raises(ConfigError, match="nonsense"):
            Rereading(gateway, refused, source="test").take()
        await asyncio.wait_for(asked, 30)
        await until(lambda: not gateway.fleet.up)


async def test_engines_that_nobody_can_connect_to_are_not_up_for_a_kept_health_connection(
    followed: tuple[Gateway, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that expires lets no new connection in, and ends none: `/ready` said yes for as long
    as the health checks' lived, and every request got 503."""
    gateway, _ = followed
    await until(lambda: not gateway.troubles())
    monkeypatch.setattr(authority, "_CRL_DAYS", 4 / 86400)
    crl = authority.renew_list(tmp_path / "certs")
    gateway.become(gateway.deployment, source="test")
    await until(lambda: list_expiry(crl).at < time.time())
    assert not gateway.troubles(), "over the connection that is kept"
    engine = gateway.engines["d"]
    asked = (engine.pass_on("POST", "/large", b"{}") for _ in range(8))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert any(isinstance(answer, EngineUnreachable) for answer in answers), answers
    await until(lambda: bool(gateway.troubles()))
    assert "CRL has expired" in gateway.troubles()[0]
    monkeypatch.undo()
    monkeypatch.setenv("CARRIED_TEST_KEY", "an-engine-key")
    authority.renew_list(tmp_path / "certs")
    gateway.become(gateway.deployment, source="test")
    await until(lambda: not gateway.troubles())
