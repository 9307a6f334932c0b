"""What a rendering is told beside the deployment file."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from prfaas.core.deployment import Deployment
from prfaas.render.groups import Group
from prfaas.render.sites import Site


class Images(msgspec.Struct, frozen=True, kw_only=True):
    """``base``: agent, gateway, members; ``engine``: vLLM with all of that."""

    base: str = "prfaas:latest"
    engine: str = "prfaas-engine:latest"
    vllm: Literal["cpu", "gpu"] = "gpu"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment, where its clusters run, and the pods that they are made of."""

    deployment: Deployment
    sites: dict[str, Site]
    groups: tuple[Group, ...]
    images: Images

    def groups_of(self, cluster: str) -> list[Group]:
        """Of one cluster."""
        return [group for group in self.groups if group.cluster == cluster]


def said(part: msgspec.Struct) -> dict[str, Any]:
    """A part of a deployment as a file says it: without what it would be anyway."""
    found: dict[str, Any] = msgspec.to_builtins(part)
    for field in msgspec.structs.fields(part):
        value = getattr(part, field.name)
        if value in (None, (), {}) or value == field.default:
            found.pop(field.encode_name, None)
    return found
