"""An agent's process is killed (-9) while it writes to disk: what its next life gives is right."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prfaas.agent.spill_directory import file_system
from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import PrfaasError
from prfaas.core.prefixes import PromptPrefix, chain, root_digest, stretch
from prfaas.launch.addresses import free_address
from prfaas.launch.commands import agent_command
from prfaas.testing.calling import call
from prfaas.testing.mock_engine_rank import MockEngineRank, content

SIZE = 3_000_000
COUNT = 8
WAIT_S = 120.0
ROOT = root_digest("w", adapter=None, salt=None)


def prefix(number: int) -> PromptPrefix:
    tokens = list(range(number * 1000, number * 1000 + 16))
    found = stretch(
        chain(ROOT, tokens, 16), ROOT, tokens, block_tokens=16,
        from_token=0, to_token=16, salt=None, adapter=None,
    )  # fmt: skip
    assert found is not None
    return found


def keep(rank: MockEngineRank, number: int) -> None:
    name, done = f"t{number}", 0
    rank.begin(name, "", SIZE, readers=())
    rank.client.describe(name, prefix(number))
    while done < SIZE:
        done = rank.hand_over(name, done, SIZE)
    rank.client.finish_export(name)


def load(rank: MockEngineRank, number: int) -> str:
    opened = rank.client.open_load(
        local_tokens=0, to_token=16, block_tokens=16, names=prefix(number).digests
    )
    try:
        (part,) = opened.future.result(WAIT_S)
        right = all(
            content(f"t{number}", flat, length) == opened.session.arena[at : at + length]
            for flat, at, length in part.extents
        )
        return "ok" if right else "wrong bytes"
    except PrfaasError as error:
        return str(error)
    finally:
        rank.client.close_load(opened)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    if file_system(tmp_path) == "tmpfs":
        pytest.skip("pytest's directory is in memory: give --basetemp on a disk")
    return tmp_path / "kv"


class Machine:
    """An agent's process that can be killed and started again, and an engine beside it."""

    def __init__(self, run: Path, disk: Path) -> None:
        self._run, self.disk = run, disk
        self._file = run / "d.yaml"
        self._file.write_text(f"""
clusters:
- name: west
  kind: pd
  engines: [{{name: d, role: decode}}]
  agent: {{name: a, admin: "{free_address()}", socket: {run}/s, plaintext: true, arena: 128 MiB,
           cache: {{spill: {{path: {disk}, size: 1 GiB}}}}}}
""")
        deployment = parse_deployment(self._file.read_text(), source="test")
        (self.agent,) = deployment.agents
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(agent_command(self.agent, self._file).arguments)
        end = time.monotonic() + WAIT_S
        while True:
            try:
                self.rank = MockEngineRank(str(self._run / "s"), "d")
                return
            except PrfaasError:
                assert time.monotonic() < end
                assert self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.rank.client.close()

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    def in_books(self) -> int:
        cache = call(f"{self.agent.admin_url}/cache").json()
        return len(cache["disk"]["entries"])


def test_whatever_was_written_when_the_agent_was_killed(tmp_path: Path, disk: Path) -> None:
    machine = Machine(tmp_path, disk)
    try:
        for number in range(COUNT):
            keep(machine.rank, number)
        # Some are written; one is being.
        machine.until(lambda: len(list(disk.glob("*.kv"))) >= 2)
        machine.kill()
        left = len(list(disk.glob("*.kv")))
        (disk / "t99.0.1.kv.part").write_bytes(b"as a kill leaves it")
        machine.start()
        machine.until(lambda: machine.in_books() == left)
        assert not list(disk.glob("*.part"))
        outcomes = [load(machine.rank, number) for number in range(COUNT)]
        assert outcomes.count("ok") == left, outcomes
        assert set(outcomes) <= {"ok", "tokens up to 16 are not cached here"}
    finally:
        machine.kill()
