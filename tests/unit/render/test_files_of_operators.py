"""Files as operators write them, rendered for Kubernetes: what the file says holds in pods, or is
refused with what to write."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import yaml
from tests.unit.render.examples import SITES, example, plain, secured

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.render import kubernetes
from prfaas.render.membership import expand, parse_template
from prfaas.render.options import Images

AGENT = {"plaintext": True}


def file(**changes: Any) -> Deployment:
    """A prefill machine in east and a decode machine in west, but for what is said."""
    clusters = [
        {"name": changes.pop("east", "east"), "kind": "prfaas", "agent": {"name": "ea", **AGENT},
         "engines": [{"name": "p", "role": "prefill", **changes.pop("prefill", {})}]},
        {"name": "west", "kind": "pd", "agent": {"name": "wa", **AGENT},
         "engines": [{"name": "d", "role": "decode", **changes.pop("decode", {})}]},
    ]  # fmt: skip
    link = {"from": clusters[0]["name"], "to": "west", **changes.pop("link", {})}
    gateway = {"plaintext": True, **changes.pop("gateway", {})}
    text = {"clusters": clusters, "links": [link], "gateway": gateway, **changes}
    return parse_deployment(json.dumps(text), source="here")


def objects(files: dict[str, str], kind: str) -> list[dict[str, Any]]:
    return [
        found
        for path, text in files.items()
        if path.endswith(".yaml")
        for found in yaml.safe_load_all(text)
        if found["kind"] == kind
    ]


def entries(files: dict[str, str]) -> list[dict[str, Any]]:
    """What gateways are in the template."""
    return [found["gateway"] for found in json.loads(files["west/template.json"])["gateways"]]


def test_the_fleet_is_rendered_as_it_is_with_its_certificates() -> None:
    """Its gateways differ in the files of their certificates, which pods have of their own."""
    files = kubernetes.render(example("fleet"), sites=SITES)
    (entry,) = entries(files)
    assert entry["agent_tls"]["cert"] == "/etc/prfaas/tls/tls.crt"
    (scaled,) = objects(files, "HorizontalPodAutoscaler")
    assert scaled["spec"]["minReplicas"] == 2


def test_gateways_may_stand_there_by_word_or_by_default() -> None:
    text = {
        "clusters": [{"name": "west", "kind": "pd", "agent": {"name": "a"},
                      "engines": [{"name": "d", "role": "decode"}]}],
        "gateways": [{"name": "g1", "tls": {"cert": "/c", "key": "/k"}},
                     {"name": "g2", "tls": {"cert": "/c", "key": "/k"}, "near": "west",
                      "listen": "127.0.0.1:8001", "operator_keys_file": "/ops"}],
    }  # fmt: skip
    assert len(entries(kubernetes.render(parse_deployment(json.dumps(text), source="here")))) == 1


def test_gateways_that_differ_in_what_they_do_are_refused() -> None:
    fleet = example("fleet").with_gateways(
        lambda g: msgspec.structs.replace(g, drain="9 s") if g.name == "gateway-2" else g
    )
    with pytest.raises(ConfigError, match="must be alike"):
        kubernetes.render(fleet)


def test_what_the_file_turns_off_stays_off() -> None:
    (entry,) = entries(kubernetes.render(file(gateway={"keepalive": None})))
    assert entry["keepalive"] is None


def test_engines_behind_agents_are_followed_by_sockets() -> None:
    """At an address of its own vLLM's publisher would connect and not bind."""
    files = kubernetes.render(secured(example("small")))
    for group in json.loads(files["west/template.json"])["groups"]:
        for engine in group["machine"]["engines"]:
            assert "kv_events" not in engine


def test_operators_keys_are_of_the_secret_wherever_the_file_has_them() -> None:
    """A machine's pod drains with them, and has no variable of the gateway's."""
    files = kubernetes.render(file(gateway={"operator_keys_env": "OPS"}))
    (entry,) = entries(files)
    assert "operator_keys_env" not in entry
    (gateways,) = objects(files, "Deployment")
    assert gateways["spec"]["template"]["spec"]["containers"][0]["env"] == []


