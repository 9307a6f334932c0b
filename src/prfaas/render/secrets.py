"""The Secrets that manifests name: never their content, only the commands that make them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from prfaas.render import identity
from prfaas.render.gateways import gateways_at
from prfaas.render.keys import key_name
from prfaas.render.options import Plan
from prfaas.render.sites import Site


def secret_commands(plan: Plan, site: Site, kubectl: str) -> list[str]:
    """Of one site, a line each; ``kubectl`` with its context."""
    create = f"{kubectl} -n {site.namespace} create secret"
    found = [f"{create} generic operator-key --from-file=key=operator-key"]
    if identity.is_secured(plan.deployment):
        found += identity.commands(create)
    engines = _literals(
        [e.api_key_file for e in plan.deployment.engines],
        [e.api_key_env for e in plan.deployment.engines],
    )
    if engines:
        found.append(f"{create} generic engine-keys {engines}")
    for gateway in gateways_at(site.name, plan.deployment)[:1]:
        keys = gateway.tenant_keys.values()
        if clients := _literals([k.file for k in keys], [k.env for k in keys]):
            found.append(f"{create} generic client-keys {clients}")
        if gateway.tls is not None:
            found.append(f"{create} tls gateway-tls --cert=front.pem --key=front-key.pem")
    return found


def _literals(files: list[str | None], variables: list[str | None]) -> str:
    def words() -> Iterator[str]:
        for path in files:
            if path is not None:
                yield shlex.quote(f"--from-file={key_name(path)}={path}")
        for name in variables:
            if name is not None:
                yield f'--from-literal={name}="${name}"'

    return " ".join(dict.fromkeys(words()))
