"""From a request body to a prompt: tokenised once, by an engine's own renderer."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping

import msgspec

from prfaas.core.errors import EngineError
from prfaas.gateway.body import RequestBody
from prfaas.gateway.endpoints import EngineEndpoint
from prfaas.gateway.engine_client import EngineAnswer, EngineClient, RenderedPrompt
from prfaas.gateway.openai_errors import ServiceUnavailable
from prfaas.gateway.upstream_errors import CannotRender

logger = logging.getLogger(__name__)

_OUTPUT_TOKENS_UNSAID = 4096
"""Stands in for ``max_tokens`` where only the engine knows its default."""


class Prompt(msgspec.Struct, frozen=True):
    """What is known of the prompt. ``token_ids`` is None where the body must reach one engine
    untouched, for the reason in ``why_alone``."""

    token_ids: list[int] | None
    max_output_tokens: int
    stream: bool
    why_alone: str | None = None


class Renderer:
    """Has the engines that are up tokenise, in turn; decode engines first, they are near.

    Args:
        up: the engines that are usable now.
        suspect: called with an engine's name when it could not be reached.
    """

    def __init__(
        self,
        endpoints: Mapping[str, EngineEndpoint],
        engines: Mapping[str, EngineClient],
        *,
        up: Callable[[], frozenset[str]],
        suspect: Callable[[str], None],
    ) -> None:
        self._endpoints = endpoints
        self._engines = engines
        self._up = up
        self._suspect = suspect
        self._turn = itertools.count()
        self._warned = False

    async def render(self, body: RequestBody, headers: Mapping[str, str]) -> Prompt | EngineAnswer:
        """The prompt, or the engine's own answer where it refuses the request.

        Raises ApiError (503) if no engine can be asked.
        """
        why = body.needs_engine_alone()
        if why is not None:
            return _untouched(body, why)
        for name in self._candidates():
            try:
                rendered = await self._engines[name].render(body, headers)
            except CannotRender as error:
                if not self._warned:
                    logger.warning("%s; every request goes straight to a decode engine", error)
                self._warned = True
                return _untouched(body, "the engine does not render prompts")
            except EngineError as error:
                logger.info("rendering: %s", error)
                self._suspect(name)
                continue
            return rendered if isinstance(rendered, EngineAnswer) else _prompt(body, rendered)
        raise ServiceUnavailable("no engine is up to tokenise the prompt")

    def _candidates(self) -> Iterator[str]:
        up = self._up()
        turn = next(self._turn)
        for role in ("decode", "prefill"):
            names = [n for n, e in self._endpoints.items() if e.role == role and n in up]
            for place in range(len(names)):
                yield names[(turn + place) % len(names)]


def _prompt(body: RequestBody, rendered: list[RenderedPrompt]) -> Prompt:
    if len(rendered) != 1:
        return _untouched(body, f"batch of {len(rendered)} prompts")
    only = rendered[0]
    if only.features is not None:
        return _untouched(body, "multimodal prompt")
    if only.sampling_params.skip_reading_prefix_cache:
        return _untouched(body, "the whole prompt must be computed for its logprobs")
    output = only.sampling_params.max_tokens or _OUTPUT_TOKENS_UNSAID
    return Prompt(only.token_ids, output, bool(only.stream))


def _untouched(body: RequestBody, why: str) -> Prompt:
    return Prompt(None, body.max_tokens or _OUTPUT_TOKENS_UNSAID, body.stream, why)
