"""A Ray cluster of several nodes on one machine, until its standard input ends.

    python -m prfaas.testing.ray_nodes NODES.json west west east east gpus:2

makes a head without a label, and a node for each word, labelled as of that cluster; ``:2``: with so
many GPUs, which need not exist. Each has a loopback address of its own. What they are is then in
NODES.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from prfaas.launch.ray.placing import LABEL

_OBJECT_STORE_BYTES = 80 * 2**20
_START_S = 300.0
"""Ends a start that hangs."""


class RayNode(NamedTuple):
    """``pid``: of its raylet, below which is everything that runs on it."""

    cluster: str
    host: str
    pid: int


class RayNodes:
    """The cluster, from another process. Use as ``with``."""

    def __init__(self, home: Path, *clusters: str) -> None:
        told = home / "nodes.json"
        with (home / "nodes.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prfaas.testing.ray_nodes", str(told), *clusters],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        give_up = time.monotonic() + _START_S
        while not told.exists():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"no Ray cluster:\n{(home / 'nodes.log').read_text()[-4000:]}")
            time.sleep(0.2)
        found = json.loads(told.read_bytes())
        self.address: str = found["address"]
        self.nodes = [RayNode(*node) for node in found["nodes"]]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def at(self, host: str) -> RayNode:
        """The node of an address."""
        return next(node for node in self.nodes if node.host == host)


def main(told: Path, clusters: list[str]) -> None:
    """Runs until standard input ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    from ray.cluster_utils import Cluster

    store: dict[str, Any] = {"object_store_memory": _OBJECT_STORE_BYTES}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **store}
    )
    nodes = []
    for at, word in enumerate(clusters):
        name, _, gpus = word.partition(":")
        host = f"127.0.1.{at + 1}"
        node = cluster.add_node(
            num_cpus=4,
            num_gpus=int(gpus or 0),
            labels={LABEL: name},
            node_ip_address=host,
            **store,
        )
        (raylet,) = node.all_processes["raylet"]
        nodes.append(RayNode(name, host, raylet.process.pid))
    scratch = told.with_suffix(".new")
    scratch.write_text(json.dumps({"address": cluster.address, "nodes": nodes}))
    scratch.rename(told)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
