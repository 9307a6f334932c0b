"""From a request body to a prompt: tokenised once, by an engine's own renderer."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from prfaas.core.errors import EngineError, PrfaasError
from prfaas.gateway.api_errors import (
    ApiError,
    EngineFailed,
    RequestRefused,
    ServiceUnavailable,
    TooManyRequests,
)
from prfaas.gateway.body import BYTES_PER_TOKEN, RequestBody
from prfaas.gateway.endpoints import EngineEndpoint
from prfaas.gateway.engine_client import EngineAnswer, EngineClient, RenderedPrompt
from prfaas.gateway.token_ids import TokenIds
from prfaas.gateway.upstream_errors import (
    CannotRender,
    EngineFull,
    EngineUnreachable,
    LocalFault,
)
from prfaas.scheduler.handoff_end import SHORT_TAIL_TOKENS

logger = logging.getLogger(__name__)

_OUTPUT_TOKENS_UNSAID = 4096
"""Stands in for ``max_tokens`` where only the engine knows its default."""
_HEDGE_S = 1.0
"""After so long another engine is asked: tokenising takes milliseconds. The first is asked again
where no other answers either. The next has twice as long, and so on."""
_SLOW_FOR_S = 10.0
"""How long an engine that was passed over so is asked last."""
_MOST_FAILURES = 2
"""So many engines may fail at one prompt: the others would too."""

Rendered = list[RenderedPrompt] | EngineAnswer


class Prompt(msgspec.Struct, frozen=True):
    """What is known of the prompt. ``token_ids`` is None where the body reaches one engine
    untouched: for the reason in ``why_alone``, or since it is short: ``about_tokens`` long."""

    token_ids: TokenIds | None
    max_output_tokens: int
    stream: bool
    why_alone: str | None = None
    about_tokens: int | None = None
    unsaid: bool = False
    """Whether nobody here knows how long an answer may be, and ``max_output_tokens`` is a guess."""

    def sound_ids(self) -> TokenIds:
        """Where its cache is asked for: all are looked at. Raises RequestRefused."""
        if self.token_ids is None:
            raise RequestRefused(400, f"its cache cannot be told: {self.why_alone}")
        with refusing_odd_token_ids():
            self.token_ids.first(len(self.token_ids))
        return self.token_ids


class Renderer:
    """Has the engines that are up tokenise, in turn: those of the cluster that is near first, then
    decode engines, which are nearer than PrfaaS clusters.

    Args:
        near: the cluster that the gateway stands beside, if any.
        up: the engines that are usable now.
        serving: those that serve a model; None: any may be asked.
        suspect: called with an engine's name when it could not be reached.
    """

    def __init__(
        self,
        endpoints: Mapping[str, EngineEndpoint],
        engines: Mapping[str, EngineClient],
        *,
        up: Callable[[], frozenset[str]],
        serving: Callable[[str | None], frozenset[str] | None] = lambda model: None,
        suspect: Callable[[str], None],
        near: str | None = None,
    ) -> None:
        self._near = near
        self.reshaped(endpoints)
        self._engines = engines
        self._up, self._serving = up, serving
        self._suspect = suspect
        self._turn = itertools.count()
        self._slow_until: dict[str, float] = {}
        self._warned = False

    def reshaped(self, endpoints: Mapping[str, EngineEndpoint]) -> None:
        """These are the engines from now on."""
        ranked: dict[tuple[bool, str], list[str]] = {}
        for engine in endpoints.values():
            far = self._near not in (None, engine.cluster)
            ranked.setdefault((far, engine.role), []).append(engine.name)
        self._names = [ranked[rank] for rank in sorted(ranked)]  # "decode" < "prefill".

    async def render(self, body: RequestBody, headers: Mapping[str, str]) -> Prompt | EngineAnswer:
        """The prompt, or the engine's own answer where it refuses the request.

        Raises ApiError: 503 if no engine can be asked, 502 if those that were asked failed, 429 if
        all are full.
        """
        why = body.needs_engine_alone()
        if why is not None:
            return _untouched(body, why)
        try:
            rendered = await self._ask(body, headers)
        except CannotRender as error:
            if not self._warned:
                logger.warning("%s; every request goes straight to a decode engine", error)
            self._warned = True
            return _untouched(body, "the engine does not render prompts")
        return rendered if isinstance(rendered, EngineAnswer) else _prompt(body, rendered)

    async def _ask(self, body: RequestBody, headers: Mapping[str, str]) -> Rendered:
        """The first answer of an engine; another is asked where one fails or takes too long."""
        candidates = self._candidates(body.model)
        failures: list[PrfaasError] = []
        if len(candidates) > 1:
            first = candidates.pop(0)
            try:
                async with asyncio.timeout(_HEDGE_S):
                    return await self._engines[first].render(body, headers)
            except TimeoutError:
                self._overtaken([first])
                candidates.append(first)
            except (EngineError, LocalFault) as error:
                self._failed(first, error)
                failures.append(error)
        return await self._ask_several(body, headers, candidates, failures)

    async def _ask_several(
        self,
        body: RequestBody,
        headers: Mapping[str, str],
        candidates: list[str],
        failures: list[PrfaasError],
    ) -> Rendered:
        """Ask one after the other, without waiting long for any, and the longer the more were
        asked: what takes one of them long takes all of them long."""
        asked: dict[asyncio.Task[Rendered], str] = {}
        patience_s = _HEDGE_S
        try:
            while True:
                if candidates and len(_failed(failures)) < _MOST_FAILURES:
                    name = candidates.pop(0)
                    task = asyncio.ensure_future(self._engines[name].render(body, headers))
                    task.add_done_callback(_nobody_waits)
                    asked[task] = name
                if not asked:
                    raise _explained(failures)
                done, _ = await asyncio.wait(
                    asked, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
                )
                patience_s *= 1 if done else 2
                for task in done:
                    name = asked.pop(task)
                    try:
                        rendered = task.result()
                    except (EngineError, LocalFault) as error:
                        self._failed(name, error)
                        failures.append(error)
                    else:
                        self._overtaken(asked.values())
                        return rendered
        finally:
            for task in asked:
                task.cancel()

    def _failed(self, name: str, error: PrfaasError) -> None:
        if isinstance(error, CannotRender):
            raise error
        # An engine's own words may quote the prompt.
        logger.info("engine %s has tokenised no prompt: %s", name, type(error).__name__)
        if not isinstance(error, EngineFull | LocalFault):
            self._suspect(name)

    def _overtaken(self, names: Iterable[str]) -> None:
        now = asyncio.get_running_loop().time()
        for name in names:
            self._slow_until[name] = now + _SLOW_FOR_S

    def _candidates(self, model: str | None) -> list[str]:
        up, turn = self._up(), next(self._turn)
        serving = self._serving(model)
        up = up if serving is None else (up & serving)
        found: list[str] = []
        for names in self._names:
            usable = [name for name in names if name in up]
            start = turn % len(usable) if usable else 0
            found += usable[start:] + usable[:start]
        if self._slow_until:
            now = asyncio.get_running_loop().time()
            found.sort(key=lambda name: self._slow_until.get(name, 0.0) > now)
        return found


@contextmanager
def refusing_odd_token_ids() -> Iterator[None]:
    """Raises RequestRefused where a prompt's token ids are looked at and one is no token's: engines
    that tokenise pass on the ids that a client has sent."""
    try:
        yield
    except OverflowError as error:
        raise RequestRefused(400, f"the prompt is none: {error}", param="prompt") from error


def short_prompt(body: RequestBody, block_tokens: int) -> Prompt | None:
    """A prompt that has less than a block of text, so that no cache can hold any of it, and so
    little that it is never handed over: to tokenise it would tell nothing that is of use. None for
    others.

    ``block_tokens``: of the smallest block that any engine has. A token is at least one byte.
    """
    least = min(block_tokens, SHORT_TAIL_TOKENS)
    if body.prompt_bytes >= least or body.needs_engine_alone() is not None:
        return None
    about = max(1, body.prompt_bytes // BYTES_PER_TOKEN)
    unsaid = body.is_as_long_as_it_fits
    output = body.max_tokens or _OUTPUT_TOKENS_UNSAID
    return Prompt(None, output, body.stream, about_tokens=about, unsaid=unsaid)


def _nobody_waits(task: asyncio.Task[Rendered]) -> None:
    """What an engine that was overtaken says at last is no news."""
    if not task.cancelled():
        task.exception()


def _failed(failures: list[PrfaasError]) -> list[PrfaasError]:
    """Those that may be the prompt's fault."""
    harmless = EngineUnreachable | EngineFull | LocalFault
    return [error for error in failures if not isinstance(error, harmless)]


