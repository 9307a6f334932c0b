"""The gateway's process from its start to SIGTERM."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from prfaas.gateway.server import allow_open_files
from prfaas.testing.mock_deployment import MockDeployment


async def test_the_process_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    mock = MockDeployment()
    async with mock.running():
        path = tmp_path / "deployment.yaml"
        path.write_text(mock.deployment_text() + "  listen: 127.0.0.1:0\n")
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh",
            sys.executable, "-m", "prfaas.cli.main", "gateway", str(path),
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        said = b""
        while b"listening on " not in said:
            said = await process.stderr.readline()
            assert said, "the gateway ended"
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        assert soft == hard > 256
        url = said.split(b"listening on ")[1].strip().decode()
        async with aiohttp.ClientSession(url) as client, asyncio.timeout(60):
            while (await client.get("/ready")).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            async with client.post("/v1/completions", json={"prompt": "x" * 80}) as response:
                assert response.status == 200
        process.send_signal(signal.SIGTERM)
        rest = await process.stderr.read()
        assert await process.wait() == 0
        assert b"Traceback" not in rest


@pytest.mark.parametrize(("requests", "warned"), [(300, False), (301, True)])
def test_too_few_open_files_are_said(
    requests: int, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    allow_open_files(requests)
    assert limits == [(1000, 1000)]
    assert ("1000 open files are allowed" in caplog.text) is warned
