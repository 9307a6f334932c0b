"""Spans of requests, as a collector that is started here receives them."""

from __future__ import annotations

import asyncio
import sys

import pytest

from prfaas.core.errors import ConfigError
from prfaas.gateway.facts import RequestFacts
from prfaas.gateway.http_answer import Timeouts
from prfaas.gateway.tracing import (
    NO_TRACING,
    Tracing,
    make_tracing,
    request_attributes,
    stages,
)
from prfaas.process.spans import ENDPOINT_VARIABLES
from prfaas.testing.mock_deployment import MockDeployment
from prfaas.testing.otlp_collector import OtlpCollector, attributes

LONG = "a long prompt that is certainly longer than the threshold of forty tokens"
SHORT = "short"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
COMPLETIONS = "/v1/completions"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine's collector may take its time, and its agents may be silent."""
    monkeypatch.setattr("prfaas.process.spans._EXPORT_WITHIN_S", 60.0)
    monkeypatch.setattr("prfaas.gateway.agent_client._STREAM", Timeouts(None, 60.0, 60.0))


async def traced(
    prompt: str, headers: dict[str, str]
) -> tuple[OtlpCollector, list[dict[str, str]], MockDeployment]:
    """What a collector has of one request, and the headers that engines got with it."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    mock = MockDeployment()
    with OtlpCollector() as collector:
        async with mock.running() as client:
            await mock.ready()
            tracing: Tracing = make_tracing(collector.url, gateway="g1")
            mock.gateway.requests.tracing = tracing
            body = {"prompt": prompt, "max_tokens": 3}
            async with client.post(COMPLETIONS, json=body, headers=headers) as response:
                assert response.status == 200
                await response.read()
            await asyncio.to_thread(tracing.close)
    engines = mock.engines.values()
    got = [h for e in engines for path, _, h in e.requests if path == COMPLETIONS]
    return collector, got, mock


async def test_one_request_is_one_trace_below_the_clients_and_above_the_engines() -> None:
    given = {"traceparent": f"00-{TRACE}-{SPAN}-01", "baggage": "user=7", "X-Request-Id": "r-1"}
    collector, to_engines, _ = await traced(LONG, given)
    root = collector.named("POST /v1/completions")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    below = [span for span in collector.spans if span is not root]
    names = ["decode", "first token", "prefill", "queue", "render", "transfer"]
    assert sorted(span.name for span in below) == names
    for span in below:
        assert (span.trace_id, span.parent_span_id) == (root.trace_id, root.span_id)
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    told = attributes(root)
    assert (told["prfaas.request_id"], told["http.response.status_code"]) == ("r-1", 200)
    assert attributes(collector.named("prefill"))["prfaas.engine"] == "e1"
    assert attributes(collector.named("transfer"))["prfaas.kv_bytes"] > 0
    assert len(to_engines) == 2
    for headers in to_engines:
        assert headers["traceparent"] == f"00-{TRACE}-{root.span_id.hex()}-01"
        assert headers["baggage"] == "user=7"


async def test_a_hand_off_says_whose_it_is() -> None:
    """Engines' connectors and agents make spans and log lines of it."""
    collector, _, mock = await traced(LONG, {"X-Request-Id": "r-1"})
    root = collector.named("POST /v1/completions")
    bodies = [b for engine in mock.engines.values() for b in engine.bodies(COMPLETIONS)]
    told = [body["kv_transfer_params"]["context"] for body in bodies]
    trace = f"00-{root.trace_id.hex()}-{root.span_id.hex()}-0"
    assert len(told) == 2
    for context in told:
        assert context["request_id"] == "r-1"
        assert context["attempt"] == 1
        assert context["traceparent"].startswith(trace)


async def test_what_a_client_wrote_for_a_trace_context_is_not_handed_on_unless_it_is_one() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for given in ("00-nonsense-01", f"00-{TRACE}-{SPAN}-01"):
            body, headers = {"prompt": LONG}, {"traceparent": given, "X-Request-Id": "r-1"}
            async with client.post(COMPLETIONS, json=body, headers=headers) as response:
                assert response.status == 200
        contexts = [
            b["kv_transfer_params"]["context"] for b in mock.engines["e1"].bodies(COMPLETIONS)
        ]
    untraced = {"request_id": "r-1", "attempt": 1}
    assert contexts == [untraced, {**untraced, "traceparent": f"00-{TRACE}-{SPAN}-01"}]


async def test_no_text_of_a_prompt_leaves_with_a_span() -> None:
    collector, _, _ = await traced(LONG, {})
    assert collector.spans
    assert LONG[:20].encode() not in collector.raw


async def test_a_client_that_does_not_sample_is_obeyed() -> None:
    collector, to_engines, _ = await traced(SHORT, {"traceparent": f"00-{TRACE}-{SPAN}-00"})
    assert not collector.spans
    assert all(h["traceparent"].startswith(f"00-{TRACE}-") for h in to_engines)
    assert all(h["traceparent"].endswith("-00") for h in to_engines)


async def test_a_trace_context_that_is_none_begins_a_new_trace() -> None:
    collector, to_engines, _ = await traced(SHORT, {"traceparent": "00-nonsense-01"})
    root = collector.named("POST /v1/completions")
    assert not root.parent_span_id
    (told,) = {h["traceparent"] for h in to_engines}
    assert told.startswith(f"00-{root.trace_id.hex()}-{root.span_id.hex()}-0")
    assert int(told[-2:], 16) & 1


def test_off_unless_an_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert make_tracing(None, gateway="g") is NO_TRACING
    assert (
        NO_TRACING.begin(RequestFacts(request_id="r", endpoint="/", arrived_at=0), {}).headers()
        == {}
    )
    with pytest.raises(ConfigError, match="expected a URL"):
        make_tracing("collector:4317", gateway="g")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"prfaas\[otel\]"):
        make_tracing("http://127.0.0.1:4318/v1/traces", gateway="g")


def test_what_a_request_did_not_come_to_has_no_span() -> None:
    facts = RequestFacts(request_id="r", endpoint="/", arrived_at=0.0)
    assert list(stages(facts, 1.0)) == []
    facts.rendered_s = 0.1
    assert [stage[:3] for stage in stages(facts, 1.0)] == [
        ("render", 0.0, 0.1),
        ("queue", 0.1, 1.0),
    ]
    facts.prefill_engine, facts.prefill_started_s = "e1", 0.4
    facts.error = "it said: the prompt"
    # The transfer was cut off with the request.
    assert [stage[:3] for stage in stages(facts, 1.0)][2:] == [
        ("prefill", 0.4, 1.0),
        ("transfer", 0.4, 1.0),
    ]
    assert facts.error not in request_attributes(facts).values()
