"""What a rendering is told beside the deployment file."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError
from prfaas.core.strict import Strict
from prfaas.render.groups import Group
from prfaas.render.sites import Site

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*(@[a-z0-9+._-]+:[0-9a-f]{32,128})?\Z")


class Images(msgspec.Struct, frozen=True, kw_only=True):
    """``base``: agent, gateway, members; ``engine``: vLLM with all of that. Raises ConfigError for
    what no image is called."""

    base: str = "prfaas:latest"
    engine: str = "prfaas-engine:latest"
    vllm: Literal["cpu", "gpu"] = "gpu"

    def __post_init__(self) -> None:
        for name in (self.base, self.engine):
            if not _IMAGE.match(name):
                raise ConfigError(
                    f"image {name!r}: write REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST"
                )


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment, where its clusters run, and the pods that they are made of."""

    deployment: Deployment
    sites: dict[str, Site]
    groups: tuple[Group, ...]
    images: Images

    def groups_of(self, cluster: str) -> list[Group]:
        """Of one cluster."""
        return [group for group in self.groups if group.cluster == cluster]


def said(part: Strict) -> dict[str, Any]:
    """A part of a deployment as a file says it: without what it would be anyway."""
    found: dict[str, Any] = msgspec.to_builtins(part)
    return found
