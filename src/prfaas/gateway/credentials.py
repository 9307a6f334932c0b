"""What the gateway shows to engines, and whom it takes for one."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

import msgspec

from prfaas.core.deployment import Deployment, EngineConfig, is_carried
from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming
from prfaas.tls.context import PeerContext
from prfaas.tls.front import trusting
from prfaas.tls.records import tell_records


class Credentials(msgspec.Struct, frozen=True):
    """What one engine is shown, and whom the gateway takes for it. ``headers`` go with every
    request; ``tls`` is for ``https``: None trusts the authorities that this machine trusts. A
    `PeerContext` is of the agent that carries an engine which speaks no TLS."""

    headers: Mapping[str, str] = {}
    tls: ssl.SSLContext | None = None


NONE = Credentials()


def read_credentials(
    deployment: Deployment,
    agents: Mapping[str, PeerContext],
    before: Mapping[str, Credentials] | None = None,
) -> dict[str, Credentials]:
    """Of every engine that wants any, by its name; ``agents``: `agent_contexts`. An engine whose
    key cannot be read is shown what it was ``before``; without that raises ConfigError, never with
    a key in its text."""
    found: dict[str, Credentials] = {}
    trusted: dict[str, ssl.SSLContext] = {}
    for engine in deployment.engines:
        with naming(f"engine {engine.name!r}"):
            headers = _shown_to(engine, before)
            tls: ssl.SSLContext | None = None
            agent = deployment.agent_of_engine(engine.name)
            if is_carried(engine, agent):
                tls = agents.get(agent.name)
            elif engine.ca is not None:
                if engine.ca not in trusted:
                    trusted[engine.ca] = tell_records(trusting(Path(engine.ca)))
                tls = trusted[engine.ca]
            if headers or tls is not None:
                found[engine.name] = Credentials(headers, tls)
    return found


def _shown_to(engine: EngineConfig, before: Mapping[str, Credentials] | None) -> Mapping[str, str]:
    try:
        keys = engine.keys.read()
    except ConfigError:
        if before is None:
            raise
        return before.get(engine.name, NONE).headers
    return {"Authorization": f"Bearer {keys[0]}"} if keys else {}
