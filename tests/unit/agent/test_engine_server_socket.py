"""Where an agent listens for engines: it replaces its own leftovers and nothing else, and leaves
nothing open."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import stat
import struct
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prfaas.agent.engine_server import MAX_CONNECTIONS, EngineServer, _listen
from prfaas.core.errors import ConfigError, EngineError
from prfaas.engine_socket.framing import encode
from prfaas.engine_socket.messages import Registered, RegisterEngine
from prfaas.pool.events import EngineConnected
from prfaas.testing.mock_engine_rank import mock_layout


def test_a_file_that_is_no_socket_is_never_deleted(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("three years of work")
    with pytest.raises(ConfigError, match="is not a socket"):
        _listen(path)
    assert path.read_text() == "three years of work"


def test_a_link_to_something_is_no_socket_either(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    for target in ("nothing", "a.sock"):
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        with pytest.raises(ConfigError, match="is not a socket"):
            _listen(path)
        assert path.is_symlink()


def test_a_dead_agents_socket_is_replaced_and_is_its_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with _listen(path) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(ConfigError, match="another agent listens"):
            _listen(path)
        listener.close()


def test_engines_of_another_user_are_refused() -> None:
    pid_uid_gid = struct.pack("3i", 1, os.getuid() + 1, 1)
    other: Any = SimpleNamespace(getsockopt=lambda *_: pid_uid_gid)
    with pytest.raises(EngineError, match=f"user {os.getuid() + 1} may not use the agent"):
        server()._admit(other, 1, RegisterEngine("e", mock_layout(), 1))


def server() -> EngineServer:
    """Of engines that never say who they are."""
    driver: Any = SimpleNamespace(carry_out=lambda *_: None, handle=lambda *_: None)
    nothing: Any = None
    return EngineServer(driver, nothing, nothing, welcome=nothing, arena_fd=-1)


@pytest.mark.parametrize("turns", range(5))
async def test_who_comes_while_the_agent_stops_leaves_no_open_socket(
    tmp_path: Path, turns: int
) -> None:
    path, engines = tmp_path / "agent.sock", server()
    await engines.start(path)
    for _ in range(5):
        await asyncio.sleep(0)
    with ExitStack() as ranks:
        for _ in range(3):
            ranks.enter_context(connected(path))
        for _ in range(turns):
            await asyncio.sleep(0)
        await engines.close()
        gc.collect()  # What is open still warns, which fails the test.
    assert not path.exists()


@pytest.mark.parametrize("turns", range(4))
async def test_an_agent_ends_in_whichever_turn_an_engine_registers(
    tmp_path: Path, turns: int
) -> None:
    """Python 3.11's `asyncio.wait_for` loses a cancellation where it is done already."""
    path, registered, nothing = tmp_path / "agent.sock", asyncio.Event(), lambda *_: None
    driver: Any = SimpleNamespace(
        carry_out=nothing, handle=lambda e: isinstance(e, EngineConnected) and registered.set()
    )
    arena, none = os.memfd_create("arena"), cast(Any, None)
    welcome = Registered("a", 1, 1)
    engines = EngineServer(driver, none, none, welcome=welcome, arena_fd=arena)
    await engines.start(path)
    with connected(path) as rank:
        rank.sendall(encode(RegisterEngine("e", mock_layout(), 1)))
        await registered.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        closing = asyncio.create_task(engines.close())
        await asyncio.wait([closing], timeout=5.0)
        assert closing.done()
    os.close(arena)


async def test_one_connection_too_many_is_closed(tmp_path: Path) -> None:
    path, engines = tmp_path / "agent.sock", server()
    await engines.start(path)
    with ExitStack() as ranks:
        for _ in range(MAX_CONNECTIONS):
            ranks.enter_context(connected(path)).setblocking(False)
            await asyncio.sleep(0)
        last = ranks.enter_context(connected(path))
        last.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(last, 1) == b""
        await engines.close()


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock
