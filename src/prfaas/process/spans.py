"""OpenTelemetry: how a process of a deployment makes spans of requests and exports them.

Theory of operation. A request's trace context comes to agents and connectors with its hand-off
(`core.handoff.RequestContext`). What they do for a request is one span that is made when it is
over, from the times at which it began and ended: nothing is kept on its way but those, and nothing
at all where tracing is off. The SDK exports in a thread of its own.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from prfaas.core.addresses import stays_here
from prfaas.core.errors import ConfigError
from prfaas.core.handoff import RequestContext

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOL_VARIABLE = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
SERVICE_VARIABLE = "OTEL_SERVICE_NAME"
RESOURCE_VARIABLE = "OTEL_RESOURCE_ATTRIBUTES"
INSECURE_VARIABLE = "OTEL_EXPORTER_OTLP_INSECURE"
_EXPORT_WITHIN_S = 5.0
"""A collector that does not answer may hold up the end of a process by so much."""


def add_trace_export_option(parser: argparse.ArgumentParser) -> None:
    """The option ``--otlp-traces-endpoint``."""
    parser.add_argument(
        "--otlp-traces-endpoint",
        metavar="URL",
        help="send OpenTelemetry spans there, as https://collector:4318/v1/traces (default: what "
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT names, else none are made)",
    )


class Spans(Protocol):
    """Where what was done for a request is recorded. Thread-safe."""

    @property
    def on(self) -> bool:
        """Whether anything is recorded: who would have to remember times for it need not."""

    def record(
        self,
        name: str,
        context: RequestContext,
        began_at: float,
        ended_at: float,
        attributes: Mapping[str, Any],
        *,
        failed: bool = False,
    ) -> None:
        """Something that was done for this request, between two times in Unix seconds. Attributes
        that are None are left out. Without a trace in ``context`` nothing is recorded."""

    def close(self) -> None:
        """Blocks until what was recorded is exported, or for seconds."""


class _NoSpans:
    on = False

    def record(
        self,
        name: str,
        context: RequestContext,
        began_at: float,
        ended_at: float,
        attributes: Mapping[str, Any],
        *,
        failed: bool = False,
    ) -> None:
        pass

    def close(self) -> None:
        pass


NO_SPANS: Spans = _NoSpans()


def wants_traces(endpoint: str | None) -> bool:
    """Whether an endpoint is named, here or by OpenTelemetry's environment variables."""
    return endpoint is not None or any(os.environ.get(name) for name in ENDPOINT_VARIABLES)


def _check_border(endpoint: str | None) -> None:
    named = endpoint or next(filter(None, map(os.environ.get, ENDPOINT_VARIABLES)), "")
    url = urlsplit(named)
    if url.scheme != "http" or url.hostname is None or stays_here(url.hostname):
        return
    if os.environ.get(INSECURE_VARIABLE, "").lower() != "true":
        raise ConfigError(
            f"spans would cross the network to {url.hostname} in plaintext; name an https URL, or "
            f"a collector on 127.0.0.1 that passes them on, or set {INSECURE_VARIABLE}=true where "
            "the network itself is protected"
        )


class Exporting:
    """A tracer of this process, and its way to the collector: OTLP over HTTP (protobuf) to
    ``endpoint``, a URL that ends in ``/v1/traces``, or None: to what the environment names.
    ``service`` is this kind of process, ``instance`` this one.

    Raises ConfigError where the packages for it are missing, the URL is none, or spans would go to
    another machine in plaintext without `INSECURE_VARIABLE` saying so.
    """

    def __init__(self, endpoint: str | None, *, service: str, instance: str) -> None:
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise ConfigError(
                f"--otlp-traces-endpoint {endpoint}: expected a URL as "
                "https://collector:4318/v1/traces"
            )
        _check_border(endpoint)
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise ConfigError(
                f"traces need OpenTelemetry ({error}): pip install 'prfaas[otel]', or name no "
                "endpoint"
            ) from error
        named = {"service.instance.id": instance}
        if not os.environ.get(SERVICE_VARIABLE):
            named["service.name"] = service
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_WITHIN_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self._provider.get_tracer(service.replace("-", "."))

    def close(self) -> None:
        """See `Spans.close`."""
        # The SDK tries again and again; its thread is a daemon, and ends with the process.
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(_EXPORT_WITHIN_S)


class TracerSpans:
    """`Spans` made by a tracer of the SDK; ``close`` ends what stands behind it."""

    on = True

    def __init__(self, tracer: Any, exporting: Exporting | None = None) -> None:
        self._tracer, self._exporting = tracer, exporting

    def record(
        self,
        name: str,
        context: RequestContext,
        began_at: float,
        ended_at: float,
        attributes: Mapping[str, Any],
        *,
        failed: bool = False,
    ) -> None:
        """See `Spans`."""
        if context.traceparent is None:
            return
        from opentelemetry.trace import StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({"traceparent": context.traceparent})
        said = {"prfaas.request_id": context.request_id, **attributes}
        span = self._tracer.start_span(
            name,
            context=parent,
            start_time=round(began_at * 1e9),
            attributes={key: value for key, value in said.items() if value is not None},
        )
        if failed:
            span.set_status(StatusCode.ERROR)
        # Clocks may be set back in between.
        span.end(round(max(began_at, ended_at) * 1e9))

    def close(self) -> None:
        """See `Spans`."""
        if self._exporting is not None:
            self._exporting.close()


def make_spans(endpoint: str | None, *, service: str, instance: str) -> Spans:
    """A process's spans; `NO_SPANS` where no endpoint is named. Raises ConfigError as `Exporting`
    does."""
    if not wants_traces(endpoint):
        return NO_SPANS
    exporting = Exporting(endpoint, service=service, instance=instance)
    return TracerSpans(exporting.tracer, exporting)
