"""What an agent says, and what it cannot mean."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from aiohttp import web

from prfaas.core.errors import LinkError
from prfaas.core.gateway_sessions import Renewal, Standing
from prfaas.core.layout import MAX_LAYOUT_BYTES
from prfaas.core.versions import AGENT_API_HEADER
from prfaas.gateway import agent_client, registered_ranks
from prfaas.gateway.agent_client import AgentClient, CacheSizes, TransferStatus, read_answer
from prfaas.gateway.http_client import HttpClient
from prfaas.testing.mock_agent import MockAgent
from prfaas.testing.mock_deployment import mock_layout


async def test_engines_transfers_and_drops() -> None:
    agent, http = MockAgent("a"), HttpClient()
    await agent.start()
    try:
        client = AgentClient("a", agent.url, http)
        assert await client.engines() == []
        agent.register("e", mock_layout())
        (rank,) = await client.engines()
        assert (rank.engine, rank.layout) == ("e", mock_layout())
        assert (await client.transfer("t", wait_s=0.0, ranks=1)).state == "unknown"
        await agent.receive("t", total=8, stored=8, state="complete")
        assert (await client.transfer("t", wait_s=0.0, ranks=1)).bytes_total == 8
        await client.drop("t")
        assert agent.dropped == ["t"]
        agent.failing_drops = 1
        with pytest.raises(LinkError, match="dropping answered 500"):
            await client.drop("t")
    finally:
        await http.close()
        await agent.stop()


class Nonsense(MockAgent):
    """Answers what it should not."""

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/engines", self._nonsense)]

    async def _nonsense(self, _request: web.Request) -> web.Response:
        return web.Response(body=b'{"engines": 3}')


class Endless(MockAgent):
    """Answers without end."""

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/engines", self._endless), web.put("/gateways/{id}", self._endless)]

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)


async def test_an_answer_without_end_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_client, "_LONGEST_ANSWER", 1 << 20)
    agent, http = Endless("a"), HttpClient()
    await agent.start()
    try:
        client = AgentClient("a", agent.url, http)
        with pytest.raises(LinkError, match="has more than 1048576 bytes"):
            await client.engines()
        with pytest.raises(LinkError, match="has more than 1048576 bytes"):
            await client.renew("abcdefgh", Renewal(name="g"))
    finally:
        await http.close()
        await agent.stop()


class Newer(MockAgent):
    """Of a release whose API a gateway of this one could misread."""

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/engines", self._newer), web.get("/links/events", self._newer)]

    async def _newer(self, _request: web.Request) -> web.Response:
        return web.Response(body=b'{"engines": []}', headers={AGENT_API_HEADER: "2"})


async def test_an_agent_of_another_version_is_not_misread() -> None:
    agent, http = Newer("a"), HttpClient()
    await agent.start()
    client = AgentClient("a", agent.url, http)
    with pytest.raises(LinkError, match="agent a: its API has version '2', this gateway speaks 1"):
        await client.engines()
    with pytest.raises(LinkError, match="its API has version '2'"):
        async for _ in client.link_states():
            pass
    await http.close()
    await agent.stop()


class Talkative(MockAgent):
    """Tells of its links without rest."""

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/links/events", self._talk)]

    async def _talk(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for said in (b"a\nb\n" * 100_000, b'{"links": []}\n' * 100_000):
            await response.write(said)
        await asyncio.sleep(60)
        return response


async def test_an_agent_that_talks_without_rest_fills_neither_log_nor_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_client, "_LINKS_EVERY_S", 0.0)
    agent, http = Talkative("a"), HttpClient()
    await agent.start()
    client = AgentClient("a", agent.url, http)
    states = client.link_states()
    assert await anext(states) == []
    assert sum("unreadable answer" in record.getMessage() for record in caplog.records) <= 2
    await states.aclose()
    await http.close()
    await agent.stop()


@pytest.mark.parametrize(
    "gateways",
    [[{"id": "a", "name": "g" * 1000}], [{"id": "a" * 1000, "name": "g"}],
     [{"id": str(n), "name": "g"} for n in range(65)]],
    ids=["a long name", "a long id", "many"],
)  # fmt: skip
def test_no_agent_tells_of_more_gateways_than_there_can_be(gateways: list[dict[str, str]]) -> None:
    with pytest.raises(LinkError, match="unreadable answer"):
        read_answer("a", msgspec.json.encode({"gateways": gateways}), Standing)


@pytest.mark.parametrize(
    "said",
    [{"state": "x" * 100_000}, {"state": "failed", "reason": "x" * 100_000}],
    ids=["a state that is none", "a reason"],
)
def test_what_an_agent_says_makes_no_long_errors(said: dict[str, str]) -> None:
    with pytest.raises(LinkError, match="unreadable answer") as caught:
        read_answer("a", msgspec.json.encode(said), TransferStatus)
    assert len(str(caught.value)) < 500


async def test_nonsense_and_silence_are_errors_of_the_agent() -> None:
    agent, http = Nonsense("a"), HttpClient()
    await agent.start()
    client = AgentClient("a", agent.url, http)
    with pytest.raises(LinkError, match="agent a: unreadable answer"):
        await client.engines()
    with pytest.raises(LinkError, match="answered 404"):
        await client.transfer("t", wait_s=0.0, ranks=1)
    await agent.stop()
    with pytest.raises(LinkError, match="agent a: cannot connect"):
        await client.engines()
    await http.close()


@pytest.mark.parametrize(
    "said",
    [
        {"state": "complete", "first_byte_at": -1e308},
        {"state": "complete", "first_byte_at": 1e308},
        {"state": "complete", "bytes_total": 1 << 62},
        {"state": "complete", "bytes_total": 10**400},
        {"state": "complete", "sent": {"bytes_acknowledged_at_export_end": -1}},
        {"state": "complete", "sent": {"bytes_acknowledged_at_export_end": 10**400}},
        {"state": "complete", "reads": 10**400},
    ],
)
def test_numbers_with_which_nothing_can_be_reckoned_are_no_answer(said: dict[str, Any]) -> None:
    """They would be in metrics for good, or end the trace of a request."""
    with pytest.raises(LinkError, match="unreadable answer"):
        read_answer("a", json.dumps(said).encode(), TransferStatus)


def test_sizes_of_an_agents_cache_are_such() -> None:
    for size in (-1, 10**400):
        said = json.dumps({"size_bytes": size, "used_bytes": 0}).encode()
        with pytest.raises(LinkError, match="unreadable answer"):
            read_answer("a", said, CacheSizes)


async def test_shapes_that_no_tensor_has_are_no_layout() -> None:
    """A layout is told to engines as MessagePack, which has no such numbers."""
    said = msgspec.to_builtins(mock_layout())
    said["groups"][0]["layers"][0]["shape"] = [1 << 64]
    agent, http = MockAgent("a"), HttpClient()
    agent.ranks = [{"engine": "e", "pid": 1, "layout": said}]
    await agent.start()
    try:
        with pytest.raises(LinkError, match="unreadable answer"):
            await AgentClient("a", agent.url, http).engines()
    finally:
        await http.close()
        await agent.stop()


async def test_others_have_turns_while_layouts_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen megabytes of those that take long were 18 s of a gateway's whole time."""
    monkeypatch.setattr(registered_ranks, "_TURN_S", 0.0)
    turns, seen, read = 0, list[int](), registered_ranks.RegisteredRank

    def reading(*rank: Any) -> registered_ranks.RegisteredRank:
        seen.append(turns)
        return read(*rank)

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    monkeypatch.setattr(registered_ranks, "RegisteredRank", reading)
    agent, http = MockAgent("a"), HttpClient()
    for number in range(20):
        agent.register(f"e{number}", mock_layout())
    await agent.start()
    others = asyncio.create_task(take_turns())
    try:
        assert len(await AgentClient("a", agent.url, http).engines()) == 20
    finally:
        others.cancel()
        await http.close()
        await agent.stop()
    assert len(set(seen)) == 20


async def test_a_layout_of_more_bytes_than_any_models_is_not_read() -> None:
    agent, http = MockAgent("a"), HttpClient()
    agent.register("e", mock_layout())
    large = {**msgspec.to_builtins(mock_layout()), "model": "m" * MAX_LAYOUT_BYTES}
    agent.ranks = [*agent.ranks, {"engine": "f", "pid": 1, "layout": large}]
    await agent.start()
    try:
        found = await AgentClient("a", agent.url, http).engines()
        assert [rank.engine for rank in found] == ["e"]
    finally:
        await http.close()
        await agent.stop()
