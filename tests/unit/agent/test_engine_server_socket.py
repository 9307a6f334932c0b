"""Where an agent listens for engines: it replaces its own leftovers and nothing else."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from prfaas.agent.engine_server import _listen
from prfaas.core.errors import ConfigError


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
