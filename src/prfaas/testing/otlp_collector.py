"""A collector of OpenTelemetry spans in the test's own process: OTLP over HTTP (protobuf)."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class OtlpCollector:
    """Listens while entered. ``raw``: all that was sent; ``spans``: in the order of their arrival,
    as protobuf messages."""

    def __init__(self) -> None:
        self.raw = b""
        self._lock = threading.Lock()
        self._spans: list[tuple[dict[str, Any], Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector._take(
                    self.rfile.read(int(self.headers["Content-Length"])),
                    packed=self.headers.get("Content-Encoding") == "gzip",
                )
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> OtlpCollector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The endpoint for traces."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    @property
    def spans(self) -> list[Any]:
        """All that there are by now."""
        with self._lock:
            return [span for _, span in self._spans]

    def named(self, name: str) -> Any:
        """The only one of that name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def made_by(self, span: Any) -> dict[str, Any]:
        """The attributes of the process that made it."""
        with self._lock:
            return next(resource for resource, found in self._spans if found is span)

    def _take(self, body: bytes, *, packed: bool) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        body = gzip.decompress(body) if packed else body
        with self._lock:
            self.raw += body
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = attributes(group.resource)
                self._spans += [(resource, s) for scope in group.scope_spans for s in scope.spans]


def attributes(of: Any) -> dict[str, Any]:
    """What a span, or the resource that made it, says of itself: texts and whole numbers."""
    return {a.key: a.value.string_value or a.value.int_value for a in of.attributes}
