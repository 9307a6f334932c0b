"""The profile of an engine, point by point, within a time."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from prfaas.core.boundary import aligned_boundary
from prfaas.core.errors import EngineError
from prfaas.core.handoff import ExportParams, ImportParams
from prfaas.core.layout import KvLayout
from prfaas.core.units import format_count
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.carrying import CarryingConnector
from prfaas.gateway.http_client import HttpClient
from prfaas.profiling.engine import EngineUnderTest, Facts, NotTogether, steps_for
from prfaas.profiling.ladder import doubling, measured
from prfaas.profiling.layout_sizes import kv_size_of_layout, kv_tokens_of

FIRST_TOKENS = 128
_UNSAID_TOKENS = 8192
"""The longest prompt that is tried where an engine does not say how long they may be."""
_SHARES = {"prefill": 0.5, "decode": 0.3, "load": 0.2}
"""Of the time."""
_NO_TIME = " and more: not measured for want of time; --time gives it more"
_ATTENTION_GROWTH = 4.0
"""Attention at worst: twice the tokens, four times the work."""
_TRANSFER_WAIT_S = 60.0

Tell = Callable[[str], None]


class Wanted(msgspec.Struct, frozen=True):
    """What is measured. ``longest``: no prompt above so many tokens; ``max_batch``: 0 where it is
    not to decode; ``sender``: the engine that prefills what ``loads`` of this one are measured
    with."""

    url: str
    budget_s: float
    longest: int | None = None
    max_batch: int = 32
    prefills: bool = True
    agent_url: str | None = None
    agent_tls: ssl.SSLContext | None = None
    agent: str = ""
    key: str | None = None
    """What the engine asks for, and ``sender_key`` for the other."""
    sender_key: str | None = None
    through: ssl.SSLContext | None = None
    """Of the agent that carries the engine, or what is trusted at its ``https`` url; and
    ``sender_through`` of the other."""
    sender_through: ssl.SSLContext | None = None
    engine: str = ""
    sender_url: str | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds by tokens (``prefill``, ``load``) and by batch (``decode``); empty: not measured."""

    facts: Facts
    prefill: dict[int, float] = {}
    decode: dict[int, float] = {}
    load: dict[int, float] = {}
    layout: KvLayout | None = None

    def file(self, *, name: str, hardware: str, gpus: int | None, when: str) -> dict[str, Any]:
        """As a profile file. Without ``gpus`` an instance has one for each rank."""
        ranks = 1 if self.layout is None else self.layout.tp_size
        found: dict[str, Any] = {
            "name": name,
            "hardware": hardware,
            "gpus": gpus or ranks,
            "source": f"prfaas profile, {when}, vLLM {self.facts.version}, {self.facts.model}",
            "basis": "measured",
        }
        for what in ("prefill", "decode", "load"):
            points: dict[int, float] = getattr(self, what)
            if points:
                rounded = {x: float(f"{y:.4g}") for x, y in points.items()}
                found[what] = {"interpolation": "linear", "points": rounded}
        if self.layout is not None:
            size = kv_size_of_layout(self.layout)
            found["kv"] = {
                "constant": f"{size.constant_bytes:.0f} B",
                "per_token": f"{size.bytes_per_token:.3f} B",
            }
            facts = self.facts
            if facts.blocks is not None and facts.block_tokens is not None:
                tokens = kv_tokens_of(self.layout, facts.blocks, facts.block_tokens)
                if tokens:
                    found["kv_tokens"] = tokens
        return found


