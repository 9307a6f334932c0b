"""An OpenAI endpoint as a client sees it: one streamed answer, with the times of its tokens."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec

from prfaas.bench.asking import Api, Asked
from prfaas.bench.outcomes import Outcome
from prfaas.core.errors import UNREADABLE, CallerError, EngineError
from prfaas.process.failures import in_words

_LONGEST_LINE = 16 * 1024 * 1024
_CONNECTION_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)
_LONGEST_MESSAGE = 300


class ModelCard(msgspec.Struct, frozen=True):
    """One of ``/v1/models``; an adapter has a ``parent``."""

    id: str
    max_model_len: int | None = None
    parent: str | None = None


class ModelList(msgspec.Struct, frozen=True):
    """What ``/v1/models`` answers."""

    data: list[ModelCard]


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    delta: _Delta | None = None

    @property
    def says(self) -> bool:
        """Whether there is a token in it."""
        d = self.delta
        return bool(self.text or (d and (d.content or d.reasoning or d.reasoning_content)))


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class Served(msgspec.Struct, frozen=True):
    """What the endpoint says of a model. ``longest``: prompt and answer together, in tokens; None
    where it does not say."""

    model: str
    longest: int | None


class Endpoint:
    """The endpoint at ``url`` (with or without ``/v1``).

    Args:
        api_key: sent as a bearer token; None: none is.
        timeout_s: for one whole answer.
    """

    def __init__(
        self, url: str, session: aiohttp.ClientSession, *, api_key: str | None, timeout_s: float
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._session = session
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def served(self, model: str | None) -> Served:
        """The model of this name, or the first. Raises CallerError where there is none of it, and
        EngineError where nothing that speaks OpenAI's API answers."""
        url = f"{self.url}/v1/models"
        try:
            async with self._session.get(url, headers=self._headers) as answer:
                body = await answer.read()
                if answer.status == 401:
                    raise CallerError(f"{url} wants an API key: name its variable by --api-key-env")
                if answer.status != 200:
                    raise EngineError(f"{url} answered {answer.status}: {_text(body)}")
                models = msgspec.json.decode(body, type=ModelList).data
        except _CONNECTION_ERRORS as error:
            raise EngineError(f"{url} cannot be reached: {_words(error)}") from error
        except UNREADABLE as error:
            raise EngineError(f"{url}: not a list of models: {error}") from error
        for found in models:
            if found.id == model or (model is None and found.parent is None):
                return Served(found.id, found.max_model_len)
        names = ", ".join(found.id for found in models) or "none"
        raise CallerError(f"{self.url} does not serve {model!r}; it serves {names}")

    async def ask(self, asked: Asked, model: str, api: Api, began: float) -> Outcome:
        """The answer's outcome, in seconds after ``began`` (of `time.perf_counter`)."""
        outcome = Outcome(
            due=asked.at, prompt_tokens=asked.prompt_tokens, asked_tokens=asked.output_tokens
        )
        path = "chat/completions" if api == "chat" else "completions"
        body = msgspec.json.encode(asked.body(model, api))
        headers = self._headers | {"Content-Type": "application/json"}
        outcome.sent = time.perf_counter() - began
        try:
            async with self._session.post(
                f"{self.url}/v1/{path}", data=body, headers=headers, timeout=self._timeout
            ) as answer:
                await _read(answer, outcome, began)
        except TimeoutError:
            outcome.error = "timeout"
        except (aiohttp.ClientError, OSError) as error:
            outcome.error = f"connection: {_words(error)}"
        except (*UNREADABLE, EngineError) as error:
            outcome.error = f"not an answer: {error}"[:_LONGEST_MESSAGE]
        outcome.ended = time.perf_counter() - began
        return outcome


async def _read(answer: aiohttp.ClientResponse, outcome: Outcome, began: float) -> None:
    outcome.status = answer.status
    route = answer.headers.get("x-prfaas-route")
    outcome.route = None if route is None else route.split(";", 1)[0]
    if answer.status != 200:
        outcome.error = f"HTTP {answer.status}"
        outcome.message = _text(await answer.content.read(_LONGEST_MESSAGE))
        return
    done = False
    async for data in _events(answer.content):
        if data == b"[DONE]":
            done = True
            continue
        event = msgspec.json.decode(data, type=_Event)
        if event.error is not None:
            outcome.error, outcome.message = "error in the stream", _text(data)
        if any(choice.says for choice in event.choices):
            outcome.tokens_at.append(time.perf_counter() - began)
        if event.usage is not None:
            outcome.output_tokens = event.usage.completion_tokens
            outcome.prompt_tokens = event.usage.prompt_tokens or outcome.prompt_tokens
    if not done and outcome.error is None:
        outcome.error = "ended without [DONE]"


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The data of each server-sent event. Raises EngineError for a line without end."""
    rest = b""
    async for piece in content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
        if len(rest) > _LONGEST_LINE:
            raise EngineError(f"a line of more than {_LONGEST_LINE} bytes")


def api_key_of(variable: str | None) -> str | None:
    """The key that the environment holds. Raises CallerError where it holds none."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise CallerError(f"--api-key-env {variable}: the environment has no such variable")
    return key


def _text(body: bytes) -> str:
    return body.decode(errors="replace")[:_LONGEST_MESSAGE]


def _words(error: BaseException) -> str:
    return in_words(error)[:_LONGEST_MESSAGE]
