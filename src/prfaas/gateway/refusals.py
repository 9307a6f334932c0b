"""The record of what was refused to whom: a line of the log, and a count. Never a key."""

from __future__ import annotations

from aiohttp import web

from prfaas.gateway.api_errors import ApiError
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.process.audit import Audit


class Refusals:
    """Writes one line a second for each tenant and cause, with how many there were."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._audit = Audit()

    def note(
        self, error: ApiError, request: web.Request, *, tenant: str | None, request_id: str
    ) -> None:
        """``tenant``: None where it is not known who asks."""
        if error.cause is None:
            return
        who = tenant or ""
        self._metrics.refusals.labels(who, error.cause).inc()
        self._audit.note(
            (who, error.cause),
            f"refused cause={error.cause} tenant={who or 'unknown'} status={error.status} "
            f"remote={request.remote} path={request.path[:200]!r} request={request_id}",
            {"request_id": request_id, "tenant": tenant, "cause": error.cause},
        )
