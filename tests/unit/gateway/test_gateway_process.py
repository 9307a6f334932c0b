"""The verb: its errors, and its process from start to SIGTERM."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from prfaas.cli.main import main
from prfaas.testing.mock_deployment import MockDeployment

ENDPOINTS = 'agent: {name: a, admin: "127.0.0.1:9"}, engines: [{name: d1, role: decode, url: URL}]'


def deployment_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "deployment.yaml"
    path.write_text(
        f"clusters: [{{name: west, kind: pd, {ENDPOINTS}}}]\n".replace(*text.split("|"))
    )
    return str(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("URL|null", "'d1' has no url"),
        ("URL|localhost:80", "must start with http://"),
        ("127.0.0.1:9|127.0.0.1:0", "no fixed admin port"),
        ("role|rolle", "did you mean 'role'"),
        ("URL}]}]|'http://h:1'}]}]\nscheduler: {policy: luck}", "scheduler.policy 'luck'"),
        ("URL}]}]|'http://h:1'}]}]\ngateway: {listen: nowhere}", "not host:port"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    change: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gateway", deployment_file(tmp_path, change)]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


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
