"""A deployment as Kustomize bases, one for each of its clusters."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from prfaas.core.deployment import Deployment, check_borders
from prfaas.core.errors import ConfigError
from prfaas.render.gateways import (
    ADMIN,
    gateway_objects,
    gateways_at,
    keeps_metrics,
    stands_in,
    template_entry,
)
from prfaas.render.groups import all_groups, label
from prfaas.render.identity import GATEWAYS, asked_as_monitor, is_secured, site_objects
from prfaas.render.keys import OPERATOR_KEY
from prfaas.render.machines import machine_objects, on_disk
from prfaas.render.membership import PodGroup, Template, expand
from prfaas.render.network import network_policies
from prfaas.render.objects import GATEWAY, MACHINE, Object, of_component, thing
from prfaas.render.options import Images, Plan, said
from prfaas.render.otherwise import ALWAYS, otherwise
from prfaas.render.secrets import secret_commands
from prfaas.render.sites import Site, sites_of

_DNS_NAMES = "external-dns.alpha.kubernetes.io/hostname"


def render(
    deployment: Deployment,
    *,
    namespace: str = "prfaas",
    sites: dict[str, tuple[str, tuple[str, ...]]] | None = None,
    images: Images | None = None,
) -> dict[str, str]:
    """Files by their paths. Raises ConfigError for what cannot run as pods.

    Args:
        namespace: of each cluster, with ``-CLUSTER`` behind it.
        sites: zone and addresses of each cluster, where they are Kubernetes clusters of their own.
    """
    label(namespace, what="namespace")
    if deployment.model.path is None:
        model = msgspec.structs.replace(deployment.model, path="tiny:gdn")
        deployment = msgspec.structs.replace(deployment, model=model)
    secured = is_secured(deployment)
    where = sites_of(deployment, namespace=namespace, given=sites or {})
    plan = Plan(
        deployment=deployment,
        sites=where,
        groups=all_groups(deployment, where),
        images=images or Images(),
    )
    _check(deployment)
    made = _template(plan)
    _try(made)
    template = msgspec.json.format(msgspec.json.encode(made), indent=1).decode() + "\n"
    files = {"README.md": _readme(plan)}
    for site in where.values():
        for path, text in _site(site, plan, secured=secured).items():
            files[f"{site.name}/{path}"] = text
        files[f"{site.name}/template.json"] = template
    return files


def _template(plan: Plan) -> Template:
    deployment = plan.deployment
    near = dict.fromkeys(stands_in(g, deployment) for g in deployment.gateways)
    return Template(
        groups=tuple(
            PodGroup(
                name=group.name,
                cluster=group.cluster,
                domain=group.domain,
                replicas=group.replicas,
                machine=said(group.machine),
            )
            for group in plan.groups
        ),
        gateways=tuple(template_entry(cluster, plan) for cluster in near),
        clusters=tuple(
            {"name": c.name, "kind": c.kind, **({"lan": said(c.lan)} if c.kind == "pd" else {})}
            for c in deployment.clusters
        ),
        rest={
            "links": [said(link) for link in deployment.links],
            "model": said(deployment.model),
            "scheduler": said(deployment.scheduler),
        },
    )


def _check(deployment: Deployment) -> None:
    """Raise ConfigError for what only a machine has."""
    path = deployment.model.path or ""
    if path.startswith((".", "~")):
        raise ConfigError(f"model {path}: give an absolute path, where a volume is to be mounted")
    for link in deployment.links:
        if link.via is not None:
            raise ConfigError(
                f"link from {link.source!r} to {link.target!r}: via: pods are dialled by their own "
                "names, as many as there are; leave via out"
            )


def _try(template: Template) -> None:
    """What pods will read is read once here: what is wrong with it is said before it is applied."""
    expanded = expand(
        template,
        {group.name: range(group.replicas) for group in template.groups},
        {group.service: [f"192.0.2.{at}"] for at, group in enumerate(template.gateways)},
    )
    check_borders(expanded)


def _site(site: Site, plan: Plan, *, secured: bool) -> dict[str, str]:
    parts: dict[str, list[Object]] = {"namespace.yaml": [_namespace(site)]}
    for group in plan.groups_of(site.name):
        objects = machine_objects(group, plan.deployment.model, plan.images)
        _publish(objects, site, group.domain)
        parts[f"machines-{group.name}.yaml"] = objects
    if gateways_at(site.name, plan.deployment):
        objects = gateway_objects(site.name, plan)
        _publish(objects, site, site.domain("gateways"))
        parts["gateway.yaml"] = objects
    if secured:
        parts["identity.yaml"] = site_objects()
    parts["network.yaml"] = network_policies(site.name, plan)
    parts["monitoring.yaml"] = _monitors(site.name, plan, secured=secured)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": site.namespace,
        "resources": list(parts),
        "configMapGenerator": [{"name": "deployment", "files": ["template.json"]}],
        # A new template is taken over by what runs: no pod needs to start anew for it.
        "generatorOptions": {"disableNameSuffixHash": True},
    }
    files = {path: _yaml(objects) for path, objects in parts.items()}
    return {"kustomization.yaml": _yaml([kustomization]), **files}


def _publish(objects: list[Object], site: Site, domain: str) -> None:
    """Have ExternalDNS write the names of a headless Service's pods, for other sites."""
    for thing_ in objects:
        if site.zone is not None and thing_["spec"].get("clusterIP") == "None":
            thing_["metadata"]["annotations"] = {_DNS_NAMES: domain}


