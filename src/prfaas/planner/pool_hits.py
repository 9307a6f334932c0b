"""How much of a trace is found in the pool, on which tier, and what loading takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from prfaas.models.profiles import PrefillProfile
from prfaas.planner.pool_site import PoolSite
from prfaas.planner.pool_walk import Walk, Way, walk


class Hits(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk has found. Shares are of all prompt tokens."""

    found: float
    """On any tier."""
    own: float
    """In the engine's own cache."""
    memory: float
    """In its machine's memory."""
    disk: float
    """On its machine's disk."""
    lan: float
    """On another machine of its cluster."""
    line: float
    """In the other cluster, pulled over the line."""
    fetch_s: float
    """What fetching takes, on average over those requests of which something is fetched."""
    fetching_share: float
    """Of all requests: those."""


class HitPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One size of a curve."""

    memory_bytes: float
    """In each machine, on average; infinite: in none anything is evicted."""
    hits: Hits


def hits_of(walked: Walk) -> Hits:
    """What it has found."""
    tokens = float(walked.prompts.sum())
    fetched = walked.fetch_s > 0
    shares = {tier: float(found.sum()) / tokens for tier, found in walked.found.items()}
    return Hits(
        found=sum(shares.values()),
        **shares,
        fetch_s=float(walked.fetch_s[fetched].mean()) if fetched.any() else 0.0,
        fetching_share=float(np.mean(fetched)),
    )


UNBOUNDED = 1e9
"""So many times the memory that there is: nothing is evicted."""
FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0, UNBOUNDED)


def hit_curve(
    site: PoolSite,
    profiles: Mapping[str, PrefillProfile],
    way: Way,
    *,
    factors: Sequence[float] = FACTORS,
    on_step: Callable[[str], None] = lambda _: None,
) -> list[HitPoint]:
    """Hits with so many times the memory in every machine, the disk as it is, the way the same."""
    machines = site.machines
    mean = sum(machine.cache_bytes for machine in machines) / len(machines)
    found = []
    for factor in factors:
        what = "unbounded" if factor == UNBOUNDED else f"{factor:g} times the"

        def say(step: str, what: str = what) -> None:
            on_step(f"hits with {what} memory, {step}")

        walked = walk(site.sized(factor), profiles, way, on_step=say)
        size = float("inf") if factor == UNBOUNDED else mean * factor
        found.append(HitPoint(memory_bytes=size, hits=hits_of(walked)))
    return found