async def measure(wanted: Wanted, tell: Tell) -> Measured:
    """Measure one engine. Raises EngineError or LinkError where it or its agent do not answer."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=600.0)
    http = HttpClient()
    try:
        async with aiohttp.ClientSession(timeout=timeout, connector=CarryingConnector()) as session:
            engine = EngineUnderTest(wanted.url, session, key=wanted.key, through=wanted.through)
            facts = await engine.facts()
            if facts.running:
                raise EngineError(
                    f"{wanted.url} has {format_count(facts.running, 'request')} running: what is "
                    "measured meanwhile is wrong; try again when it is idle"
                )
            return await _measure(wanted, engine, facts, session, http, tell)
    finally:
        await http.close()


async def _measure(
    wanted: Wanted,
    engine: EngineUnderTest,
    facts: Facts,
    session: aiohttp.ClientSession,
    http: HttpClient,
    tell: Tell,
) -> Measured:
    longest = (facts.max_model_len or _UNSAID_TOKENS) - 2
    longest = min(longest, wanted.longest or longest)
    layout = None
    if wanted.agent_url is not None:
        agent = AgentClient(wanted.agent, wanted.agent_url, http)
        agent.tls = wanted.agent_tls
        ranks = [rank for rank in await agent.engines() if rank.engine == wanted.engine]
        layout = ranks[0].layout if ranks else None
    prefill: dict[int, float] = {}
    if wanted.prefills:
        prefill = await measured(
            doubling(min(FIRST_TOKENS, longest), longest),
            engine.prefill_s,
            budget_s=wanted.budget_s * _SHARES["prefill"],
            clock=time.monotonic,
            growth=_ATTENTION_GROWTH,
            on_point=lambda n, s: tell(f"prefill of {n:,} tokens: {s:.3f} s"),
            on_left=lambda n: tell(f"prefill of {n:,} tokens{_NO_TIME}"),
        )
    decode: dict[int, float] = {}
    if wanted.max_batch:
        steps = steps_for(await engine.step_s(1, 12))
        decode = await measured(
            doubling(1, wanted.max_batch),
            lambda batch: engine.step_s(batch, steps),
            ends_at=NotTogether,
            budget_s=wanted.budget_s * _SHARES["decode"],
            clock=time.monotonic,
            on_point=lambda b, s: tell(f"decode step of {b}: {s * 1e3:.2f} ms"),
            on_left=lambda b: tell(f"decode step of {b}{_NO_TIME}"),
        )
    load: dict[int, float] = {}
    if wanted.sender_url is not None and layout is not None:
        sender = EngineUnderTest(
            wanted.sender_url, session, key=wanted.sender_key, through=wanted.sender_through
        )
        await sender.facts()
        agent = AgentClient(wanted.agent, wanted.agent_url or "", http)
        agent.tls = wanted.agent_tls
        loads = _Loads(engine, wanted.engine, sender, layout, agent)
        first = max(FIRST_TOKENS, layout.alignment_tokens + 1)
        if first <= longest:
            load = await measured(
                doubling(first, min(longest, max(prefill, default=longest))),
                loads.seconds,
                budget_s=wanted.budget_s * _SHARES["load"],
                clock=time.monotonic,
                on_point=lambda n, s: tell(f"load of {n:,} tokens: {s:.3f} s"),
                on_left=lambda n: tell(f"load of {n:,} tokens{_NO_TIME}"),
            )
    return Measured(facts=facts, prefill=prefill, decode=decode, load=load, layout=layout)


class _Loads:
    """Hand-offs whose bytes are there before the decode engine is asked."""

    def __init__(
        self,
        engine: EngineUnderTest,
        name: str,
        sender: EngineUnderTest,
        layout: KvLayout,
        agent: AgentClient,
    ) -> None:
        self._engine, self._name, self._sender, self._agent = engine, name, sender, agent
        self._layout = layout
        self._number = time.time_ns()

    async def seconds(self, tokens: int) -> float:
        """From asking a decode engine for a prompt that lies ready to its first token: the pages'
        way into the cache, and the tail that is computed."""
        self._number += 1
        transfer = f"profile-{self._number}"
        prompt = self._sender.prompt(tokens)
        to_token = aligned_boundary(tokens, self._layout.alignment_tokens)
        export = ExportParams(
            transfer_id=transfer,
            destination=self._agent.name,
            readers=(self._name,),
            from_token=0,
            to_token=to_token,
        )
        answer = await self._sender.ask(prompt, 1, msgspec.to_builtins(export))
        exported = answer.get("kv_transfer_params") or {}
        if not exported.get("ok"):
            raise EngineError(f"{self._sender.url} exported nothing: {exported.get('reason')}")
        status = await self._agent.transfer(
            transfer, wait_s=_TRANSFER_WAIT_S, ranks=self._layout.tp_size
        )
        if status.state != "complete":
            raise EngineError(f"the hand-off is {status.state}: {status.reason or 'no reason'}")
        began = time.perf_counter()
        handoff = ImportParams(transfer_id=transfer, from_token=0, to_token=to_token)
        await self._engine.ask(prompt, 1, msgspec.to_builtins(handoff))
        took = time.perf_counter() - began
        await self._agent.drop(transfer)
        return took
