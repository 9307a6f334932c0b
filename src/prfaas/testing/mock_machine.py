"""The engines of one machine without a model: a process that hands real bytes to a real agent.

``python -m prfaas.testing.mock_machine DEPLOYMENT MACHINE`` serves every engine of the machine at
its ``url``; with ``--kv-events`` they publish what they would have cached, with ``--everywhere``
whoever tests them asks them from outside of their machine, too. Answers are
`mock_engine.expected_words`; the bytes of a hand-off go through the agent and over the KV link, and
are checked where they arrive.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from prfaas.core.addresses import parse_url
from prfaas.core.deployment import EngineConfig, load_deployment
from prfaas.core.errors import PrfaasError
from prfaas.core.handoff import RequestContext
from prfaas.core.prompt_digest import prompt_digest
from prfaas.testing.mock_agent import MockAgent
from prfaas.testing.mock_engine import MockEngine
from prfaas.testing.mock_engine_rank import MockEngineRank
from prfaas.testing.mock_kv_events import MockKvEvents

_THREADS = 64
"""Hand-offs and loads at a time: one whose agent does not answer keeps no other waiting."""
CACHED_BLOCKS = 2000
"""Of 16 tokens: ten long prompts."""
KV_BYTES_PER_TOKEN = 1000
"""A prompt of some thousand tokens then takes a slow line some tenths of a second."""


class AgentEngine(MockEngine):
    """A `MockEngine` whose KV cache is real bytes in the arena of the agent at ``socket``.
    ``publishes``: KV events, where the file says; else somebody else does."""

    def __init__(self, config: EngineConfig, socket: str, *, publishes: bool) -> None:
        super().__init__(config.name, MockAgent(""), {})
        self.host, self.port = parse_url(config.url or "")
        self.imported = 0
        self.keeps_requests = False  # It may run for hours.
        self._socket = socket
        self._events: MockKvEvents | None = None
        if publishes and config.kv_events_replay is not None:
            where = config.kv_events or "", config.kv_events_replay
            self._events = MockKvEvents(*where, blocks=CACHED_BLOCKS)
            self._serving = asyncio.ensure_future(self._events.serve())
        self._rank: MockEngineRank | None = None

    async def connect(self) -> None:
        """Register with the agent; after a restart of it that is done again by itself."""
        self._rank = await asyncio.to_thread(MockEngineRank, self._socket, self.name)

    def routes(self) -> list[web.RouteDef]:
        """Those of an engine, what it has counted, and how it shall fail."""
        mine = [web.get("/counters", self._counters), web.post("/misbehave", self._misbehave)]
        return [*super().routes(), *mine]

    async def _counters(self, _request: web.Request) -> web.Response:
        names = ("imported", "recomputed", "most_under_way")
        return web.json_response({name: getattr(self, name) for name in names})

    async def _misbehave(self, request: web.Request) -> web.Response:
        for name, value in (await request.json()).items():
            setattr(self, name, value.encode() if isinstance(value, str) else value)
        return web.Response()

    async def _prefill(self, body: dict[str, Any], params: dict[str, Any]) -> web.Response:
        assert self._rank is not None
        tokens = params["from_token"], params["to_token"]
        size = (tokens[1] - tokens[0]) * KV_BYTES_PER_TOKEN
        name, to = params["transfer_id"], params["destination"]
        export = partial(
            self._rank.export,
            name,
            to,
            size,
            tokens,
            digest=_digest(body, tokens[1]),
            readers=tuple(params["readers"]),
            context=msgspec.convert(params.get("context"), RequestContext | None),
        )
        try:
            reason = await asyncio.to_thread(export)
        except PrfaasError as error:
            reason = str(error)
        await asyncio.sleep(self.prefill_takes_s)
        await self._computed(body)
        exported = {"prfaas": "exported", "transfer_id": name, "ok": reason is None}
        if reason is not None:
            exported["reason"] = reason
        return web.json_response({"choices": [], "kv_transfer_params": exported})

    async def _answer(
        self, request: web.Request, body: dict[str, Any], params: dict[str, Any]
    ) -> web.StreamResponse:
        if params.get("prfaas") == "import":
            assert self._rank is not None
            tokens = params["from_token"], params["to_token"]
            size = (tokens[1] - tokens[0]) * KV_BYTES_PER_TOKEN
            name, digest = params["transfer_id"], _digest(body, tokens[1])
            try:
                told = await asyncio.to_thread(self._rank.read, name, size, tokens, digest=digest)
            except PrfaasError as error:
                told = str(error)
            if told == "ok":
                self.imported += 1
            else:
                self.recomputed += 1
                print(f"{self.name}: transfer {params['transfer_id']}: {told}", flush=True)
            kept = {k: v for k, v in params.items() if k == "prompt_token_ids"}
            params = kept
        await self._computed(body)
        return await super()._answer(request, body, params)

    async def _computed(self, body: dict[str, Any]) -> None:
        if self._events is not None and isinstance(body["prompt"], list):
            await self._events.store(body["prompt"])


def _digest(body: dict[str, Any], to_token: int) -> str:
    return prompt_digest(body["prompt"], to_token=to_token, salt=body.get("cache_salt"))


async def serve(file: Path, machine: str, *, publishes: bool, everywhere: bool) -> None:
    """Every engine of the machine, until cancelled; see `AgentEngine`."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    deployment = load_deployment(file)
    place = next(m for m in deployment.machines if m.name == machine)
    engines = [
        AgentEngine(config, place.agent.socket or "", publishes=publishes)
        for config in place.engines
    ]
    for engine in engines:
        if everywhere:
            engine.host = "0.0.0.0"
        await engine.connect()
        await engine.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    said = sys.argv[3:]
    asyncio.run(
        serve(
            Path(sys.argv[1]),
            sys.argv[2],
            publishes="--kv-events" in said,
            everywhere="--everywhere" in said,
        )
    )
