"""From a prompt's token ids, as a renderer writes them, to the first command, on a large fleet:
match, cost, decide.

The index, the scheduler and the policies are the gateway's own, made as it makes them. Engines are
busy while it is measured: requests go through their lives, so that queues and cached prefixes are
as in service, and costs are learned from the prefills seen.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Iterator

import msgspec
import numpy as np

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.gateway.arrivals import arrival
from prfaas.gateway.endpoints import EngineEndpoint
from prfaas.gateway.prefix_matches import match_engines
from prfaas.gateway.prompts import Prompt
from prfaas.gateway.token_ids import TokenIds
from prfaas.index.cache_events import BlocksStored
from prfaas.index.keys import PromptKeys
from prfaas.index.prefix_index import PrefixIndex
from prfaas.scheduler.commands import StartDecode, StartPrefill
from prfaas.scheduler.events import (
    FirstToken,
    LayoutKnown,
    PrefillCompleted,
    RequestCompleted,
    TransferCompleted,
)
from prfaas.scheduler.journal import CostInputs, JournalOpened
from prfaas.scheduler.replay import scheduler_from
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology

_VOCABULARY = 150_000
_SHARED_TOKENS = 2048
"""A system prompt that every engine holds."""
_INFLIGHT = 2000


def topology(engines: int, clusters: int, block_tokens: int) -> Topology:
    """Half of the clusters only prefill, each with a line to every other; of the others half of the
    engines decode."""
    names = [f"c{number}" for number in range(clusters)]
    prfaas = set(names[: clusters // 2])
    specs = []
    for number in range(engines):
        cluster = names[number % clusters]
        decodes = cluster not in prfaas and number // clusters % 2 == 0
        specs.append(
            EngineSpec(
                f"e{number}",
                cluster,
                "decode" if decodes else "prefill",
                64,
                changes_role=False,
                machine=f"m{number // (8 * clusters)}-{cluster}",
            )
        )
    return Topology(
        clusters=tuple(ClusterSpec(n, "prfaas" if n in prfaas else "pd") for n in names),
        engines=tuple(specs),
        links=tuple(
            LinkSpec(a, b, 12.5e9, 0.02)
            for a in names
            if a in prfaas
            for b in names
            if b not in prfaas
        ),
        alignment_tokens=block_tokens,
    )


class Rig:
    """An index with so many blocks on a fleet, and a scheduler with this policy."""

    def __init__(
        self, *, engines: int, clusters: int, blocks: int, block_tokens: int, seed: int
    ) -> None:
        self.block_tokens = block_tokens
        self.random = np.random.default_rng(seed)
        self.topology = topology(engines, clusters, block_tokens)
        self.endpoints = {spec.name: _endpoint(spec) for spec in self.topology.engines}
        self.index = PrefixIndex(
            max_blocks=blocks + 1_000_000, max_engines=engines, seed=b"benchmark"
        )
        self.held = [self.index.engine(name) for name in self.endpoints]
        self._next_hash = 1
        self.shared = self._tokens(_SHARED_TOKENS // block_tokens)
        self.prompts: list[tuple[list[int], int]] = []
        for held in self.held:
            self._store(held, self.shared, 1, None)
        self._next_hash += _SHARED_TOKENS // block_tokens
        while self.index.blocks < blocks:
            self._add_prompt(int(self.random.integers(4_000, 60_000)))

    def _tokens(self, blocks: int) -> list[int]:
        size = blocks * self.block_tokens
        found: list[int] = self.random.integers(0, _VOCABULARY, size, np.uint32).tolist()
        return found

    def _add_prompt(self, tokens: int) -> list[int]:
        """One to three engines hold it, after the system prompt."""
        blocks = tokens // self.block_tokens
        ids, first = self._tokens(blocks), self._next_hash
        self._next_hash += blocks
        parent = _SHARED_TOKENS // self.block_tokens
        for number in self.random.integers(0, len(self.held), self.random.integers(1, 4)):
            self._store(self.held[int(number)], ids, first, parent)
        return ids

    def _store(self, held: object, ids: list[int], first: int, parent: int | None) -> None:
        count = len(ids) // self.block_tokens
        event = BlocksStored(
            group=0,
            kind="full_attention",
            block_tokens=self.block_tokens,
            hashes=range(first, first + count),
            parent=parent,
            token_ids=ids,
        )
        held.stored(event)  # type: ignore[attr-defined]

    def prompt_of(self, tokens: int, held: bool) -> list[int]:
        """The system prompt and more; ``held``: three quarters of it are cached somewhere."""
        if not held:
            return [*self.shared, *self._tokens(tokens // self.block_tokens)][:tokens]
        known = self._add_prompt(tokens * 3 // 4 - _SHARED_TOKENS)
        rest = self._tokens(tokens // 4 // self.block_tokens + 1)
        return [*self.shared, *known, *rest][:tokens]

    def arrivals_ms(self, policy: str, tokens: int, count: int) -> tuple[list[float], list[float]]:
        """What each of so many arrivals took, by the wall and by the thread's CPU clock; half of
        them have a cached prefix."""
        scheduler = self._scheduler(policy)
        wall: list[float] = []
        cpu: list[float] = []
        lives: deque[Iterator[object]] = deque()
        now = 0.0
        alignment = dict.fromkeys(self.endpoints, self.block_tokens)
        prompts = [self.prompt_of(tokens, number % 2 == 0) for number in range(min(count, 40))]
        short, whole = (
            [msgspec.json.encode(ids[:end]) for ids in prompts] for end in (2000, tokens)
        )
        gc.collect()
        gc.freeze()  # The gateway does the same once it is up.
        for number in range(count + _INFLIGHT):
            now += 0.002
            warm = number < _INFLIGHT
            text = (short if warm else whole)[number % len(prompts)]
            started, started_cpu = time.perf_counter(), time.thread_time()
            ids = TokenIds(text)
            matches = match_engines(
                PromptKeys(ids),
                self.index,
                self.endpoints,
                prompt_tokens=len(ids),
                alignment_tokens=alignment,
            )
            event = arrival(
                f"r{number}", Prompt(ids, 300, True), matches, sequences=1, deadline=now + 300
            )
            commands = scheduler.handle(event, now=now)
            if not warm:
                wall.append((time.perf_counter() - started) * 1e3)
                cpu.append((time.thread_time() - started_cpu) * 1e3)
            lives.append(_life(scheduler, commands, f"r{number}"))
            for _ in range(2):
                self._step(lives, now)
        return wall, cpu

    def _step(self, lives: deque[Iterator[object]], now: float) -> None:
        if len(lives) > _INFLIGHT // 4:
            life = lives.popleft()
            if next_step(life, now):
                lives.append(life)

    def _scheduler(self, policy: str):  # type: ignore[no-untyped-def]
        config = SchedulerConfig(policy=policy)
        opened = JournalOpened(
            driver="gateway",
            unix_time=0.0,
            topology=self.topology,
            scheduler=config,
            costs=CostInputs(),
        )
        scheduler = scheduler_from(opened)
        scheduler.handle(LayoutKnown(layout(self.block_tokens), tuple(self.endpoints)), now=0.0)
        return scheduler


def next_step(life: Iterator[object], now: float) -> bool:
    """Let a request go on; False when it has ended."""
    return life.send(now) is not None  # type: ignore[attr-defined]


def _life(scheduler, commands, request_id):  # type: ignore[no-untyped-def]
    """What follows an arrival, an event at each step."""
    steps = _events(commands, request_id)
    started = _generator(scheduler, steps, request_id)
    next(started)
    return started


def _generator(scheduler, pending, request_id):  # type: ignore[no-untyped-def]
    now = yield True
    while pending:
        event = pending.pop(0)
        pending += _events(scheduler.handle(event, now=now), request_id)
        if not pending:
            break
        now = yield True
    yield None


def _events(commands, request_id):  # type: ignore[no-untyped-def]
    found: list[object] = []
    for command in commands:
        if getattr(command, "request_id", None) != request_id:
            continue
        if isinstance(command, StartPrefill):
            found.append(PrefillCompleted(request_id, command.attempt))
            found.append(TransferCompleted(request_id, command.attempt))
        elif isinstance(command, StartDecode):
            found.append(FirstToken(request_id, command.attempt))
            found.append(RequestCompleted(request_id, command.attempt))
    return found


def _endpoint(spec: EngineSpec) -> EngineEndpoint:
    return EngineEndpoint(
        name=spec.name,
        cluster=spec.cluster,
        machine=spec.machine,
        agent=spec.machine,
        role=spec.role,
        url="",
        kv_events=None,
        kv_events_replay=None,
    )


def layout(block_tokens: int) -> KvLayout:
    """One full-attention layer."""
    layer = LayerLayout(name="l0", index=0, page_bytes=4096, dtype="u8", shape=(4096,))
    group = KvGroup(kind="full_attention", block_tokens=block_tokens, layers=(layer,))
    return KvLayout(model="mock", groups=(group,))


def percentile(times: list[float], share: float) -> float:
    """Of measured times, by rank."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]
