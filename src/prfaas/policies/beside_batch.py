"""How much of its time a decode engine has for a prompt that it prefills beside its batch."""

from __future__ import annotations

from prfaas.policies.views import EngineView

MIN_SHARE = 0.15
"""Of a decode engine's time that must be free before it prefills beside its batch: with less, the
answers that run would be slowed."""
MAX_DIRECT = 2
"""Prompts that one decode engine prefills at a time, unless nothing else is in time: they hold
decode slots meanwhile."""


def free_share(engine: EngineView) -> float:
    """What the batch of now leaves."""
    return 1 - engine.decoding / engine.max_requests


def expected_share(engine: EngineView) -> float:
    """What should be left while it prefills: an engine that decodes is given one more answer. That
    at most halves it: with a small batch nobody may come."""
    share = free_share(engine)
    return max(share - 1 / engine.max_requests, share / 2) if engine.decoding else share
