"""A line for each request that ended: logger ``prfaas.access``, level info.

Neither prompts nor answers are in it, nor keys, nor an error's text, which may quote a prompt.
"""

from __future__ import annotations

import logging

from prfaas.gateway.facts import RequestFacts

logger = logging.getLogger("prfaas.access")


def log_access(facts: RequestFacts, elapsed_s: float) -> None:
    """Say how it ended."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields: dict[str, object] = {
        "request_id": facts.request_id,
        "tenant": facts.tenant or None,
        "endpoint": facts.endpoint,
        "outcome": facts.outcome,
        "status": facts.status,
        "route": facts.route,
        "attempts": facts.attempts,
        "prefill_engine": facts.prefill_engine,
        "decode_engine": facts.decode_engine,
        "prompt_tokens": facts.total_tokens,
        "cached_tokens": facts.cached_tokens,
        "answer_tokens": facts.answer_tokens,
        "kv_bytes": facts.kv_bytes or None,
        "ttft_s": _rounded(facts.first_token_s),
        "elapsed_s": _rounded(elapsed_s),
    }
    known = {name: value for name, value in fields.items() if value is not None}
    said = " ".join(f"{name}={value}" for name, value in known.items())
    # As `Logger.info` does, without a search for the caller's line, which is always this one.
    record = logging.LogRecord(
        logger.name, logging.INFO, __file__, 0, f"request ended {said}", None, None
    )
    vars(record).update(known)
    logger.handle(record)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
