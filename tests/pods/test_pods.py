"""The example for trying manifests, as pods of its images: ready, right, drained.

``make test-pods`` runs this, where podman has the two images that docs/kubernetes.md builds.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from tests.pods.pods import Pod, objects_of
from tests.unit.render.examples import example

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

IMAGES = Images(base="localhost/prfaas:dev", engine="localhost/prfaas-engine:dev", vllm="cpu")
SECRETS = {"operator-key": {"key": "key-of-an-operator-of-a-test"}}
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
    ready = call(f"http://{gateway.seen_at}:9090/ready")
    return ready.status == 200 and not ready.json()["warnings"]


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pod]]:
    if (why := _lacking()) is not None:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("manifests")
    for path, text in kubernetes.render(example("small"), images=IMAGES).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
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
            pod = Pod(name, workload, sites=sites, hosts=hosts, base=base, secrets=SECRETS)
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
    decode = f"http://{pods['west-0'].seen_at}:8002"
    model = call(f"{gateway}/v1/models").json()["data"][0]["id"]
    for tokens, wanted in ((LONG, "offload"), (SHORT, "pd-p")):
        ids = prompt(f"pods {tokens}", tokens)
        ours, route = complete(gateway, model, ids)
        assert route.startswith(wanted)
        stock, _ = complete(decode, model, ids)
        assert_same_or_near_tie(ours, stock)


def test_an_engine_that_ends_drains_first(pods: dict[str, Pod]) -> None:
    """Its hook and SIGTERM end it by itself; prompts are answered by who is left."""
    west = pods["west-0"]
    gateway = f"http://{pods['gateway-0'].seen_at}:8000"
    prefill = next(c for c in west.containers if c["name"] == "prefill")
    assert west.stop(prefill) in (0, 143)
    _, route = complete(gateway, None, prompt("after it", SHORT))
    assert route.startswith("direct")


def test_a_gateway_ends_by_itself(pods: dict[str, Pod]) -> None:
    gateway = pods["gateway-0"]
    (container,) = gateway.containers
    assert gateway.stop(container) == 0
