"""What is said of a request in its headers and in the journal."""

from __future__ import annotations

from prfaas.gateway.agent_client import TransferStatus
from prfaas.gateway.facts import RequestFacts
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.policies.api import Route
from prfaas.scheduler.commands import StartDecode, StartPrefill

PREFILL = StartPrefill("k", 1, "e1", "d1", "k-1", 0, 64, Route.OFFLOAD, 'say "why"\n')
DECODE = StartDecode("k", 1, "d1", "k-1", 0, 64, Route.OFFLOAD, "why")


def facts() -> RequestFacts:
    return RequestFacts(
        request_id="r",
        endpoint="/v1/completions",
        arrived_at=100.0,
        total_tokens=70,
        cached={"d1": 4, "d2": 8, "e1": 32},
    )


def test_headers_of_a_hand_off() -> None:
    found = facts()
    assert found.headers() == {"X-Request-Id": "r"}
    found.note_attempt(PREFILL, ["p1", "d1", "d2"], 1.0)
    found.note_transfer(TransferStatus("complete", bytes_total=200, first_byte_at=100.5), 2.0)
    found.kv_bytes_hidden = 150
    assert found.headers() == {
        "X-Request-Id": "r",
        "x-prfaas-route": "offload; reason=\"say 'why''\"",
        "x-prfaas-decode-engine": "d1",
        "x-prfaas-attempts": "1",
        "x-prfaas-total-tokens": "70",
        "x-prfaas-cached-tokens": "8",
        "x-prfaas-uncached-tokens": "62",
        "x-prfaas-prefill-engine": "e1",
        "x-prfaas-kv-bytes": "200",
        "x-prfaas-kv-hidden": "0.7500",
    }
    assert (found.transfer_first_byte_s, found.transferred_s) == (0.5, 2.0)


def test_an_attempt_without_a_hand_off_forgets_the_one_before() -> None:
    found = facts()
    found.note_attempt(PREFILL, ["d1"], 1.0)
    found.note_transfer(TransferStatus("complete", bytes_total=200), 2.0)
    found.note_attempt(DECODE, ["d1"], 2.0)
    assert (found.prefill_engine, found.kv_bytes) == ("e1", 200)
    alone = StartDecode("k", 2, "d2", None, 0, 0, Route.DIRECT, "why")
    found.note_attempt(alone, ["d1", "d2"], 3.0)
    assert (found.prefill_engine, found.kv_bytes, found.attempts) == (None, 0, 2)
    assert "x-prfaas-kv-bytes" not in found.headers()


def test_a_body_sent_on_as_it_came_says_why_and_no_lengths() -> None:
    found = RequestFacts(request_id="r", endpoint="e", arrived_at=0.0, why_alone="batch")
    found.note_attempt(StartDecode("k", 1, "d1", None, 0, 0, Route.DIRECT, "short"), ["d1"], 1.0)
    assert found.headers()["x-prfaas-route"] == 'direct; reason="batch"'
    assert "x-prfaas-total-tokens" not in found.headers()
    assert found.ended("k", 5.0).why_alone == "batch"


def test_who_has_begun_to_get_an_answer_was_not_refused() -> None:
    found = facts()
    for outcome, refused in (
        ("cancelled", False),
        ("timeout_error", False),
        ("engine_error", False),
        ("rate_limit_error", True),
        ("service_unavailable_error", True),
        ("refused", True),
    ):
        found.outcome = outcome
        assert found.refused is refused, outcome
    found.outcome, found.first_token_s = "service_unavailable_error", 1.0
    assert not found.refused, "the gateway ended in the middle of it"
    found.outcome, found.decode_started_s = "refused", 0.5
    assert found.refused
    found.first_token_s = 4.0
    assert not found.refused, "it may have been computed"


def test_no_more_is_hidden_than_was_handed_over() -> None:
    """Both are told by agents, one by each end."""
    found = facts()
    found.note_transfer(TransferStatus("complete", bytes_total=200), 2.0)
    found.kv_bytes_hidden = 1000
    assert found.hidden_share == 1.0
    metrics = GatewayMetrics()
    metrics.observe_request(found)
    assert metrics.kv_bytes_hidden.values == {("none",): 200}
