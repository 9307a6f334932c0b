"""Requests at their times, and what became of them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence

import aiohttp
import msgspec
import numpy as np

from prfaas.workload.arrivals import Arrivals
from prfaas.workload.lengths import LengthDistribution
from prfaas.workload.requests import Workload

_STRATA = 20


class Outcome(msgspec.Struct):
    """Seconds of the run's own clock; None: not (yet)."""

    arrived: float
    prompt_tokens: int
    status: int | None = None
    route: str | None = None
    first: float | None = None
    done: float | None = None
    error: str | None = None


def drawn(
    lengths: LengthDistribution, output_tokens: int, rate: float, count: int, seed: int
) -> Workload:
    """Poisson arrivals; of every twenty prompts in a row one from each twentieth of the lengths, so
    that any stretch of the run has the work of the distribution and not of luck."""
    rng = np.random.default_rng(seed)
    shares: list[float] = []
    while len(shares) < count:
        shares += ((rng.permutation(_STRATA) + rng.random(_STRATA)) / _STRATA).tolist()
    prompts = np.maximum(np.rint(lengths.quantile(np.asarray(shares[:count]))), 1).astype(int)
    times = Arrivals("poisson", rate).times(count, rng)
    return Workload(times.tolist(), prompts.tolist(), [output_tokens] * count)


def evened(times: Sequence[float], rate: float) -> list[float]:
    """The same arrivals, stretched so that any twenty of them in a row take as long as ``rate``
    says: what is offered in a window of a short run is then ``rate``, not the luck of the draw."""
    found: list[float] = []
    for start in range(0, len(times), _STRATA):
        block = times[start : start + _STRATA]
        before = times[start - 1] if start else 0.0
        stretch = len(block) / rate / (block[-1] - before)
        found += [start / rate + (at - before) * stretch for at in block]
    return found


async def asked(
    url: str, workload: Workload, *, slow: float, until: float, first_id: int = 0
) -> list[Outcome]:
    """Send the workload to a gateway; at ``until`` what is left is dropped. Token ids are random,
    from ``first_id`` on."""
    outcomes = [Outcome(a, n) for a, n in zip(workload.arrivals, workload.prompts, strict=True)]
    source = random.Random(1).choices(
        range(first_id, first_id + 256), k=max(workload.prompts) + len(outcomes)
    )
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        began = time.monotonic()

        def now() -> float:
            return (time.monotonic() - began) / slow

        async def one(number: int, outcome: Outcome, output_tokens: int) -> None:
            await asyncio.sleep((outcome.arrived - now()) * slow)
            prompt = source[number : number + outcome.prompt_tokens]
            body = json.dumps(
                {
                    "prompt": prompt,
                    "max_tokens": output_tokens,
                    "stream": True,
                    "ignore_eos": True,
                    "temperature": 0,
                }
            )
            try:
                async with session.post("/v1/completions", data=body) as response:
                    outcome.status = response.status
                    outcome.route = response.headers.get("x-prfaas-route", "").split(";")[0]
                    if response.status != 200:
                        outcome.error = (await response.text())[:300]
                        return
                    async for line in response.content:
                        if outcome.first is None and line.startswith(b"data:"):
                            outcome.first = now()
                        if b"[DONE]" in line:
                            outcome.done = now()
            except aiohttp.ClientError as error:
                outcome.error = repr(error)

        tasks = [
            asyncio.create_task(one(i, outcome, workload.outputs[i]))
            for i, outcome in enumerate(outcomes)
        ]
        await asyncio.wait(tasks, timeout=until * slow)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return outcomes


def sustained(
    prompts: Sequence[int], done_at: Sequence[float], begin: float, end: float, cut: int | None
) -> float:
    """Requests per second of this mix that are answered between ``begin`` and ``end``.

    Offered more than it can carry, a system that routes by length answers more of the class whose
    stage has time left. The mix as a whole is carried at the rate of the class served least,
    over its share: the planner's Lambda. ``cut`` None: one class.
    """
    long = np.asarray(prompts) > (-1 if cut is None else cut)
    done = np.asarray(done_at)
    within = (done >= begin) & (done < end)
    rates = [
        (within & of_class).sum() / (end - begin) / of_class.mean()
        for of_class in (long, ~long)
        if of_class.any()
    ]
    return float(min(rates))
