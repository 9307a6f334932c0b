"""A gateway as a process of its own, before mock engines and agents."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp

from prfaas.launch.addresses import free_address
from prfaas.testing.mock_deployment import MockDeployment


class Running(NamedTuple):
    """A gateway process before the mock engines, its log, and a client of it."""

    process: asyncio.subprocess.Process
    file: Path
    log: Path
    client: aiohttp.ClientSession

    async def logged(self, text: str) -> None:
        """Wait until its log says so."""
        while text not in self.log.read_text():
            assert self.process.returncode is None, self.log.read_text()
            await asyncio.sleep(0.02)


@asynccontextmanager
async def gateway_process(
    mock: MockDeployment, folder: Path, *, drain: str = "25 s"
) -> AsyncIterator[Running]:
    """Start it, with its file in ``folder``, and yield once it is ready; kill it at the end."""
    address = free_address()
    file, log = folder / "deployment.yaml", folder / "gateway.log"
    file.write_text(f'{mock.deployment_text()}  listen: "{address}"\n  drain: {drain}\n')
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "prfaas.cli.main", "gateway", str(file), stderr=stderr
        )
    async with aiohttp.ClientSession(f"http://{address}") as client:
        running = Running(process, file, log, client)
        try:
            await running.logged("listening on")
            while not await is_ready(client):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            yield running
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def is_ready(client: aiohttp.ClientSession) -> bool:
    """Whether the gateway says so."""
    async with client.get("/ready") as response:
        return response.status == 200
