"""Deployments on Ray clusters that were started from here. Without Ray."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from prfaas.launch.run_directory import state_home


class RayRun(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment on a Ray cluster: its namespace there, and what `ray.init` is told."""

    space: str
    address: str

    @property
    def folder(self) -> Path:
        """Its certificates and deployment file."""
        return _home() / self.space

    @property
    def deployment_file(self) -> Path:
        """With every address, as it was when somebody looked last (`run.refresh`)."""
        return self.folder / "deployment.json"

    def remember(self) -> None:
        """In its folder."""
        (self.folder / "run.json").write_bytes(msgspec.json.encode(self))

    def forget(self) -> None:
        """It has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


def remembered() -> list[RayRun]:
    """Those that were not ended from here, oldest first."""
    found = []
    for path in sorted(_home().glob("*/run.json")):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=RayRun))
        except (OSError, msgspec.DecodeError):
            continue
    return found


def _home() -> Path:
    return state_home() / "ray"
