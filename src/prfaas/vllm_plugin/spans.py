"""What the worker side says of a request: ids for the log, and spans where the request is traced.

Spans go to vLLM's own tracer where it has one in this process (``--otlp-traces-endpoint``), else to
what OpenTelemetry's environment variables name. An engine never fails for want of them.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from vllm.logger import init_logger

from prfaas.core.errors import ConfigError
from prfaas.core.handoff import RequestContext
from prfaas.process.spans import NO_SPANS, Spans, TracerSpans, make_spans
from prfaas.vllm_plugin.metadata import ExportStep, ImportStart

# Under "vllm" so that the engine's own logging configuration applies.
logger = init_logger(f"vllm.{__name__}")


class Told:
    """What is told of one rank's exports and loads."""

    def __init__(self, spans: Spans, *, engine: str, rank: int) -> None:
        self._spans = spans
        self._of_all = {"prfaas.engine": engine, "prfaas.rank": rank}

    def exported(self, step: ExportStep, began_at: float, failure: str | None = None) -> None:
        """All of it has been handed to the agent, or it was given up; ``step`` was its first,
        ``began_at`` is in Unix seconds."""
        params = step.params
        if failure is not None:
            logger.warning(
                "export %s given up: %s",
                _called(params.transfer_id, params.context),
                failure,
                extra=_ids(step.request_id, params.transfer_id, params.context),
            )
        self._record(
            "kv export",
            params.context,
            began_at,
            {
                "prfaas.transfer_id": params.transfer_id,
                "prfaas.from_token": params.from_token,
                "prfaas.to_token": params.to_token,
            },
            failed=failure is not None,
        )

    def loaded(self, item: ImportStart, began_at: float, failure: str | None) -> None:
        """Its pages are written, or will not be; ``began_at``: when vLLM had reserved them."""
        if failure is not None:
            logger.warning(
                "import %s failed, recomputing: %s",
                called_load(item),
                failure,
                extra=ids_of_load(item),
            )
        self._record(
            "kv load",
            item.context,
            began_at,
            {
                "prfaas.transfer_id": item.transfer_id,
                "prfaas.from_token": item.local_tokens,
                "prfaas.to_token": item.to_token,
            },
            failed=failure is not None,
        )

    def _record(
        self,
        name: str,
        context: RequestContext | None,
        began_at: float,
        said: dict[str, Any],
        *,
        failed: bool,
    ) -> None:
        if context is None or not self._spans.on:
            return
        said |= {"prfaas.attempt": context.attempt, **self._of_all}
        self._spans.record(name, context, began_at, time.time(), said, failed=failed)

    def close(self) -> None:
        """See `Spans`."""
        self._spans.close()


NOTHING_TOLD = Told(NO_SPANS, engine="", rank=0)


def told_of(engine: str, rank: int) -> Told:
    """Of a rank that starts."""
    try:
        spans = _vllms_own() or make_spans(None, service="prfaas-connector", instance=engine)
    except ConfigError as error:
        logger.warning("no traces of hand-offs: %s", error)
        spans = NO_SPANS
    return Told(spans, engine=engine, rank=rank)


def _vllms_own() -> Spans | None:
    """None where vLLM makes no spans in this process."""
    sdk, api = (sys.modules.get(f"opentelemetry.{name}") for name in ("sdk.trace", "trace"))
    if sdk is None or api is None:
        return None
    provider = api.get_tracer_provider()
    if not isinstance(provider, sdk.TracerProvider):
        return None
    return TracerSpans(provider.get_tracer("prfaas.connector"))


def called_load(item: ImportStart) -> str:
    """For the text of a log."""
    what = item.transfer_id or f"of {item.to_token} tokens from the agent's cache"
    return _called(what, item.context)


def ids_of_load(item: ImportStart) -> dict[str, str]:
    """For logs that keep them apart from the text."""
    return _ids(item.request_id, item.transfer_id, item.context)


def _called(what: str, context: RequestContext | None) -> str:
    if context is None:
        return what
    return f"{what} (request {context.request_id}, attempt {context.attempt})"


def _ids(
    request_id: str, transfer_id: str | None, context: RequestContext | None
) -> dict[str, str]:
    """``request_id`` is vLLM's."""
    found = {"vllm_request_id": request_id, "request_id": request_id}
    if transfer_id is not None:
        found["transfer_id"] = transfer_id
    if context is not None:
        found |= {"request_id": context.request_id, "attempt": str(context.attempt)}
    return found
