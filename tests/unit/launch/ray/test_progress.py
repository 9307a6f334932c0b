"""A line for what has changed, none for what has not."""

from __future__ import annotations

import io

from rich.console import Console

from prfaas.launch.ray.board import Standing
from prfaas.launch.ray.progress import RayProgress


def _standing(node: str | None = None, *, ready: bool = False, why: str = "") -> Standing:
    return Standing(node=node, ready=ready, ends=int(bool(why)), why=why)


def test_each_change_is_said_once() -> None:
    out = io.StringIO()
    progress = RayProgress(Console(file=out, width=200), clock=lambda: 0.0)
    progress.changed({"a": _standing(), "b": _standing("0123456789")})
    progress.changed({"a": _standing(), "b": _standing("0123456789", ready=True)})
    progress.changed(
        {"a": _standing(why="killed\nlast line"), "b": _standing("0123456789", ready=True)}
    )
    assert [line.split("s  ")[1] for line in out.getvalue().splitlines()] == [
        "a: waiting for a node",
        "b: starting on node 01234567",
        "b: ready on node 01234567",
        "a: restarting (start 2): killed",
    ]
