"""OpenTelemetry spans of requests: one for each, its stages below it.

Theory of operation. A request's span begins with it, since engines must be told its id: vLLM's own
spans then stand below it. The stages' spans are made when the request has ended, from the same
times as its headers, metrics and journal. So a request costs nothing where tracing is off, and one
span's beginning on its way where it is on; the SDK exports in a thread of its own. Nothing of a
prompt or an answer is in a span, nor an error's text, which may quote them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from prfaas.gateway.facts import RequestFacts
from prfaas.process.spans import Exporting, wants_traces

_FIRST_ERROR = 500
"""Status from which a server's span is an error: clients' mistakes are none of the server's."""


class Trace(Protocol):
    """What is traced of one request."""

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
    """Exports over OTLP to ``endpoint``; where that is None to what OpenTelemetry's environment
    variables name; else there is no tracing. Raises ConfigError as `process.spans.Exporting`."""
    if not wants_traces(endpoint):
        return NO_TRACING
    return _OpenTelemetry(Exporting(endpoint, service="prfaas-gateway", instance=gateway))


class _OpenTelemetry:
    def __init__(self, exporting: Exporting) -> None:
        self._exporting = exporting

    def begin(self, facts: RequestFacts, headers: Mapping[str, str]) -> Trace:
        return _RequestTrace(self._exporting.tracer, facts, headers)

    def close(self) -> None:
        self._exporting.close()


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
