"""HTTP to one vLLM server: health, rendering, prefill, the answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

import msgspec

from prfaas.core.errors import UNREADABLE, EngineError, PrfaasError, nobody_listens
from prfaas.core.handoff import ExportResult
from prfaas.gateway.body import RequestBody
from prfaas.gateway.credentials import NONE, Credentials
from prfaas.gateway.dialects import Endpoint
from prfaas.gateway.health_probe import HealthProbe, Sickness
from prfaas.gateway.http_answer import Answer, Timeouts
from prfaas.gateway.http_client import HttpClient
from prfaas.gateway.json_fields import MOST_NUMBER
from prfaas.gateway.kv_memory import blocks_of
from prfaas.gateway.token_ids import TokenIds, take_out
from prfaas.gateway.upstream_errors import (
    CONNECTION_ERRORS,
    CannotRender,
    EngineUnreachable,
    LocalFault,
    describe,
    engine_error,
    is_local,
    is_lost,
    refusal,
)
from prfaas.kv_events.sources import PATH, source_of

_HEALTH_TIMEOUT_S = 5.0
_RENDER_TIMEOUTS = Timeouts(60.0)
_MOST_SAID, _MOST_RENDERED = 4 * 1024 * 1024, 512 * 1024 * 1024
"""Bytes of answers that are read here, not passed on; of a prompt with what was made of images."""
_TEMPLATE_TOKENS = 64 * 1024
"""That a chat template may add to what a body says: far more than any does."""
_LONG = Timeouts(None)
"""Prefill and answers take what they take: the scheduler's deadlines end them."""


class Sampling(msgspec.Struct, frozen=True):
    """What of the sampling parameters the gateway must know."""

    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST_NUMBER)] | None = 16
    """vLLM leaves out what is as by its own default, which is this."""
    skip_reading_prefix_cache: bool | None = None


class _Rendered(msgspec.Struct, frozen=True):
    token_ids: list[int]
    sampling_params: Sampling
    features: msgspec.Raw = msgspec.Raw(b"null")
    stream: bool | None = None


class RenderedPrompt(NamedTuple):
    """One prompt as the engine's renderer sees it. ``multimodal``: it has more than tokens."""

    token_ids: TokenIds
    sampling_params: Sampling
    multimodal: bool
    stream: bool


class EngineAnswer(msgspec.Struct, frozen=True):
    """A complete answer of an engine; ``retry_after`` is its header."""

    status: int
    content_type: str
    body: bytes
    retry_after: str | None = None


class _PrefillAnswer(msgspec.Struct, frozen=True):
    kv_transfer_params: Any = None


