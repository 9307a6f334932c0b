"""How a demo ends."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from prfaas.demo import run


def stand_in(**more: Any) -> Any:
    model, gateway = SimpleNamespace(served_name="m"), SimpleNamespace(name="gateway")
    return SimpleNamespace(
        url="http://127.0.0.1:1",
        plain_url="http://127.0.0.1:2",
        journal_file=Path("/runs/one/logs/journal.jsonl"),
        deployment=SimpleNamespace(model=model, gateway=gateway, gateways=(gateway,)),
        **more,
    )


@pytest.mark.parametrize("judged", [0, 1])
async def test_a_demo_that_serves_on_and_is_ended_says_whether_answers_were_right(
    judged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = asyncio.Event()

    async def nothing(*_args: Any, **_named: Any) -> Any:
        return {}, {}

    async def watch() -> None:
        serving.set()
        await asyncio.Event().wait()

    supervisor = stand_in(stop_plain_engine=nothing, watch=watch)

    @asynccontextmanager
    async def started(*_args: Any, **_named: Any) -> AsyncIterator[Any]:
        yield supervisor

    monkeypatch.setattr(run, "started", started)
    for name in ("_measured", "play", "replay"):
        monkeypatch.setattr(run, name, nothing)
    monkeypatch.setattr(run, "_judge", lambda *_args: judged)
    demo = asyncio.create_task(run.demo(supervisor.deployment, Console(quiet=True), keep=True))
    await serving.wait()
    demo.cancel()
    assert await demo == judged


@pytest.mark.parametrize("keep", [False, True])
def test_what_became_of_its_requests_can_be_replayed(keep: bool) -> None:
    said = io.StringIO()
    run._say_what_next(stand_in(), Console(file=said, width=400), keep=keep)
    assert " replay /runs/one/logs/journal.jsonl " in said.getvalue()
