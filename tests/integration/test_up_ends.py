"""However `prfaas up` ends, nothing of it is left: no process, no socket, no shared memory."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from prfaas.launch.run_directory import reap
from prfaas.launch.sessions import Session, members
from prfaas.testing.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.alone]

HANG_S = 600.0
"""Ends what never happens: three engines start side by side."""
# With cores named, the engine has a worker process of its own, and memory that both share.
DEPLOYMENT = """
clusters:
  - name: west
    kind: pd
    engines: [{name: west-decode, role: decode, cpus: "0"}]
    agent: {name: west-agent}
"""


class Up:
    """A `prfaas up`; `await_engine` returns once its engine has begun to start."""

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

    def await_engine(self) -> None:
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


_until = partial(until, within_s=HANG_S)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Up]]:
    """One for each test here, started side by side."""
    ups = [Up(tmp_path_factory.mktemp("up")) for _ in range(3)]
    yield ups
    for one in ups:
        one.process.kill()
        one.process.wait()
        asyncio.run(reap(one.runs))


@pytest.fixture
def up(started: list[Up]) -> Up:
    one = next(one for one in started if one.process.poll() is None)
    one.await_engine()
    return one


def test_ctrl_c_ends_everything(up: Up) -> None:
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(HANG_S) == 128 + signal.SIGINT
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
