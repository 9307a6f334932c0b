"""The deployment's cache key is exchanged while an agent, its engines and a gateway run: mutual
TLS, real sockets, real files."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tests.faults.test_cache_news import BLOCK as PART
from tests.faults.test_cache_news import SALT, hand_over
from tests.faults.test_cache_news import TOKENS as CACHED
from tests.faults.test_carried import Engine, certificates, held, publishing, stored
from tests.faults.test_gateway_workers import neighbours

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.cache_copies import AwaitCopy, CopyCached
from prfaas.core.deployment import load_deployment
from prfaas.core.errors import LinkError
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.rereading import Rereading
from prfaas.index.keys import KnownTokens, PromptKeys
from prfaas.launch.addresses import free_address
from prfaas.process.reloading import Reloading
from prfaas.testing.mock_deployment import until
from prfaas.testing.mock_publisher import MockPublisher
from prfaas.tls.authority import make_cache_key


class Place:
    """An agent with a cache and a disk, two mock engines, and a gateway that watches its file."""

    def __init__(self, run: Path, agent: Agent, gateway: Gateway, reads: list[str]) -> None:
        self.run, self.agent, self.gateway, self.reads = run, agent, gateway, reads

    @property
    def key(self) -> Path:
        return self.run / "certs" / "cache.key"

    def in_engine(self) -> int:
        return held(self.gateway.index)

    def at_agent(self) -> int:
        found = self.gateway.pools.match(PromptKeys(CACHED, salt=SALT)).tokens
        return next(iter(found.values()), 0)

    def files(self) -> list[Path]:
        return list((self.run / "spill").glob("*.kv"))

    async def cache(self, transfer_id: str) -> None:
        """Have the agent cache the prompt."""
        await asyncio.to_thread(hand_over, self.agent.settings.socket, transfer_id)
        await self.gateway.agents["a"].drop(transfer_id)


def deployment_text(run: Path, server: Engine, events: str, replay: str) -> str:
    own = f"ca: {run}/certs/ca.pem, cert: {run}/certs/%s.pem, key: {run}/certs/%s-key.pem"
    return f"""
clusters:
- name: west
  kind: pd
  engines:
  - {{name: pdd, role: decode, url: "{server.url}", kv_events: "{events}",
      kv_events_replay: "{replay}"}}
  - {{name: p, role: prefill, url: "http://{free_address()}", kv_events: "ipc://{run}/p"}}
  agent: {{name: a, admin: "{free_address()}", socket: {run}/s, arena: 4 MiB, slot: 64 KiB,
           cache: {{size: 1 MiB, spill: {{path: {run}/spill, size: 64 MiB}}}},
           tls: {{{own % ("a", "a")}}}}}
