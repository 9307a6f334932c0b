"""OpenTelemetry spans of requests: one for each, its stages below it.

Theory of operation. A request's span begins with it, since engines must be told its id: vLLM's own
spans then stand below it. The stages' spans are made when the request has ended, from the same
times as its headers, metrics and journal. So a request costs nothing where tracing is off, and one
span's beginning on its way where it is on; the SDK exports in a thread of its own. Nothing of a
prompt or an answer is in a span, nor an error's text, which may quote them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from prfaas.core.errors import ConfigError
from prfaas.gateway.facts import RequestFacts

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORT_WITHIN_S = 5.0
"""A collector that does not answer may hold up the end of a gateway by so much."""
_FIRST_ERROR = 500
"""Status from which a server's span is an error: clients' mistakes are none of the server's."""


class Trace(Protocol):
    """One request's."""

    def headers(self) -> Mapping[str, str]:
        """What engines are told, so that their spans stand below this request's."""

    def end(self, facts: RequestFacts, elapsed_s: float) -> None:
        """The request has ended, so long after it came."""


class Tracing(Protocol):
    """Makes traces. `close` blocks until what has ended is exported, or for seconds."""

    def begin(self, facts: RequestFacts, headers: Mapping[str, str]) -> Trace:
        """A request has come; ``headers``: the client's trace context, if it has one."""

    def close(self) -> None:
        """No more requests come."""


class _Off:
    """Passes the client's own trace context on."""

    def begin(self, facts: RequestFacts, headers: Mapping[str, str]) -> Trace:
        return self

    def headers(self) -> Mapping[str, str]:
        return {}

    def end(self, facts: RequestFacts, elapsed_s: float) -> None:
        pass

    def close(self) -> None:
        pass


NO_TRACING: Tracing = _Off()


def make_tracing(endpoint: str | None, *, gateway: str) -> Tracing:
    """Exports over OTLP (HTTP, protobuf) to ``endpoint``, a URL that ends in ``/v1/traces``; where
    that is None to what OpenTelemetry's environment variables name; else there is no tracing.

    Raises ConfigError where the packages for it are missing, or the URL is none.
    """
    if endpoint is None and not any(os.environ.get(name) for name in ENDPOINT_VARIABLES):
        return NO_TRACING
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise ConfigError(
            f"--otlp-traces-endpoint {endpoint}: expected a URL as http://collector:4318/v1/traces"
        )
    try:
        return _OpenTelemetry(endpoint, gateway)
    except ImportError as error:
        raise ConfigError(
            f"traces need OpenTelemetry ({error}): pip install 'prfaas[otel]', or name no endpoint"
        ) from error


class _OpenTelemetry:
    def __init__(self, endpoint: str | None, gateway: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = {"service.instance.id": gateway}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            named["service.name"] = "prfaas-gateway"
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_WITHIN_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("prfaas.gateway")

    def begin(self, facts: RequestFacts, headers: Mapping[str, str]) -> Trace:
        return _RequestTrace(self._tracer, facts, headers)

    def close(self) -> None:
        # The SDK tries again and again; its thread is a daemon, and ends with the process.
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(_EXPORT_WITHIN_S)


class _RequestTrace:
    def __init__(self, tracer: Any, facts: RequestFacts, headers: Mapping[str, str]) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._began_at = facts.arrived_at
        self._propagator = TraceContextTextMapPropagator()
        given = {name.lower(): value for name, value in headers.items()}
        self._span = tracer.start_span(
            f"POST {facts.endpoint}",
            context=self._propagator.extract(given),
            kind=SpanKind.SERVER,
            start_time=self._ns(0.0),
        )
        self._below = set_span_in_context(self._span)

    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._below)
        return carrier

    def end(self, facts: RequestFacts, elapsed_s: float) -> None:
        from opentelemetry.trace import StatusCode

        if self._span.is_recording():
            self._span.set_attributes(_known(request_attributes(facts)))
            if facts.outcome not in ("ok", "cancelled") and (facts.status or 500) >= _FIRST_ERROR:
                self._span.set_status(StatusCode.ERROR, facts.outcome)
            if facts.first_token_s is not None:
                self._span.add_event("first token", timestamp=self._ns(facts.first_token_s))
            for name, start_s, end_s, attributes in stages(facts, elapsed_s):
                span = self._tracer.start_span(
                    name,
                    context=self._below,
                    start_time=self._ns(start_s),
                    attributes=_known(attributes),
                )
                span.end(self._ns(end_s))
        self._span.end(self._ns(elapsed_s))

    def _ns(self, after_s: float) -> int:
        return round((self._began_at + after_s) * 1e9)


def request_attributes(facts: RequestFacts) -> dict[str, Any]:
    """What a request's span says of it; values may be None."""
    return {
        "http.request.method": "POST",
        "http.route": facts.endpoint,
        "http.response.status_code": facts.status,
        "prfaas.request_id": facts.request_id,
        "prfaas.tenant": facts.tenant or None,
        "prfaas.route": facts.route,
        "prfaas.outcome": facts.outcome,
        "prfaas.attempts": facts.attempts,
        "gen_ai.usage.input_tokens": facts.total_tokens,
        "gen_ai.usage.output_tokens": facts.answer_tokens,
        "prfaas.cached_tokens": facts.cached_tokens,
    }


def stages(
    facts: RequestFacts, elapsed_s: float
) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
    """The stages that a request came to, of its last attempt: name, start and end in seconds after
    it came, attributes. One that has not ended ends with the request."""
    end_s = elapsed_s
    if facts.rendered_s is None:
        return
    yield "render", 0.0, facts.rendered_s, {}
    begun = [at for at in (facts.prefill_started_s, facts.decode_started_s) if at is not None]
    yield "queue", facts.rendered_s, max(facts.rendered_s, min(begun, default=end_s)), {}
    if facts.prefill_engine is not None and facts.prefill_started_s is not None:
        engine = {
            "prfaas.engine": facts.prefill_engine,
            "prfaas.cached_tokens": facts.prefill_cached_tokens,
        }
        yield "prefill", facts.prefill_started_s, _or(facts.prefilled_s, end_s), engine
        first_byte_s = _or(facts.transfer_first_byte_s, facts.prefill_started_s)
        sent = {
            "prfaas.from_engine": facts.prefill_engine,
            "prfaas.to_engine": facts.decode_engine,
            "prfaas.kv_bytes": facts.kv_bytes,
            "prfaas.kv_bytes_hidden": facts.kv_bytes_hidden,
        }
        transferred_s = _or(facts.transferred_s, end_s)
        # The first byte's time is by another machine's clock.
        yield "transfer", min(first_byte_s, transferred_s), transferred_s, sent
    if facts.decode_started_s is not None:
        answers = {"prfaas.engine": facts.decode_engine}
        if facts.first_token_s is not None:
            yield "first token", facts.decode_started_s, facts.first_token_s, answers
        start_s = _or(facts.first_token_s, facts.decode_started_s)
        yield "decode", start_s, _or(facts.completed_s, end_s), answers


def _or(at_s: float | None, otherwise_s: float) -> float:
    return otherwise_s if at_s is None else at_s


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
