"""A real Prometheus scrapes a gateway with the file of the repository, and evaluates its rules."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from prfaas.launch.addresses import free_address
from prfaas.testing.mock_deployment import MockDeployment

MONITORING = Path(__file__).parents[2] / "monitoring"
WAIT_S = 90.0
prometheus = shutil.which("prometheus")


@asynccontextmanager
async def running_prometheus(run: Path, gateway: str) -> AsyncIterator[aiohttp.ClientSession]:
    config = (MONITORING / "prometheus.yml").read_text()
    config = config.replace("127.0.0.1:8000", gateway).replace("5s", "1s")
    (run / "prometheus.yml").write_text(config)
    shutil.copy(MONITORING / "rules.yml", run)
    address = free_address()
    assert prometheus is not None
    process = await asyncio.create_subprocess_exec(
        prometheus,
        f"--config.file={run / 'prometheus.yml'}",
        f"--storage.tsdb.path={run / 'data'}",
        f"--web.listen-address={address}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession(f"http://{address}") as client:
            yield client
    finally:
        process.terminate()
        await process.wait()


async def asked(client: aiohttp.ClientSession, query: str) -> list[dict[str, Any]]:
    """Samples; none while it still starts."""
    try:
        async with client.get("/api/v1/query", params={"query": query}) as answer:
            if answer.status != 200:
                return []
            return list((await answer.json())["data"]["result"])
    except aiohttp.ClientConnectionError:
        return []


@pytest.mark.skipif(prometheus is None, reason="prometheus is not installed (Debian: prometheus)")
async def test_a_gateway_and_what_it_names_are_scraped_and_the_rules_hold(tmp_path: Path) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        gateway = str(client._base_url).removeprefix("http://").rstrip("/")
        async with running_prometheus(tmp_path, gateway) as prom, asyncio.timeout(WAIT_S):
            while not await asked(prom, 'prfaas:stage_utilisation:ratio{stage="decode"}'):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            assert [s["value"][1] for s in await asked(prom, "prfaas_gateway_ready")] == ["1"]
            named: set[str] = set()
            while named != {*mock.engines, *mock.agents}:
                await asyncio.sleep(0.1)
                found = [s["metric"] for s in await asked(prom, 'up{job!="prfaas-gateway"}')]
                named = {m.get("engine") or m["agent"] for m in found}
            async with prom.get("/api/v1/rules") as answer:
                groups = (await answer.json())["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert not [rule["name"] for rule in rules if rule.get("lastError")]
