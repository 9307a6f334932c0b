"""The record of what was refused to whom: a line of the log, and a count. Never a key."""

from __future__ import annotations

import logging
import time

from aiohttp import web

from prfaas.core.once_a_second import OnceASecond
from prfaas.gateway.api_errors import ApiError
from prfaas.gateway.metrics import GatewayMetrics

logger = logging.getLogger("prfaas.audit")


class Refusals:
    """Writes one line a second for each tenant and cause, with how many there were: whoever is
    refused may ask thousands of times."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._lines = OnceASecond()

    def note(
        self, error: ApiError, request: web.Request, *, tenant: str | None, request_id: str
    ) -> None:
        """``tenant``: None where it is not known who asks."""
        if error.cause is None:
            return
        who = tenant or ""
        self._metrics.refusals.labels(who, error.cause).inc()
        times = self._lines.times((who, error.cause), time.monotonic())
        if times:
            logger.warning(
                "refused cause=%s tenant=%s status=%d remote=%s path=%r request=%s times=%d",
                error.cause,
                who or "unknown",
                error.status,
                request.remote,
                request.path[:200],
                request_id,
                times,
                extra={"request_id": request_id, "tenant": tenant, "cause": error.cause},
            )