def test_a_gateway_has_the_memory_that_the_file_lets_it_take() -> None:
    def limit(**gateway: Any) -> str:
        (found,) = objects(kubernetes.render(file(gateway=gateway)), "Deployment")
        container = found["spec"]["template"]["spec"]["containers"][0]
        return str(container["resources"]["limits"]["memory"])

    assert limit() == "4096Mi"
    assert limit(max_bodies="9 GiB") == f"{(4 + 8) * 1024}Mi"
    assert limit(max_index_blocks=100_000_000) == f"{4096 + 95_805_696 * 75 // 2**20}Mi"


def test_prometheus_is_let_in_where_metrics_tell_tenants_apart() -> None:
    keys = {"tenants": [{"name": n, "api_keys_env": n.upper()} for n in ("acme", "globex")]}
    for gateway, asked in ((keys, True), ({"api_keys_env": "KEYS"}, False)):
        files = kubernetes.render(file(gateway=gateway))
        monitors = {m["metadata"]["name"]: m["spec"] for m in objects(files, "PodMonitor")}
        (endpoint,) = monitors["gateways"]["podMetricsEndpoints"]
        key = {"credentials": {"name": "operator-key", "key": "key"}}
        assert endpoint.get("authorization") == (key if asked else None)
        assert "authorization" not in monitors["machines"]["podMetricsEndpoints"][0]


def test_a_line_has_a_connection_for_each_pair_however_many_pods_there_are() -> None:
    """The file's number is of the machines that it names."""
    fleet = plain(example("fleet"))
    template = parse_template(
        kubernetes.render(fleet)["west/template.json"].encode(), source="here"
    )
    for pods, connections in ((2, 24), (6, 72), (1, 24)):
        members = {group.name: range(pods) for group in template.groups}
        assert expand(template, members, {}).links[0].connections == connections


def test_a_node_with_a_pod_that_does_not_come_up_can_be_emptied() -> None:
    for budget in objects(kubernetes.render(file()), "PodDisruptionBudget"):
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"east": "gateway"}, "gateways' Services are called so"),
        ({"east": "gateways"}, "gateways' Services are called so"),
        ({"east": "west-0"}, "a pod of 'west' may be called so"),
        ({"east": "e" * 31}, "30 at most"),
        ({"link": {"via": "tunnel.example:7400"}}, "leave via out"),
        ({"link": {"via": {"wa": "tunnel.example:7400"}}}, "leave via out"),
        ({"gateway": {"workers": 4, "admin": "127.0.0.1:9100"}}, "leave workers out"),
        ({"decode": {"url": "https://d.example:8000"}}, "leave url"),
        ({"decode": {"env": {"CUDA_VISIBLE_DEVICES": "4"}}}, "leave it out"),
        ({"model": {"path": "./models/m"}}, "absolute path"),
        ({"model": {"path": "/opt"}}, "such as /srv/models"),
        (
            {"prefill": {"api_key_file": "/etc/east/key"},
             "decode": {"api_key_file": "/etc/west/key"}},
            "would both be 'key'",
        ),
        (
            {"gateway": {"tenants": [{"name": "a", "api_keys_file": "/etc/a/keys"},
                                     {"name": "b", "api_keys_file": "/etc/b/keys"}]}},
            "would both be 'keys'",
        ),
    ],
)  # fmt: skip
def test_what_pods_could_not_be_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        kubernetes.render(file(**change))


@pytest.mark.parametrize("image", ["", "two words", "-flag", "a@sha256:short", "a'b", "a\nb: c"])
def test_what_no_image_is_called_is_refused(image: str) -> None:
    with pytest.raises(ConfigError, match="write REGISTRY/NAME:TAG"):
        Images(base=image)
    Images(base="registry.example:5000/team/prfaas:v1", engine=f"x@sha256:{'0' * 64}")
