"""Profiles that a deployment names, as what learned costs begin with."""

from __future__ import annotations

import logging
from pathlib import Path

from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError
from prfaas.models.profiles import load_profile
from prfaas.scheduler.journal import Curve

logger = logging.getLogger(__name__)


def cost_seeds(deployment: Deployment, *, beside: Path) -> dict[str, Curve]:
    """Engine -> seconds of a prefill by its profile, for those that name one (or whose cluster
    does). ``beside``: where a relative path starts. A profile that cannot be read costs a warning:
    serving does not need it."""
    found: dict[str, Curve | None] = {}
    seeds = {}
    for cluster in deployment.clusters:
        for engine in cluster.engines:
            name = engine.profile or cluster.profile
            if name is None:
                continue
            if name not in found:
                found[name] = _curve(name, beside)
            curve = found[name]
            if curve is not None:
                seeds[engine.name] = curve
    return seeds


def _curve(name: str, beside: Path) -> Curve | None:
    try:
        profile = load_profile(name, beside=beside)
    except ConfigError as error:
        logger.warning("costs are learned without a profile: %s", error)
        return None
    if profile.prefill is None:
        return None
    table = profile.prefill.table
    return Curve(table.x, table.y, table.interpolation)
