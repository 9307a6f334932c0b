"""Takes a deployment off its Ray cluster: whatever is left of it, whoever has put it there."""

from __future__ import annotations

from typing import Any

import msgspec
import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from prfaas.core.deployment import Deployment
from prfaas.launch.ray.board import Standing
from prfaas.launch.ray.cluster import BOARD, SPACE, group_name
from prfaas.launch.ray.placing import Kind, placement
from prfaas.launch.ray.process import grace_of

_ORDER: tuple[Kind, ...] = ("gateway", "engine", "agent")
"""Nobody asks for what is going away."""
_STOP_S = 75.0
"""Beside a process's own grace (`process.grace_of`): what Ray and the kernel may take."""


def spaces() -> list[str]:
    """The deployments on the connected cluster, also those of which only what they reserved is
    left."""
    found = {a["namespace"] for a in ray.util.list_named_actors(all_namespaces=True)}
    found |= {name.partition("/")[0] for name, _ in _reserved()}
    return sorted(space for space in found if space.startswith(SPACE))


def stop(space: str) -> None:
    """End everything of one deployment, in order."""
    found = ray.util.list_named_actors(all_namespaces=True)
    actors = [actor["name"] for actor in found if actor["namespace"] == space]
    kinds, nowhere, grace_s = _known(space)
    for kind in _ORDER:
        names = [name for name in actors if kinds.get(name, "agent") == kind and name != BOARD]
        handles = {name: handle for name in names if (handle := _found(name, space)) is not None}
        waiting = [handle.stop.remote() for name, handle in handles.items() if name not in nowhere]
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=grace_s + _STOP_S)
        for handle in handles.values():
            ray.kill(handle, no_restart=True)
    for name, group in _reserved():
        if name.startswith(group_name(space, "")):
            remove_placement_group(group)
    if (board := _found(BOARD, space)) is not None:
        ray.kill(board, no_restart=True)


def _found(name: str, space: str) -> Any:
    """None where somebody else has ended it meanwhile."""
    try:
        return ray.get_actor(name, namespace=space)
    except ValueError:
        return None


def _reserved() -> list[tuple[str, PlacementGroup]]:
    """Placement groups that hold something, or wait for it, by name. Ray looks for a name where the
    caller's own job has made it, and whoever ends a deployment is another: ids are everywhere."""
    return [
        (group["name"], PlacementGroup(ray.PlacementGroupID(bytes.fromhex(key))))
        for key, group in placement_group_table().items()
        if group["state"] != "REMOVED"
    ]


def _known(space: str) -> tuple[dict[str, Kind], frozenset[str], float]:
    """What each process is, which are nowhere now, so that nobody waits for their end, and what
    grace the others may need. Empty where the board does not answer."""
    try:
        board = ray.get_actor(BOARD, namespace=space)
        base, said = ray.get([board.base.remote(), board.standings.remote()], timeout=10)
    except (ray.exceptions.RayError, ValueError, TimeoutError):
        return {}, frozenset(), 0.0
    deployment = msgspec.json.decode(base, type=Deployment)
    placed = placement(deployment, on_gpus=()).processes
    standings = msgspec.json.decode(said, type=dict[str, Standing])
    nowhere = frozenset(name for name, one in standings.items() if one.node is None)
    grace_s = max(grace_of(deployment, one.name, one.kind) for one in placed)
    return {one.name: one.kind for one in placed}, nowhere, grace_s
