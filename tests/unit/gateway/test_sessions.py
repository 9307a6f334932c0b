"""A gateway's sessions at its agents."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

import msgspec
import pytest

from prfaas.core.gateway_sessions import (
    LAPSES_AFTER_S,
    Decided,
    EngineShare,
    EngineUse,
    LiveGateway,
    Standing,
    Use,
)
from prfaas.gateway import sessions
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.http_client import HttpClient
from prfaas.gateway.sessions import GatewaySession
from prfaas.testing.mock_agent import MockAgent
from prfaas.testing.mock_deployment import MockDeployment, until


class Peer:
    """A gateway that is nothing but its session; it takes what it ``wants`` at once."""

    def __init__(self, name: str) -> None:
        self.may, self.wants, self.renewals = 1, 0, 0
        self.shares: Mapping[str, EngineShare] = {}
        self.led: list[Decided | None] = []
        self.session = GatewaySession(
            name,
            outstanding=self.outstanding,
            on_shares=self.take,
            decided=lambda: Decided(roles={name: "decode"}, thresholds={"west": 7}),
            on_decided=self.led.append,
        )

    def outstanding(self, _agent: str) -> dict[str, EngineUse]:
        held = min(self.wants, self.may)
        use = Use(total=8, held=held, wanted=self.wants, may=self.may)
        return {"d": EngineUse(decode=use, prefill=use)}

    def take(self, shares: Mapping[str, EngineShare]) -> None:
        self.renewals += 1
        self.shares = shares
        self.may = shares["d"].decode


@contextlib.asynccontextmanager
async def at(agent: MockAgent, *peers: Peer) -> AsyncIterator[AgentClient]:
    await agent.start()
    http = HttpClient()
    client = AgentClient(agent.name, agent.url, http)
    tasks = [asyncio.create_task(peer.session.hold(client)) for peer in peers]
    try:
        yield client
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await http.close()
        await agent.stop()


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions are renewed often."""
    monkeypatch.setattr(sessions, "_PERIOD_S", 0.05)


@pytest.mark.usefixtures("brisk")
async def test_gateways_meet_at_an_agent_and_divide_its_engines() -> None:
    one, other = Peer("gateway-1"), Peer("gateway-2")
    async with at(MockAgent("west"), one, other):
        await until(lambda: (one.may, other.may) == (4, 4))
        assert set(one.session.gateways().values()) == {"gateway-1", "gateway-2"}
        one.wants = 8
        await until(lambda: one.may == 8 and other.may == 1)
        other.wants = 8
        await until(lambda: (one.may, other.may) == (4, 4))
        await until(lambda: other.shares["d"].others_decode == 4)


async def test_the_first_by_name_decides_for_all() -> None:
    one, other = Peer("gateway-1"), Peer("gateway-2")
    agent = MockAgent("west")
    async with at(agent, one, other):
        decided = Decided(roles={"gateway-1": "decode"}, thresholds={"west": 7})
        await until(lambda: other.led[-1:] == [decided])
        assert one.led[-1] is None
        assert other.session.leader() == one.session.id
    other.led.clear()
    async with at(MockAgent("west"), other):
        await until(lambda: other.led[-1:] == [None])


async def test_who_wants_more_asks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_PERIOD_S", 1000.0)
    one = Peer("gateway-1")
    agent = MockAgent("west")
    async with at(agent, one):
        await until(lambda: one.may == 8)
        agent.sessions.end(one.session.id)
        one.may, one.wants = 1, 8
        one.session.want()
        await until(lambda: one.renewals == 2)
        assert one.may == 8


async def test_asking_that_does_not_help_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Peer("gateway-1")
    monkeypatch.setattr(sessions, "_PERIOD_S", 1000.0)
    async with at(MockAgent("west"), one):
        await until(lambda: one.may == 8)
        # More than there is: whoever is told so asks again when it is due anyway.
        one.take = lambda shares: setattr(one, "renewals", one.renewals + 1)  # type: ignore[method-assign]
        one.session._on_shares = one.take
        one.wants, one.may, before = 9, 7, one.renewals
        for _ in range(200):
            one.session.want()
            await asyncio.sleep(0.005)
        assert one.renewals - before <= 2


