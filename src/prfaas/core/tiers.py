"""The tiers that an agent keeps cached prefixes on, and what reading from them takes where nobody
has measured it."""

from __future__ import annotations

from typing import Literal

Tier = Literal["memory", "disk"]
TIER_BYTES_PER_S: dict[Tier, float] = {"memory": 4e9, "disk": 1.5e9}
"""What is expected to be read from a tier before that was seen or measured."""
_FIXED_S = 1e-3
"""What a load is expected to take beside its bytes."""


def load_guess_s(tier: Tier, kv_bytes: float, rate: float | None = None) -> float:
    """Seconds to load so much from a tier, by its measured rate, or by the usual one."""
    return _FIXED_S + kv_bytes / (rate or TIER_BYTES_PER_S[tier])
