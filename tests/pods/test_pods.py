"""The example for trying manifests, as pods of its images: ready, right, drained.

``make test-pods`` runs this, where podman has the two images that docs/kubernetes.md builds.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.pods.pods import Pod, objects_of
from tests.unit.render.examples import example, secured, spilling

from prfaas.core.units import parse_rate
from prfaas.render import kubernetes
from prfaas.render.options import Images
from prfaas.testing import wan
from prfaas.testing.calling import call
from prfaas.testing.comparing import assert_same_or_near_tie, complete
from prfaas.testing.fleet_of_machines import until
from prfaas.testing.measuring import prompt
from prfaas.testing.sites import Sites
from prfaas.testing.wan import WanProfile
from prfaas.tls.authority import create_authority

IMAGES = Images(base="localhost/prfaas:dev", engine="localhost/prfaas-engine:dev", vllm="cpu")
KINDS = {
    "plain": example("small"),
    "secure, with a disk": secured(spilling("small", "/var/lib/prfaas/kv")),
}
LONG, SHORT = 2_000, 300


def _lacking() -> str | None:
    if (why := wan.unavailable()) is not None:
        return why
    if missing := [tool for tool in ("podman", "runc", "curl") if shutil.which(tool) is None]:
        return f"needs {', '.join(missing)}"
    for image in (IMAGES.base, IMAGES.engine):
        if subprocess.run(["podman", "image", "exists", image], check=False).returncode:
            return f"podman has no image {image}"
    return None


pytestmark = [pytest.mark.engine, pytest.mark.root, pytest.mark.pods]


def _whole(gateway: Pod) -> bool:
    (container,) = gateway.containers
    ready = gateway.get(container["readinessProbe"]["httpGet"])
    return ready is not None and not json.loads(ready)["warnings"]


def _authority(folder: Path) -> Path:
    folder.mkdir()
    create_authority(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def pods(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Pod]]:
    if (why := _lacking()) is not None:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("manifests")
    for path, text in kubernetes.render(KINDS[request.param], images=IMAGES).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    authority = _authority(folder / "certs")
    secrets = {
        "operator-key": {"key": "key-of-an-operator-of-a-test"},
        "cache-key": {"cache.key": (authority / "cache.key").read_text()},
    }
    line = {("east", "west"): WanProfile(parse_rate("200 Mbit/s"), rtt_s=0.01)}
    with (
        Sites({"east": ["east-0"], "west": ["west-0", "gateway-0"]}, line) as sites,
        contextlib.ExitStack() as stack,
    ):
        hosts = {
            f"{pod}.{pod[:-2]}.prfaas-{pod[:-2]}.svc.cluster.local": sites.address(pod)
            for pod in ("east-0", "west-0")
        } | {"gateways.prfaas-west.svc.cluster.local": sites.address("gateway-0")}
        found: dict[str, Pod] = {}
        for name in ("east-0", "west-0", "gateway-0"):
            base = folder / ("east" if name == "east-0" else "west")
            kind = "Deployment" if name == "gateway-0" else "StatefulSet"
            (workload,) = objects_of(kind, base)
            pod = Pod(
                name, workload, sites=sites, hosts=hosts, base=base, secrets=secrets,
                authority=authority,
            )  # fmt: skip
            found[name] = stack.enter_context(pod)
        for pod in found.values():
            for container in pod.containers:
                pod.wait(container)
        try:
            until(lambda: _whole(found["gateway-0"]), "the gateway knows all engines")
            yield found
        finally:
            for pod in found.values():
                for container in pod.all_containers:
                    print(f"--- {pod.name} {container['name']}\n{pod.log(container)}")


def test_prompts_are_answered_by_pods_alike(pods: dict[str, Pod]) -> None:
    """A long one by a prefill in the other datacentre, a short one here; the engine itself says
    the same of both."""
    gateway = f"http://{pods['gateway-0'].seen_at}:8000"
    model = call(f"{gateway}/v1/models").json()["data"][0]["id"]
    for tokens, wanted in ((LONG, "offload"), (SHORT, "pd-p")):
        ids = prompt(f"pods {tokens}", tokens)
        ours, route = complete(gateway, model, ids)
        assert route.startswith(wanted)
        stock = pods["west-0"].completes(8002, ids)
        assert_same_or_near_tie(ours, stock)


def test_what_is_cached_reaches_the_disk_where_there_is_one(pods: dict[str, Pod]) -> None:
    complete(f"http://{pods['gateway-0'].seen_at}:8000", None, prompt("to the disk", LONG))
    disks = [pod.volumes["spill"] for pod in pods.values() if "spill" in pod.volumes]

    def kept() -> bool:
        return any(file.is_file() for disk in disks for file in disk.rglob("*"))

    until(lambda: kept() or not disks, "something is on a disk")


def test_an_engine_that_ends_drains_first(pods: dict[str, Pod]) -> None:
    """Its hooks reach the gateway: it is taken out of service and put back. Then hook and SIGTERM
    end it by itself. Without it prompts are answered by who is left."""
    west = pods["west-0"]
    gateway = f"http://{pods['gateway-0'].seen_at}:8000"
    prefill = next(c for c in west.containers if c["name"] == "prefill")
    assert "west-0-prefill: empty" in west.run_hook(prefill, "preStop")
    assert _route(gateway, "drained").startswith("direct")
    assert "west-0-prefill: in service again" in west.run_hook(prefill, "postStart")
    assert _route(gateway, "back").startswith("pd-p")
    assert west.stop(prefill) in (0, 143)
    assert _route(gateway, "after it").startswith("direct")


def _route(gateway: str, text: str) -> str:
    """That of a short prompt."""
    return complete(gateway, None, prompt(text, SHORT))[1]


def test_a_gateway_ends_by_itself(pods: dict[str, Pod]) -> None:
    gateway = pods["gateway-0"]
    (container,) = gateway.containers
    assert gateway.stop(container) == 0
