"""Costs from profiles."""

from __future__ import annotations

from prfaas.policies.costs import ProfileCosts


def test_costs_of_profiles() -> None:
    profiled = ProfileCosts({"e": lambda tokens: tokens / 10}, lambda tokens: 7 + tokens)
    assert profiled.prefill_s("e", 20) == 2.0
    assert profiled.kv_bytes(0, 10) == 17
    assert profiled.kv_bytes(4, 10) == 13
