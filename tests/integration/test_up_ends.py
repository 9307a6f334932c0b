"""However `prfaas up` ends, nothing of it is left: no process, no socket, no shared memory."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from prfaas.launch.run_directory import reap
from prfaas.launch.sessions import Session, members

pytestmark = pytest.mark.engine

PATIENCE_S = 120.0
DEPLOYMENT = """
clusters:
  - name: west
    kind: pd
    engines: [{name: west-decode, role: decode}]
    agent: {name: west-agent}
"""


class Up:
    """A `prfaas up` whose engine has begun to start."""

    def __init__(self, home: Path) -> None:
        self.runs = home / "prfaas" / "runs"
        file = home / "deployment.yaml"
        file.write_text(DEPLOYMENT)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prfaas.cli.main", "up", str(file), "--listen", "127.0.0.1:0"],
            env=os.environ | {"XDG_STATE_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _until(lambda: "west-decode" in self.record().get("sessions", {}))
        record = self.record()
        self.sessions = [msgspec.convert(s, Session) for s in record["sessions"].values()]
        self.private = Path(record["private"])
        # The engine's own children, which only it knows, and what those share.
        _until(lambda: self.shared_memory() != set())
        self.shared = self.shared_memory()

    def record(self) -> dict:
        for file in self.runs.glob("*/processes.json"):
            return msgspec.json.decode(file.read_bytes())
        return {}

    def shared_memory(self) -> set[Path]:
        """Files in /dev/shm that a process of ours maps."""
        found: set[Path] = set()
        for pid in self.living():
            try:
                maps = Path(f"/proc/{pid}/maps").read_text()
            except OSError:
                continue  # It has just ended.
            found |= {Path(name) for name in re.findall(r"(/dev/shm/psm_\w+)$", maps, re.MULTILINE)}
        return found

    def left(self) -> list[Path]:
        return [path for path in [*self.shared, self.private] if path.exists()]

    def living(self) -> list[int]:
        return [pid for session in self.sessions for pid in members(session)]


def _until(condition) -> None:  # type: ignore[no-untyped-def]
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    started = Up(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()
    asyncio.run(reap(started.runs))


def test_ctrl_c_ends_everything(up: Up) -> None:
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(PATIENCE_S) == 128 + signal.SIGINT
    assert up.living() == []
    assert up.left() == []


def test_children_of_a_killed_up_end_by_themselves(up: Up) -> None:
    up.process.kill()
    up.process.wait()
    _until(lambda: up.living() == [])
    asyncio.run(reap(up.runs))
    assert up.left() == []


def test_a_frozen_child_is_ended_by_the_next_start(up: Up) -> None:
    frozen = up.sessions[-1]
    os.kill(frozen.leader, signal.SIGSTOP)
    up.process.kill()
    up.process.wait()
    assert members(frozen)
    asyncio.run(reap(up.runs))
    assert up.living() == []
    assert up.left() == []
