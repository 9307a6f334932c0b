"""Profiles that a deployment names, as what learned costs begin with."""

from __future__ import annotations

import logging
from pathlib import Path

from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError
from prfaas.models.interpolation import Table
from prfaas.models.profiles import InstanceProfile, load_profile
from prfaas.scheduler.journal import CostInputs, Curve

logger = logging.getLogger(__name__)


def cost_seeds(deployment: Deployment, *, beside: Path) -> CostInputs:
    """Seconds of a prefill, a decode step and a load by the profiles of those engines that name
    one (or whose cluster does). ``beside``: where a relative path starts. A profile that cannot be
    read costs a warning: serving does not need it."""
    found: dict[str, InstanceProfile | None] = {}
    prefills, steps, loads = {}, {}, {}
    for cluster in deployment.clusters:
        for engine in cluster.engines:
            name = engine.profile or cluster.profile
            if name is None:
                continue
            if name not in found:
                found[name] = _profile(name, beside)
            profile = found[name]
            if profile is not None and profile.prefill is not None:
                prefills[engine.name] = _curve(profile.prefill.table)
            if profile is not None and profile.decode is not None:
                steps[engine.name] = _curve(profile.decode.table)
            if profile is not None and profile.load is not None:
                loads[engine.name] = _curve(profile.load.table)
    return CostInputs(seeds=prefills, step_seeds=steps, load_seeds=loads)


def _profile(name: str, beside: Path) -> InstanceProfile | None:
    try:
        return load_profile(name, beside=beside)
    except ConfigError as error:
        logger.warning("costs are learned without a profile: %s", error)
        return None


def _curve(table: Table) -> Curve:
    return Curve(table.x, table.y, table.interpolation)
