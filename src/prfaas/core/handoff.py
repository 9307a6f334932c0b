"""The ``kv_transfer_params`` a gateway and an engine's connector exchange, typed.

vLLM carries them opaquely in the request and response bodies; ``"prfaas"`` names the kind.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from prfaas.core.errors import CallerError

TRANSFER_ID = re.compile(r"^[A-Za-z0-9_-]{1,64}\Z")
TransferId = Annotated[str, msgspec.Meta(pattern=TRANSFER_ID.pattern)]
LONGEST_DEADLINE_S = 86400.0
DeadlineS = Annotated[float, msgspec.Meta(gt=0, le=LONGEST_DEADLINE_S)]
PackedLayout = Annotated[str, msgspec.Meta(min_length=1, max_length=64 * 1024)]
MOST_READERS = 32
Readers = Annotated[
    tuple[Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")], ...],
    msgspec.Meta(max_length=MOST_READERS),
]
"""Engines that may open a transfer. 32 names of 64 characters fit a frame of the KV link."""
Agent = Annotated[str, msgspec.Meta(max_length=128)]
Priority = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]
"""A lower number goes first."""
Fingerprint = Annotated[str, msgspec.Meta(max_length=128)]
"""Of a KV layout."""
MOST_REASON = 4096
Reason = Annotated[str, msgspec.Meta(max_length=MOST_REASON)]
"""Why a hand-off failed; it goes into logs and journals."""
Tokens = Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Epoch = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Number = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
"""Others' words: by what is below zero, or has no bound, nothing can be planned."""
Rank = Annotated[int, msgspec.Meta(ge=0, lt=1024)]
RequestId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:+/=@-]{1,128}\Z")]
TRACEPARENT = re.compile(r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")
Traceparent = Annotated[str, msgspec.Meta(pattern=TRACEPARENT.pattern)]


class RequestContext(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose hand-off it is, for logs and traces alone: the request's id, which of its attempts, and
    its trace, as in the header ``traceparent`` (W3C Trace Context)."""

    request_id: RequestId
    attempt: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] = 0
    traceparent: Traceparent | None = None


class LoadParams(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="prfaas", tag="load", omit_defaults=True
):
    """Gateway to any engine: its machine's agent has the first ``pool_tokens`` tokens of this
    prompt in its cache. ``keep``: the engine gives its agent what it has of the prompt at the
    request's end, also where answers are not kept. ``prompt_token_ids`` as in `ImportParams`."""

    pool_tokens: Tokens
    keep: bool = False
    prompt_token_ids: list[int] | None = None
    context: RequestContext | None = None


class ExportParams(msgspec.Struct, frozen=True, kw_only=True, tag_field="prfaas", tag="export"):
    """Gateway to prefill engine: export tokens [from_token, to_token) of this prompt.

    ``destination`` is the receiving agent's name, ``readers`` the engines there that may open the
    transfer, ``deadline_s`` the time left in seconds. ``pool_tokens``: so much of the prompt need
    not be computed (`LoadParams`).
    """

    transfer_id: TransferId
    destination: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    from_token: Tokens
    to_token: Tokens
    readers: Readers
    deadline_s: DeadlineS = 300.0
    priority: Priority = 0
    pool_tokens: Tokens = 0
    context: RequestContext | None = None


class ImportParams(msgspec.Struct, frozen=True, kw_only=True, tag_field="prfaas", tag="import"):
    """Gateway to decode engine: tokens [from_token, to_token) lie ready as ``transfer_id``.

    ``source`` is the sender's KV layout (`KvLayout.packed`) where the decode engine holds its cache
    otherwise. Where ``pool_tokens`` is ``from_token`` or more, what the engine lacks of the tokens
    before is in its agent's cache (`LoadParams`). What is named otherwise than ours is vLLM's own:
    ``prompt_token_ids`` makes the chat endpoint skip its template, and with ``do_remote_prefill``
    the answer's usage counts as cached what the prefill engine had (`ExportResult`) instead of all
    that is loaded.
    """

    transfer_id: TransferId
    from_token: Tokens
    to_token: Tokens
    source: PackedLayout | None = None
    pool_tokens: Tokens = 0
    prompt_token_ids: list[int] | None = None
    context: RequestContext | None = None
    do_remote_prefill: bool | None = None
    remote_prefill_cached_tokens: Tokens | None = None


class ExportResult(msgspec.Struct, frozen=True, kw_only=True, tag_field="prfaas", tag="exported"):
    """Prefill engine to gateway: whether everything was handed to the agent, or why not.

    ``do_remote_prefill`` asks vLLM, through which it passes, to write how many of the prompt's
    tokens this engine did not have to compute: ``remote_prefill_cached_tokens``.
    """

    transfer_id: str
    ok: bool
    reason: Reason | None = None
    do_remote_prefill: bool = True
    remote_prefill_cached_tokens: Tokens | None = None


Handoff = ExportParams | ImportParams | LoadParams


def parse_handoff(params: object) -> Handoff | None:
    """Typed parameters, or None where a request carries none of ours.

    Raises CallerError for parameters that name us but are not valid.
    """
    if not isinstance(params, dict) or "prfaas" not in params:
        return None
    try:
        parsed: Handoff = msgspec.convert(params, Handoff)
    except msgspec.ValidationError as error:
        raise CallerError(f"kv_transfer_params: {error}") from error
    if isinstance(parsed, LoadParams):
        return parsed
    if not parsed.from_token <= parsed.to_token:
        raise CallerError(
            f"kv_transfer_params: from_token {parsed.from_token} > to_token {parsed.to_token}"
        )
    return parsed