def _explained(failures: list[PrfaasError]) -> ApiError:
    """What the client is told where no engine has tokenised its prompt."""
    failed = _failed(failures)
    if failed:
        return EngineFailed(f"tokenising the prompt failed: {failed[-1]}")
    full = [error.retry_after_s for error in failures if isinstance(error, EngineFull)]
    if full:
        return TooManyRequests(str(failures[-1]), retry_after_s=min(full))
    local = [error for error in failures if isinstance(error, LocalFault)]
    return ServiceUnavailable(str(local[0]) if local else "no engine is up to tokenise the prompt")


def _prompt(body: RequestBody, rendered: list[RenderedPrompt]) -> Prompt:
    if len(rendered) != 1:
        return _untouched(body, f"batch of {len(rendered)} prompts")
    only = rendered[0]
    if only.multimodal:
        return _untouched(body, "multimodal prompt", only.sampling_params.max_tokens)
    if only.sampling_params.skip_reading_prefix_cache:
        why = "the whole prompt must be computed for its logprobs"
        return _untouched(body, why, only.sampling_params.max_tokens)
    output = only.sampling_params.max_tokens or _OUTPUT_TOKENS_UNSAID
    return Prompt(only.token_ids, output, only.stream)


def _untouched(body: RequestBody, why: str, rendered: int | None = None) -> Prompt:
    """``rendered``: how long an answer may be, where an engine has said it."""
    said = rendered or body.max_tokens
    unsaid = said is None and body.is_as_long_as_it_fits
    return Prompt(None, said or _OUTPUT_TOKENS_UNSAID, body.stream, why, unsaid=unsaid)
