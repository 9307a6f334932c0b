"""One running engine under test: prompts nobody has cached, answers of a set length."""

from __future__ import annotations

import asyncio
import random
import re
import ssl
import time
from typing import Any

import aiohttp
import msgspec
import numpy as np

from prfaas.bench.asking import KNOWN_IDS
from prfaas.bench.endpoint import ModelList
from prfaas.core.errors import UNREADABLE, EngineError
from prfaas.process.failures import in_words

_SHORT_PROMPT = 32
_STEPS = (12, 128)
_STEPS_S = 1.5
"""A decode step is the mean of so many seconds of steps, within the bounds above."""
_MOST_STEPS = 512
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=600.0)
_CONNECTION_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


class Facts(msgspec.Struct, frozen=True):
    """What an engine says of itself; None where it does not."""

    model: str
    version: str
    max_model_len: int | None
    blocks: int | None
    block_tokens: int | None
    running: int


class NotTogether(EngineError):
    """An engine did not decode as many sequences at a time as it was asked for."""


class EngineUnderTest:
    """A vLLM server at ``url``. Methods raise EngineError where it does not answer as asked."""

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        *,
        key: str | None = None,
        through: ssl.SSLContext | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._ssl: ssl.SSLContext | bool = through or True
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._session = session
        self._model = ""
        self._random = random.Random(time.time_ns())

    async def facts(self) -> Facts:
        """Its model, version, and what it is doing now. Asked first."""
        body = await self._get("/v1/models")
        try:
            models = msgspec.json.decode(body, type=ModelList).data
        except UNREADABLE as error:
            raise EngineError(f"{self.url}/v1/models: not a list of models: {error}") from error
        served = [model for model in models if model.parent is None]
        if not served:
            raise EngineError(f"{self.url} serves no model")
        self._model = served[0].id
        metrics = (await self._get("/metrics", optional=True)).decode(errors="replace")
        version = await self._get("/version", optional=True)
        return Facts(
            model=self._model,
            version=_version(version),
            max_model_len=served[0].max_model_len,
            blocks=_label(metrics, "num_gpu_blocks"),
            block_tokens=_label(metrics, "block_size"),
            running=_running(metrics),
        )

    async def prefill_s(self, tokens: int, params: dict[str, Any] | None = None) -> float:
        """Seconds from a fresh prompt of ``tokens`` to its first token. ``params``: for the
        connector."""
        began = time.perf_counter()
        await self.ask(self.prompt(tokens), 1, params)
        return time.perf_counter() - began

    def prompt(self, tokens: int) -> list[int]:
        """Token ids that no cache holds."""
        return self._random.choices(KNOWN_IDS, k=tokens)

    async def ask(
        self, prompt: list[int], max_tokens: int, params: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """A whole answer, as the engine gives it."""
        body: dict[str, Any] = self._body(prompt, max_tokens)
        if params is not None:
            body["kv_transfer_params"] = params
        try:
            async with self._session.post(
                f"{self.url}/v1/completions", json=body, headers=self._headers, ssl=self._ssl
            ) as answer:
                content = await answer.read()
                if answer.status != 200:
                    raise EngineError(f"{self.url}: {answer.status}: {_text(content)}")
                return msgspec.json.decode(content, type=dict[str, Any])
        except (*_CONNECTION_ERRORS, *UNREADABLE) as error:
            raise EngineError(f"{self.url}: {in_words(error)}") from error

    async def step_s(self, batch: int, steps: int) -> float:
        """Seconds of a decode step with ``batch`` sequences: while all of them decode.

        Of ``steps`` steps, more where the first sequences would end before the last begins. Raises
        NotTogether where that does not help.
        """
        while True:
            try:
                return await self._step_s(batch, steps)
            except NotTogether:
                if steps > _MOST_STEPS:
                    raise
                steps *= 4

    async def _step_s(self, batch: int, steps: int) -> float:
        streams = [asyncio.create_task(self._stream(steps)) for _ in range(batch)]
        try:
            times = await asyncio.gather(*streams)
        finally:
            for stream in streams:
                stream.cancel()
        return step_of(times, steps)

    async def _stream(self, tokens: int) -> list[float]:
        """When each event of an answer came."""
        body = self._body(self.prompt(_SHORT_PROMPT), tokens) | {"stream": True}
        times = []
        try:
            async with self._session.post(
                f"{self.url}/v1/completions", json=body, headers=self._headers, ssl=self._ssl
            ) as answer:
                if answer.status != 200:
                    content = await answer.read()
                    raise EngineError(f"{self.url}: {answer.status}: {_text(content)}")
                async for line in answer.content:
                    if line.startswith(b"data: {"):
                        times.append(time.perf_counter())
        except _CONNECTION_ERRORS as error:
            raise EngineError(f"{self.url}: {in_words(error)}") from error
        return times

    def _body(self, prompt: list[int], max_tokens: int) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }

    async def _get(self, path: str, *, optional: bool = False) -> bytes:
        try:
            async with self._session.get(
                self.url + path, headers=self._headers, ssl=self._ssl
            ) as answer:
                content = await answer.read()
                if answer.status == 200:
                    return content
                if answer.status in (401, 403):
                    raise EngineError(
                        f"{self.url}{path} answered {answer.status}: it wants a key; write "
                        "api_key_file or api_key_env at the engine in the deployment file"
                    )
        except _CONNECTION_ERRORS as error:
            raise EngineError(f"{self.url}: {in_words(error)}") from error
        if optional:
            return b""
        raise EngineError(f"{self.url}{path} answered {answer.status}: is it a vLLM server?")


def steps_for(step_s: float) -> int:
    """How many steps make a good mean where one takes ``step_s``."""
    least, most = _STEPS
    return int(min(max(_STEPS_S / step_s, least), most))


def step_of(streams: list[list[float]], tokens: int) -> float:
    """Seconds of a step, from when the events of sequences that decoded together came, ``tokens``
    each: of the time in which all of them did. An event may bring several tokens.

    Raises NotTogether where they never did.
    """
    begin = max((times[0] for times in streams if times), default=0.0)
    end = min((times[-1] for times in streams if times), default=0.0)
    if end <= begin or not all(streams):
        raise NotTogether(
            f"{len(streams)} sequences never decoded at the same time; is max_num_seqs smaller?"
        )
    steps = 0.0
    for times in streams:
        gained = np.linspace(1, tokens, len(times))
        at_begin, at_end = np.interp([begin, end], times, gained)
        steps += float(at_end - at_begin)
    return (end - begin) / (steps / len(streams))


def _text(content: bytes) -> str:
    return content.decode(errors="replace")[:300]


def _label(metrics: str, label: str) -> int | None:
    found = re.search(rf'^vllm:cache_config_info{{.*\b{label}="(\d+)"', metrics, re.MULTILINE)
    return None if found is None else int(found[1])


def _running(metrics: str) -> int:
    found = re.findall(r"^vllm:num_requests_running(?:{[^}]*})? ([0-9.e+]+)", metrics, re.MULTILINE)
    return int(sum(map(float, found)))


def _version(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body, type=dict[str, Any]).get("version", "of no version"))
    except UNREADABLE:
        return "of no version"
