"""Prefixes that are asked for again and again where they are not, copied there meanwhile.

Theory of operation. A request that was computed by an engine although another agent had more of its
prompt is a *miss* there: the pull would have taken longer than computing, or it went wrong. Once
one prefix was missed `_HOT` times by the engines of one agent, it is copied to that agent, without
anybody who waits for it, so that the next request finds it. Copies take what is left over: one is
made at a time, only over a line that carries nothing for requests now, and at a priority behind
whatever they send meanwhile (`YIELDS`). Into one agent they bring at most `_SHARE` of its cache
within `_WITHIN_S`: all gateways together, so each its part.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import NamedTuple

from prfaas.core.cache_copies import YIELDS
from prfaas.core.errors import LinkError
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.pools import Pull
from prfaas.gateway.pulls import PullCosts, Puller
from prfaas.gateway.read_counter import ReadCounter
from prfaas.gateway.upstream_errors import LocalFault
from prfaas.index.keys import Tokens

logger = logging.getLogger(__name__)

_HOT = 3
"""Misses of one prefix at one agent, from which on it is copied."""
_SHARE, _WITHIN_S = 0.1, 600.0
_PERIOD_S = 1.0
_MOST_KNOWN = 1024
"""Prefixes whose misses are counted, the latest."""
_DEADLINE_S = 60.0
"""What a copy may take: it yields to whatever else crosses the line."""


class _Missed(NamedTuple):
    name: bytes
    pull: Pull
    tokens: Tokens
    kv_bytes: float
    ranks: int


class HotCopies:
    """``costs``: says whether a line is idle. ``agents``: asked how large their caches are.
    ``gateways``: how many there are that copy, this one among them."""

    def __init__(
        self,
        puller: Puller,
        costs: PullCosts,
        agents: Mapping[str, AgentClient],
        gateways: Callable[[], int],
    ) -> None:
        self._puller, self._costs, self._agents = puller, costs, agents
        self._gateways = gateways
        self._misses: OrderedDict[tuple[str, bytes], int] = OrderedDict()
        self._hot: deque[_Missed] = deque(maxlen=16)
        self._brought: dict[str, deque[tuple[float, float]]] = {}
        """Agent -> when how many bytes were brought."""
        self.made = self.failed = 0
        """Copies, since the start."""

    def missed(self, pull: Pull, tokens: Tokens, *, kv_bytes: float, ranks: int) -> None:
        """A request was computed at ``pull.target`` though ``pull.source`` had more of it."""
        name = _name(pull, tokens)
        key = pull.target, name
        count = self._misses.pop(key, 0) + 1
        self._misses[key] = count
        if len(self._misses) > _MOST_KNOWN:
            self._misses.popitem(last=False)
        waits = any(w.pull.target == pull.target and w.name == name for w in self._hot)
        if count % _HOT == 0 and not waits:
            self._hot.append(_Missed(name, pull, tokens, kv_bytes, ranks))

    def show(self, counter: ReadCounter) -> None:
        """By outcome."""
        counter.set("made", to=self.made)
        counter.set("failed", to=self.failed)

    async def run(self) -> None:
        """Copy what is hot, one after the other, for ever."""
        while True:
            await asyncio.sleep(_PERIOD_S)
            await self.look()

    async def look(self) -> None:
        """Copy what is hot and has a line that is idle now."""
        for _ in range(len(self._hot)):
            wanted = self._hot.popleft()
            if not self._costs.idle(wanted.pull):
                self._hot.append(wanted)
            elif await self._has_room(wanted, time.monotonic()):
                await self._copy(wanted)

    async def _copy(self, wanted: _Missed) -> None:
        done = await self._puller.pull(
            wanted.pull, wanted.tokens, ranks=wanted.ranks, within_s=_DEADLINE_S, priority=YIELDS
        )
        self.made += done
        self.failed += not done
        if done:
            brought = self._brought.setdefault(wanted.pull.target, deque())
            brought.append((time.monotonic(), wanted.kv_bytes))

    async def _has_room(self, wanted: _Missed, now: float) -> bool:
        brought = self._brought.get(wanted.pull.target, deque())
        while brought and brought[0][0] < now - _WITHIN_S:
            brought.popleft()
        try:
            sizes = await self._agents[wanted.pull.target].cache_sizes()
        except (KeyError, LinkError, LocalFault) as error:
            logger.debug("nothing copied to %s: %s", wanted.pull.target, error)
            return False
        room = _SHARE * sizes.size_bytes / self._gateways()
        return sum(size for _, size in brought) + wanted.kv_bytes <= room


def _name(pull: Pull, tokens: Tokens) -> bytes:
    """Of a prefix. To look through what its holder has would take longer than an arrival may."""
    told = repr((pull.salt, pull.adapter)).encode()
    return blake2b(tokens.first(pull.to_token).tobytes() + told, digest_size=16).digest()