class EngineClient:
    """One engine. Every method may raise LocalFault, where it is this process that failed."""

    def __init__(self, name: str, url: str, http: HttpClient) -> None:
        self.name = name
        self.url = url
        self.credentials = NONE
        self.locked: str | None = None
        """Why it lets the gateway do nothing; None where it does, or has not been asked."""
        self._http = http
        self.on_lost: Callable[[], None] = _nobody
        """Called when its process seems to be gone, long before a health check would show it, or it
        lets the gateway do nothing."""
        self._probe = self._make_probe()
        self.heard_at = -math.inf
        """When it last said anything of an answer, by the event loop's clock."""

    async def sickness(self) -> Sickness | None:
        """None if the health check succeeds, else why it does not."""
        if self._probe.url != self.url:  # It has moved.
            self._probe.close()
            self._probe = self._make_probe()
        try:
            status = await self._probe.status(_HEALTH_TIMEOUT_S)
        except TimeoutError:
            return Sickness("health check timed out", late=True)
        except EngineError as error:
            return Sickness(str(error))
        except OSError as error:
            if is_local(error):
                raise LocalFault(f"the gateway cannot reach {self.name}: {error}") from error
            return Sickness(describe(error), late=is_lost(error), refused=nobody_listens(error))
        if status == 200 and self.locked is not None:  # Nobody else asks it for anything now.
            with suppress(EngineError):
                await self.models(within_s=_HEALTH_TIMEOUT_S)
        return None if status == 200 else Sickness(f"health check answered {status}")

    def take(self, credentials: Credentials) -> None:
        """From the next request on it is shown these."""
        if credentials != self.credentials:
            self.credentials, self.locked = credentials, None
            self._probe.close()
            self._probe = self._make_probe()

    def _note(self, path: str, status: int) -> None:
        if not path.startswith("/v1"):
            return  # vLLM asks for its key there alone.
        self.locked = None
        if status == 401 or (status == 403 and not path.endswith("/render")):
            why = f"{self.name} answers {status}: it wants an API key that the gateway has not"
            remedy = "write api_key_file or api_key_env at the engine in the deployment file"
            self.locked = f"engine {why}; {remedy}"
            self.on_lost()

    def _make_probe(self) -> HealthProbe:
        lost, tls = lambda: self.on_lost(), self.credentials.tls
        return HealthProbe(self.url, lost, on_alive=self.hear, tls=tls)

    def close(self) -> None:
        """End the connection of the health checks."""
        self._probe.close()

    async def pass_on(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        within_s: float | None = None,
        most: float = math.inf,
        whose: str = "",
    ) -> EngineAnswer:
        """A request as it is, of this tenant's, answered ``within_s`` (a minute, if not given) in
        ``most`` bytes. Raises EngineError if the engine cannot be reached, or does not."""
        timeouts = _RENDER_TIMEOUTS
        if within_s is not None:
            timeouts = Timeouts(within_s)
        return await self._exchange(method, path, body, timeouts, headers or {}, most, whose)

    async def models(self, *, within_s: float | None = None) -> EngineAnswer:
        """What it says that it serves. Raises as `pass_on`."""
        return await self.pass_on("GET", "/v1/models", within_s=within_s, most=_MOST_SAID)

    async def kv_blocks(self) -> int | None:
        """How many blocks its KV memory has, as its metrics say; None where they do not. Raises
        EngineError if it cannot be reached."""
        answer = await self.pass_on("GET", "/metrics", most=_MOST_SAID)
        return blocks_of(answer.body) if answer.status == 200 else None

    async def kv_event_source(self) -> tuple[str, str | None]:
        """Where the engine says it publishes KV events: (events, replay) endpoints.

        Raises EngineError if it publishes none that can be followed.
        """
        answer = await self.pass_on("GET", PATH, most=_MOST_SAID)
        return source_of(self.name, answer.status, answer.body)

    async def render(
        self, body: RequestBody, headers: Mapping[str, str]
    ) -> list[RenderedPrompt] | EngineAnswer:
        """Tokenise a request as this engine would.

        Returns the prompts, or the engine's own answer where it refuses the request (4xx). Raises
        CannotRender, or EngineError for a failing or full engine.
        """
        path = f"{body.endpoint}/render"
        answer = await self.pass_on(
            "POST", path, body.raw, headers, most=_MOST_RENDERED, whose=body.whose
        )
        missing = answer.status == 404 and b'"error"' not in answer.body
        if missing or (answer.status == 403 and b"--enable-scale-out" in answer.body):
            raise CannotRender(f"engine {self.name} does not render: needs --enable-scale-out")
        if answer.status != 200:
            failure = refusal(self.name, answer.status, answer.retry_after, answer.body)
            if failure is not None:
                raise failure
            return answer
        try:
            rest, lists = take_out(answer.body)
            if body.dialect.renders_list:
                found = msgspec.json.decode(rest, type=list[_Rendered])
            else:
                found = [msgspec.json.decode(rest, type=_Rendered)]
            if len(found) > 1:  # They may be thousands.
                raise EngineError(f"engine {self.name}: rendered {len(found)} prompts of one")
            prompts = [_rendered(one, lists) for one in found]
        except (*UNREADABLE, ValueError) as error:
            raise EngineError(f"engine {self.name}: unreadable render answer: {error}") from error
        # They count against a tenant, and are sent to other engines; images have many.
        tokens = sum(len(prompt.token_ids) for prompt in prompts if not prompt.multimodal)
        if tokens > len(body.raw) + _TEMPLATE_TOKENS * len(prompts):
            raise EngineError(f"engine {self.name}: {tokens} tokens of {len(body.raw)} bytes")
        return prompts

    async def prefill(self, body: bytes, headers: Mapping[str, str]) -> int | None:
        """Compute and export a prompt's KV cache; returns when every byte is with the agent, with
        how many tokens were cached, so not computed (None: the engine does not say).

        Raises EngineError with the reason if that did not happen.
        """
        path = "/v1/completions"
        answer = await self._exchange("POST", path, body, _LONG, headers, _MOST_SAID)
        if answer.status != 200:
            failure = refusal(self.name, answer.status, answer.retry_after, answer.body)
            # Why it refuses stays out: it may quote the prompt, and goes into journals.
            raise failure or EngineError(f"{self.name} refused the prefill ({answer.status})")
        try:
            params = msgspec.json.decode(answer.body, type=_PrefillAnswer).kv_transfer_params
            result = msgspec.convert(params, ExportResult)
        except UNREADABLE as error:
            raise EngineError(f"{self.name} exported nothing: is its connector set up?") from error
        if not result.ok:
            raise EngineError(f"{self.name} could not export: {result.reason or 'no reason given'}")
        return result.remote_prefill_cached_tokens

    async def open_answer(
        self, endpoint: Endpoint, body: bytes, headers: Mapping[str, str], whose: str = ""
    ) -> Answer:
        """Send the request, of this tenant's; returns when the response's head is here. Close the
        response to cancel.

        Raises EngineError if the engine cannot be reached.
        """
        try:
            answer = await self._http.request(
                "POST",
                self.url,
                endpoint,
                data=body,
                headers=json_headers(headers, self.credentials),
                timeouts=_LONG,
                tls=self.credentials.tls,
                whose=whose,
            )
        except CONNECTION_ERRORS as error:
            raise self._failed(error) from error
        self.hear()
        self._note(endpoint, answer.status)
        return answer

    def _failed(self, error: BaseException) -> PrfaasError:
        failure = engine_error(self.name, error)
        if isinstance(failure, EngineUnreachable):
            self._probe.doubt()
        return failure

    def hear(self) -> None:
        """The engine has just said something."""
        self.heard_at = asyncio.get_running_loop().time()

    async def _exchange(
        self,
        method: str,
        path: str,
        body: bytes,
        timeouts: Timeouts,
        headers: Mapping[str, str],
        most: float,
        whose: str = "",
    ) -> EngineAnswer:
        try:
            async with await self._http.request(
                method,
                self.url,
                path,
                data=body,
                headers=json_headers(headers, self.credentials),
                timeouts=timeouts,
                tls=self.credentials.tls,
                whose=whose,
            ) as answer:
                self._note(path, answer.status)
                kind = answer.header("Content-Type") or "application/json"
                content = await answer.read(most)
                return EngineAnswer(answer.status, kind, content, answer.header("Retry-After"))
        except CONNECTION_ERRORS as error:
            raise self._failed(error) from error


def json_headers(headers: Mapping[str, str], credentials: Credentials) -> dict[str, str]:
    """With the content type of all that the gateway sends, and what it shows of itself."""
    return {"Content-Type": "application/json", **headers, **credentials.headers}


def _rendered(found: _Rendered, lists: list[bytes]) -> RenderedPrompt:
    """``lists``: see `take_out`. Raises ValueError for token ids that are none."""
    if len(found.token_ids) != 1 or not -len(lists) <= found.token_ids[0] < 0:
        raise ValueError("token ids are no list of whole numbers")
    ids = TokenIds(lists[-found.token_ids[0] - 1])
    multimodal = bytes(memoryview(found.features)[:5]) != b"null"
    return RenderedPrompt(ids, found.sampling_params, multimodal, bool(found.stream))


def _nobody() -> None:
    pass
