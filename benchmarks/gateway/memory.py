"""Memory of the gateway with long prompts in flight: mock engines that do not answer.

    python -m benchmarks.gateway.memory [--requests 1024] [--tokens 128000] [--route offload|direct]

The clients' requests come one after the other until so many are in flight; each has been tokenised,
matched, and sent to an engine, which holds it. Offload: to the prefill engine, and its transfer is
waited for. Prints a row, and adds it to build/bench/gateway.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import string
import sys
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import uvloop
from benchmarks.gateway.contenders import RUN, running
from benchmarks.gateway.peers import OUT

from prfaas.launch.addresses import free_address
from prfaas.testing.mock_deployment import MockDeployment

_AT_ONCE = 8
"""Sent together: enough to keep the gateway busy."""
_SETTLED = 0.02
"""It is full where it grows by less than this share in a second."""
_SETTINGS = '  listen: "{address}"\n  max_waiting_tokens: 2000M\n  max_bodies: 4 GiB\n'


def _mocks(pipe: Connection, requests: int, offload: bool) -> None:
    async def serve() -> None:
        mock = MockDeployment(
            block_tokens=256,
            threshold_tokens=1024 if offload else 1 << 30,
            max_body="64 MiB",
            inflight=2 * requests,
            deadline="3600 s",
            engine_entry=f", max_num_seqs: {requests}",
        )
        for agent in mock.agents.values():
            agent.repeats_links_s = 1.0
        for server in (*mock.agents.values(), *mock.engines.values()):
            await server.start()
        for engine in mock.engines.values():
            engine.keeps_requests = False
            engine.prefill_gate.clear()
            engine.first_token_gate.clear()
        pipe.send(mock.deployment_text())
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, pipe.recv):
            pipe.send(sum(engine.under_way for engine in mock.engines.values()))

    uvloop.run(serve())


def _rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} is gone")


async def _fill(
    url: str, pid: int, pipe: Connection, args: argparse.Namespace
) -> tuple[int, int, int]:
    """Bytes without requests and with all of them; and how many engines hold."""
    source, before = random.Random(1), _rss_bytes(pid)
    async with aiohttp.ClientSession(
        url, timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0)
    ) as client:

        async def ask(prompt: str) -> None:
            body = {"model": "mock-model", "prompt": prompt, "stream": True, "max_tokens": 5}
            async with client.post("/v1/completions", json=body) as response:
                raise RuntimeError(f"{response.status}: {await response.text()}")

        asked: list[asyncio.Task[None]] = []
        held = 0
        while held < args.requests:
            for _ in range(min(_AT_ONCE - (len(asked) - held), args.requests - len(asked))):
                prompt = "".join(source.choices(string.ascii_letters, k=args.tokens))
                asked.append(asyncio.ensure_future(ask(prompt)))
            await asyncio.sleep(0.05)
            for task in asked:
                if task.done():
                    task.result()
            pipe.send(True)
            held = await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        rss = 0
        while (now := _rss_bytes(pid)) > rss * (1 + _SETTLED):
            rss = now
            await asyncio.sleep(1.0)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        return before, now, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=128_000)
    parser.add_argument("--route", choices=("offload", "direct"), default="offload")
    args = parser.parse_args()
    RUN.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    offload = args.route == "offload"
    context.Process(target=_mocks, args=(theirs, args.requests, offload), daemon=True).start()
    address, file = free_address(), RUN / "gateway-memory.yaml"
    file.write_text(pipe.recv() + _SETTINGS.format(address=address))
    command = [sys.executable, "-m", "prfaas.cli.main", "gateway", str(file)]
    with ExitStack() as stack:
        url = f"http://{address}"
        pid = stack.enter_context(running(command, url, "/ready"))
        before, full, held = asyncio.run(_fill(url, pid, pipe, args))
    row = {
        "router": "prfaas", "route": args.route, "prompt_tokens": args.tokens, "in_flight": held,
        "rss_mb_idle": round(before / 1e6), "rss_mb": round(full / 1e6),
        "kb_per_request": round((full - before) / held / 1e3),
    }  # fmt: skip
    print(json.dumps(row))
    rows = json.loads(OUT.read_text()) if OUT.exists() else []
    OUT.write_text(json.dumps([*rows, row], indent=1))
    pipe.send(False)


if __name__ == "__main__":
    main()
