"""CPU time the gateway itself spends on a request, by route and prompt length.

Mock engines and agents (which answer at once) and the clients run in processes of their own; what
is measured is the gateway process's CPU time (`time.process_time`): a busy machine changes little.

    python benchmarks/gateway/cpu_per_request.py [--requests 300] [--lengths 200 2000 16000 100000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import time
from multiprocessing.connection import Connection

import aiohttp
import uvloop
from aiohttp import web

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.http import make_app
from prfaas.testing.mock_deployment import MockDeployment, until


async def _serve_mocks(pipe: Connection) -> None:
    mock = MockDeployment(block_tokens=256, threshold_tokens=1024, max_body="64 MiB")
    for server in (*mock.agents.values(), *mock.engines.values()):
        await server.start()
    pipe.send(mock.deployment_text())
    await asyncio.get_running_loop().run_in_executor(None, pipe.recv)


def _mocks(pipe: Connection) -> None:
    uvloop.run(_serve_mocks(pipe))


async def _ask(url: str, tokens: int, requests: int, at_once: int) -> list[str]:
    routes: list[str] = []
    todo = list(range(requests))
    source = random.Random(tokens)

    async def client(session: aiohttp.ClientSession) -> None:
        while todo:
            todo.pop()
            ids = source.choices(range(256), k=tokens)
            body = json.dumps({"prompt": ids, "stream": True, "max_tokens": 5})
            async with session.post(url + "/v1/completions", data=body) as response:
                await response.read()
                routes.append(response.headers["x-prfaas-route"].split(";")[0])

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(at_once)))
    return routes


def _clients(pipe: Connection) -> None:
    while (work := pipe.recv()) is not None:
        started = time.perf_counter()
        routes = uvloop.run(_ask(*work))
        pipe.send((routes, time.perf_counter() - started))


async def _measure(deployment: Deployment, clients: Connection, args: argparse.Namespace) -> None:
    gateway = Gateway(deployment, resolve(deployment, source="mock"))
    await gateway.start()
    runner = web.AppRunner(make_app(gateway), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    await until(lambda: not gateway.troubles() and len(gateway.fleet.up) == 4)
    loop = asyncio.get_running_loop()
    print(f"{'tokens':>8} {'route':>8} {'CPU ms/request':>15} {'requests/s':>11}")
    for tokens in args.lengths:
        requests = max(20, min(args.requests, args.requests * 4000 // tokens))
        for count in (requests // 10, requests):
            before = time.process_time()
            clients.send((url, tokens, count, 8))
            routes, seconds = await loop.run_in_executor(None, clients.recv)
            cpu_ms = (time.process_time() - before) / count * 1e3
        assert len(set(routes)) == 1, routes
        print(f"{tokens:>8} {routes[0]:>8} {cpu_ms:>15.2f} {requests / seconds:>11.0f}")
    await runner.cleanup()
    await gateway.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--lengths", type=int, nargs="+", default=[200, 2000, 16_000, 100_000])
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for target in (_mocks, _clients):
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(theirs,), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    deployment = parse_deployment(pipes[0].recv(), source="mock")
    try:
        uvloop.run(_measure(deployment, pipes[1], args))
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.send(None)
            process.join()


if __name__ == "__main__":
    main()
