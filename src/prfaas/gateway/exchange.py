"""One request between its arrival and its end."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from weakref import WeakMethod

from aiohttp import web

from prfaas.core.handoff import TRACEPARENT, RequestContext
from prfaas.gateway.api_errors import ApiError, GatewayBug
from prfaas.gateway.attempt_tasks import AttemptTasks
from prfaas.gateway.body import LONGEST_SESSION, LONGEST_UNSAID, RequestBody
from prfaas.gateway.client_response import ClientResponse
from prfaas.gateway.facts import RequestFacts
from prfaas.gateway.prompts import Prompt
from prfaas.gateway.tenants import Use

logger = logging.getLogger(__name__)

_COMMENTS = "keepalive"

_SESSION = "X-Session-ID"
_PASSED_ON = ("traceparent", "tracestate", "baggage", _SESSION)
"""Headers of the client that engines get too, if they are ASCII: others aiohttp cannot send."""


class Exchange:
    """What belongs to one request: its body and prompt, its time, the client's response, the
    running attempts, and what is known of them.

    ``key`` is the scheduler's name for it and the stem of its transfer ids; the client and the
    engines' logs know ``facts.request_id``. ``deadline_s``: seconds from ``received_at`` (on the
    monotonic clock) within which the first byte of the answer is due. ``use``: its share of its
    tenant's limits. ``tells``: whether the client learns what became of it.
    """

    def __init__(
        self,
        key: str,
        request_id: str,
        request: web.Request,
        body: RequestBody,
        use: Use,
        *,
        deadline_s: float,
        tells: bool = True,
    ) -> None:
        self.key = key
        self.body = body
        self.use = use
        self.deadline_s = deadline_s
        self.received_at = time.monotonic()
        self.prompt = Prompt(None, 1, False)
        self.facts = RequestFacts(
            request_id=request_id,
            endpoint=body.endpoint,
            arrived_at=time.time(),
            tenant=use.tenant.name,
            tells=tells,
        )
        self.response = ClientResponse(request, self.facts, hides_usage=body.hides_usage)
        self._wants_comments = request.headers.get("X-Prfaas-Keepalive", "").lower() != "off"
        self.attempts = AttemptTasks(_weakly(self._fail_for_a_bug))
        self._comments: asyncio.TimerHandle | None = None
        self.transfers: dict[str, tuple[str, str]] = {}
        """Transfer id -> (prefill engine, decode engine) of transfers not yet dropped."""
        self.loadable: Callable[[str], Awaitable[int]]
        """How much of the prompt an engine can load from its agent, once that has been given what
        is to be pulled to it."""
        self.on_end: Callable[[], None] = _nothing
        """Called when it is over."""
        self.context_tokens = LONGEST_UNSAID
        """Of its model, where engines say it: no answer is longer."""
        self.engine_headers = _engine_headers(request_id, request)

    def end(self) -> None:
        """It is over. What would point to it from itself is let go: its body need not wait for the
        garbage collector."""
        if self._comments is not None:
            self._comments.cancel()
        self.attempts.stop(_COMMENTS, 0)
        self.on_end()
        self.on_end, self.loadable = _nothing, _nothing_more

    def keep_alive(self, every_s: float) -> None:
        """Comment while a stream has not begun, unless its client wants no comments."""
        if self.body.stream and self._wants_comments and math.isfinite(every_s):
            loop = asyncio.get_running_loop()
            self._comments = loop.call_later(every_s, self._begin_comments, every_s)

    def _begin_comments(self, every_s: float) -> None:
        self.attempts.start(_COMMENTS, 0, self.response.keep_alive(every_s))

    def context(self, attempt: int) -> RequestContext:
        """What agents and connectors are told of it, for their logs and traces."""
        trace = self.engine_headers.get("traceparent", "")
        known = trace if TRACEPARENT.match(trace) else None  # A client may have written anything.
        return RequestContext(self.facts.request_id, attempt, known)

    def tokens(self) -> tuple[int, int]:
        """Of the prompts, and of the answers at most. A prompt that was not tokenised here has as
        many as its text may have."""
        ids = self.prompt.token_ids
        counted = None if ids is None else len(ids)
        return counted or self.body.tokens_of_text, self.longest_answers

    @property
    def prompt_uncounted(self) -> int:
        """How many tokens its engine has found in a prompt that was not tokenised here, pictures
        among it, beyond those that were counted."""
        if self.prompt.token_ids is not None:
            return 0
        return self.body.tokens_beyond_text(self.response.prompt_told)

    @property
    def longest_answers(self) -> int:
        """How many tokens all answers together may have, whatever an engine says."""
        prompt, body = self.prompt, self.body
        longest = self.context_tokens if prompt.unsaid else prompt.max_output_tokens
        return longest * body.choices * body.prompts

    def elapsed_s(self) -> float:
        """Since it was received."""
        return time.monotonic() - self.received_at

    def time_left_s(self) -> float:
        """Until the first byte is due."""
        return self.deadline_s - self.elapsed_s()

    def fail(self, error: ApiError) -> None:
        """Tell the client of a failure: as an answer, or as the last event of an open stream."""
        self.facts.error, self.facts.outcome = str(error), error.kind
        if not self.response.opened:
            self.response.refuse(error)
        elif not self.response.done.done():
            self.attempts.start("error", 0, self.response.break_off(error))

    def _fail_for_a_bug(self, bug: BaseException) -> None:
        request_id = self.facts.request_id
        logger.error(
            "request %s: internal error", request_id, exc_info=bug, extra={"request_id": request_id}
        )
        self.fail(GatewayBug())


def _weakly(method: Callable[[BaseException], None]) -> Callable[[BaseException], None]:
    """Calls the method as long as its object is there, and does not keep it there."""
    known = WeakMethod(method)

    def call(bug: BaseException) -> None:
        if (found := known()) is not None:
            found(bug)

    return call


def _nothing() -> None:
    pass


async def _nothing_more(_engine: str) -> int:
    return 0


def _engine_headers(request_id: str, request: web.Request) -> dict[str, str]:
    """What of the request's headers goes with every request to an engine."""
    given = request.headers
    found = {k: given[k] for k in _PASSED_ON if k in given and given[k].isascii()}
    if len(found.get(_SESSION, "")) > LONGEST_SESSION:
        del found[_SESSION]
    return {"X-Request-Id": request_id, **found}
