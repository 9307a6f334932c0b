"""A supervised process is started, found ready, started again when it dies, and ended."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from prfaas.core.errors import ProcessError
from prfaas.launch.addresses import free_address
from prfaas.launch.child import _UNREADY_GRACE_S, Child, ChildState
from prfaas.launch.commands import Command
from prfaas.launch.run_directory import RunDirectory
from prfaas.launch.sessions import Session, end_session

SERVER = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


class Recorder:
    """Lets a test wait for the states a child passes."""

    def __init__(self) -> None:
        self.states: asyncio.Queue[ChildState] = asyncio.Queue()

    def __call__(self, child: Child) -> None:
        self.states.put_nowait(child.state)

    async def until(self, state: ChildState) -> None:
        while await self.states.get() is not state:
            pass


def _server(run: RunDirectory, changed: Recorder) -> Child:
    address = free_address()
    command = Command((sys.executable, "-c", SERVER, address.rpartition(":")[2]), {})
    return Child("server", command, probe=f"http://{address}/", run=run, changed=changed)


async def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    run, changed = RunDirectory(tmp_path), Recorder()
    child = _server(run, changed)
    async with aiohttp.ClientSession() as http:
        supervising = asyncio.create_task(child.supervise(http))
        await changed.until(ChildState.READY)
        first = child.pid
        assert first is not None
        assert child.log.stat().st_mode & 0o077 == 0
        os.kill(first, signal.SIGKILL)
        await changed.until(ChildState.PAUSING)
        await changed.until(ChildState.READY)
        assert child.pid not in (None, first)
        assert child.starts == 2
        supervising.cancel()
        await asyncio.gather(supervising, return_exceptions=True)
        await child.stop()
    assert child.pid is None
    assert child.state is ChildState.ENDED
    run.close()


async def test_a_process_is_not_given_what_is_hidden_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, changed = RunDirectory(tmp_path), Recorder()
    monkeypatch.setenv("CLIENTS_KEYS", "a-key-of-a-client")
    show = "import os; print(sorted(os.environ)); raise SystemExit(2)"
    command = Command((sys.executable, "-c", show), {"SAID": "1"}, frozenset({"CLIENTS_KEYS"}))
    child = Child("agent", command, probe="http://127.0.0.1:9/", run=run, changed=changed)
    async with aiohttp.ClientSession() as http:
        with pytest.raises(ProcessError):
            await child.supervise(http)
    environment = child.log.read_text()
    assert "'SAID'" in environment
    assert "'PATH'" in environment
    assert "CLIENTS_KEYS" not in environment
    run.close()


async def test_a_process_that_refuses_what_it_was_told_is_not_asked_twice(tmp_path: Path) -> None:
    run, changed = RunDirectory(tmp_path), Recorder()
    command = Command((sys.executable, "-c", "raise SystemExit(2)"), {})
    child = Child("agent", command, probe="http://127.0.0.1:9/", run=run, changed=changed)
    async with aiohttp.ClientSession() as http:
        with pytest.raises(ProcessError, match="agent ended with status 2 before it was ready"):
            await child.supervise(http)
    assert child.starts == 1
    run.close()


async def test_a_process_that_never_comes_up_fails_with_its_last_words(tmp_path: Path) -> None:
    run, changed = RunDirectory(tmp_path), Recorder()
    command = Command((sys.executable, "-c", "raise SystemExit('no such model')"), {})
    child = Child("engine", command, probe="http://127.0.0.1:9/", run=run, changed=changed)
    async with aiohttp.ClientSession() as http:
        with pytest.raises(ProcessError, match=r"engine ended with status 1 (?s:.*)no such model"):
            await child.supervise(http)
    run.close()


async def test_only_what_has_become_ready_gets_time_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graces = []

    def end(session: Session, *, grace_s: float) -> None:
        graces.append(grace_s)
        end_session(session, grace_s=0.0)

    monkeypatch.setattr("prfaas.launch.child.end_session", end)
    run, changed = RunDirectory(tmp_path), Recorder()
    child = _server(run, changed)
    async with aiohttp.ClientSession() as http:
        for state in (ChildState.STARTING, ChildState.READY):
            supervising = asyncio.create_task(child.supervise(http))
            await changed.until(state)
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
            await child.stop()
    assert graces == [_UNREADY_GRACE_S, 10.0]
    run.close()
