"""What a deployment's processes tell of themselves becomes a file that all of them read."""

from __future__ import annotations

import msgspec

from prfaas.core.deployment import Deployment, load_deployment
from prfaas.launch.ray.board import Board, Report, Standing
from prfaas.launch.start import embedded_default

NAMES = ["east-agent", "east-prefill", "west-agent", "west-prefill", "west-decode", "gateway"]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _board(clock: Clock | None = None) -> Board:
    deployment = load_deployment(embedded_default())
    return Board(msgspec.json.encode(deployment), NAMES, clock or Clock())


def _report(node: str, ready: bool = False, **fields: str) -> bytes:
    return msgspec.json.encode(Report(node=node, fields=fields, ready=ready))


def _told(board: Board) -> None:
    for n, name in enumerate(NAMES):
        key = "url" if name.endswith(("fill", "decode")) else "listen"
        at = f"http://10.0.0.{n}:1" if key == "url" else f"10.0.0.{n}:1"
        board.tell(name, _report(f"node-{n}", **{key: at}), "")


def _standings(board: Board) -> dict[str, Standing]:
    return msgspec.json.decode(board.standings(), type=dict[str, Standing])


def test_nobody_gets_a_file_until_everybody_has_told() -> None:
    board = _board()
    assert board.tell("gateway", _report("n", listen="10.0.0.9:1"), "") == ("", b"")
    assert board.deployment() == b""
    _told(board)
    file = msgspec.json.decode(board.deployment(), type=Deployment)
    assert [a.listen for a in file.agents] == ["10.0.0.0:1", "10.0.0.2:1"]
    assert [e.url for e in file.engines][-1] == "http://10.0.0.4:1"
    assert file.gateway.listen == "10.0.0.5:1"


def test_who_moves_changes_the_file_for_all_and_who_knows_it_is_sent_none() -> None:
    board = _board()
    _told(board)
    version, text = board.tell("gateway", _report("node-5", listen="10.0.0.5:1"), "")
    assert text == board.deployment()
    assert board.tell("gateway", _report("node-5", listen="10.0.0.5:1"), version) == (version, b"")
    moved, _ = board.tell("west-agent", _report("node-7", listen="10.0.0.7:1"), version)
    assert moved != version
    assert (
        b"10.0.0.7:1" in board.tell("gateway", _report("node-5", listen="10.0.0.5:1"), version)[1]
    )
    assert board.fields("west-agent") == {"listen": "10.0.0.7:1"}


def test_one_started_anew_has_the_same_version_again() -> None:
    first, second = _board(), _board()
    _told(first)
    _told(second)
    version, _ = first.tell("gateway", _report("node-5", listen="10.0.0.5:1"), "")
    assert second.tell("gateway", _report("node-5", listen="10.0.0.5:1"), version)[1] == b""


def test_who_says_nothing_any_more_is_not_ready() -> None:
    clock = Clock()
    board = _board(clock)
    board.tell("west-decode", _report("n", ready=True, url="http://10.0.0.1:1"), "")
    assert _standings(board)["west-decode"].ready
    assert not _standings(board)["east-agent"].ready
    clock.now = 11.0
    assert not _standings(board)["west-decode"].ready
    assert _standings(board)["west-decode"].node is None


def test_ends_are_counted_until_it_was_ready() -> None:
    board = _board()
    assert board.trouble("west-decode", "no model", ended=False) == 0
    assert board.trouble("west-decode", "killed", ended=True) == 1
    assert board.trouble("west-decode", "killed again", ended=True) == 2
    found = _standings(board)["west-decode"]
    assert (found.ends, found.why, found.ready) == (2, "killed again", False)
    board.tell("west-decode", _report("n", ready=True), "")
    assert (_standings(board)["west-decode"].ends, _standings(board)["west-decode"].why) == (0, "")
