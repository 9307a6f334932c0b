"""The options of `auto`. The policy is compiled, and types of options cannot be."""

from __future__ import annotations

from prfaas.core.strict import Strict


class AutoConfig(Strict, frozen=True):
    """When a first token counts as in time."""

    ttft: str = "10 s"
    """The SLO of the time to first token."""
