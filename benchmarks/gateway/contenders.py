"""The routers of a comparison, each started as a process of its own."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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


def _until(url: str) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        with suppress(OSError), urllib.request.urlopen(url):
            return
        time.sleep(0.2)
    raise TimeoutError(url)


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


def _ours(
    stack: ExitStack,
    text: str,
    *,
    route: str = BY_LENGTH,
    workers: int = 1,
    lengths: tuple[int, ...] | None = None,
) -> Contender:
    """A gateway with a deployment file, in so many processes."""
    listen, admin = free_address(), free_address()
    file = RUN / f"gateway-peers-{route.replace(' ', '-')}-{workers}.yaml"
    addresses = f"gateway:\n  listen: '{listen}'\n  admin: '{admin}'"
    file.write_text(text.replace("gateway:", addresses, 1))
    command = [sys.executable, "-m", "prfaas.cli.main", "gateway", str(file)]
    pid = stack.enter_context(
        running([*command, "--workers", str(workers)], f"http://{admin}", "/ready")
    )
    router = "prfaas" if workers == 1 else f"prfaas, {workers} workers"
    host, _, port = admin.rpartition(":")
    for worker in range(1, workers):  # The others are ready soon after the first.
        _until(f"http://{host}:{int(port) + worker}/ready")
    return Contender(router, route, f"http://{listen}", pid, lengths)


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

    yield _ours(stack, text)
    # What is shorter is answered directly anyway.
    yield _ours(stack, without_prefill(text), route=DIRECT, lengths=(2000,))
    yield _ours(stack, text, workers=2, lengths=(200,))

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
