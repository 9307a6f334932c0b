"""Tasks that die are started again and counted."""

from __future__ import annotations

import asyncio

import pytest

from prfaas.gateway import background
from prfaas.gateway.background import Background


async def test_a_task_that_dies_is_started_again_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "_PAUSE_S", 0.0)
    deaths: list[str] = []
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts < 3:
            raise KeyError("a bug")

    tasks = Background(deaths.append)
    await tasks.run("poll", work)
    assert (starts, deaths) == (3, ["poll", "poll"])
    assert "started again: poll" in caplog.text


async def test_close_ends_what_runs() -> None:
    tasks = Background(lambda kind: None)
    task = tasks.run("wait", asyncio.Event().wait)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await tasks.close()
    assert task.cancelled()
