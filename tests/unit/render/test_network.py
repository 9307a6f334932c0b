"""The policies, computed: who reaches whom, on which ports, is what docs/security.md says."""

from __future__ import annotations

from typing import Any

import yaml
from tests.unit.render.examples import rendered

Policy = dict[str, Any]
GATEWAY = {"app.kubernetes.io/name": "prfaas", "app.kubernetes.io/component": "gateway"}
MACHINE = {"app.kubernetes.io/name": "prfaas", "app.kubernetes.io/component": "machine"}
STRANGER = {"app.kubernetes.io/name": "shell"}
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
PORTS = (53, 443, 5557, 5558, 5559, 5560, 7400, 7401, 8000, 8001, 8002, 9090)
Pod = tuple[str, tuple[tuple[str, str], ...]]


def _pod(namespace: str, labels: dict[str, str]) -> Pod:
    return namespace, tuple(labels.items())


def _chosen(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())


def _peer(peer: dict[str, Any], pod: Pod) -> bool:
    namespace, labels = pod[0], dict(pod[1])
    assert peer.keys() <= {"namespaceSelector", "podSelector"}
    names = {"kubernetes.io/metadata.name": namespace}
    return _chosen(peer["namespaceSelector"], names) and _chosen(
        peer.get("podSelector", {}), labels
    )


def _admits(policies: dict[str, list[Policy]], side: str, at: Pod, other: Pod, port: int) -> bool:
    """As Kubernetes does: what one policy admits is admitted; a pod without one is open."""
    way = {"Ingress": "from", "Egress": "to"}[side]
    concerning = [
        p["spec"]
        for p in policies.get(at[0], [])
        if side in p["spec"]["policyTypes"] and _chosen(p["spec"]["podSelector"], dict(at[1]))
    ]
    return not concerning or any(
        (way not in rule or any(_peer(peer, other) for peer in rule[way]))
        and any(p["port"] == port for p in rule["ports"])
        for spec in concerning
        for rule in spec.get(side.lower(), [])
    )


def reached(policies: dict[str, list[Policy]], source: Pod, target: Pod) -> set[int]:
    return {
        port
        for port in PORTS
        if _admits(policies, "Egress", source, target, port)
        and _admits(policies, "Ingress", target, source, port)
    }


def of(name: str) -> dict[str, list[Policy]]:
    return {
        f"prfaas-{path.partition('/')[0]}": list(yaml.safe_load_all(text))
        for path, text in rendered(name).items()
        if path.endswith("network.yaml")
    }


def test_only_the_model_is_admitted() -> None:
    policies = of("small")
    east, west = _pod("prfaas-east", MACHINE), _pod("prfaas-west", MACHINE)
    gateway = _pod("prfaas-west", GATEWAY)
    stranger, prometheus = _pod("default", STRANGER), _pod("monitoring", PROMETHEUS)

    assert reached(policies, east, west) == {7400}
    assert reached(policies, west, east) == set()
    assert reached(policies, west, west) == {7400}
    assert reached(policies, east, east) == set()
    assert reached(policies, gateway, east) == {7401, 8001, 5557, 5558}
    assert reached(policies, gateway, west) == {7401, 8001, 8002, 5557, 5558, 5559, 5560}
    assert reached(policies, east, gateway) == {9090}
    assert reached(policies, stranger, gateway) == {8000}
    assert reached(policies, stranger, west) == set()
    assert reached(policies, prometheus, gateway) == {8000, 9090}
    assert reached(policies, prometheus, east) == {7401}
    # A machine in the namespace that is neither has nothing but names.
    assert reached(policies, _pod("prfaas-west", STRANGER), west) == set()
    assert reached(policies, east, stranger) == set()


def test_clusters_without_a_line_do_not_reach_each_other() -> None:
    policies = of("tenants")
    west, south = _pod("prfaas-west", MACHINE), _pod("prfaas-south", MACHINE)
    assert reached(policies, west, south) == set()
    assert reached(policies, _pod("prfaas-north", MACHINE), south) == {7400}
    assert reached(policies, _pod("prfaas-south", GATEWAY), west) == {7401, 8001, 5557, 5558}


def test_another_kubernetes_cluster_is_known_by_its_addresses() -> None:
    machines = next(p for p in of("fleet")["prfaas-west"] if p["metadata"]["name"] == "machines")
    link = next(r for r in machines["spec"]["ingress"] if r["ports"][0]["port"] == 7400)
    assert {"ipBlock": {"cidr": "10.1.0.0/16"}} in link["from"]
