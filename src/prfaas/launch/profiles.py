"""Profiles that a deployment file names by a relative path are found from the resolved file too."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prfaas.core.deployment import Deployment, MachineConfig


def with_whole_paths(deployment: Deployment, *, beside: Path) -> Deployment:
    """``beside``: where the file stands; the resolved one is written elsewhere."""

    def whole(profile: str | None) -> str | None:
        if profile is None or not profile.endswith((".yaml", ".yml")):
            return profile  # A built-in one.
        return str((beside / profile).resolve())

    def of_machine(machine: MachineConfig) -> MachineConfig:
        engines = (msgspec.structs.replace(e, profile=whole(e.profile)) for e in machine.engines)
        return msgspec.structs.replace(machine, engines=tuple(engines))

    found = deployment.with_machines(of_machine)
    clusters = (msgspec.structs.replace(c, profile=whole(c.profile)) for c in found.clusters)
    return msgspec.structs.replace(found, clusters=tuple(clusters))
