"""The gateway beside other routers, before the same mock engines, in one run: CPU time per request,
added time to the first byte, requests per second, CPU time per streamed event.

    python -m benchmarks.gateway.peers [--routers /path/to/venv] [--rounds 5]

Every router is a process of its own, and so are the engines and the client. ``--routers`` names an
environment with vllm-router and sglang-router (their rows are left out without it): install them in
one of their own, they bring other versions of things. The floor of CPU time is a pass-through of
some lines of aiohttp, that of added time what the mocks' own answers to a hand-off take, one after
the other. Prompts are text. The others neither tokenise nor match prefixes exactly nor confirm a
hand-off. Writes build/bench/gateway.json; rounds alternate between routers, medians count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import string
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import uvloop
from benchmarks.gateway.contenders import Contender, contenders
from benchmarks.gateway.inner_exchanges import added_s

from prfaas.testing.mock_deployment import MockDeployment

OUT = Path("build/bench/gateway.json")
_TICKS = os.sysconf("SC_CLK_TCK")
_AT_ONCE = 16
_HANDED_OVER = 2000
"""Tokens from which on the mock deployment hands over."""
_EVENTS = 200
_APART_S = 0.002


class _Pause(asyncio.Event):
    """Between two events of an answer."""

    async def wait(self) -> Any:
        await asyncio.sleep(_APART_S)


def _script(events: int) -> list[bytes | asyncio.Event]:
    event = json.dumps({"choices": [{"index": 0, "text": " word"}]}).encode()
    script: list[bytes | asyncio.Event] = []
    for _ in range(events):
        script += [b"data: " + event + b"\n\n", _Pause()]
    return [*script, b"data: [DONE]\n\n"]


def _mocks(pipe: Connection) -> None:
    async def serve() -> None:
        mock = MockDeployment(block_tokens=256, threshold_tokens=1024, max_body="64 MiB")
        for agent in mock.agents.values():
            agent.repeats_links_s = 1.0  # As real ones do where nothing changes.
        for server in (*mock.agents.values(), *mock.engines.values()):
            await server.start()
        urls = {name: engine.url for name, engine in mock.engines.items()}
        pipe.send((mock.deployment_text(), urls))
        loop = asyncio.get_running_loop()
        while (events := await loop.run_in_executor(None, pipe.recv)) is not None:
            for engine in mock.engines.values():
                engine.script = _script(events) if events else []
            pipe.send(None)

    uvloop.run(serve())


def _cpu_s(pid: int) -> float:
    """Of the process and its children."""
    total = 0.0
    for task in [pid, *_children(pid)]:
        try:
            fields = Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(path.parent.name), *_children(int(path.parent.name))]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def _asked(url: str, tokens: int, count: int, at_once: int) -> tuple[list[float], set[str]]:
    """Seconds to the first byte of each answer, and the routes that headers named."""
    source, todo, firsts, routes = random.Random(time.time_ns()), list(range(count)), [], set()

    async def client(session: aiohttp.ClientSession) -> None:
        while todo:
            todo.pop()
            prompt = "".join(source.choices(string.ascii_letters, k=tokens))
            body = json.dumps({
                "model": "mock-model", "prompt": prompt, "stream": True, "max_tokens": 5
            })  # fmt: skip
            headers = {"Content-Type": "application/json"}
            began = time.perf_counter()
            async with session.post(
                url + "/v1/completions", data=body, headers=headers
            ) as response:
                if response.status != 200:
                    raise RuntimeError(f"{url}: {response.status} {await response.text()}")
                await response.content.readany()
                firsts.append(time.perf_counter() - began)
                await response.read()
                routes.add(response.headers.get("x-prfaas-route", "").split(";")[0])

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(at_once)))
    return firsts, routes


def _client(pipe: Connection) -> None:
    while (work := pipe.recv()) is not None:
        began = time.perf_counter()
        try:
            ask, *rest = work
            found: Any = uvloop.run(ask(*rest))
        except RuntimeError as error:
            found = str(error)
        pipe.send((found, time.perf_counter() - began))


def _few(tokens: int) -> int:
    return max(5, min(60, 120_000 // tokens))


class Bench:
    """Asks through a client process of its own."""

    def __init__(self, client: Connection, mocks: Connection, engines: dict[str, str]) -> None:
        self._client, self._mocks, self._engines = client, mocks, engines
        self._engine = engines["d1"]

    def events(self, count: int) -> None:
        """So many in each answer from now on, apart; 0: five at once."""
        self._mocks.send(count)
        self._mocks.recv()

    def ask(self, url: str, tokens: int, count: int, at_once: int) -> tuple[Any, float]:
        """See `_asked`; and the seconds of all of it."""
        return self._have_done(_asked, url, tokens, count, at_once)

    def added_alone_ms(self, tokens: int) -> float:
        """See `inner_exchanges`: a median."""
        found, _ = self._have_done(added_s, self._engines, tokens, _few(tokens))
        return median(found) * 1e3

    def _have_done(self, *work: Any) -> tuple[Any, float]:
        self._client.send(work)
        found, seconds = self._client.recv()
        if isinstance(found, str):
            raise RuntimeError(found)
        return found, seconds

    def round(self, one: Contender, tokens: int) -> dict[str, float | str]:
        """One row of one round."""
        few, many = _few(tokens), max(16, min(320, 800_000 // tokens))
        self.ask(one.url, tokens, few, 4)  # Connections, kernels' caches.
        alone, _ = self.ask(self._engine, tokens, few, 1)
        through, _ = self.ask(one.url, tokens, few, 1)
        before = _cpu_s(one.pid)
        (_, routes), seconds = self.ask(one.url, tokens, many, _AT_ONCE)
        spent = _cpu_s(one.pid) - before
        return {
            "route": routes.pop() or one.route,
            "cpu_ms_per_request": spent / many * 1e3,
            "added_p50_ms": (median(through[0]) - median(alone[0])) * 1e3,
            "requests_per_s": many / seconds,
        }

    def event_us(self, one: Contender) -> float:
        """CPU time of one streamed event more."""
        spent = []
        for events in (0, _EVENTS):
            self.events(events)
            self.ask(one.url, 200, 16, 16)
            before = _cpu_s(one.pid)
            self.ask(one.url, 200, 64, 16)
            spent.append(_cpu_s(one.pid) - before)
        self.events(0)
        return (spent[1] - spent[0]) / 64 / _EVENTS * 1e6


def measured(bench: Bench, all_of_them: list[Contender], args: argparse.Namespace) -> Iterator[Any]:
    """A row for each router and length, medians over the rounds."""
    for tokens in args.lengths:
        asked = [one for one in all_of_them if one.lengths is None or tokens in one.lengths]
        rounds: dict[Contender, list[dict[str, Any]]] = {one: [] for one in asked}
        for _ in range(args.rounds):
            for one in asked:
                rounds[one].append(bench.round(one, tokens))
        for one, rows in rounds.items():
            keys = ("cpu_ms_per_request", "added_p50_ms", "requests_per_s")
            values = {key: round(median(row[key] for row in rows), 3) for key in keys}
            spread = [round(f(row[keys[0]] for row in rows), 3) for f in (min, max)]
            row = {"router": one.router, "route": rows[0]["route"], "prompt_tokens": tokens}
            yield row | values | {"cpu_ms_spread": spread}
        if tokens >= _HANDED_OVER:
            added = [bench.added_alone_ms(tokens) for _ in range(args.rounds)]
            row = {"router": "inner exchanges alone", "route": "offload", "prompt_tokens": tokens}
            yield row | {"added_p50_ms": round(median(added), 3)}
    for one in (one for one in all_of_them if one.lengths is None):
        us = [bench.event_us(one) for _ in range(args.rounds)]
        yield {"router": one.router, "route": one.route, "event_cpu_us": round(median(us), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lengths", type=int, nargs="+", default=[200, 2000, 27_000, 128_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--routers", type=Path, help="an environment with vllm- and sglang-router")
    args = parser.parse_args()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    pipes = []
    for target in (_mocks, _client):
        ours, theirs = context.Pipe()
        context.Process(target=target, args=(theirs,), daemon=True).start()
        pipes.append(ours)
    text, engines = pipes[0].recv()
    rows = []
    with ExitStack() as stack:
        routers = list(contenders(stack, text, engines, args.routers))
        bench = Bench(pipes[1], pipes[0], engines)
        for row in measured(bench, routers, args):
            rows.append(row)
            print(json.dumps(row), flush=True)
    OUT.write_text(json.dumps(rows, indent=1))
    for pipe in pipes:
        pipe.send(None)


if __name__ == "__main__":
    main()
