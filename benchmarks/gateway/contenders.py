"""The routers of a comparison, each started as a process of its own."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web

from prfaas.launch.addresses import free_address

BY_LENGTH, DIRECT = "by length", "direct"
"""Routes of ours: as the policy says, and with decode engines alone."""
RUN = Path("build/bench")
"""Where their logs are."""
_START_S = 60.0


@dataclass(frozen=True)
class Contender:
    """``route``: what it does with a long prompt. ``lengths``: what alone it is asked for."""

    router: str
    route: str
    url: str
    pid: int
    lengths: tuple[int, ...] | None = None


def without_prefill(text: str) -> str:
    """The same deployment file with decode engines alone: every prompt is answered directly."""
    entries = re.sub(r"^ *- \{name: \w+, role: prefill.*\n", "", text, flags=re.MULTILINE)
    east = re.compile(r"^  - name: east\n.*?(?=^  - name: west)", re.MULTILINE | re.DOTALL)
    return re.sub(r"^links:\n(  - .*\n)+", "", east.sub("", entries), flags=re.MULTILINE)


def pass_through(engine: str, listen: str) -> None:
    """What a gateway in Python costs at least."""

    async def serve() -> None:
        async with aiohttp.ClientSession(auto_decompress=False) as session:

            async def pass_on(request: web.Request) -> web.StreamResponse:
                body = await request.read()
                headers = {"Content-Type": "application/json"}
                async with session.post(engine + request.path, data=body, headers=headers) as inner:
                    response = web.StreamResponse(status=inner.status)
                    await response.prepare(request)
                    async for piece in inner.content.iter_any():
                        await response.write(piece)
                return response

            app = web.Application(client_max_size=1 << 30)
            app.router.add_post("/v1/completions", pass_on)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            host, _, port = listen.rpartition(":")
            await web.TCPSite(runner, host, int(port)).start()
            await asyncio.Event().wait()

    uvloop.run(serve())


@contextmanager
def running(command: list[str], url: str, ready: str) -> Iterator[int]:
    """Its process's id, once ``url`` answers at ``ready``; it is ended."""
    log = RUN / f"router-{url.rpartition(':')[2]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        asyncio.run(_until_ready(url + ready, process))
        yield process.pid
    finally:
        process.terminate()
        process.wait()


async def _until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(_START_S):
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended: see {RUN}")
            try:
                async with session.get(url) as answer:
                    if answer.status in (200, 404, 405):
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)


def contenders(
    stack: ExitStack, text: str, engines: dict[str, str], routers: Path | None
) -> Iterator[Contender]:
    """Ours, the floor, and the peers that ``routers`` (an environment) has; they end with
    ``stack``. ``text``: of the mocks' deployment file."""

    def start(command: Callable[[str, str], list[str]], ready: str) -> tuple[str, int]:
        address = free_address()
        host, _, port = address.rpartition(":")
        url = f"http://{address}"
        return url, stack.enter_context(running(command(host, port), url, ready))

    for route, its_text in ((BY_LENGTH, text), (DIRECT, without_prefill(text))):
        address = free_address()
        file = RUN / f"gateway-peers-{route.replace(' ', '-')}.yaml"
        file.write_text(its_text.replace("gateway:", f"gateway:\n  listen: '{address}'", 1))
        ours = [sys.executable, "-m", "prfaas.cli.main", "gateway", str(file)]
        pid = stack.enter_context(running(ours, f"http://{address}", "/ready"))
        lengths = (2000,) if route == DIRECT else None  # What is shorter is answered so anyway.
        yield Contender("prfaas", route, f"http://{address}", pid, lengths)

    code = (
        "import sys; from benchmarks.gateway.contenders import pass_through as p; p(*sys.argv[1:])"
    )
    url, pid = start(
        lambda host, port: [sys.executable, "-c", code, engines["d1"], f"{host}:{port}"], "/"
    )
    yield Contender("aiohttp pass-through", "direct", url, pid)
    if routers is None:
        return
    bare, pd = ["--worker-urls", engines["d1"]], ["--prefill", engines["p1"]]
    pd += ["--decode", engines["d1"]]
    for router, route, extra in (
        ("vllm-router", "direct", ["--policy", "cache_aware", *bare]),
        ("vllm-router", "prefill and decode", ["--vllm-pd-disaggregation", *pd]),
        ("sglang-router", "direct", ["--policy", "cache_aware", *bare]),
    ):
        program = [
            str(routers / "bin" / "python"),
            "-m",
            f"{router.replace('-', '_')}.launch_router",
        ]
        try:
            url, pid = start(
                lambda host, port, program=program, extra=extra: [  # type: ignore[misc]
                    *program,
                    "--host",
                    host,
                    "--port",
                    port,
                    "--prometheus-port",
                    free_address().rpartition(":")[2],
                    *extra,
                ],
                "/health",
            )
        except (RuntimeError, TimeoutError) as error:
            print(f"{router}, {route}: left out: {error}", file=sys.stderr)
            continue
        yield Contender(router, route, url, pid)
