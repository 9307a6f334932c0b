"""Figures of a run, from outcomes whose figures are known."""

from __future__ import annotations

import pytest

from prfaas.bench.outcomes import Outcome, Slo, Spread, concurrency, summarise


def answered(sent: float, *tokens_at: float, **more: object) -> Outcome:
    return Outcome(
        due=sent, prompt_tokens=100, asked_tokens=len(tokens_at), sent=sent,
        ended=tokens_at[-1], tokens_at=list(tokens_at), status=200, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def failed(sent: float, error: str) -> Outcome:
    return Outcome(
        due=sent, prompt_tokens=100, asked_tokens=3, sent=sent, ended=sent + 1, error=error
    )


def test_what_a_client_waits_for() -> None:
    outcome = answered(1.0, 3.0, 3.5, 4.0)
    assert (outcome.ttft_s, outcome.latency_s, outcome.tpot_s) == (2.0, 3.0, 0.5)
    # An event may bring several tokens: the endpoint's own count says how many.
    assert answered(1.0, 3.0, 4.0, output_tokens=5).tpot_s == 0.25
    assert answered(1.0, 3.0).tpot_s is None


def test_rates_are_over_the_whole_run_and_failures_are_told_by_kind() -> None:
    run = [answered(0.0, 1.0, 2.0), answered(1.0, 3.0, 4.0), failed(2.0, "HTTP 429")]
    summary = summarise("m", run, Slo(ttft_s=1.5))
    assert (summary.requests, summary.completed, summary.errors) == (3, 2, {"HTTP 429": 1})
    assert summary.duration_s == 4.0
    assert (summary.requests_per_s, summary.output_tokens_per_s) == (0.5, 1.0)
    assert summary.input_tokens_per_s == 50.0
    assert summary.slo_share == pytest.approx(1 / 3)
    assert summary.goodput_req_per_s == 0.25
    assert summary.most_concurrent == 2
    assert summary.itl_s == Spread.of([1.0, 1.0])
    assert summary.routes == {}


def test_the_slo_bounds_both_times() -> None:
    outcome = answered(0.0, 1.0, 1.2)
    assert Slo().met_by(outcome)
    assert Slo(ttft_s=1.0, tpot_s=0.25).met_by(outcome)
    assert not Slo(tpot_s=0.1).met_by(outcome)
    assert not Slo().met_by(failed(0.0, "timeout"))


def test_routes_are_told_apart() -> None:
    run = [answered(0.0, 1.0, route="direct"), answered(0.0, 5.0, route="offload")]
    routes = summarise("m", run, Slo()).routes
    assert {name: found.completed for name, found in routes.items()} == {"direct": 1, "offload": 1}
    assert routes["offload"].ttft_s == Spread(5.0, 5.0, 5.0, 5.0, 5.0, 5.0)


def test_nothing_sent_and_nothing_answered_are_no_error() -> None:
    assert summarise("m", [], Slo()).requests == 0
    summary = summarise("m", [failed(0.0, "timeout")], Slo())
    assert (summary.completed, summary.ttft_s, summary.slo_share) == (0, None, 0.0)


def test_one_ends_before_the_next_is_sent() -> None:
    _, most = concurrency([answered(0.0, 1.0), answered(1.0, 2.0)])
    assert most == 1
