"""Real engines on a Ray cluster of local nodes: placed, identical, moved when their node dies.

The nodes are raylets of this machine, each with a loopback address. `make test-ray` runs this.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from prfaas.core.addresses import parse_url
from prfaas.core.deployment import Deployment, EngineConfig, parse_deployment
from prfaas.demo.report import differences
from prfaas.demo.run import play, replay
from prfaas.demo.script import SCRIPTS
from prfaas.launch.addresses import free_address
from prfaas.launch.commands import engine_command, installed_vllm
from prfaas.launch.start import embedded_default
from prfaas.testing.calling import call
from prfaas.testing.comparing import complete
from prfaas.testing.measuring import prompt
from prfaas.testing.ray_nodes import RayNodes
from prfaas.testing.running import running_command, unused_engines
from prfaas.testing.waiting import until

pytestmark = [
    pytest.mark.alone,
    pytest.mark.engine,
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]

SCRIPT = next(s for s in reversed(SCRIPTS) if len(s.prompts) == len(SCRIPTS[0].prompts))
"""All the demo's prompts, the short ones."""
HANG_S = 900.0
"""Ends a test that hangs."""
RESERVED = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
groups = ray.util.placement_group_table().values()
print(json.dumps([group["name"] for group in groups if group["state"] != "REMOVED"]))
"""
"""Names of placement groups, as whoever else uses the cluster sees them."""


class OnRay:
    """The demo's deployment, put on Ray by a command that has ended."""

    def __init__(self, nodes: RayNodes, home: Path) -> None:
        self.nodes, self.home = nodes, home
        self.port = free_address().rpartition(":")[2]
        began = time.monotonic()
        file = home / "deployment.yaml"
        file.write_text(embedded_default().read_text() + "gateway: {plaintext: true}\n")
        prfaas(home, "up", "--ray", nodes.address, "--listen", f"0.0.0.0:{self.port}", str(file))
        self.start_s = time.monotonic() - began
        (self.folder,) = (home / "state/prfaas/ray").glob("*/")

    @property
    def deployment(self) -> Deployment:
        """As it was when it had come up."""
        file = self.folder / "deployment.json"
        return parse_deployment(file.read_bytes(), source=str(file))

    @property
    def gateways(self) -> list[str]:
        """Where the gateway may be: what a load balancer would ask."""
        return [f"http://{n.host}:{self.port}" for n in self.nodes.nodes if n.cluster == "west"]

    def serving(self) -> str | None:
        return next((url for url in self.gateways if _ready(url)), None)


def prfaas(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prfaas.cli.main", *arguments],
        env={**os.environ, "XDG_STATE_HOME": str(home / "state")},
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_S,
    )


def reserved(nodes: RayNodes, space: str) -> list[str]:
    """What a deployment keeps of the cluster for itself."""
    told = subprocess.run(
        [sys.executable, "-c", RESERVED, nodes.address],
        capture_output=True, text=True, check=True, timeout=HANG_S,
    )  # fmt: skip
    return [name for name in json.loads(told.stdout) if name.startswith(f"{space}/")]


def _ready(url: str) -> bool:
    try:
        return call(f"{url}/ready", timeout_s=5).status == 200
    except OSError:
        return False


_until = partial(until, within_s=HANG_S)


