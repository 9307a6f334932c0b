"""A transfer watched from outside, and dropped."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from prfaas.core.errors import LinkError
from prfaas.gateway import handoffs
from prfaas.gateway.agent_client import AgentLate, TransferStatus
from prfaas.gateway.endpoints import EngineEndpoint
from prfaas.gateway.handoffs import drop_transfer, export_params, loaded, watch_transfer
from prfaas.policies.api import Route
from prfaas.scheduler.commands import StartPrefill
from prfaas.testing.mock_deployment import MockDeployment, until

LONG = "a long prompt that is certainly longer than the threshold of forty tokens"
MIDDLE = "longer than one block"
COMPLETIONS = "/v1/completions"


async def ask(client: aiohttp.ClientSession, **body: Any) -> tuple[aiohttp.ClientResponse, str]:
    """The response and its text: of its first choice, or as it is."""
    async with client.post(COMPLETIONS, json=body) as response:
        content = await response.text()
        return response, json.loads(content)["choices"][0]["text"] if response.ok else content


async def test_the_share_hidden_by_an_attempt_given_up_is_not_waited_for() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        mock.engines["e1"].exports_complete = False
        mock.engines["p1"].prefill_gate.clear()
        mock.agents["east-agent"].sent = lambda *_, **__: None  # type: ignore[method-assign]
        asked = asyncio.create_task(ask(client, prompt=LONG))
        east, west = mock.agents["east-agent"], mock.agents["west-agent"]
        await until(lambda: bool(east.polled))
        (first,) = east.polled
        (exchange,) = mock.gateway._driver._exchanges.values()  # type: ignore[union-attr]
        assert ("prefill", 1) in exchange.attempts._tasks
        await west.receive(first, total=10, stored=5, state="failed")
        await until(lambda: bool(mock.engines["p1"].requests))
        assert ("prefill", 1) not in exchange.attempts._tasks
        mock.engines["p1"].prefill_gate.set()
        response, _ = await asked
        assert response.headers["x-prfaas-route"].startswith("pd-p")


class Agent:
    """Says what it is told to say, one after the other."""

    def __init__(self, *says: TransferStatus | LinkError) -> None:
        self.says = list(says)
        self.asked = 0

    def _say(self) -> TransferStatus:
        self.asked += 1
        said = self.says.pop(0)
        if isinstance(said, LinkError):
            raise said
        return said

    async def transfer(
        self, _id: str, *, wait_s: float, ranks: int, reads: int = 0
    ) -> TransferStatus:
        return self._say()

    async def drop(self, _id: str) -> None:
        self._say()


async def test_progress_is_told_when_there_is_some() -> None:
    agent = Agent(
        TransferStatus("unknown"),
        TransferStatus("receiving", bytes_stored=5),
        TransferStatus("receiving", bytes_stored=5),
        TransferStatus("receiving", bytes_stored=6, bytes_total=8),
        TransferStatus("complete", bytes_stored=8, bytes_total=8),
    )
    told: list[float | None] = []
    status = await watch_transfer(
        agent,  # type: ignore[arg-type]
        "t",
        ranks=1,
        poll_s=1.0,
        on_progress=told.append,
    )
    assert (status.state, told) == ("complete", [None, 0.75])


@pytest.mark.parametrize(
    ("says", "known"),
    [
        ([TransferStatus("complete", reads=0), TransferStatus("complete", reads=2)], True),
        ([AgentLate("late"), TransferStatus("complete", reads=2)], True),
        ([TransferStatus("complete", reads=1), TransferStatus("failed", reads=1)], False),
        ([TransferStatus("complete")], False),  # an agent of a release before
        ([LinkError("gone")], False),
    ],
)
async def test_a_transfer_is_loaded_when_every_rank_has_read_it(
    says: list[TransferStatus | LinkError], known: bool
) -> None:
    agent = Agent(*says)
    assert await loaded(agent, "t", (1, 2), poll_s=1.0) is known  # type: ignore[arg-type]
    assert not agent.says


async def test_a_transfer_that_failed_says_why() -> None:
    agent = Agent(TransferStatus("failed", reason="checksum mismatch"))
    with pytest.raises(LinkError, match="checksum mismatch"):
        await watch_transfer(
            agent,  # type: ignore[arg-type]
            "t",
            ranks=1,
            poll_s=1.0,
            on_progress=lambda share: None,
        )


async def test_an_agent_may_be_late_a_few_times_but_not_for_ever() -> None:
    late, done = AgentLate("late"), TransferStatus("complete", bytes_stored=8, bytes_total=8)
    slow = TransferStatus("receiving", bytes_stored=5)

    async def watched(agent: Agent) -> TransferStatus:
        return await watch_transfer(
            agent,  # type: ignore[arg-type]
            "t",
            ranks=1,
            poll_s=1.0,
            on_progress=lambda share: None,
        )

    assert (await watched(Agent(late, late, slow, late, late, done))).state == "complete"
    for agent, asked in ((Agent(late, late, late, done), 3), (Agent(LinkError("gone"), done), 1)):
        with pytest.raises(LinkError):
            await watched(agent)
        assert agent.asked == asked


async def test_a_drop_is_tried_again_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoffs, "_DROP_PAUSES_S", (0.0, 0.0))
    gone, done = LinkError("gone"), TransferStatus("unknown")
    for says, asked in (([done], 1), ([gone, done], 2), ([gone] * 9, 3)):
        agent = Agent(*says)
        await drop_transfer(agent, "t")  # type: ignore[arg-type]
        assert agent.asked == asked


def test_an_export_has_until_its_deadline_and_a_second_at_least() -> None:
    command = StartPrefill("k", 1, "e1", "d1", "k-1", 4, 64, Route.OFFLOAD, "why")
    engines = {n: endpoint(n, a) for n, a in (("e1", "e"), ("d1", "w"), ("d2", "w"), ("p", "w"))}
    roles: Any = {n: SimpleNamespace(role="decode" if n[0] == "d" else "prefill") for n in engines}
    params = export_params(command, engines, roles, time_left_s=12.5)
    assert (params.destination, params.from_token, params.to_token) == ("w", 4, 64)
    assert params.readers == ("d1", "d2"), "whatever decodes on that machine may come to read it"
    assert params.deadline_s == 12.5
    assert export_params(command, engines, roles, time_left_s=-3.0).deadline_s == 1.0


def endpoint(name: str, agent: str) -> EngineEndpoint:
    return EngineEndpoint(
        name=name, cluster=agent, machine=agent, agent=agent, role="decode", url="http://x",
        kv_events=None, kv_events_replay=None,
    )  # fmt: skip


@pytest.mark.parametrize("poll_s", [1000.0, 0.0])
async def test_an_agent_that_answers_at_once_is_not_asked_without_rest(
    poll_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(handoffs.asyncio, "sleep", sleep)
    under_way, done = TransferStatus("receiving"), TransferStatus("complete", reads=2)
    agent = Agent(under_way, under_way, done, TransferStatus("complete", reads=1), done)
    await watch_transfer(
        agent,  # type: ignore[arg-type]
        "t",
        ranks=1,
        poll_s=poll_s,
        on_progress=lambda share: None,
    )
    assert await loaded(agent, "t", (1, 2), poll_s=poll_s)  # type: ignore[arg-type]
    assert pauses == [handoffs._POLL_PAUSE_S] * 3 * (poll_s > 0)
