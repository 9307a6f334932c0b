"""What a deployment file says and pods have otherwise: nothing of it is lost without a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prfaas.core.deployment import Deployment, TlsConfig

ALWAYS = (
    "Of every file: names, addresses, ports, sockets and the files of certificates are pods' own; "
    "of `gpus` the number counts, and the rest of what is for `prfaas up` or for planning is left "
    "out."
)
_NAMES = TlsConfig(ca="", cert="", key="").names


def otherwise(deployment: Deployment) -> tuple[str, ...]:
    """A sentence for each setting of the file that pods do not have, with whose it is."""
    return tuple(_found(deployment))


def _found(deployment: Deployment) -> Iterator[str]:
    shown = [(f"agent {a.name}", a.tls) for a in deployment.agents]
    shown += [(f"gateway {g.name}", g.agent_tls) for g in deployment.gateways]
    if who := [name for name, tls in shown if tls is not None and tls.crl is not None]:
        yield (
            f"tls: crl ({_all(who)}): pods read no revocation list; their certificates live a week"
        )
    if who := [name for name, tls in shown if tls is not None and tls.names != _NAMES]:
        yield f"tls: names ({_all(who)}): certificates call an agent POD-agent, a DNS name"
    if who := [agent.name for agent in deployment.agents if agent.external]:
        yield f"external ({_all(who)}): every agent of the file is started in a pod"
    for gateway in deployment.gateways:
        if gateway.operators.file is not None or gateway.operators.env is not None:
            yield (
                f"operators' keys of gateway {gateway.name}: Secret operator-key has the one that "
                "pods show and take; put one of them there"
            )
    pd = [cluster.name for cluster in deployment.clusters if cluster.kind == "pd"]
    if len(pd) > 1 and (who := [g.name for g in deployment.gateways if g.near is None]):
        yield (
            f"gateways without near ({_all(who)}): they run beside cluster {pd[0]!r}, the first "
            "that decodes, and ask it first"
        )


def _all(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
