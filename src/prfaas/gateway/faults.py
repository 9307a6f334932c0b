"""What a failure says of its engine, and so what may help."""

from __future__ import annotations

from prfaas.core.errors import EngineError
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.health_probe import HealthProbe
from prfaas.gateway.upstream_errors import AnsweredFailure, EngineFull, EngineLost, is_local
from prfaas.scheduler.events import Fault

_WITHIN_S = 1.0
"""A client waits for its next attempt meanwhile."""


async def fault_of(error: EngineError, engine: EngineClient) -> Fault:
    """What ``error`` says. An engine whose core has died still answers all that it had, with a 500,
    before its server ends: its health check tells that from one that goes on."""
    if isinstance(error, EngineFull):
        return Fault.FULL
    if isinstance(error, EngineLost):
        return Fault.LOST
    dies = isinstance(error, AnsweredFailure) and await _is_dying(engine)
    return Fault.LOST if dies else Fault.ENGINE


async def _is_dying(engine: EngineClient) -> bool:
    probe = HealthProbe(engine.url, lambda: None, tls=engine.credentials.tls)
    try:
        return await probe.status(_WITHIN_S) != 200
    except TimeoutError:
        return False  # It is busy.
    except EngineError:
        return True
    except OSError as failure:
        return not is_local(failure)
    finally:
        probe.close()
