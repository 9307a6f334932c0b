"""This gateway's session at every agent: it says once a second that it lives and what it has
outstanding, and hears what the other gateways have and how much of each engine it may fill.

Theory of operation. All gateways of a deployment speak to all agents anyway, so agents are where
they meet: no gateway needs to know where the others are. An agent counts for the engines of its
machine; who speaks to the agent is divided with, and an engine whose agent is not there is counted
by each gateway alone, within what it was told last. A gateway that wants more than it may asks at
once, and one that may have less says at once that it knows.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from prfaas.core.errors import LinkError
from prfaas.core.gateway_sessions import (
    LAPSES_AFTER_S,
    Decided,
    EngineShare,
    EngineUse,
    LiveGateway,
    Renewal,
    Standing,
)
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.upstream_errors import LocalFault
from prfaas.scheduler.scheduler import Scheduler

logger = logging.getLogger(__name__)

_PERIOD_S, _IDLE_PERIOD_S, _MANY = 1.0, 2.0, 32
"""From so many agents on, one at which this gateway has nothing is told so half as often."""
_SOON_S = 0.05
"""What comes up in a moment is said together."""
_LOOK_S = 0.5
"""So late it may be noticed that an agent has not been heard for too long, or said what is decided:
there are many of them."""


class GatewaySession:
    """One life of a gateway process. For one event loop.

    Args:
        name: the gateway's in the deployment file.
        outstanding: agent -> what this gateway has at each engine of its machine.
        on_shares: told what an agent says this gateway may have at its engines.
        decided: what this gateway has decided; asked while it leads.
        on_decided: told what the one that leads has decided; None: this one does.
    """

    def __init__(
        self,
        name: str,
        *,
        outstanding: Callable[[str], Mapping[str, EngineUse]],
        on_shares: Callable[[Mapping[str, EngineShare]], None],
        decided: Callable[[], Decided],
        on_decided: Callable[[Decided | None], None],
    ) -> None:
        self.id = secrets.token_hex(6)
        self._name = name
        self._outstanding, self._on_shares = outstanding, on_shares
        self._decided, self._on_decided = decided, on_decided
        self._heard: dict[str, tuple[float, list[LiveGateway]]] = {}
        """By agent: when it last said who lives."""
        self._known: dict[str, str] = {}
        self._known_until = -math.inf
        self._leader = self.id
        self._told: bytes | None = None
        """What the leader has decided, as most agents say."""
        self._to_say = Decided()
        self._to_say_until = -math.inf
        self._wants: dict[str, asyncio.Event] = {}
        self._strangers: set[str] = set()
        """Agents that keep no sessions."""

    def new_key(self) -> str:
        """A fresh name for a request, fit to be the stem of transfer ids: agents know by it whose
        they are."""
        return f"{self.id}-{secrets.token_hex(16)}"

    def gateways(self) -> dict[str, str]:
        """Those that live, this one among them: ids and names."""
        now = asyncio.get_running_loop().time()
        if now >= self._known_until:
            heard = [found for at, found in self._heard.values() if at > now - LAPSES_AFTER_S]
            self._known = {self.id: self._name, **{g.id: g.name for found in heard for g in found}}
            self._known_until = now + _LOOK_S
            self._elect(heard)
        return self._known

    def leader(self) -> str:
        """The id of the one that decides for all: the first by name of those that live, as most
        agents say."""
        self.gateways()
        return self._leader

    def _elect(self, heard: list[list[LiveGateway]]) -> None:
        """No agent by itself says who leads, or what the one that leads has decided."""
        living = Counter(one for found in heard for one in {(g.name, g.id) for g in found})
        of_most = [one for one, times in living.items() if 2 * times > len(heard)]
        self._leader = min((self._name, self.id), *of_most)[1] if of_most else self.id
        said: Counter[bytes] = Counter()
        for found in heard:
            decided = next((g.decided for g in found if g.id == self._leader), None)
            if decided is not None:
                said[msgspec.msgpack.encode(decided)] += 1
        self._told = next((word for word, times in said.items() if 2 * times > len(heard)), None)

    def want(self) -> None:
        """Something waits: where that is for want of a share, ask for more at once."""
        for wants in self._wants.values():
            wants.set()

    async def hold(self, agent: AgentClient) -> None:
        """Renew the session at one agent, for ever."""
        wants = self._wants.setdefault(agent.name, asyncio.Event())
        told: Mapping[str, EngineShare] = {}
        asked = False
        try:
            while True:
                wants.clear()
                engines = dict(self._outstanding(agent.name))
                before, told = told, await self._renew(agent, engines) or told
                if _any_less(told, before):
                    await asyncio.sleep(_SOON_S)
                else:
                    # Where asking has not helped it is asked no sooner than in a period.
                    may_ask = not asked or _any_less(before, told)
                    period_s = self._period_s(engines)
                    asked = await self._pause(agent.name, wants, period_s, may_ask=may_ask)
        finally:
            self._wants.pop(agent.name, None)
            self._heard.pop(agent.name, None)
            self._known_until = -math.inf

    async def end(self, agents: Iterable[AgentClient], *, within_s: float = 1.0) -> None:
        """Give everything back, where agents can be reached in that time."""
        ends = [asyncio.ensure_future(agent.end_session(self.id)) for agent in agents]
        if not ends:
            return
        _, late = await asyncio.wait(ends, timeout=within_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)

    async def _renew(
        self, agent: AgentClient, engines: dict[str, EngineUse]
    ) -> Mapping[str, EngineShare] | None:
        """What may be had at its engines now; None where it does not say."""
        renewal = Renewal(
            name=self._name,
            known=len(self.gateways()),
            engines=engines,
            decided=self._decided_now() if self.leader() == self.id else None,
        )
        try:
            standing = await agent.renew(self.id, renewal)
        except LocalFault as error:
            logger.warning("%s", error)
            return None
        except LinkError as error:
            logger.debug("%s", error)  # Whoever polls the agent says so.
            return None
        if standing is None:
            if agent.name not in self._strangers:
                self._strangers.add(agent.name)
                logger.warning(
                    "agent %s is of a release that keeps no gateways' sessions: the engines of its "
                    "machine are shared with other gateways blindly",
                    agent.name,
                )
            return None
        self._strangers.discard(agent.name)
        return self._take(agent.name, standing, engines)

    def _decided_now(self) -> Decided:
        """A thousand engines are looked at for it, and hundreds of agents are told."""
        now = asyncio.get_running_loop().time()
        if now >= self._to_say_until:
            self._to_say, self._to_say_until = self._decided(), now + _LOOK_S
        return self._to_say

    def _take(
        self, agent: str, standing: Standing, asked: Collection[str]
    ) -> Mapping[str, EngineShare]:
        """What it says of engines that it was not ``asked`` about is not its to say."""
        shares = {name: share for name, share in standing.engines.items() if name in asked}
        before = self.gateways()
        _, said = self._heard.get(agent, (0.0, []))
        self._heard[agent] = asyncio.get_running_loop().time(), standing.gateways
        if [(g.id, g.name) for g in said] != [(g.id, g.name) for g in standing.gateways]:
            self._known_until = -math.inf
            new = [name for one, name in self.gateways().items() if one not in before]
            if new:
                logger.info("gateways share the engines with this one: %s", ", ".join(new))
        self._follow()
        self._on_shares(shares)
        return shares

    def _follow(self) -> None:
        if self.leader() == self.id:
            self._on_decided(None)
        elif self._told is not None:
            self._on_decided(msgspec.msgpack.decode(self._told, type=Decided))

    def _period_s(self, engines: Mapping[str, EngineUse]) -> float:
        idle = len(self._wants) >= _MANY and not any(map(_is_used, engines.values()))
        return _IDLE_PERIOD_S if idle else _PERIOD_S

    async def _pause(
        self, agent: str, wants: asyncio.Event, period_s: float, *, may_ask: bool
    ) -> bool:
        """Until the next renewal is due, or more is wanted than may be had (True)."""
        if not may_ask:
            await asyncio.sleep(period_s)
            return False
        try:
            async with asyncio.timeout(period_s):
                while True:
                    await wants.wait()
                    await asyncio.sleep(_SOON_S)
                    wants.clear()
                    if any(_is_short(use) for use in self._outstanding(agent).values()):
                        return True
        except TimeoutError:
            return False


def outstanding_at(scheduler: Scheduler, endpoints: Endpoints, agent: str) -> dict[str, EngineUse]:
    """What a gateway has at each engine of an agent's machine."""
    known, use_of = scheduler.view.engines, scheduler.sharing.use_of
    return {name: use_of(name) for name in endpoints.engines_at(agent) if name in known}


def _is_used(use: EngineUse) -> bool:
    """Whether anything is there, or wanted."""
    return bool(use.decode.wanted or use.prefill.wanted)


def _is_short(use: EngineUse) -> bool:
    """Whether more is wanted than may be had, and there is more."""
    return any(u.wanted > u.may and u.may < u.total for u in (use.decode, use.prefill))


def _any_less(these: Mapping[str, EngineShare], those: Mapping[str, EngineShare]) -> bool:
    """Whether any of these shares is less than it is among those."""
    return any(
        share.decode < those[name].decode or share.prefill < those[name].prefill
        for name, share in these.items()
        if name in those
    )
