"""`prfaas status`, `engine` and `down` of a real `prfaas up`: real agents, gateway and files, with
engines that are stood in for, since nothing here computes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from prfaas.testing.mock_deployment import MockDeployment, until

DEPLOYMENT = """
model: {{path: {model}, served_name: mock-model}}
clusters:
  - name: west
    kind: pd
    agent: {{name: west-agent, arena: 8 MiB, slot: 1 MiB}}
    engines:
      - {{name: d1, role: decode, url: "{url}", kv_events: "tcp://127.0.0.1:1"}}
gateway: {{listen: "127.0.0.1:0"}}
"""
PATIENCE_S = 60.0


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "prfaas.cli.main", *words]


async def ran(*words: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


@asynccontextmanager
async def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A `prfaas up` whose agent and gateway run; its engine answers and registers no layout."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    mock = MockDeployment()
    engine = mock.engines["d1"]
    await engine.start()
    file = tmp_path / "deployment.yaml"
    file.write_text(DEPLOYMENT.format(model=model, url=engine.url))
    process = await asyncio.create_subprocess_exec(
        *command("up", str(file)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    records = (tmp_path / "state").glob
    try:
        await until(
            lambda: any(
                {"west-agent", "gateway"} <= set(json.loads(p.read_bytes())["sessions"])
                for p in records("prfaas/runs/*/processes.json")
            ),
            within_s=PATIENCE_S,
        )
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await engine.stop()


async def status() -> dict[str, Any]:
    _, out = await ran("status", "--json")
    found: dict[str, Any] = json.loads(out)
    return found


async def test_a_run_is_watched_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with up(tmp_path, monkeypatch) as process:
        async with asyncio.timeout(PATIENCE_S):
            while not (seen := await status())["gateway"]["ready"]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        (machine,) = seen["clusters"][0]["machines"]
        assert (machine["up"], machine["slots"]["free"]) == (True, 8)
        assert any("registered its KV layout" in trouble for trouble in seen["troubles"])

        code, shell = await ran("engine", "d1", "--vllm", "gpu")
        assert code == 0
        assert "--served-model-name mock-model" in shell

        code, told = await ran("down")
        assert (code, "Ending " in told) == (0, True)
        assert await process.wait() is not None
        code, told = await ran("status")
        assert (code, "no 'prfaas up' runs" in told) == (2, True)


async def test_the_live_view_goes_on_until_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with up(tmp_path, monkeypatch):
        ours, theirs = pty.openpty()
        watch = await asyncio.create_subprocess_exec(
            *command("status", "--every", "100 ms"), stdout=theirs, stderr=theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "40"},
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        try:
            async with asyncio.timeout(PATIENCE_S):
                # Drawn more than once.
                while shown.count(b"west-agent") < 3:
                    shown += await asyncio.to_thread(os.read, ours, 65536)
            watch.send_signal(2)
            # What it still writes must be read, or it waits for us.
            drain = asyncio.create_task(asyncio.to_thread(_drain, ours))
            assert await watch.wait() == 0
            await drain
        finally:
            if watch.returncode is None:
                watch.kill()
                await watch.wait()
            os.close(ours)


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # The other side of a terminal is gone.
        return
