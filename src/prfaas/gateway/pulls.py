"""Prefixes that other machines have cached: whether an engine had better load one than compute it,
and how it gets there.

A *pull* has one agent's cached parts copied to the agent of the engine, over the line between them;
then the engine loads them as it loads whatever its own agent has. What goes wrong on the way costs
a prefill, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import inf, isfinite
from typing import NamedTuple

from prfaas.core.cache_copies import AwaitCopy, CopyCached
from prfaas.core.cache_news import Stored
from prfaas.core.deployment import AgentPair
from prfaas.core.errors import LinkError
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.handoffs import watch_transfer
from prfaas.gateway.load_costs import LoadCosts
from prfaas.gateway.pools import Held, Holder, Pools, Pull
from prfaas.gateway.upstream_errors import LocalFault
from prfaas.index.keys import Tokens
from prfaas.policies.api import View
from prfaas.policies.learned_fetches import LearnedFetches, pull_way
from prfaas.policies.views import LinkView

logger = logging.getLogger(__name__)

_WORTH = 0.8
"""A pull that takes more of the prefill's time than this is not worth its trouble."""
_IDLE = 0.5
"""From this utilisation on a line carries something."""
_POLL_S = 2.0
_LEAST_S, _PATIENCE = 2.0, 4.0
"""A pull is given up after so long, and so many times what it was expected to take."""


class PromptToPull(NamedTuple):
    """What a pull must know of a request."""

    total_tokens: int
    salt: str | None
    adapter: str | None


class PullCosts:
    """What pulls cost, by the lines as they are now, what pulls of that pair and prefills were seen
    to take. ``loads``: what an engine then takes to load it, and what is learned of pulls."""

    def __init__(self, endpoints: Endpoints, view: View, loads: LoadCosts) -> None:
        self._endpoints, self._view, self._loads = endpoints, view, loads
        self._lines_of: tuple[object, dict[AgentPair, tuple[str, str]]] = (None, {})

    def best(
        self,
        prompt: PromptToPull,
        engine: str,
        layout: str,
        own_tokens: int,
        *,
        pools: Held,
    ) -> Pull | None:
        """The pull that spares an engine most time; None where it had better compute.

        Args:
            own_tokens: what it has, or can load, without one.
            pools: what each agent's cache could give.
        """
        target = self._endpoints.engines[engine].agent
        found: Pull | None = None
        saved_s = 0.0
        for holder, tokens in pools.tokens.items():
            if holder.layout != layout or holder.agent == target or tokens <= own_tokens:
                continue
            on_disk = min(pools.on_disk.get(holder, 0), tokens - own_tokens)
            disk_s = self._loads.disk_s(holder.agent, tokens, on_disk)
            guess_s = self._guess_s(holder.agent, target, own_tokens, tokens)
            way, load_s = pull_way(holder.agent, target), self._loads.load_s(engine, tokens)
            seconds = self._loads.fetches.fetch_s(guess_s, way) + disk_s + load_s
            spared_s = self._loads.spared_s(engine, prompt.total_tokens, own_tokens, tokens)
            if seconds < _WORTH * spared_s:
                if spared_s - seconds > saved_s:
                    saved_s = spared_s - seconds
                    found = Pull(holder, target, own_tokens, tokens, seconds, prompt.salt,
                                 prompt.adapter, guess_s, disk_s)  # fmt: skip
            elif guess_s + disk_s + load_s < _WORTH * spared_s:
                self._loads.fetches.passed_over(way)
        return found

    def missed(
        self, prompt: PromptToPull, engine: str, layout: str, *, pools: Mapping[Holder, int]
    ) -> Pull | None:
        """What an engine's agent lacks most of a prompt that was computed, and could be sent over a
        line that is there."""
        target = self._endpoints.engines[engine].agent
        own = pools.get(Holder(target, layout), 0)
        longest = max(
            (
                (tokens, holder)
                for holder, tokens in pools.items()
                if holder.layout == layout and self._line(holder.agent, target) is not None
            ),
            default=(0, None),
        )
        tokens, holder = longest
        if holder is None or tokens <= own:
            return None
        seconds = self._guess_s(holder.agent, target, own, tokens)
        return Pull(holder, target, own, tokens, seconds, prompt.salt, prompt.adapter, seconds)

    def idle(self, pull: Pull) -> bool:
        """Whether the line of a pull carries nothing for requests now."""
        link = self._line(pull.source.agent, pull.target)
        return (
            link is not None and link.up and not link.outstanding_bytes and link.utilisation < _IDLE
        )

    def kv_bytes(self, pull: Pull) -> float:
        """Of what comes with it, at most."""
        return self._view.costs.kv_bytes(0, pull.to_token)

    def _line(self, sender: str, receiver: str) -> LinkView | None:
        line = self._lines().get(AgentPair(sender, receiver))
        return None if line is None else self._view.link(*line)

    def _guess_s(self, sender: str, receiver: str, from_token: int, to_token: int) -> float:
        """Behind what the line has still to carry; infinite where there is none."""
        link = self._line(sender, receiver)
        if link is None or not link.up:
            return inf
        size = link.outstanding_bytes + self._view.costs.kv_bytes(from_token, to_token)
        carried_s = size / link.rate_bytes_per_s if isfinite(link.rate_bytes_per_s) else 0.0
        return carried_s + 1.5 * link.rtt_s

    def _lines(self) -> dict[AgentPair, tuple[str, str]]:
        lines = self._endpoints.lines
        if self._lines_of[0] is not lines:
            pairs = {pair: (line.source, line.target) for line in lines for pair in line.pairs}
            self._lines_of = lines, pairs
        return self._lines_of[1]