def _environments() -> Iterator[tuple[int, list[str], dict[str, str]]]:
    """Pid, command line and environment of every process of ours."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode().split("\0")
                lines = (entry / "environ").read_bytes().decode().split("\0")
            except (OSError, UnicodeDecodeError):
                continue
            yield int(entry.name), command, dict(line.partition("=")[::2] for line in lines)


def _processes(folder: str) -> list[int]:
    """Of the deployment whose folder on its nodes is called so."""
    return [pid for pid, _, env in _environments() if f"/{folder}/" in env.get("TMPDIR", "")]


def _node_folder(folder: Path) -> str:
    return f"prfaas-{os.geteuid()}-{folder.name.removeprefix('prfaas-')}"


def _below(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parent = int(stat[stat.rindex(")") + 2 :].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    home = tmp_path_factory.mktemp("ray")
    with RayNodes(home, "west", "west", "east", "east", "gpus:2") as nodes:
        yield nodes


@pytest.fixture(scope="module")
def on_ray(nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRay]:
    deployed = OnRay(nodes, tmp_path_factory.mktemp("up"))
    yield deployed
    if deployed.folder.exists():
        prfaas(deployed.home, "down")


@pytest.fixture(scope="module")
def plain(on_ray: OnRay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A stock engine's URL."""
    url = f"http://{free_address()}"
    engine = EngineConfig(name="plain", role="decode", url=url)
    file = Path(f"/tmp/{_node_folder(on_ray.folder)}/west-decode/deployment.json")
    local = msgspec.json.decode(file.read_bytes(), type=Deployment)
    command = engine_command(local, engine, vllm=installed_vllm(), connector=False)
    log = tmp_path_factory.mktemp("plain") / "plain.log"
    with running_command(command, log=log, probe=f"{url}/health"):
        yield url


def test_a_datacentre_is_a_label_and_a_machine_one_node(on_ray: OnRay) -> None:
    for cluster in on_ray.deployment.clusters:
        (machine,) = cluster.machines
        host = machine.agent.admin_address.rpartition(":")[0]
        assert on_ray.nodes.at(host).cluster == cluster.name
        assert parse_url(str(machine.engines[0].url)).host == "127.0.0.1"
    assert on_ray.nodes.at(on_ray.deployment.gateway.address.rpartition(":")[0]).cluster == "west"


def test_the_demos_prompts_are_answered_token_for_token(on_ray: OnRay, plain: str) -> None:
    url, model = on_ray.deployment.gateway.url, str(on_ray.deployment.model.served_name)
    console = Console(file=io.StringIO())
    prompts, answers = asyncio.run(play(url, model, SCRIPT, console))
    assert differences(answers, asyncio.run(replay(plain, model, prompts)), {}) == []
    assert len(answers) == 13
    assert any(answer.route == "offload" for answer in answers.values())


def test_an_engine_that_is_killed_is_started_again_where_it_was(on_ray: OnRay) -> None:
    url = on_ray.deployment.gateway.url
    engine = next(str(e.url) for e in on_ray.deployment.engines if e.name == "west-decode")
    folder = f"{_node_folder(on_ray.folder)}/west-decode"
    (leader, *_) = [p for p, _, env in _environments() if env.get("TMPDIR") == f"/tmp/{folder}"]
    os.kill(leader, signal.SIGKILL)
    _until(lambda: "west-decode" in unused_engines(url, on_ray.deployment))
    _until(lambda: unused_engines(url, on_ray.deployment) == [])
    assert call(f"{engine}/health").status == 200


def test_a_node_that_is_killed_is_served_for_by_another(
    on_ray: OnRay, plain: str, record_property: Callable[[str, object], None]
) -> None:
    model = str(on_ray.deployment.model.served_name)
    was = on_ray.deployment.gateway.address.rpartition(":")[0]
    for pid in _below(on_ray.nodes.at(was).pid):
        os.kill(pid, signal.SIGKILL)
    killed_at = time.monotonic()
    url = _until(on_ray.serving)
    away_s = time.monotonic() - killed_at
    print(f"all was started in {on_ray.start_s:.0f} s; served again {away_s:.0f} s after the kill")
    record_property("away_s", away_s)
    prfaas(on_ray.home, "status", "--once")  # It looks where all of it is now.
    now = on_ray.deployment.gateway.address.rpartition(":")[0]
    assert now != was
    assert on_ray.nodes.at(now).cluster == "west"
    assert away_s < 60 + 2 * on_ray.start_s  # docs/ray.md; twice, for what else the machine does
    ids = prompt("after the move", 1500)
    ours, route = _until(lambda: _offloaded(url, model, ids))
    stock, _ = complete(plain, model, ids)
    assert ours["token_ids"] == stock["token_ids"], route


