"""A request as the scheduler sees it: pure, so nothing but values."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import TenantConfig
from prfaas.gateway.arrivals import arrival, first_byte_within_s
from prfaas.gateway.prefix_matches import NO_MATCHES, Matches
from prfaas.gateway.prompts import Prompt
from prfaas.scheduler.events import RequestArrived


def test_a_prompt_with_its_matches() -> None:
    matches = Matches({"d1": 8, "d2": 4}, {"d1": 4})
    event = arrival(
        "k", Prompt([1, 2, 3], 16, True), matches, sequences=2, deadline=7.5, priority=-1
    )
    assert event == RequestArrived(
        "k",
        total_tokens=3,
        max_output_tokens=16,
        cached={"d1": 8, "d2": 4},
        resumable={"d1": 4},
        deadline=7.5,
        sequences=2,
        priority=-1,
    )


def test_a_prompt_that_must_stay_as_it_came_has_nothing_to_hand_over() -> None:
    event = arrival("k", Prompt(None, 16, False, "echo"), NO_MATCHES, sequences=1, deadline=7.5)
    assert (event.total_tokens, event.cached, event.resumable) == (1, {}, {})


@pytest.mark.parametrize(
    ("stream", "tokens", "choices", "expected_s"),
    [(True, 100, 2, 20), (False, 100, 1, 120), (False, 100, 2, 220), (False, 10**9, 1, 3620)],
)
def test_an_answer_in_one_piece_has_longer(
    stream: bool, tokens: int, choices: int, expected_s: float
) -> None:
    prompt = Prompt([1], tokens, stream)
    assert first_byte_within_s(20.0, prompt, choices=choices) == expected_s


def test_whose_turn_it_is_where_requests_wait_is_its_tenants() -> None:
    tenant = TenantConfig(name="acme", priority=-1, weight=2.5)
    prompt = Prompt([1, 2], 16, False)
    event = arrival("k", prompt, NO_MATCHES, sequences=1, deadline=7.5, priority=3, tenant=tenant)
    assert (event.tenant, event.tenant_class, event.weight) == ("acme", -1, 2.5)
    assert event.priority == 3, "among its tenant's own"
