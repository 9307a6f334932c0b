"""A request as the scheduler sees it."""

from __future__ import annotations

from collections.abc import Collection

from prfaas.core.deployment import MOST_OUTPUT_S, TenantConfig
from prfaas.gateway.prefix_matches import Matches
from prfaas.gateway.prompts import Prompt
from prfaas.scheduler.events import RequestArrived

_S_PER_OUTPUT_TOKEN = 1.0
_LONGEST_OUTPUT = 1 << 24
"""Tokens. No model's is longer; what is said of an answer by a body that no engine has looked at
yet may be any number."""


def arrival(
    key: str,
    prompt: Prompt,
    matches: Matches,
    *,
    sequences: int,
    deadline: float,
    priority: int = 0,
    tenant: TenantConfig | None = None,
    serving: Collection[str] | None = None,
) -> RequestArrived:
    """The event. A prompt that must reach an engine untouched counts as one token long, or as long
    as it is about: there is nothing to hand over.

    Args:
        key: the scheduler's name for the request, never used before.
        sequences: how many slots it takes.
        deadline: by when the first byte is due, on the scheduler's clock.
        priority: `RequestBody.priority`.
        tenant: whose it is; None: nobody's in particular.
        serving: `ServedModels.serving`.
    """
    ids = prompt.token_ids
    return RequestArrived(
        key,
        total_tokens=(prompt.about_tokens or 1) if ids is None else len(ids),
        max_output_tokens=min(prompt.max_output_tokens, _LONGEST_OUTPUT),
        cached=matches.cached,
        resumable=matches.resumable,
        fetch_s=matches.fetch_s,
        sequences=sequences,
        deadline=deadline,
        priority=priority,
        tenant="" if tenant is None else tenant.name,
        tenant_class=0 if tenant is None else tenant.priority,
        weight=1.0 if tenant is None else tenant.weight,
        serves=None if serving is None else tuple(sorted(serving)),
    )


def first_byte_within_s(request_deadline_s: float, prompt: Prompt, *, choices: int) -> float:
    """Seconds that a request may take to its first byte, counted from its arrival; ``choices``:
    answers to one prompt."""
    if prompt.stream:
        return request_deadline_s
    output_s = prompt.max_output_tokens * choices * _S_PER_OUTPUT_TOKEN
    return request_deadline_s + min(output_s, MOST_OUTPUT_S)
