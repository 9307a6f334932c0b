"""A process in its actor, without Ray: started, told, ended, and what it leaves behind."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prfaas.core.deployment import Deployment, load_deployment, parse_deployment
from prfaas.launch.commands import Command
from prfaas.launch.ray import board as boards
from prfaas.launch.ray.placing import Kind
from prfaas.launch.ray.process import MakeCommand, Process, grace_of
from prfaas.launch.sessions import members, session_of
from prfaas.launch.start import embedded_default

SERVE = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
host, _, port = sys.argv[1].rpartition(":")
print("serving", flush=True)
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
"""
CUT_OFF = SERVE.replace(
    "        self.end_headers()",
    """        left = self.server.cut = getattr(self.server, "cut", 2) - 1
        self.send_header("Content-Length", "9" if left >= 0 else "0")
        self.end_headers()""",
)
"""Its first answers end too early."""
HANG_S = 120.0
"""Ends a test that hangs."""


class LocalBoard:
    """Tells when something has changed."""

    def __init__(self, names: list[str]) -> None:
        text = msgspec.json.encode(load_deployment(embedded_default()))
        self.text, self._board = text, boards.Board(text, names)
        self._changed = threading.Condition()

    def tell(self, name: str, report: bytes, known: str) -> tuple[str, bytes]:
        with self._changed:
            self._changed.notify_all()
            return self._board.tell(name, report, known)

    def fields(self, name: str) -> dict[str, str]:
        return self._board.fields(name)

    def trouble(self, name: str, why: str, *, ended: bool) -> int:
        with self._changed:
            self._changed.notify_all()
            return self._board.trouble(name, why, ended=ended)

    def standing(self, name: str) -> boards.Standing:
        return msgspec.json.decode(self._board.standings(), type=dict[str, boards.Standing])[name]

    def wait_for(self, name: str, what: Callable[[boards.Standing], bool]) -> boards.Standing:
        with self._changed:
            assert self._changed.wait_for(lambda: what(self.standing(name)), timeout=HANG_S)
            return self.standing(name)


def _serving(deployment: Deployment, name: str, kind: Kind, file: Path) -> tuple[Command, str]:
    agent = next(a for a in deployment.agents if a.name == name)
    return Command((sys.executable, "-c", SERVE, agent.admin), {}), f"http://{agent.admin}/health"


def _cut_off(deployment: Deployment, name: str, kind: Kind, file: Path) -> tuple[Command, str]:
    command, probe = _serving(deployment, name, kind, file)
    python, option, _, *rest = command.arguments
    return Command((python, option, CUT_OFF, *rest), {}), probe


def _failing(deployment: Deployment, name: str, kind: Kind, file: Path) -> tuple[Command, str]:
    program = "print('no such model'); raise SystemExit(3)"
    return Command((sys.executable, "-c", program), {}), "http://127.0.0.1:9/health"


class Made:
    def __init__(self, folder: Path) -> None:
        self.board, self.folder = LocalBoard(["west-agent"]), folder
        self.died = threading.Event()
        self._processes: list[Process] = []

    def process(self, command: MakeCommand) -> Process:
        process = Process(
            "west-agent",
            "agent",
            self.board.text,
            host="127.0.0.1",
            node="node-1",
            folder=self.folder,
            files={"key.pem": "secret"},
            board=self.board,
            died=self.died.set,
            command=command,
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.stop()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    made = Made(tmp_path / "deployment")
    yield made
    made.close()


def test_it_comes_up_where_it_says_and_ends_without_a_trace(made: Made) -> None:
    process = made.process(_serving)
    made.board.wait_for("west-agent", lambda found: found.ready)
    assert made.board.standing("west-agent").node == "node-1"
    assert (made.folder.stat().st_mode & 0o777) == 0o700
    secret = made.folder / "west-agent/key.pem"
    assert (secret.read_text(), secret.stat().st_mode & 0o777) == ("secret", 0o600)
    pid = process.pid()
    assert pid is not None
    session = session_of(pid)
    assert session is not None
    process.stop()
    assert members(session) == []
    assert not made.folder.exists()
    assert not made.died.is_set()


def test_when_it_dies_it_says_how_and_has_itself_started_anew(made: Made) -> None:
    process = made.process(_serving)
    made.board.wait_for("west-agent", lambda found: found.ready)
    pid = process.pid()
    assert pid is not None
    os.kill(pid, 9)
    found = made.board.wait_for("west-agent", lambda found: found.ends == 1)
    assert found.why.startswith("killed by signal 9\nserving")
    assert made.died.wait(HANG_S)


def test_one_whose_answer_breaks_off_is_asked_again(made: Made) -> None:
    made.process(_cut_off)
    made.board.wait_for("west-agent", lambda found: found.ready)


def test_a_fault_of_ours_is_told_and_tried_again(made: Made) -> None:
    left = [ValueError("of ours")]

    def at_last(*args: Any) -> tuple[Command, str]:
        if left:
            raise left.pop()
        return _serving(*args)

    made.process(at_last)
    made.board.wait_for("west-agent", lambda found: found.why == "ValueError: of ours")
    made.board.wait_for("west-agent", lambda found: found.ready)


def test_one_that_cannot_start_says_its_last_words(made: Made) -> None:
    made.process(_failing)
    found = made.board.wait_for("west-agent", lambda found: found.ends == 1)
    assert found.why == "ended with 3\nno such model"


def test_its_successor_ends_what_a_killed_actor_has_left(made: Made) -> None:
    first = made.process(_serving)
    made.board.wait_for("west-agent", lambda found: found.ready)
    pid = first.pid()
    assert pid is not None
    session = session_of(pid)
    assert session is not None
    made.board.trouble("west-agent", "its actor was killed", ended=True)
    before = made.board.fields("west-agent")
    second = made.process(_serving)
    made.board.wait_for("west-agent", lambda found: found.ready and second.pid() is not None)
    assert members(session) == []
    assert made.board.fields("west-agent") == before


def test_a_folder_of_somebody_else_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    made.folder.symlink_to(tmp_path / "other")
    made.process(_serving)
    found = made.board.wait_for("west-agent", lambda found: bool(found.why))
    assert "somebody else's" in found.why
    made.folder.unlink()


def test_a_gateway_is_given_the_time_that_its_answers_may_take() -> None:
    slow = "clusters: [{name: w, kind: pd, agent: {name: a}, engines: [{name: d, role: decode}]}]\n"
    deployment = parse_deployment(slow + "gateway: {drain: 5 min}", source="t")
    names: list[tuple[str, Kind]] = [("gateway", "gateway"), ("a", "agent"), ("d", "engine")]
    assert [grace_of(deployment, *one) for one in names] == [310.0, 10.0, 20.0]
