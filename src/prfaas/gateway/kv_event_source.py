"""Where an engine publishes its KV events."""

from __future__ import annotations

from collections.abc import Mapping

from prfaas.core.addresses import endpoint_at, parse_url
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.engine_client import EngineClient


async def find_kv_events(
    endpoints: Endpoints, clients: Mapping[str, EngineClient], name: str
) -> tuple[str, str | None]:
    """Where events and their replay are, as the deployment file says or the engine. Raises
    EngineError where it publishes none."""
    client, engine = clients[name], endpoints.engines[name]
    events, replay = engine.kv_events, engine.kv_events_replay
    if events is None:
        events, replay = await client.kv_event_source()
    host = parse_url(engine.url).host
    return endpoint_at(events, host), replay and endpoint_at(replay, host)
