"""Puts a deployment on a Ray cluster, and watches it come up."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from prfaas import __version__
from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError, ProcessError
from prfaas.launch.ray.board import Board, Standing
from prfaas.launch.ray.head import refuse_unreachable
from prfaas.launch.ray.placing import (
    LABEL,
    Kind,
    Node,
    Placed,
    clusters_with_gpus,
    placement,
    refuse_too_small,
    too_few,
    without_gpus,
)
from prfaas.launch.ray.process import Process

try:
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
except ImportError as error:
    raise ConfigError("Ray is not installed here; pip install 'prfaas[ray]'") from error

SPACE = "prfaas-"
"""How the Ray namespaces of deployments begin."""
BOARD = "(board)"
"""No process can be called so."""
_STARTS_BEFORE_GIVING_UP = 3
_STUCK_S = 30.0
"""So long a process may be kept from starting, as by a port that its predecessor still has."""
_UNUSED_S = 30.0
"""So long the gateway may take to see engines that are ready."""
_POLL_S = 0.5


class _AskedBoard:
    """`process.Board`, from an actor."""

    def __init__(self, space: str) -> None:
        self._space = space
        self._actor: Any = None

    def tell(self, name: str, report: bytes, known: str) -> tuple[str, bytes] | None:
        found: tuple[str, bytes] | None = self._ask("tell", name, report, known)
        return found

    def fields(self, name: str) -> dict[str, str] | None:
        found: dict[str, str] | None = self._ask("fields", name)
        return found

    def trouble(self, name: str, why: str, *, ended: bool) -> int | None:
        found: int | None = self._ask("trouble", name, why, ended=ended)
        return found

    def _ask(self, method: str, *args: object, **kwargs: object) -> Any:
        try:
            if self._actor is None:
                self._actor = ray.get_actor(BOARD, namespace=self._space)
            return ray.get(getattr(self._actor, method).remote(*args, **kwargs), timeout=10)
        except (ray.exceptions.RayError, ValueError, TimeoutError):
            self._actor = None  # It is being started anew: ask again.
            return None


class _Actor:
    """`Process` as an actor, on the node that Ray has chosen."""

    def __init__(
        self, space: str, placed: bytes, deployment: bytes, files: dict[str, str], version: str
    ) -> None:
        if version != __version__:
            raise ConfigError(
                f"this node has prfaas {__version__}, the one that starts it has {version}; "
                "install the same on all"
            )
        self._placed = msgspec.json.decode(placed, type=Placed)
        self._process = Process(
            self._placed.name,
            self._placed.kind,
            deployment,
            host=ray.util.get_node_ip_address(),
            node=ray.get_runtime_context().get_node_id(),
            folder=Path("/tmp") / f"prfaas-{os.geteuid()}-{space.removeprefix(SPACE)}",
            files=files,
            board=_AskedBoard(space),
            died=lambda: os._exit(1),
        )

    def __repr__(self) -> str:
        return self._placed.name

    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid()

    def stop(self) -> None:
        """End it in order."""
        self._process.stop()


class Agent(_Actor):
    """Called so in Ray's dashboard."""


class Engine(_Actor):
    """Called so in Ray's dashboard."""


class Gateway(_Actor):
    """Called so in Ray's dashboard."""


_ACTORS: Mapping[Kind, type[_Actor]] = {"agent": Agent, "engine": Engine, "gateway": Gateway}


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """To the Ray cluster at ``address`` (``auto``: the one of this machine). Raises ConfigError."""
    if ray.is_initialized():  # Whoever has connected disconnects.
        yield
        return
    refuse_unreachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster at {address!r}: {error}; start one with 'ray start --head'"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def room_for(deployment: Deployment | None) -> dict[str | None, int]:
    """How many nodes the connected cluster has with each label of ours, and with none. Raises
    ConfigError where they cannot hold all machines of the deployment."""
    nodes = _nodes()
    if deployment is not None:
        wanted = placement(deployment, on_gpus=clusters_with_gpus(nodes))
        refuse_too_small(wanted, nodes)
        if lacking := too_few(wanted, nodes):
            raise ConfigError(lacking[0])
    return Counter(node.cluster for node in nodes)