async def test_an_agent_of_before_keeps_no_sessions(caplog: pytest.LogCaptureFixture) -> None:
    one = Peer("gateway-1")
    agent = MockAgent("west")
    agent.keeps_sessions = False
    async with at(agent, one):
        await until(lambda: "keeps no gateways' sessions" in caplog.text)
        assert one.session.gateways() == {one.session.id: "gateway-1"}


@pytest.mark.usefixtures("brisk")
async def test_no_agent_by_itself_says_who_leads_or_what_is_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = Peer("gateway-1"), Peer("gateway-2")
    honest, liar = [MockAgent("a"), MockAgent("b")], MockAgent("c")
    standing, evil = liar.sessions.standing, Decided(roles={"d": "prefill"}, thresholds={"west": 1})

    def lying(session_id: str, *, now: float) -> Standing:
        said = standing(session_id, now=now)
        forged = [msgspec.structs.replace(g, decided=evil) for g in said.gateways]
        stranger = LiveGateway(id="0" * 12, name="!", decided=evil)
        return msgspec.structs.replace(said, gateways=[stranger, *forged])

    monkeypatch.setattr(liar.sessions, "standing", lying)
    async with contextlib.AsyncExitStack() as stack:
        for agent in (*honest, liar):
            await stack.enter_async_context(at(agent, one, other))
        decided = Decided(roles={"gateway-1": "decode"}, thresholds={"west": 7})
        await until(lambda: other.led[-1:] == [decided])
        assert one.led[-1] is None
        seen = len(other.led)
        await until(lambda: len(other.led) > seen + 6)
        assert "!" in other.session.gateways().values()
        assert other.session.leader() == one.session.id
        assert evil not in other.led[seen:]
        assert set(map(type, one.led[-6:])) == {type(None)}


async def test_an_agent_has_no_say_in_other_machines_engines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, agent = Peer("gateway-1"), MockAgent("west")
    standing = agent.sessions.standing

    def lying(session_id: str, *, now: float) -> Standing:
        said = standing(session_id, now=now)
        return msgspec.structs.replace(
            said, engines={**said.engines, "elsewhere": EngineShare(decode=1, prefill=1)}
        )

    monkeypatch.setattr(agent.sessions, "standing", lying)
    async with at(agent, one):
        await until(lambda: one.may == 8)
        assert one.shares.keys() == {"d"}


async def test_requests_carry_the_session_and_its_end_is_told() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        agents = list(mock.agents.values())
        await until(lambda: all(len(agent.sessions) == 1 for agent in agents))
        (session_id,) = mock.gateway._session.gateways()
        body = {"model": "mock-model", "prompt": "word " * 60, "max_tokens": 2}
        async with client.post("/v1/completions", json=body) as answer:
            assert answer.status == 200
        agent = mock.agents["west-agent"]
        await until(lambda: bool(agent.dropped))
        assert all(name.startswith(f"{session_id}-") for name in agent.dropped)
        await mock.gateway._session.end(mock.gateway.agents.values(), within_s=20.0)
        assert all(agent.sessions.is_gone(f"{session_id}-") for agent in agents)


def test_of_many_agents_one_without_work_is_told_less_often() -> None:
    peer = Peer("gateway-1")
    session, idle = peer.session, peer.outstanding("west")
    assert session._period_s(idle) == sessions._PERIOD_S
    session._wants = {f"agent-{number}": asyncio.Event() for number in range(sessions._MANY)}
    assert session._period_s(idle) == sessions._IDLE_PERIOD_S < LAPSES_AFTER_S / 2
    peer.wants = 1
    assert session._period_s(peer.outstanding("west")) == sessions._PERIOD_S


@pytest.mark.usefixtures("brisk")
async def test_an_agent_that_leaves_no_place_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By none at all nothing can be planned: every request of the gateway would fail."""
    mock = MockDeployment()
    none = {"decode": 0, "prefill": 0}
    said = msgspec.Raw(msgspec.json.encode({"gateways": [], "engines": {"d1": none, "d2": none}}))
    async with mock.running() as client:
        await mock.ready()
        agent, asked = mock.agents["west-agent"], asyncio.Event()

        def standing(_session_id: str, *, now: float) -> msgspec.Raw:
            asked.set()
            return said

        monkeypatch.setattr(agent.sessions, "standing", standing)
        for _ in range(2):
            asked.clear()
            await asked.wait()
        body = {"model": "mock-model", "prompt": "word " * 60, "max_tokens": 2}
        async with client.post("/v1/completions", json=body) as answer:
            assert answer.status == 200
