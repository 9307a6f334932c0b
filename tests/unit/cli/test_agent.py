"""An agent's process reads its file again when that has changed, without a signal."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from prfaas.cli.main import main
from prfaas.launch.addresses import free_address
from prfaas.tls.authority import create_authority, issue


def deployment(folder: Path, admin: str, *engines: str) -> str:
    """As YAML, which JSON is."""
    agent = {"name": "a", "admin": admin, "arena": "8 MiB", "plaintext": True,
             "socket": str(folder / "a.sock")}  # fmt: skip
    cluster = {"name": "west", "kind": "pd", "agent": agent,
               "engines": [{"name": e, "role": "decode"} for e in engines]}  # fmt: skip
    return json.dumps({"clusters": [cluster]})


async def test_an_agent_takes_over_a_file_that_has_changed(tmp_path: Path) -> None:
    file, admin = tmp_path / "d.yaml", free_address()
    file.write_text(deployment(tmp_path, admin, "d1"))
    async with _agent(file) as says:
        file.write_text(deployment(tmp_path, admin, "d1", "d2"))
        await says(b"the deployment file is taken over")


async def test_a_file_that_was_refused_for_half_a_certificate_is_taken_when_that_is_whole(
    tmp_path: Path,
) -> None:
    """Else whom the file has no more could go on until somebody writes it again."""
    create_authority(tmp_path / "certs")
    own = issue(tmp_path / "certs", "a")
    shown = {"ca": str(own.ca), "cert": str(own.cert), "key": str(own.key)}
    file, admin = tmp_path / "d.yaml", free_address()

    def write(*engines: str) -> None:
        text = json.loads(deployment(tmp_path, admin, *engines))
        agent = text["clusters"][0]["agent"]
        agent |= {"plaintext": False, "tls": shown}
        text["gateway"] = {"agent_tls": shown}
        file.write_text(json.dumps(text))

    write("d1")
    async with _agent(file) as says:
        key = own.key.read_bytes()
        own.key.write_bytes(key[:100])
        write("d1", "d2")
        await says(b"the deployment file is not taken over")
        own.key.write_bytes(key)
        await says(b"the deployment file is taken over")


def test_an_agent_does_not_begin_to_speak_plaintext_over_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(*_: object, **__: object) -> None:
        raise AssertionError("it begins")

    monkeypatch.setattr("prfaas.cli.agent.serve", serve)
    file = tmp_path / "d.yaml"
    text = deployment(tmp_path, "0.0.0.0:7401", "d1")
    file.write_text(text.replace('"plaintext": true', '"plaintext": false'))
    assert main(["agent", str(file), "--name", "a"]) == 2
    assert "would cross the network in plaintext" in capsys.readouterr().err


@asynccontextmanager
async def _agent(file: Path) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
    """Its process, once it is ready; gives what waits until its log says something."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "prfaas.cli.main", "agent", str(file), "--name", "a",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    log = process.stderr
    assert log is not None

    async def says(what: bytes) -> None:
        while what not in (line := await log.readline()):
            assert line, "the agent has ended"

    try:
        async with asyncio.timeout(60):
            await says(b"agent ready")
            yield says
    finally:
        process.terminate()
        await process.communicate()