def start(deployment: Deployment, space: str, files: Mapping[str, dict[str, str]]) -> list[str]:
    """Create every actor. They are detached: they stay when this process ends. ``files``: of each
    process, texts by name.

    Returns which nodes are to be added, where there are too few for all machines at once. Raises
    ConfigError where no node can hold a machine."""
    nodes = _nodes()
    wanted = placement(deployment, on_gpus=clusters_with_gpus(nodes))
    refuse_too_small(wanted, nodes)
    text = msgspec.json.encode(without_gpus(deployment))
    always = {"namespace": space, "lifetime": "detached", "max_restarts": -1}
    names = [placed.name for placed in wanted.processes]
    board = ray.remote(Board).options(name=BOARD, num_cpus=0, max_task_retries=-1, **always)
    board.remote(text, names)
    groups = {
        group.name: placement_group(
            [dict(bundle) for bundle in group.bundles],
            strategy="STRICT_PACK",
            name=group_name(space, group.name),
            lifetime="detached",
            bundle_label_selector=[{LABEL: group.cluster} for _ in group.bundles],
        )
        for group in wanted.groups
    }
    for placed in wanted.processes:
        others = {k: v for k, v in placed.resources.items() if k not in ("CPU", "GPU", "memory")}
        where: dict[str, Any] = {"label_selector": {LABEL: placed.cluster}}
        if placed.group is not None:
            strategy = PlacementGroupSchedulingStrategy(
                placement_group=groups[placed.group],
                placement_group_bundle_index=placed.bundle,
            )
            where = {"scheduling_strategy": strategy}
        ray.remote(_ACTORS[placed.kind]).options(
            name=placed.name,
            num_cpus=placed.resources.get("CPU", 0),
            num_gpus=placed.resources.get("GPU", 0),
            memory=placed.resources.get("memory", 0),
            resources=others,
            **always,
            **where,
        ).remote(space, msgspec.json.encode(placed), text, files.get(placed.name, {}), __version__)
    return too_few(wanted, nodes)


def until_ready(
    space: str, *, within_s: float, changed: Callable[[dict[str, Standing]], None]
) -> list[str]:
    """Wait until every process is ready. ``changed`` is told of all when one has changed.

    Returns engines that a gateway does not use all the same. Raises ProcessError for a process that
    does not come up.
    """
    board = ray.get_actor(BOARD, namespace=space)
    began, all_ready_at = time.monotonic(), None
    said: dict[str, Standing] = {}
    since: dict[str, float] = {}
    while True:
        text: bytes = ray.get(board.standings.remote())
        standings = msgspec.json.decode(text, type=dict[str, Standing])
        if standings != said:
            said = standings
            changed(standings)
        for name, one in standings.items():
            if one.ends >= _STARTS_BEFORE_GIVING_UP:
                raise ProcessError(f"{name} ended {one.ends} times: {one.why}")
            stuck = one.why if one.node is None and not one.ends else ""
            since[name] = since.get(name, time.monotonic()) if stuck else time.monotonic()
            if time.monotonic() - since[name] > _STUCK_S:
                raise ProcessError(f"{name} cannot start: {stuck}")
        waiting = [name for name, one in standings.items() if not one.ready]
        unused = sorted({engine for one in standings.values() for engine in one.unused})
        if not waiting:
            all_ready_at = all_ready_at or time.monotonic()
            if not unused or time.monotonic() - all_ready_at > _UNUSED_S:
                return unused
        if time.monotonic() - began > within_s:
            why = "; ".join(f"{n}: {standings[n].why or 'not placed yet'}" for n in waiting)
            raise ProcessError(f"not ready after {within_s:g} s: {why or ', '.join(unused)}")
        _raise_refusals(space, waiting)
        time.sleep(_POLL_S)


def deployment_now(space: str) -> bytes:
    """JSON of the deployment file with every address, as it is now; empty where it is not whole
    yet. Raises ConfigError where there is no such deployment."""
    try:
        board = ray.get_actor(BOARD, namespace=space)
        text: bytes = ray.get(board.deployment.remote(), timeout=10)
    except (ray.exceptions.RayError, ValueError, TimeoutError) as error:
        raise ConfigError(f"no deployment {space!r} on this Ray cluster") from error
    return text


def _nodes() -> list[Node]:
    return [
        Node(cluster=(node.get("Labels") or {}).get(LABEL), resources=node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def group_name(space: str, group: str) -> str:
    """The dashboard shows it without its namespace."""
    return f"{space}/{group}"


def _raise_refusals(space: str, names: list[str]) -> None:
    """Raise ProcessError for an actor that Ray does not start again: it could not be made."""
    for name in names:
        try:
            actor = ray.get_actor(name, namespace=space)
            ray.get(actor.pid.remote(), timeout=0.1)
        except ray.exceptions.ActorDiedError as error:
            raise ProcessError(f"{name}: {error}") from error
        except (ray.exceptions.RayError, ValueError, TimeoutError):
            continue
