"""Clients of a `LocalFleet`, and a ledger of how each request ended: for chaos, soak and upgrades.

A client draws its next request from the seed and the request's number. It asks one gateway; where
that one does not answer because it was harmed (killed, stopped, without descriptors), it asks the
next, as a load balancer would. Anything else that is not an answer or a clear error counts against
the fleet.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

import aiohttp
import msgspec

from prfaas.testing.mock_engine import expected_words

LONG, SHORT = 3000, 300
"""Tokens of prompts that may be offloaded, and that are not."""
_SLACK_S = 5.0
"""What an answer may take beyond its deadline on a machine that does much else."""
_ERRORS = frozenset({429, 499, 500, 502, 503, 504})


class Ended(msgspec.Struct, frozen=True):
    """How a request ended that was asked ``at`` (seconds on the monotonic clock). ``how``: "right",
    "refused" (429, 503), "error" (another clear one), "wrong", "lost", "late", or "elsewhere" (its
    gateway was harmed: another was asked)."""

    number: int
    gateway: str
    how: str
    at: float
    took_s: float
    told: str = ""


class FleetLoad:
    """So many clients of the gateways, whose loop runs in the caller's.

    Args:
        urls: of the gateways, by name.
        seed: what requests are drawn from.
        deadline_s: of a request, as in the deployment file.
        right: the answers to a prompt that are right: of several releases' engines, several.
    """

    def __init__(
        self,
        urls: Mapping[str, str],
        *,
        seed: int,
        deadline_s: float,
        right: Callable[[list[int]], Collection[str]] = lambda ids: ["".join(expected_words(ids))],
    ) -> None:
        self.urls, self.deadline_s, self._right = dict(urls), deadline_s, right
        self.ended: list[Ended] = []
        """Each request once, and "elsewhere" for each that was asked again."""
        self._harmed: dict[str, list[tuple[float, float]]] = {name: [] for name in urls}
        self._seed, self._numbers = seed, itertools.count()
        self._stop = asyncio.Event()

    def counts(self, gateway: str | None = None) -> Counter[str]:
        """How many ended how, at all gateways or one."""
        return Counter(e.how for e in self.ended if gateway in (None, e.gateway))

    def bad(self) -> list[Ended]:
        """What must not be."""
        return [e for e in self.ended if e.how in ("wrong", "lost", "late")]

    @contextlib.contextmanager
    def harming(self, gateway: str) -> Any:
        """While it lasts, and for two seconds more, nobody expects an answer of this gateway."""
        began = time.monotonic()
        mine = (began, float("inf"))
        if gateway in self._harmed:
            self._harmed[gateway].append(mine)
        try:
            yield
        finally:
            if gateway in self._harmed:
                self._harmed[gateway].remove(mine)
                self._harmed[gateway].append((began, time.monotonic() + 2.0))

    @contextlib.asynccontextmanager
    async def running(self, clients: int, *, pause_s: float = 0.0) -> AsyncIterator[None]:
        """So many ask without a pause (or with one); at the end each finishes what it has asked."""
        self._stop.clear()
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        session = aiohttp.ClientSession(connector=connector)
        async with session, asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self._client(session, pause_s))
            try:
                yield
            finally:
                self._stop.set()

    async def _client(self, session: aiohttp.ClientSession, pause_s: float) -> None:
        while not self._stop.is_set():
            await self.ask(session, next(self._numbers))
            await asyncio.sleep(pause_s)

    async def ask(self, session: aiohttp.ClientSession, number: int) -> Ended:
        """One request until it has ended at a gateway that was not harmed."""
        chance = random.Random(f"{self._seed}-{number}")
        names = list(self.urls)
        chance.shuffle(names)
        prompt = self.prompt(number if chance.random() < 0.8 else number // 2, chance)
        body = {"prompt": prompt, "max_tokens": 16, "stream": chance.random() < 0.5}
        until = time.monotonic() + 3 * self.deadline_s
        for name in itertools.cycle(names):
            began = time.monotonic()
            how, told = await self._asked(session, self.urls[name], body)
            ended = time.monotonic()
            harmed = any(a <= ended and began <= b for a, b in self._harmed[name])
            if how in ("lost", "refused") and harmed and ended < until:
                how = "elsewhere"
            if ended - began > self.deadline_s + _SLACK_S and not harmed:
                how = "late"
            self.ended.append(Ended(number, name, how, began, ended - began, told))
            if how != "elsewhere":
                break
            await asyncio.sleep(0.05)
        return self.ended[-1]

    def prompt(self, number: int, chance: random.Random) -> list[int]:
        """Token ids that no other number begins with."""
        length = chance.choice((SHORT, LONG, LONG))
        begin = [self._seed % 251, *divmod(number, 251)]
        return [*begin, *((7 * number + i) % 251 for i in range(length))]

    async def _asked(
        self, session: aiohttp.ClientSession, url: str, body: dict[str, Any]
    ) -> tuple[str, str]:
        timeout = aiohttp.ClientTimeout(total=self.deadline_s + 4 * _SLACK_S)
        try:
            async with session.post(f"{url}/v1/completions", json=body, timeout=timeout) as answer:
                said = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return "lost", f"{type(error).__name__}: {error}"
        if status != 200:
            return _error_of(status, said)
        wanted = self._right(body["prompt"])
        return _streamed(said, wanted) if body["stream"] else _whole(said, wanted)


def _error_of(status: int, said: bytes) -> tuple[str, str]:
    try:
        message = json.loads(said)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        return "wrong", f"{status} without a message: {said[:200]!r}"
    if status not in _ERRORS:
        return "wrong", f"{status}: {message}"
    return ("refused" if status in (429, 503) else "error"), f"{status}: {message}"


def _whole(said: bytes, wanted: Collection[str]) -> tuple[str, str]:
    try:
        text = json.loads(said)["choices"][0]["text"]
    except (ValueError, LookupError, TypeError):
        return "wrong", f"no answer: {said[:200]!r}"
    return ("right", "") if text in wanted else ("wrong", f"{text!r}, not {wanted!r}")


def _streamed(said: bytes, wanted: Collection[str]) -> tuple[str, str]:
    text, done = "", False
    for line in said.splitlines():
        if not line.startswith(b"data: "):
            continue
        if line == b"data: [DONE]":
            done = True
            continue
        try:
            event = json.loads(line.removeprefix(b"data: "))
        except ValueError:
            return "wrong", f"no event: {line[:200]!r}"
        if "error" in event:
            return "error", str(event["error"]["message"])
        text += event["choices"][0]["text"]
    if not done:
        return "lost", f"a stream that ended after {text!r}"
    return ("right", "") if text in wanted else ("wrong", f"{text!r}, not {wanted!r}")
