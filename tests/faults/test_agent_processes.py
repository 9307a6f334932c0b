"""Every party of a hand-off is killed in turn; nothing may be left behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from prfaas.launch.addresses import free_address
from prfaas.testing.waiting import until

pytestmark = pytest.mark.slow

WAIT_S = 60.0
SIZE = 3_000_000
SLOTS = 128

DEPLOYMENT = """
clusters:
- name: east
  kind: prfaas
  engines: [{{name: p0, role: prefill}}]
  agent: {{name: flt-east, listen: "{addresses[0]}", admin: "{addresses[1]}",
           socket: {run}/flt-east, plaintext: true, arena: 8 MiB, slot: 64 KiB}}
- name: west
  kind: pd
  engines: [{{name: pdp, role: prefill}}, {{name: pdd, role: decode}}]
  agent: {{name: flt-west, listen: "{addresses[2]}", admin: "{addresses[3]}",
           socket: {run}/flt-west, plaintext: true, arena: 8 MiB, slot: 64 KiB}}
links: [{{from: east, to: west, rate: 40 Mbit/s}}]
"""


class Process:
    started: ClassVar[list[Process]] = []

    def __init__(self, *command: str, log: Path, stdin: int | None = None) -> None:
        with log.open("ab") as stderr:
            self.child = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True,
            )  # fmt: skip
        self.started.append(self)

    def kill(self, number: int = signal.SIGKILL) -> int:
        self.child.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self.child.wait(WAIT_S)
        for stream in (self.child.stdin, self.child.stdout):
            if stream is not None:
                stream.close()
        return status


class AgentProcess(Process):
    def __init__(self, name: str, address: str, run: Path) -> None:
        self.url = f"http://{address}"
        arguments = ("prfaas.cli.main", "agent", str(run / "deployment.yaml"), "--name", name)
        super().__init__(*arguments, log=run / f"{name}.log")
        until(lambda: self.get("/health") == {"agent": name})

    def get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(self.url + path, timeout=WAIT_S) as answer:
                return json.loads(answer.read())
        except OSError:
            return None

    def delete(self, transfer_id: str) -> None:
        request = urllib.request.Request(f"{self.url}/transfers/{transfer_id}", method="DELETE")
        urllib.request.urlopen(request, timeout=WAIT_S).close()

    def slots(self) -> dict[str, int]:
        with urllib.request.urlopen(self.url + "/metrics", timeout=WAIT_S) as answer:
            lines = answer.read().decode().splitlines()
        prefix = "prfaas_pool_slots{state="
        pairs = [line[len(prefix) :].split("} ") for line in lines if line.startswith(prefix)]
        return {state.strip('"'): int(float(count)) for state, count in pairs}

    def usage(self) -> tuple[int, int]:
        """File descriptors and threads."""
        process = Path(f"/proc/{self.child.pid}")
        return len(os.listdir(process / "fd")), len(os.listdir(process / "task"))


class Rank(Process):
    def __init__(self, run: Path, agent: str, engine: str) -> None:
        command = ("prfaas.testing.mock_engine_rank", str(run / agent), engine)
        super().__init__(*command, log=run / f"{engine}.log", stdin=subprocess.PIPE)
        assert self.read() == "ready"

    def say(self, command: str) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()

    def read(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline().strip()

    def ask(self, command: str) -> str:
        self.say(command)
        return self.read()


class Site:
    """Two agents and three mock engine ranks as processes."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.addresses = [free_address() for _ in range(4)]
        text = DEPLOYMENT.format(run=run, addresses=self.addresses)
        (run / "deployment.yaml").write_text(text)
        self.east, self.west = self.agent("flt-east"), self.agent("flt-west")
        self.p0 = self.rank("p0")
        self.pdp, self.pdd = self.rank("pdp"), self.rank("pdd")

    def agent(self, name: str) -> AgentProcess:
        return AgentProcess(name, self.addresses[1 if name == "flt-east" else 3], self.run)

    def rank(self, engine: str) -> Rank:
        return Rank(self.run, "flt-east" if engine == "p0" else "flt-west", engine)

    def works(self) -> None:
        """A whole remote and a whole local hand-off."""
        for rank, agent in ((self.p0, self.east), (self.pdp, self.west)):
            transfer_id = f"t{time.monotonic_ns()}"
            rank.ask(f"export {transfer_id} flt-west {SIZE}")
            sent = agent.get(f"/transfers/{transfer_id}?wait_s={WAIT_S}")["sent"]
            assert sent["state"] == "complete", sent
            assert self.pdd.ask(f"import {transfer_id} {SIZE}") == f"imported {transfer_id} ok"
            self.west.delete(transfer_id)

    def free(self) -> None:
        """Every slot of both agents is free again."""
        for agent in (self.east, self.west):
            until(lambda a=agent: a.slots().get("free") == SLOTS)  # type: ignore[misc]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    try:
        yield Site(tmp_path_factory.mktemp("site"))
    finally:
        for process in Process.started:
            if process.child.poll() is None:
                process.kill(signal.SIGTERM)
            process.wait()
    assert not [name for name in os.listdir("/dev/shm") if "flt-" in name]