class Puller:
    """Has pulls made. What several requests want at a time is copied once.

    Args:
        new_id: makes a fresh transfer id of this gateway's.
        fetches: told how long pulls took.
    """

    def __init__(
        self,
        pools: Pools,
        agents: Mapping[str, AgentClient],
        *,
        new_id: Callable[[], str],
        fetches: LearnedFetches,
    ) -> None:
        self._fetches = fetches
        self._pools, self._agents, self._new_id = pools, agents, new_id
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._dropping: set[asyncio.Task[None]] = set()
        self.made = self.failed = 0
        """Pulls, since the start."""

    async def pull(
        self, wanted: Pull, tokens: Tokens, *, ranks: int, within_s: float, priority: int = 0
    ) -> bool:
        """Whether the target has it now, or has had it a moment ago. With a ``priority`` that
        yields nobody waits for it, and it may take all of ``within_s``."""
        if not priority:
            within_s = min(within_s, _LEAST_S + _PATIENCE * wanted.seconds)
        parts = self._pools.path(
            wanted.source,
            tokens,
            salt=wanted.salt,
            adapter=wanted.adapter,
            from_token=wanted.from_token,
            to_token=wanted.to_token,
        )
        if not parts or within_s <= 0:
            self.failed += 1
            return False
        alone = not any((part.transfer_id, wanted.target) in self._under_way for part in parts)
        began = time.monotonic()
        try:
            async with asyncio.timeout(within_s):
                await _all(self._copying(wanted, part, ranks, within_s, priority) for part in parts)
        except (LinkError, LocalFault, TimeoutError) as error:
            if isinstance(error, TimeoutError) and not priority:
                self._took(wanted, began)
            self.failed += 1
            logger.info("nothing pulled from %s to %s: %s", wanted.source.agent, wanted.target,
                        error or "it took too long")  # fmt: skip
            return False
        if alone and not priority:
            self._took(wanted, began)
        self.made += 1
        return True

    def _took(self, wanted: Pull, began: float) -> None:
        way = pull_way(wanted.source.agent, wanted.target)
        took_s = time.monotonic() - began - wanted.disk_s
        self._fetches.seen(way, wanted.guess_s, took_s)

    async def close(self) -> None:
        """End what is under way."""
        for task in list(self._under_way.values()):
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    def _copying(
        self, wanted: Pull, part: Stored, ranks: int, within_s: float, priority: int
    ) -> asyncio.Task[None]:
        place = part.transfer_id, wanted.target
        task = self._under_way.get(place)
        if task is None:
            key_id = self._pools.key_id  # Now: it may be another when the copy begins.
            awaited = AwaitCopy(prefix=part.prefix, deadline_s=within_s, key_id=key_id)
            task = asyncio.ensure_future(self._copy(wanted, part, awaited, ranks, priority))
            self._under_way[place] = task
            task.add_done_callback(partial(self._copied, place))
        return task

    def _copied(self, place: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._under_way.pop(place, None)
        if not task.cancelled():
            task.exception()  # Whoever waited for it may have given up.

    async def _copy(
        self, wanted: Pull, part: Stored, awaited: AwaitCopy, ranks: int, priority: int
    ) -> None:
        sender, receiver = self._agents[wanted.source.agent], self._agents[wanted.target]
        copy_id = self._new_id()
        await receiver.await_copy(copy_id, awaited)
        done = False
        try:
            await sender.send_copy(
                copy_id,
                CopyCached(
                    transfer_id=part.transfer_id,
                    destination=wanted.target,
                    deadline_s=awaited.deadline_s,
                    priority=priority,
                ),
            )
            await watch_transfer(
                receiver, copy_id, ranks=ranks, poll_s=_POLL_S, on_progress=lambda share: None
            )
            done = True
        finally:
            if not done:
                for agent in (sender, receiver):
                    task = asyncio.ensure_future(_forget(agent, copy_id))
                    self._dropping.add(task)
                    task.add_done_callback(self._dropping.discard)


async def _all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Others may wait for the same: to be cancelled ends none of them."""
    await asyncio.gather(*(asyncio.shield(task) for task in tasks))


async def _forget(agent: AgentClient, copy_id: str) -> None:
    try:
        await agent.drop(copy_id)
    except (LinkError, LocalFault) as error:
        logger.debug("copy %s not dropped: %s", copy_id, error)
