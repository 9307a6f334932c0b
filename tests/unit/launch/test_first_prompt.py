"""An engine that dies of the prompt by which it tunes is asked again, once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prfaas.core.errors import EngineError, ProcessError
from prfaas.launch import first_prompt, tuning
from prfaas.launch.child import ChildState

HTTP: Any = None
ENGINE: Any = SimpleNamespace(name="d1")


def child() -> Any:
    return SimpleNamespace(starts=1, state=ChildState.READY, log=Path("logs/d1.log"))


class Engine:
    """Fails ``failures`` times; each time ``after`` says what its process does next."""

    def __init__(self, failures: int, after: list[tuple[int, ChildState]], its: Any) -> None:
        self.failures, self.after, self.its, self.asked = failures, after, its, 0

    async def run(self, *_: object) -> None:
        self.asked += 1
        if self.asked > self.failures:
            return
        if self.asked == 1:
            self.going_on = asyncio.create_task(self._go_on())
        raise EngineError("d1 ended at its first prompt")

    async def _go_on(self) -> None:
        for starts, state in self.after:
            self.its.starts, self.its.state = starts, state
            await asyncio.sleep(0)
            await asyncio.sleep(0)


AGAIN = [(1, ChildState.PAUSING), (2, ChildState.STARTING), (2, ChildState.READY)]


async def ask(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    monkeypatch.setattr(tuning, "run", engine.run)
    monkeypatch.setattr(first_prompt, "_LOOK_S", 0.0)
    await first_prompt.tune(HTTP, HTTP, engine.its, ENGINE)


async def test_one_that_is_started_again_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(1, AGAIN, child())
    await ask(monkeypatch, engine)
    assert engine.asked == 2


async def test_one_that_dies_twice_ends_the_start_and_its_log_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(2, AGAIN, child())
    with pytest.raises(ProcessError, match=r"d1 ended at its first prompt. See logs/d1\.log"):
        await ask(monkeypatch, engine)
    assert engine.asked == 2


async def test_one_that_does_not_come_up_again_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts = [(1, ChildState.PAUSING), (2, ChildState.STARTING), (2, ChildState.PAUSING)]
    engine = Engine(1, [*starts, (3, ChildState.STARTING)], child())
    with pytest.raises(ProcessError):
        await ask(monkeypatch, engine)
    assert engine.asked == 1


async def test_one_that_lives_on_has_given_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_prompt, "_NOTICED_S", 0.0)
    engine = Engine(1, [], child())
    with pytest.raises(ProcessError):
        await ask(monkeypatch, engine)
    assert engine.asked == 1
