"""Everything is offloaded that can be."""

from __future__ import annotations

from prfaas.policies.api import Route
from prfaas.testing.policy_views import decide, fleet


def test_the_shortest_prompt_is_offloaded() -> None:
    decision = decide("naive", 1, fleet())
    assert (decision.route, decision.prefill_engine) == (Route.OFFLOAD, "e0")


def test_without_a_prfaas_engine_it_stays() -> None:
    view = fleet()
    view.engines["e0"].up = False
    assert decide("naive", 9000, view).route is Route.PD_P