def _namespace(site: Site) -> Object:
    found = thing("v1", "Namespace", site.namespace)
    found["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "restricted"}
    return found


def _monitors(cluster: str, plan: Plan, *, secured: bool) -> list[Object]:
    named: dict[str, str | None] = {MACHINE: None}
    if gateways_at(cluster, plan.deployment):
        named[GATEWAY] = GATEWAYS
    found = []
    for component, name in named.items():
        asked: Object = {"port": "admin", "path": "/metrics"}
        if secured:
            asked |= asked_as_monitor(name)
        if component == GATEWAY and keeps_metrics(plan.deployment):
            asked["authorization"] = {"credentials": OPERATOR_KEY}
        spec = {"selector": of_component(component), "podMetricsEndpoints": [asked]}
        found.append(thing("monitoring.coreos.com/v1", "PodMonitor", f"{component}s", spec=spec))
    return found


def _yaml(objects: Iterable[Object]) -> str:
    return "---\n".join(msgspec.yaml.encode(found).decode() for found in objects)


def _readme(plan: Plan) -> str:
    """What is to be done before and after, with every command; and what pods have otherwise."""
    text = ["# Made by 'prfaas render kubernetes'; render again instead of editing", ""]
    text += _before(plan)
    for site in plan.sites.values():
        context = f"--context {site.name}" if site.zone else ""
        kubectl = " ".join(f"kubectl {context}".split())
        text += [f"## {site.name}", "", "```"]
        text += [f"{kubectl} apply -f {site.name}/namespace.yaml"]
        text += secret_commands(plan, site, kubectl)
        text += [f"{kubectl} apply -k {site.name}", "```", ""]
    text += [
        "An overlay is the place for what is yours: node selectors, tolerations, limits, storage.",
        f"Docs: docs/kubernetes.md. Gateways answer /ready on port {ADMIN}.",
        "",
        "## What pods have otherwise than the file says",
        "",
        *(f"- {said_so}" for said_so in (ALWAYS, *otherwise(plan.deployment))),
    ]
    return "\n".join(text) + "\n"


def _before(plan: Plan) -> list[str]:
    """What all sites need, once."""
    needed = ["PodMonitors of Prometheus Operator", "metrics-server for the autoscaler"]
    commands = ['printf %s "$(head -c 24 /dev/urandom | base64)" > operator-key']
    if is_secured(plan.deployment):
        needed.append("cert-manager with its CSI driver")
        commands.append("prfaas certs init    # certs/; one authority for all sites")
    text = ["## Before", "", f"Each Kubernetes cluster needs: {', '.join(needed)}."]
    if on_disk(model := plan.deployment.model):
        text.append(
            "Each namespace needs a PersistentVolumeClaim `model`, whose volume holds what engines "
            f"read at {model.path}."
        )
    if any(gateway.tls is not None for gateway in plan.deployment.gateways):
        text.append("What clients are shown lies here as `front.pem` and `front-key.pem`.")
    return [*text, "", "```", *commands, "```", ""]
