"""Manifests of three deployments: as they were looked at, valid, and accepted by linters.

``PRFAAS_GOLDEN=write`` writes tests/unit/render/golden anew; look at the difference.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from tests.unit.render.examples import GOLDEN, NAMES, SITES, example, plain, rendered, spilling

from prfaas.agent.settings import settings_for
from prfaas.core.deployment import check_borders, parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.core.units import parse_bytes
from prfaas.render import kubernetes
from prfaas.render.membership import expand, parse_template
from prfaas.render.sites import parse_site

VERSIONS = ("1.35", "1.36", "1.37")
CUSTOM = {"Issuer", "Certificate", "PodMonitor", "Kustomization"}
"""Kinds of other projects, of which Kubernetes has no schema."""


def objects(name: str) -> list[dict[str, Any]]:
    return [
        found
        for path, text in rendered(name).items()
        if path.endswith(".yaml")
        for found in yaml.safe_load_all(text)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_manifests_are_as_they_were_looked_at(name: str) -> None:
    files, golden = rendered(name), GOLDEN / name
    if os.environ.get("PRFAAS_GOLDEN") == "write":
        shutil.rmtree(golden, ignore_errors=True)
        for path, text in files.items():
            (golden / path).parent.mkdir(parents=True, exist_ok=True)
            (golden / path).write_text(text)
    there = {
        str(path.relative_to(golden)): path.read_text()
        for path in golden.rglob("*")
        if path.is_file()
    }
    assert files == there


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_every_object_is_valid(name: str, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    seen = set()
    for found in objects(name):
        if found["kind"] not in CUSTOM:
            validate.validate(found, version, strict=True)
            seen.add(found["kind"])
    assert {"StatefulSet", "Deployment", "NetworkPolicy", "PodDisruptionBudget"} <= seen


def test_the_validator_refuses_what_is_wrong() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    broken = next(o for o in objects("small") if o["kind"] == "StatefulSet")
    broken["spec"]["replicaz"] = 3
    with pytest.raises(Exception, match="replicaz"):
        validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl builds the bases")
@pytest.mark.parametrize("name", NAMES)
def test_kustomize_builds_each_site(name: str, tmp_path: Path) -> None:
    files = rendered(name)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    for cluster in example(name).clusters:
        built = subprocess.run(
            ["kubectl", "kustomize", str(tmp_path / cluster.name)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = list(yaml.safe_load_all(built.stdout))
        spaces = {o["metadata"].get("namespace") for o in found if o["kind"] != "Namespace"}
        assert spaces == {f"prfaas-{cluster.name}"}
        template = next(o for o in found if o["kind"] == "ConfigMap")["data"]["template.json"]
        assert {group["cluster"] for group in json.loads(template)["groups"]} == {
            c.name for c in example(name).clusters
        }


def test_an_engine_asks_for_the_gpus_of_its_ranks() -> None:
    sets = {o["metadata"]["name"]: o for o in objects("fleet") if o["kind"] == "StatefulSet"}
    asked = {
        name: [c["resources"]["limits"]["nvidia.com/gpu"]
               for c in found["spec"]["template"]["spec"]["containers"]]
        for name, found in sets.items()
    }  # fmt: skip
    assert asked == {"east": ["8"], "west-a": ["4", "4"], "west-b": ["4"]}
    assert sets["east"]["spec"]["replicas"] == 2
    assert sets["west-b"]["spec"]["replicas"] == 2


@pytest.mark.parametrize("name", NAMES)
def test_an_agents_arena_fits_its_shared_memory(name: str) -> None:
    """A container has 64 MiB of it by default, and the agent refuses to start."""
    groups = json.loads(rendered(name)["west/template.json"])["groups"]
    arenas = {group["name"]: group["machine"]["agent"].get("arena", "512 MiB") for group in groups}
    for found in (o for o in objects(name) if o["kind"] == "StatefulSet"):
        spec = found["spec"]["template"]["spec"]
        agent = next(c for c in spec["initContainers"] if c["name"] == "agent")
        mount = next(m for m in agent["volumeMounts"] if m["mountPath"] == "/dev/shm")
        volume = next(v for v in spec["volumes"] if v["name"] == mount["name"])
        assert volume["emptyDir"]["medium"] == "Memory"
        held = parse_bytes(volume["emptyDir"]["sizeLimit"] + "B")
        assert held > parse_bytes(arenas[found["metadata"]["name"]])


def test_an_agents_disk_is_a_volume_that_outlives_its_container() -> None:
    found = kubernetes.render(plain(spilling("small", "/var/lib/prfaas/kv")))
    sets = [
        thing
        for path, text in found.items()
        if path.endswith(".yaml")
        for thing in yaml.safe_load_all(text)
        if thing["kind"] == "StatefulSet"
    ]
    assert sets
    for one in sets:
        pod = one["spec"]["template"]["spec"]
        agent = next(c for c in pod["initContainers"] if c["name"] == "agent")
        assert {"name": "spill", "mountPath": "/var/lib/prfaas"} in agent["volumeMounts"]
        assert {"name": "spill", "emptyDir": {"sizeLimit": "1088Mi"}} in pod["volumes"]
    for path in ("/kv", "/opt/kv", "/tmp/kv", "/dev/shm/kv", "/usr/share/kv", "/run/prfaas/kv"):
        with pytest.raises(ConfigError, match="such as /var/lib"):
            kubernetes.render(plain(spilling("small", path)))


def test_every_pod_is_restricted_and_every_engine_drains() -> None:
    for name in NAMES:
        for found in objects(name):
            if found["kind"] not in ("StatefulSet", "Deployment"):
                continue
            pod = found["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"]
            for one in [*pod["initContainers"], *pod["containers"]]:
                assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                assert one["securityContext"]["readOnlyRootFilesystem"]
                assert "startupProbe" in one
            if found["kind"] == "StatefulSet":
                assert all(
                    "drain" in c["lifecycle"]["preStop"]["exec"]["command"][2]
                    for c in pod["containers"]
                )


def test_names_of_other_sites_are_published() -> None:
    east = rendered("fleet")["east/machines-east.yaml"]
    service = next(o for o in yaml.safe_load_all(east) if o["kind"] == "Service")
    domain = "east.kv.east.example.com"
    assert service["metadata"]["annotations"] == {
        "external-dns.alpha.kubernetes.io/hostname": domain
    }
    template = json.loads(rendered("fleet")["west/template.json"])
    assert template["groups"][0]["machine"]["agent"]["advertise"] == f"{{pod}}.{domain}:7400"


def test_the_readme_makes_every_secret_that_a_pod_names() -> None:
    for name in NAMES:
        readme = rendered(name)["README.md"]
        for found in objects(name):
            if found["kind"] in ("StatefulSet", "Deployment"):
                volumes = found["spec"]["template"]["spec"]["volumes"]
                for secret in (v["secret"]["secretName"] for v in volumes if "secret" in v):
                    assert f" {secret} " in readme, (name, secret)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "West_1"}, "small letters"),
        ({"args": ["--nnodes", "2"]}, "several hosts"),
        ({"mixed": True}, "all of them have certificates, or none"),
        ({"keys": ["secret"]}, "api_keys_file"),
    ],
)
def test_what_cannot_run_as_pods_is_refused(change: dict[str, Any], reason: str) -> None:
    engine = {"name": "d", "role": "decode", "args": change.get("args", [])}
    cluster = {"name": change.get("name", "west"), "kind": "pd",
               "agent": {"name": "a", "plaintext": True}, "engines": [engine]}  # fmt: skip
    other = {"name": "east", "kind": "prfaas", "agent": {"name": "b"},
             "engines": [{"name": "p", "role": "prefill"}]}  # fmt: skip
    clusters = [cluster, other] if change.get("mixed") else [cluster]
    text = {"clusters": clusters, "gateway": {"api_keys": change.get("keys", [])}}
    deployment = parse_deployment(msgspec.json.encode(text), source="here")
    with pytest.raises(ConfigError, match=reason):
        kubernetes.render(deployment)


def test_a_site_is_said_of_every_cluster_or_of_none() -> None:
    with pytest.raises(ConfigError, match="lacking for west"):
        kubernetes.render(plain(example("fleet")), sites={"east": SITES["east"]})
    with pytest.raises(ConfigError, match="no such cluster"):
        kubernetes.render(plain(example("fleet")), sites={"mars": SITES["east"]})


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("west=10.1.0.0/16,10.2.0.0/16", "no DNS name"),
        ("west=kv_west,10.2.0.0/16", "no DNS name"),
        ("west=.,10.2.0.0/16", "no DNS name"),
        ("west=kv.west.example.com", "CIDR"),
        ("west=kv.west.example.com,10.2.0.5/16", "host bits"),
    ],
)
def test_a_site_that_is_none_is_refused(said: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_site(said)


def test_a_sites_zone_may_end_in_a_dot() -> None:
    assert parse_site("west=kv.west.example.com.,2001:db8::/48") == (
        "west", ("kv.west.example.com", ("2001:db8::/48",))
    )  # fmt: skip


def test_pods_have_certificates_in_the_names_that_agents_and_gateways_look_for() -> None:
    """What the manifests ask for is what the processes check: the template, expanded, is read by an
    agent's and a gateway's own code."""
    template = parse_template(
        rendered("secure")["west/template.json"].encode(), source="west/template.json"
    )
    deployment = expand(
        template, {"east": [0, 1], "west": [0]}, {template.gateways[0].service: ["10.0.0.7"]}
    )
    check_borders(deployment)
    for agent in deployment.agents:
        settings = settings_for(deployment, agent.name)
        assert settings.tls is not None
        assert settings.gateways == {"prfaas-gateway"}
        assert str(settings.cache_key) == deployment.gateway.agent_tls.cache_key  # type: ignore[union-attr]
        assert all(e.url.startswith("http://127.0.0.1:") for e in settings.reach)
    named = {
        volume["csi"]["volumeAttributes"]["csi.cert-manager.io/dns-names"]
        for found in objects("secure")
        if found["kind"] in ("StatefulSet", "Deployment")
        for volume in found["spec"]["template"]["spec"]["volumes"]
        if "csi" in volume
    }
    assert named == {"${POD_NAME}-agent", "prfaas-gateway"}
    assert {agent.name for agent in deployment.agents} == {
        f"{pod}-agent" for pod in ("east-0", "east-1", "west-0")
    }


def test_where_agents_carry_it_nobody_reaches_engines_or_asks_an_agent_in_plaintext() -> None:
    for found in objects("secure"):
        if found["kind"] == "StatefulSet":
            pod = found["spec"]["template"]["spec"]
            agent = next(c for c in pod["initContainers"] if c["name"] == "agent")
            for one in (agent, *pod["containers"]):
                assert "httpGet" not in one["startupProbe"]
        if found["kind"] == "NetworkPolicy":
            sides = [*found["spec"].get("ingress", []), *found["spec"].get("egress", [])]
            ports = {port["port"] for side in sides for port in side.get("ports", [])}
            assert not ports & set(range(8001, 8010))
            assert not ports & set(range(5557, 5570))
        if found["kind"] == "PodMonitor" and found["metadata"]["name"] == "machines":
            assert found["spec"]["podMetricsEndpoints"][0]["scheme"] == "https"
