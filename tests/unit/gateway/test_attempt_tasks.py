"""Parts of attempts run until they end or are stopped by name."""

from __future__ import annotations

import asyncio

from prfaas.gateway.attempt_tasks import AttemptTasks


async def test_each_part_is_stopped_by_its_name() -> None:
    stopped: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(name)

    tasks = AttemptTasks(on_bug=lambda bug: None)
    for part, attempt in (("prefill", 1), ("transfer", 1), ("prefill", 2)):
        tasks.start(part, attempt, work(f"{part}{attempt}"))
    await asyncio.sleep(0)
    tasks.stop("prefill", 1)
    tasks.stop("prefill", 1)
    await asyncio.sleep(0)
    assert stopped == ["prefill1"]
    tasks.stop_all()
    await asyncio.sleep(0)
    assert sorted(stopped) == ["prefill1", "prefill2", "transfer1"]


async def test_a_bug_is_told_and_a_stop_is_none() -> None:
    bugs: list[BaseException] = []

    async def fail() -> None:
        raise ValueError("oops")

    tasks = AttemptTasks(bugs.append)
    tasks.start("decode", 1, fail())
    tasks.start("decode", 2, asyncio.Event().wait())  # type: ignore[arg-type]
    await asyncio.sleep(0)
    tasks.stop_all()
    await asyncio.sleep(0.01)
    assert [str(bug) for bug in bugs] == ["oops"]
