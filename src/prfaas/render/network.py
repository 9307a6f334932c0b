"""Who may speak to whom: NetworkPolicies that admit what docs/security.md says, nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from prfaas.render.gateways import ADMIN, PORT, stands_in
from prfaas.render.groups import ADMIN_PORT, ENGINE_PORT, EVENTS_PORT, LINK_PORT
from prfaas.render.identity import is_secured
from prfaas.render.objects import GATEWAY, MACHINE, NAME, Object, of_component, thing
from prfaas.render.options import Plan
from prfaas.render.sites import Site

_API = "networking.k8s.io/v1"


def network_policies(cluster: str, plan: Plan) -> list[Object]:
    """Of one site."""
    here = plan.sites[cluster]
    sending = _joined(plan, cluster, to=True)
    receiving = _joined(plan, cluster, to=False)
    gateway_sites = {stands_in(g, plan.deployment) for g in plan.deployment.gateways}
    asked = [ADMIN_PORT, *_engine_ports(plan, cluster)]
    rules = [
        _policy("default-deny", {}, ingress=[], egress=[]),
        _policy("names", {}, egress=[_dns()]),
        _policy(
            "machines",
            of_component(MACHINE),
            ingress=[
                _rule("from", _peers(plan, here, gateway_sites, GATEWAY), asked),
                _rule("from", _peers(plan, here, sending, MACHINE), [LINK_PORT]),
                _rule("from", [_monitoring()], [ADMIN_PORT]),
            ],
            egress=[
                _rule("to", _peers(plan, here, receiving, MACHINE), [LINK_PORT]),
                _rule("to", _peers(plan, here, gateway_sites, GATEWAY), [ADMIN]),
                *_hub(plan),
            ],
        ),
    ]
    if cluster in gateway_sites:
        everywhere = [c.name for c in plan.deployment.clusters]
        ports = {p for c in everywhere for p in _engine_ports(plan, c)}
        rules.append(
            _policy(
                "gateways",
                of_component(GATEWAY),
                ingress=[
                    {"ports": _ports([PORT])},
                    _rule("from", [*_peers(plan, here, everywhere, MACHINE), _monitoring()],
                          [ADMIN]),
                ],
                egress=[
                    _rule("to", _peers(plan, here, everywhere, MACHINE),
                          [ADMIN_PORT, *sorted(ports)])
                ],
            )
        )  # fmt: skip
    return rules


def _joined(plan: Plan, cluster: str, *, to: bool) -> list[str]:
    """Clusters that a KV link leads from (``to`` this one) or to (from this one). Machines of one
    PD cluster send to each other."""
    pairs = [(link.source, link.target) for link in plan.deployment.links]
    pairs += [(c.name, c.name) for c in plan.deployment.clusters if c.kind == "pd"]
    found = [source if to else target for source, target in pairs
             if cluster == (target if to else source)]  # fmt: skip
    return list(dict.fromkeys(found))


def _engine_ports(plan: Plan, cluster: str) -> list[int]:
    """Those that gateways speak to; none where agents carry it."""
    if is_secured(plan.deployment):
        return []
    most = max(len(group.machine.engines) for group in plan.groups_of(cluster))
    return [ENGINE_PORT + n for n in range(most)] + [EVENTS_PORT + n for n in range(2 * most)]


def _peers(plan: Plan, here: Site, clusters: Iterable[str], component: str) -> list[Object]:
    """The pods of some clusters, by labels where they are in this Kubernetes cluster, else by the
    addresses that they may have."""
    peers: list[Object] = []
    for name in sorted(set(clusters)):
        site = plan.sites[name]
        if site.zone is not None and site.name != here.name:
            peers += [{"ipBlock": {"cidr": cidr}} for cidr in site.cidrs]
        else:
            space = {"matchLabels": {"kubernetes.io/metadata.name": site.namespace}}
            peers.append({"namespaceSelector": space, "podSelector": of_component(component)})
    return peers


def _monitoring() -> Object:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
        "podSelector": {"matchLabels": {NAME: "prometheus"}},
    }


def _hub(plan: Plan) -> list[Object]:
    """A model with a hub's name is fetched over https."""
    path = plan.deployment.model.path or "tiny:"
    return [] if path.startswith(("/", "tiny:")) else [{"ports": _ports([443])}]


def _dns() -> Object:
    space = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    return {"to": [{"namespaceSelector": space}], "ports": ports}


def _rule(side: str, peers: list[Object], ports: Iterable[int]) -> Object | None:
    """None where there is no peer: an empty list would mean everyone."""
    return {side: peers, "ports": _ports(ports)} if peers else None


def _ports(ports: Iterable[int]) -> list[Object]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _policy(
    name: str,
    selector: Object,
    *,
    ingress: list[Object | None] | None = None,
    egress: list[Object | None] | None = None,
) -> Object:
    sides = {"Ingress": ingress, "Egress": egress}
    spec: Object = {
        "podSelector": selector,
        "policyTypes": [side for side, rules in sides.items() if rules is not None],
    }
    for side, rules in sides.items():
        if rules:
            spec[side.lower()] = [rule for rule in rules if rule is not None]
    return thing(_API, "NetworkPolicy", name, spec=spec)