gateway: {{agent_tls: {{{own % ("gateway", "gateway")}}}}}
"""


@asynccontextmanager
async def place_of(run: Path, server: Engine, events: str, replay: str) -> AsyncIterator[Place]:
    file = run / "deployment.yaml"
    file.write_text(deployment_text(run, server, events, replay))
    deployment = load_deployment(file)
    agent = Agent(settings_for(deployment, "a"))
    await agent.start()
    gateway, reads = Gateway(deployment, resolve(deployment, source="test")), list[str]()
    await gateway.start()
    rereading = Rereading(gateway, partial(load_deployment, file), source=str(file))
    watched = Reloading(
        file, rereading.take, asked=asyncio.Event(), beside=rereading.named, on_end=reads.append
    )
    gateway.run_beside("deployment_file", watched.run)
    try:
        yield Place(run, agent, gateway, reads)
    finally:
        server.release.set()
        await gateway.close()
        await agent.close()


@pytest.fixture
async def publisher() -> AsyncIterator[MockPublisher]:
    async with publishing() as publisher:
        yield publisher


@pytest.fixture
async def place(tmp_path: Path, publisher: MockPublisher) -> AsyncIterator[Place]:
    certificates(tmp_path / "certs", "a", "gateway")
    server = Engine()
    await server.start()
    await publisher.publish(stored(0, 2))
    async with place_of(tmp_path, server, publisher.events, publisher.replay) as place:
        await place.cache("x")
        await until(lambda: place.in_engine() == 8 and place.at_agent() == PART)
        await until(lambda: len(place.files()) == 1)
        yield place
    await server.stop()


async def test_what_is_cached_is_known_again_under_the_new_key(
    place: Place,
    publisher: MockPublisher,
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent, gateway = place.agent, place.gateway
    before, key_id = place.key.read_text(), gateway.pools.key_id
    record = agent.caches.record("pdd") if agent.caches else None
    assert record is not None
    (part,) = gateway.pools.whole(KnownTokens(CACHED), salt=SALT, adapter=None).values()
    place.key.unlink()
    make_cache_key(place.run / "certs")
    assert place.key.read_text() != before
    await until(lambda: gateway.pools.key_id != key_id)
    await until(lambda: agent.caches is not None and agent.caches.record("pdd") is not record)
    # What engines hold is told once more; what lay under the other name is gone, everywhere.
    await until(lambda: place.in_engine() == 8)
    await until(lambda: not place.files())
    assert place.at_agent() == 0
    assert agent.driver.cached() == []
    agent.driver.check_integrity()
    await publisher.publish(stored(2, 1))
    await until(lambda: place.in_engine() == 12)
    # Orders that were named with the other key are refused.
    client = gateway.agents["a"]
    old = AwaitCopy(prefix=part[0].prefix, deadline_s=9.0, key_id=key_id)
    with pytest.raises(LinkError, match=r"409: .*another cache key"):
        await client.await_copy("copy-1", old)
    with pytest.raises(LinkError, match=r"409: .*is not cached here"):
        await client.send_copy(
            "copy-2", CopyCached(transfer_id="x", destination="b", deadline_s=9.0)
        )
    # And what is computed from now on is found.
    await place.cache("y")
    await until(lambda: place.at_agent() == PART)
    await until(lambda: len(place.files()) == 1)
    head = place.files()[0].read_bytes()[:4096]
    assert gateway.pools.key_id.encode() in head
    assert key_id.encode() not in head
    for name in ("prfaas.gateway.pools", "prfaas.gateway.carried_events"):
        lines = [r for r in caplog.records if r.name == name and "another" in r.getMessage()]
        assert len(lines) <= 1
    assert place.key.read_text().strip() not in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.parametrize("bad", [None, "not a key", "ab" * 20])
async def test_a_bad_file_changes_nothing_and_is_taken_when_it_is_mended(
    place: Place, caplog: pytest.LogCaptureFixture, bad: str | None
) -> None:
    gateway, key_id = place.gateway, place.gateway.pools.key_id
    place.key.unlink()
    if bad is not None:
        place.key.write_text(bad)
    await until(lambda: place.reads == ["refused"])
    await until(lambda: "the new cache key is refused, the old one holds" in caplog.text)
    await asyncio.sleep(2.5)
    errors = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(errors) == 2, "one of the agent, one of the gateway"
    assert all("cache.key" in r.getMessage() for r in errors)
    assert bad is None or bad not in caplog.text
    assert (place.in_engine(), place.at_agent(), gateway.pools.key_id) == (8, PART, key_id)
    place.key.write_text("ab" * 32)
    await until(lambda: gateway.pools.key_id != key_id)
    await until(lambda: place.agent.driver.cached() == [])
    await until(lambda: place.in_engine() == 8)
    assert place.reads == ["refused", "taken"]


async def test_the_deployment_file_may_name_another(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway, key_id = place.gateway, place.gateway.pools.key_id
    (tmp_path / "other.key").write_text("cd" * 32)
    file = tmp_path / "deployment.yaml"
    text = file.read_text().replace("ca: ", f"cache_key: {tmp_path}/other.key, ca: ")
    file.write_text(text)
    settings = settings_for(load_deployment(file), "a")
    await place.agent.take(msgspec.structs.replace(settings, cache_key=tmp_path / "no.key"))
    assert "the old one holds" in caplog.text
    assert "no.key: No such file" in caplog.text
    assert len(place.agent.driver.cached()) == 1
    (tmp_path / "no.key").write_text("01" * 32)
    await until(lambda: place.agent.driver.cached() == [])
    await place.cache("y")
    await until(lambda: len(place.agent.driver.cached()) == 1)
    await place.agent.take(settings)
    assert place.agent.driver.cached() == []
    await until(lambda: gateway.pools.key_id != key_id)
    await until(lambda: place.in_engine() == 8)
    (tmp_path / "other.key").write_text("ef" * 32)
    latest = gateway.pools.key_id
    await until(lambda: gateway.pools.key_id != latest)
    await until(lambda: place.in_engine() == 8)


async def test_it_is_taken_while_the_deployment_file_is_refused(place: Place) -> None:
    key_id = place.gateway.pools.key_id
    (place.run / "deployment.yaml").write_text("nonsense: 1")
    await until(lambda: place.reads == ["refused"])
    assert place.gateway.pools.key_id == key_id
    place.key.write_text("ab" * 32)
    await until(lambda: place.gateway.pools.key_id != key_id)
    await until(lambda: place.agent.driver.cached() == [])
    await until(lambda: place.in_engine() == 8)


async def test_every_process_does_so_and_none_is_started_anew(
    tmp_path: Path, publisher: MockPublisher
) -> None:
    """Two gateways at one port, and an agent; a bad file first."""
    certificates(tmp_path / "certs", "a", "gateway")
    server = Engine()
    await server.start()
    await publisher.publish(stored(0, 2))
    file = tmp_path / "deployment.yaml"
    text = deployment_text(tmp_path, server, publisher.events, publisher.replay)
    own = f"gateway: {{listen: '127.0.0.1:0', admin: '{neighbours()[0]}', workers: 2, "
    file.write_text(text.replace("gateway: {", own))
    logs, processes = [tmp_path / "agent.log", tmp_path / "gateway.log"], []

    async def said(*counts: int, what: str) -> None:
        await until(lambda: [log.read_text().count(what) for log in logs] == [*counts])

    try:
        for log, more in zip(logs, (["agent", "--name", "a"], ["gateway"]), strict=True):
            command = [sys.executable, "-m", "prfaas.cli.main", *more, str(file)]
            with log.open("wb") as stderr:
                processes.append(await asyncio.create_subprocess_exec(*command, stderr=stderr))
        await said(1, 0, what="agent ready")
        await said(0, 2, what="following its cache")
        key = tmp_path / "certs" / "cache.key"
        key.write_text("half of a")
        await said(1, 2, what="64 to 128 hexadecimal digits")
        key.write_text("ab" * 32)
        await said(1, 0, what="names are made with a new cache key")
        await said(0, 2, what="another cache key is used")
        await until(lambda: logs[1].read_text().count("following its cache") >= 4)
        assert all(process.returncode is None for process in processes)
        for log in logs:
            assert "Traceback" not in log.read_text()
            assert "ab" * 32 not in log.read_text()
    finally:
        for process in reversed(processes):
            if process.returncode is None:
                process.terminate()
            await process.communicate()
        server.release.set()
        await server.stop()
