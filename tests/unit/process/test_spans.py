"""What a process records of requests, as a collector in this process receives it."""

from __future__ import annotations

import sys

import pytest

from prfaas.core.errors import ConfigError
from prfaas.core.handoff import RequestContext
from prfaas.process.spans import ENDPOINT_VARIABLES, INSECURE_VARIABLE, NO_SPANS, make_spans
from prfaas.testing.otlp_collector import OtlpCollector, attributes

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def patient_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine's collector may take its time."""
    monkeypatch.setattr("prfaas.process.spans._EXPORT_WITHIN_S", 60.0)


def traced(flags: str = "01") -> RequestContext:
    return RequestContext("r-1", 2, f"00-{TRACE}-{SPAN}-{flags}")


def test_a_span_stands_below_the_requests_and_says_which_process_made_it() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with OtlpCollector() as collector:
        spans = make_spans(collector.url, service="prfaas-agent", instance="a-east")
        assert spans.on
        spans.record("kv send", traced(), 100.0, 101.5, {"prfaas.peer": "w", "prfaas.rank": None})
        spans.record("kv receive", traced(), 100.0, 99.0, {}, failed=True)
        spans.record("unsampled", traced("00"), 100.0, 101.0, {})
        spans.record("untraced", RequestContext("r-2"), 100.0, 101.0, {})
        spans.close()
        sent, received = collector.named("kv send"), collector.named("kv receive")
        assert len(collector.spans) == 2
        made_by = collector.made_by(sent)
    assert (sent.trace_id.hex(), sent.parent_span_id.hex()) == (TRACE, SPAN)
    assert (sent.start_time_unix_nano, sent.end_time_unix_nano) == (100 * 10**9, 1015 * 10**8)
    assert attributes(sent) == {"prfaas.request_id": "r-1", "prfaas.peer": "w"}
    assert received.end_time_unix_nano == received.start_time_unix_nano
    assert (sent.status.code, received.status.code) == (0, 2)
    assert made_by["service.name"] == "prfaas-agent"
    assert made_by["service.instance.id"] == "a-east"


def test_off_unless_an_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert make_spans(None, service="s", instance="i") is NO_SPANS
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    NO_SPANS.record("x", traced(), 0.0, 1.0, {})  # Needs no package.
    with pytest.raises(ConfigError, match=r"prfaas\[otel\]"):
        make_spans("http://127.0.0.1:4318/v1/traces", service="s", instance="i")
    with pytest.raises(ConfigError, match="expected a URL"):
        make_spans("collector:4317", service="s", instance="i")


def test_spans_leave_the_machine_in_plaintext_only_where_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(INSECURE_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="would cross the network to collector in plaintext"):
        make_spans("http://collector:4318/v1/traces", service="s", instance="i")
    monkeypatch.setenv(ENDPOINT_VARIABLES[1], "http://10.0.0.5:4318")
    with pytest.raises(ConfigError, match=INSECURE_VARIABLE):
        make_spans(None, service="s", instance="i")
    monkeypatch.setenv(INSECURE_VARIABLE, "true")
    make_spans(None, service="s", instance="i").close()
    monkeypatch.delenv(INSECURE_VARIABLE)
    for fine in ("https://collector:4318/v1/traces", "http://[::1]:4318/v1/traces"):
        make_spans(fine, service="s", instance="i").close()
