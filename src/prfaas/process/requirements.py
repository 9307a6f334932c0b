"""Whether what is installed is what this package asks for.

pip sees to it, but images of engines come with packages of their own, and some are put in without
what they ask for (``--no-deps``). An older HTTP server than the doors count on takes connections
and answers none.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from prfaas.core.errors import ConfigError


def unmet_requirements(distribution: str = "prfaas") -> Iterator[str]:
    """What is missing or has another version, in words; nothing where ``distribution`` is not
    installed, but run from its source tree."""
    try:
        wanted = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, versions = requirement.name, requirement.specifier
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f"{name} is not installed, {name}{versions} is needed"
            continue
        if not versions.contains(found, prereleases=True):
            yield f"{name} {found} is installed, {name}{versions} is needed"


def check_requirements() -> None:
    """Raises ConfigError where something is missing."""
    if unmet := list(unmet_requirements()):
        raise ConfigError(f"{'; '.join(unmet)}: install prfaas with what it asks for")
