"""Where a vLLM server says that it publishes its KV events."""

from __future__ import annotations

import msgspec

from prfaas.core.errors import UNREADABLE, EngineError

PATH = "/kv_event_sources"


class _Source(msgspec.Struct, frozen=True):
    endpoint: str
    replay_endpoint: str | None = None


def source_of(engine: str, status: int, body: bytes) -> tuple[str, str | None]:
    """(events, replay) endpoints by an engine's answer at `PATH`. Raises EngineError if it
    publishes none that can be followed."""
    try:
        sources = msgspec.json.decode(body, type=dict[str, _Source])
    except UNREADABLE:
        sources = {}
    if status != 200 or not sources:
        raise EngineError(f"engine {engine} publishes no KV events (--kv-events-config)")
    if len(sources) > 1:
        raise EngineError(f"engine {engine} has {len(sources)} data-parallel ranks")
    source = next(iter(sources.values()))
    return source.endpoint, source.replay_endpoint
