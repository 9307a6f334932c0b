"""Attacks through an engine socket: a transfer opens for its prompt and its readers alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from prfaas.agent.service import Agent
from prfaas.agent.settings import AgentSettings
from prfaas.core.prompt_digest import prompt_digest
from prfaas.engine_socket.messages import BeginExport, OpenImport
from prfaas.testing.mock_engine_rank import ONE_BLOCK, WAIT_S, MockEngineRank

SIZE = 100_000
SECRET = list(range(7, 23))
"""The prompt's tokens, which the attacker does not know."""


@pytest_asyncio.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    settings = AgentSettings(
        name="here", arena_bytes=64 << 16, slot_bytes=1 << 16, export_slots=16, cache_slots=0,
        engines=frozenset({"prefill", "decode", "curious"}), socket=tmp_path / "s",
        admin="127.0.0.1:0", link=None,
    )  # fmt: skip
    found = Agent(settings)
    await found.start()
    yield found
    await found.close()


class Scene:
    """A prefill engine has handed a prompt over to engine ``decode``."""

    def __init__(self, socket: Path) -> None:
        self.ranks = {n: MockEngineRank(str(socket), n) for n in ("prefill", "decode", "curious")}
        sender = self.ranks["prefill"]
        digest = prompt_digest(SECRET, to_token=16, salt="tenant-a")
        sender.client.begin_export(BeginExport(
            transfer_id="t-1", destination="here", from_token=0, to_token=16, total_bytes=SIZE,
            deadline_s=WAIT_S, prompt_digest=digest, readers=("decode",),))  # fmt: skip
        start = 0
        while start < SIZE:
            start = sender.hand_over("t-1", start, SIZE)
        assert sender.client.finish_export("t-1") is None

    def opened_by(self, engine: str, digest: str) -> str:
        client = self.ranks[engine].client
        opened = client.open_import(OpenImport("t-1", *ONE_BLOCK, SIZE, digest))
        error = opened.future.exception(WAIT_S)
        client.close_import(opened)
        return "opened" if error is None else str(error)

    def close(self) -> None:
        for rank in self.ranks.values():
            rank.client.close()


async def test_a_transfer_opens_for_its_prompt_and_readers_alone(agent: Agent) -> None:
    def attack() -> None:
        scene = Scene(agent.settings.socket)
        right = prompt_digest(SECRET, to_token=16, salt="tenant-a")
        swapped = prompt_digest([*SECRET[:-1], 99], to_token=16, salt="tenant-a")
        other_tenant = prompt_digest(SECRET, to_token=16, salt="tenant-b")
        other_adapter = prompt_digest(SECRET, to_token=16, salt="tenant-a", adapter="poet")
        try:
            assert "not meant for this engine" in scene.opened_by("curious", right)
            for forged in (swapped, other_tenant, other_adapter, "0" * 32):
                assert "another prompt, salt or adapter" in scene.opened_by("decode", forged)
            assert scene.opened_by("decode", right) == "opened"
        finally:
            scene.close()

    await asyncio.to_thread(attack)