def test_engines_killed_mid_way_leave_nothing(site: Site) -> None:
    site.works()
    site.free()
    before = [agent.usage() for agent in (site.east, site.west)]
    for engine, destination in (("p0", "flt-west"), ("pdp", "flt-west")):
        rank = getattr(site, engine)
        assert rank.ask(f"begin half-{engine} {destination} {SIZE}") == f"begun half-{engine}"
        rank.kill()
        setattr(site, engine, site.rank(engine))
        record = site.west.get(f"/transfers/half-{engine}?wait_s={WAIT_S}")
        assert record["state"] == "failed"
        assert "went away" in record["reason"]
    site.free()
    assert site.pdp.ask(f"export held flt-west {SIZE}").endswith("None")
    assert site.pdd.ask(f"hold held {SIZE}") == "imported held ok"
    site.pdd.say("import never 5")
    site.west.delete("held")
    assert site.west.slots()["held"] > 0, "the reader has it open"
    site.pdd.kill()
    site.pdd = site.rank("pdd")
    site.free()
    site.works()
    site.free()
    for agent, (fds, threads) in zip((site.east, site.west), before, strict=True):
        until(lambda a=agent, f=fds: a.usage()[0] <= f)  # type: ignore[misc]
        assert agent.usage()[1] <= threads


def test_a_hang_up_ends_no_agent_and_opens_its_socket_to_nobody(site: Site) -> None:
    for name, agent in (("flt-east", site.east), ("flt-west", site.west)):
        agent.child.send_signal(signal.SIGHUP)
        assert stat.S_IMODE((site.run / name).stat().st_mode) == 0o600
    site.works()
    assert site.east.child.poll() is site.west.child.poll() is None


def test_sending_agent_killed(site: Site) -> None:
    site.p0.say(f"export x flt-west {SIZE}")
    until(lambda: site.west.get("/transfers/x")["state"] == "receiving")
    site.east.kill()
    site.east = site.agent("flt-east")
    site.p0.read()
    record = site.west.get(f"/transfers/x?wait_s={WAIT_S}")
    assert record["state"] == "failed"
    until(lambda: len(site.east.get("/engines")["engines"]) == 1)
    site.free()


def test_receiving_agent_killed(site: Site) -> None:
    site.p0.say(f"export v flt-west {SIZE}")
    until(lambda: (site.west.get("/transfers/v")["bytes_stored"] or 0) > 0)
    assert site.pdp.ask(f"begin y flt-west {SIZE}") == "begun y"
    site.pdd.say(f"import v {SIZE}")
    site.west.kill()
    assert "agent went away" in site.pdd.read()
    site.west = site.agent("flt-west")
    site.p0.read()
    until(lambda: len(site.west.get("/engines")["engines"]) == 2)
    assert site.pdd.ask(f"import v {SIZE}") == "imported v no such transfer here"
    sent = site.east.get(f"/transfers/v?wait_s={WAIT_S}")["sent"]
    assert sent["state"] in ("failed", "complete")
    site.east.delete("v")
    site.free()


def test_agents_stop_cleanly_and_start_again(site: Site) -> None:
    assert site.pdp.ask(f"begin z flt-west {SIZE}") == "begun z"
    assert site.west.kill(signal.SIGTERM) == 0
    assert not (site.run / "flt-west").exists()
    site.west = site.agent("flt-west")
    site.west.kill()
    assert (site.run / "flt-west").exists()
    site.west = site.agent("flt-west")
    until(lambda: len(site.west.get("/engines")["engines"]) == 2)
    site.works()
    site.free()
    for log in site.run.glob("*.log"):
        assert "Traceback" not in log.read_text(), log.read_text()


def test_everything_killed_at_once(site: Site) -> None:
    """No name is left in /dev/shm: the fixture looks."""
    site.p0.say(f"export u flt-west {SIZE}")
    for process in (site.east, site.west, site.p0, site.pdp, site.pdd):
        process.kill()
