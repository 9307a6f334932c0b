"""A request that ended is counted by how it went."""

from __future__ import annotations

from prometheus_client import generate_latest

from prfaas.gateway.facts import RequestFacts
from prfaas.gateway.metrics import GatewayMetrics


def test_a_streamed_hand_off_and_a_refusal() -> None:
    metrics = GatewayMetrics()
    metrics.observe_request(
        RequestFacts(
            request_id="r",
            endpoint="/v1/completions",
            arrived_at=0.0,
            stream=True,
            route="offload",
            total_tokens=70,
            cached_tokens=8,
            attempts=2,
            kv_bytes=100,
            kv_bytes_hidden=40,
            outcome="ok",
            rendered_s=0.1,
            prefill_started_s=0.2,
            prefilled_s=1.2,
            first_token_s=2.0,
            completed_s=3.0,
            answer_tokens=5,
            tenant="acme",
        )
    )
    refused = RequestFacts(
        request_id="s", endpoint="/v1/completions", arrived_at=0.0, tenant="acme", total_tokens=900
    )
    for outcome, asked_at in (("refused", 0.1), ("rate_limit_error", None), ("no_tokens", None)):
        refused.outcome, refused.decode_started_s = outcome, asked_at
        metrics.observe_request(refused)
    said = generate_latest(metrics.registry).decode()
    for line in (
        'requests_total{endpoint="/v1/completions",outcome="ok",route="offload"} 1.0',
        'requests_total{endpoint="/v1/completions",outcome="refused",route="none"} 1.0',
        'tenant_tokens_total{kind="prompt",tenant="acme"} 70.0',
        "retries_total 1.0",
        'kv_bytes_total{route="offload"} 100.0',
        'kv_hidden_bytes_total{route="offload"} 40.0',
        'prompt_tokens_total{cached="yes"} 8.0',
        'prompt_tokens_total{cached="no"} 62.0',
        'stage_seconds_sum{route="offload",stage="prefill"} 1.0',
        'time_to_first_token_seconds_sum{route="offload",tenant="acme"} 2.0',
        'time_per_output_token_seconds_sum{route="offload",tenant="acme"} 0.25',
    ):
        assert f"prfaas_gateway_{line}" in said