def _offloaded(url: str, model: str, ids: list[int]) -> tuple[Any, str] | None:
    """Once east's agent knows where west's is now. Until then prompts are prefilled in west."""
    _, route = complete(url, model, [ids[0] + int(time.time()) % 100, *ids[1:]])
    if not route.startswith("offload"):
        return None
    return complete(url, model, ids)


def test_ranks_get_their_gpus_of_a_placement_group_and_ctrl_c_ends_a_start(
    nodes: RayNodes, tmp_path: Path
) -> None:
    file = tmp_path / "gpus.yaml"
    file.write_text(
        "clusters: [{name: gpus, kind: pd, agent: {name: g-agent, arena: 64 MiB}, engines: "
        '[{name: two-ranks, role: decode, args: ["--tensor-parallel-size", "2"]}]}]\n'
        f'gateway: {{listen: "{free_address()}"}}\n'
    )
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    command = [sys.executable, "-m", "prfaas.cli.main", "up", str(file), "--ray", nodes.address]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as up:

        def visible() -> str | None:
            return next(
                (
                    env.get("CUDA_VISIBLE_DEVICES")
                    for _, command, env in _environments()
                    if "--tensor-parallel-size" in command and "two-ranks" in env.get("TMPDIR", "")
                ),
                None,
            )

        assert sorted(_until(visible).split(",")) == ["0", "1"]
        (folder,) = (tmp_path / "state/prfaas/ray").glob("*/")
        assert _processes(_node_folder(folder)) != []
        assert len(reserved(nodes, folder.name)) == 1
        up.send_signal(signal.SIGINT)
        assert up.wait(HANG_S) == 130
    assert _processes(_node_folder(folder)) == []
    assert reserved(nodes, folder.name) == []
    assert not folder.exists()


def test_too_few_nodes_are_said_and_nobody_waits_for_what_never_came(
    nodes: RayNodes, tmp_path: Path
) -> None:
    file = tmp_path / "two.yaml"
    machines = ", ".join(
        f"{{name: m{n}, agent: {{name: m{n}-agent, arena: 64 MiB}}, engines: "
        f'[{{name: m{n}-d, role: decode, gpus: "0,1"}}]}}'
        for n in range(2)
    )
    file.write_text(
        f"clusters: [{{name: gpus, kind: pd, machines: [{machines}]}}]\n"
        f'gateway: {{listen: "{free_address()}"}}\n'
    )
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    command = [sys.executable, "-m", "prfaas.cli.main", "up", str(file), "--ray", nodes.address]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        said = up.stdout.readline()
        (folder,) = (tmp_path / "state/prfaas/ray").glob("*/")
        assert len(reserved(nodes, folder.name)) == 2
        up.send_signal(signal.SIGINT)
        assert up.wait(HANG_S) == 130
    assert "machines 'm0', 'm1' need each" in said
    assert "with room for 1 of 2" in said
    assert "GPU 2" in said
    assert reserved(nodes, folder.name) == []


def test_down_that_was_interrupted_is_asked_again(on_ray: OnRay) -> None:
    folder = _node_folder(on_ray.folder)
    assert _processes(folder) != []
    assert len(reserved(on_ray.nodes, on_ray.folder.name)) == len(on_ray.deployment.machines)
    environment = {**os.environ, "XDG_STATE_HOME": str(on_ray.home / "state")}
    command = [sys.executable, "-m", "prfaas.cli.main", "down"]
    with subprocess.Popen(command, env=environment) as down:
        _until(lambda: on_ray.serving() is None)
        down.send_signal(signal.SIGINT)
        assert down.wait(HANG_S) == 130


def test_down_ends_all_of_it(on_ray: OnRay) -> None:
    folder = _node_folder(on_ray.folder)
    told = json.loads(prfaas(on_ray.home, "down", "--json").stdout)
    assert told == {"ended": [on_ray.folder.name], "still_ending": []}
    assert _processes(folder) == []
    assert reserved(on_ray.nodes, told["ended"][0]) == []
    assert not on_ray.folder.exists()
