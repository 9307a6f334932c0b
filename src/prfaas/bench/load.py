"""Requests sent at their times, or so many at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import inf

import msgspec

from prfaas.bench.asking import Api, Prompts
from prfaas.bench.endpoint import Endpoint
from prfaas.bench.outcomes import Outcome


class Pace(msgspec.Struct, frozen=True):
    """``concurrency``: no more than so many requests at a time; the next is sent when one ends.
    ``timed``: not before its time. ``duration_s``: none is sent after so long; those under way end.
    """

    timed: bool = True
    concurrency: int | None = None
    duration_s: float = inf


Told = Callable[[int, int, int], None]
"""Called at each end with how many were sent, have ended, have failed."""


async def send(
    prompts: Prompts, endpoint: Endpoint, model: str, api: Api, pace: Pace, told: Told
) -> list[Outcome]:
    """Send all of them; in the order in which they were sent. When it is cancelled, what is under
    way is given up and left out."""
    places = None if pace.concurrency is None else asyncio.Semaphore(pace.concurrency)
    outcomes: dict[int, Outcome] = {}
    began = time.perf_counter()
    failed = 0

    async def one(number: int) -> None:
        nonlocal failed
        try:
            found = await endpoint.ask(prompts[number], model, api, began)
        finally:
            if places is not None:
                places.release()
        failed += not found.completed
        if not pace.timed:
            found.due = found.sent
        outcomes[number] = found
        told(number_sent, len(outcomes), failed)

    tasks: set[asyncio.Task[None]] = set()
    number_sent = 0
    try:
        for number in range(len(prompts)):
            if pace.timed:
                await asyncio.sleep(prompts.at(number) - (time.perf_counter() - began))
            if places is not None:
                await places.acquire()
            if time.perf_counter() - began > pace.duration_s:
                break
            tasks.add(asyncio.create_task(one(number)))
            number_sent = number + 1
        await asyncio.gather(*tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [outcomes[number] for number in sorted(outcomes)]
