"""What of a request is loaded, and from where: a transfer, the cache of this machine's agent, or
the first tokens from the one and the rest from the other. Scheduler side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from prfaas.core.handoff import Handoff, ImportParams, RequestContext
from prfaas.core.prefixes import PromptPrefix
from prfaas.vllm_plugin.metadata import BlockTables, CachedPart, ImportStart
from prfaas.vllm_plugin.prefix_names import RequestNames

if TYPE_CHECKING:
    from vllm.v1.request import Request


class _LoadPlan(NamedTuple):
    """What of a request is loaded: from a transfer, from the agent's cache, or from both."""

    params: ImportParams | None
    cached: CachedPart | None
    local_tokens: int

    @property
    def to_token(self) -> int:
        """Where it ends."""
        if self.params is not None:
            return self.params.to_token
        assert self.cached is not None
        return self.cached.to_token


class _Noted(NamedTuple):
    """What the gateway said of a request. ``prefix``: what its transfer is of."""

    params: ImportParams | None
    cached: CachedPart | None
    prefix: PromptPrefix | None
    prompt_digest: str
    context: RequestContext | None = None


class LoadPlans:
    """The plans for requests that have not begun. Each loads once: after a failure it is not
    offered again.

    Args:
        from_cache: whether anything is loaded from the agent's cache: what was evicted meanwhile
            must be computed, which not every engine was told to do (`kv_load_failure_policy`).
    """

    def __init__(self, *, from_cache: bool = True) -> None:
        self._from_cache = from_cache
        self._noted: dict[str, _Noted] = {}
        self._plans: dict[str, _LoadPlan] = {}

    def note(
        self, request: Request, params: Handoff, names: RequestNames | None, prompt_digest: str = ""
    ) -> None:
        """A request has arrived with these; without names nothing of it is in a cache.
        ``prompt_digest``: what its transfer must be bound to."""
        transfer = params if isinstance(params, ImportParams) else None
        cached = prefix = None
        if names is not None:
            size = names.block_tokens
            # Whole blocks, and never the last token: the engine must compute something.
            blocks = min(params.pool_tokens, request.num_prompt_tokens - 1) // size
            if blocks and self._from_cache:
                cached = CachedPart(blocks * size, size, names.names[:blocks])
            if transfer is not None:
                prefix = names.stretch(transfer.from_token, transfer.to_token)
        if transfer is not None or cached is not None:
            self._noted[request.request_id] = _Noted(
                transfer, cached, prefix, prompt_digest, params.context
            )

    def offer(self, request_id: str, local_tokens: int) -> int:
        """How many tokens can be loaded beyond those that the engine has."""
        noted = self._noted.get(request_id)
        plan = None if noted is None else _plan(noted, local_tokens)
        if plan is None:
            return 0
        self._plans[request_id] = plan
        return plan.to_token - local_tokens

    def take(self, request_id: str, tables: BlockTables) -> ImportStart:
        """What was offered last has places reserved for it."""
        (params, cached, local_tokens), noted = self._plans[request_id], self._noted[request_id]
        to_token = self._plans[request_id].to_token
        self.forget(request_id)
        if params is None:
            return ImportStart(
                request_id,
                None,
                "",
                to_token,
                to_token,
                local_tokens,
                tables,
                cached=cached,
                context=noted.context,
            )
        return ImportStart(
            request_id=request_id,
            transfer_id=params.transfer_id,
            prompt_digest=noted.prompt_digest,
            from_token=params.from_token,
            to_token=to_token,
            local_tokens=local_tokens,
            tables=tables,
            source=params.source,
            cached=cached,
            prefix=noted.prefix,
            context=noted.context,
        )

    def forget_all(self) -> None:
        """What was noted is of weights that the engine may not have any more."""
        self._noted.clear()
        self._plans.clear()

    def forget(self, request_id: str) -> None:
        """It has begun, or never will."""
        self._noted.pop(request_id, None)
        self._plans.pop(request_id, None)


def _plan(noted: _Noted, local_tokens: int) -> _LoadPlan | None:
    """None where nothing is to be loaded."""
    params, cached = noted.params, noted.cached
    if params is not None:
        lacks = local_tokens < params.from_token
        if not lacks or (cached is not None and cached.to_token >= params.from_token):
            plan = _LoadPlan(params, cached if lacks else None, local_tokens)
            return plan if plan.to_token > local_tokens else None
        # Evicted since the gateway looked: part of the prefix is nowhere.
    if cached is not None and cached.to_token > local_tokens:
        return _LoadPlan(None, cached, local_tokens)
    return None
