"""What the agents' caches hold, learnt from their news, and how much of a prompt each could give.

Each agent has a holder of its own in a prefix index, one for each layout its cached pages have:
whole blocks are its full attention, the tokens from which an engine can go on its states. So one
question to the index says how long a prefix each machine can load, as it does for engines' own
caches (`kv_events`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prfaas.core.cache_news import Alive, CacheNews, Evicted, KeyedWith, Stored
from prfaas.core.errors import LinkError
from prfaas.core.once_a_second import OnceASecond
from prfaas.core.prefixes import Prefix
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.holdings import Holding
from prfaas.gateway.upstream_errors import LocalFault
from prfaas.index.engine_index import EngineIndex
from prfaas.index.keyed_blocks import key_id
from prfaas.index.keyed_prefixes import keys_of_prompt
from prfaas.index.keys import BlockHasher, Keys, PromptKeys, Tokens
from prfaas.index.prefix_index import PrefixIndex

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_SAID_AGAIN_S = 60.0
_MOST_TRIES = 32
"""Of parts with which a prompt's prefix may end."""
_MOST_SIZES = 4
"""Of one agent's blocks: of engines of one model they are of one, or two where builds differ. What
each holds of a prompt is asked by the size."""
_MOST_LAYOUTS = 32
"""Of one agent's: two builds of an engine of 16 ranks. What one says is not to fill what there is
for all of them."""


class Holder(NamedTuple):
    """An agent, and the fingerprint of the layout of what it has cached."""

    agent: str
    layout: str


class Held(NamedTuple):
    """How many tokens of a prompt's prefix each agent could give, where it is any. ``on_disk``: of
    these, the last so many lie on disk alone; absent: none."""

    tokens: Mapping[Holder, int] = {}
    on_disk: Mapping[Holder, int] = {}


class Pull(NamedTuple):
    """A pull of tokens [from_token, to_token) of a prompt, from what ``source`` has, to the agent
    ``target``. ``seconds``: what it is expected to take until an engine there has loaded it;
    ``guess_s``: what the line should take, by its rate and queue of now."""

    source: Holder
    target: str
    from_token: int
    to_token: int
    seconds: float
    salt: str | None = None
    adapter: str | None = None
    """The request's."""
    guess_s: float = 0.0
    disk_s: float = 0.0
    """Of ``seconds``, what ``source`` takes to read it from disk first."""


class _Parts:
    """Cached parts that one prompt has every token of."""

    def __init__(self, parts: list[Stored]) -> None:
        self._parts = sorted(parts, key=lambda news: news.prefix.from_token)
        self._by_name: dict[bytes, Stored] = {}
        """By each of their blocks, the one that begins first."""
        for news in self._parts:
            for name in news.prefix.digests:
                self._by_name.setdefault(name, news)

    def ends(self) -> list[int]:
        """Where they end, the last first."""
        return sorted({part.prefix.end_token for part in self._parts}, reverse=True)

    def path(self, *, from_token: int, to_token: int) -> list[Stored]:
        """As `pool.loads` finds it: each part begins where the one before it is not over yet."""
        tries = _MOST_TRIES
        for last in self._parts:
            prefix = last.prefix
            if not prefix.from_token < to_token <= prefix.end_token:
                continue
            if last.stands_at is not None and last.stands_at != to_token:
                continue
            path = [last]
            while path[-1].prefix.from_token > from_token:
                before = self._by_name.get(path[-1].prefix.parent)
                if before is None or not _leads_to(before.prefix, path[-1].prefix):
                    break
                path.append(before)
            else:
                return path
            tries -= 1
            if not tries:
                break
        return []


def _leads_to(before: Prefix, after: Prefix) -> bool:
    """Whether ``after`` begins within or right behind ``before``, of the same prompt."""
    block = (after.from_token - before.from_token) // before.block_tokens - 1
    return 0 <= block < len(before.digests) and before.digests[block] == after.parent


class Pools:
    """The caches of all agents.

    Args:
        key: the deployment's cache key, or what stands for it; see `index.keyed_prefixes`.
        max_blocks: how many distinct blocks are kept, see `PrefixIndex`; and how many one agent may
            tell of, each as often as it does.
        most_holders: how many (agent, layout) pairs there can be.
    """

    def __init__(self, key: bytes, *, max_blocks: int, most_holders: int) -> None:
        self.index = PrefixIndex(max_blocks=max_blocks, max_engines=2 * most_holders, seed=key)
        self.key_id, self._hasher = key_id(key), BlockHasher(key)
        self._other_keys: set[str] = set()
        self._most_holders, self._most_blocks = most_holders, max_blocks
        self._lines = OnceASecond(_SAID_AGAIN_S)
        self._holdings: dict[Holder, Holding] = {}
        self._of_agent: dict[str, list[Holding]] = {}
        self._sizes: dict[str, set[int]] = {}
        """Of agents' blocks."""
        self._names: dict[str, Holder] = {}
        self._in_memory: dict[str, Holder] = {}
        """By names in the index: as holders of everything, and of what lies in memory."""
        self.disk_rates: dict[str, float] = {}
        """Agent to the bytes a second that it reads from disk, as measured by it."""

    def rekey(self, key: bytes) -> None:
        """Go by this key from now on. What was told under the other is forgotten, and who follows
        an agent begins anew (`watch_cache`)."""
        for agent in self._of_agent:
            self.lost(agent)
        self.index.rekey(key)
        self.key_id, self._hasher = key_id(key), BlockHasher(key)

    def take(self, agent: str, news: CacheNews) -> None:
        """What an agent says."""
        for _ in self.steps(agent, news):
            pass

    def steps(self, agent: str, news: CacheNews) -> Iterator[None]:
        """The same, with a pause wherever many blocks were looked at. What the agent says next is
        only taken when this has come to its end, or after `lost`."""
        if isinstance(news, KeyedWith):
            self._check_key(agent, news.key_id)
        elif agent in self._other_keys:
            return
        elif isinstance(news, Stored):
            holding = self._holding(Holder(agent, news.layout))
            if holding is None or not self._has_room(agent, news.prefix.block_tokens):
                self._pass_over(agent)
            else:
                yield from holding.stored(news)
        elif isinstance(news, Evicted):
            part = news.transfer_id, news.rank, news.epoch
            for holding in self._of_agent.get(agent, ()):
                yield from holding.evicted(part)
        elif isinstance(news, Alive) and (news.disk_bytes_per_s or 0.0) >= 1.0:
            self.disk_rates[agent] = news.disk_bytes_per_s or 0.0
        for holding in self._of_agent.get(agent, ()):
            yield from holding.go_on()

    def lost(self, agent: str) -> None:
        """It is not followed any more: what it has is not known."""
        self._sizes.pop(agent, None)
        for holding in self._of_agent.get(agent, ()):
            holding.clear()

    def entries(self) -> Mapping[str, int]:
        """Agent to the number of cached parts that are known."""
        found: Counter[str] = Counter()
        for holder, holding in self._holdings.items():
            found[holder.agent] += len(holding)
        return found

    def match(self, prompt: PromptKeys) -> Held:
        """What each has of a prompt."""
        if not any(map(len, self._holdings.values())):
            return Held()
        tokens: dict[Holder, int] = {}
        in_memory: dict[Holder, int] = {}
        for names, match in self.index.match(prompt):
            for name in names if match.reusable_tokens else ():
                if name in self._names:
                    tokens[self._names[name]] = match.reusable_tokens
                else:
                    in_memory[self._in_memory[name]] = match.reusable_tokens
        on_disk = {
            holder: count - in_memory.get(holder, 0)
            for holder, count in tokens.items()
            if self._holdings[holder].has_disk and count > in_memory.get(holder, 0)
        }
        return Held(tokens, on_disk)

    def path(
        self,
        holder: Holder,
        tokens: Tokens,
        *,
        salt: str | None,
        adapter: str | None,
        from_token: int,
        to_token: int,
    ) -> list[Stored]:
        """Parts that together have tokens [from_token, to_token) of the prompt and can be gone on
        from at its end, the last first; none where there are none any more."""
        holding = self._holdings.get(holder)
        if holding is None:
            return []
        parts = _Parts(holding.of_prompt(self._keys(tokens, salt, adapter)))
        return parts.path(from_token=from_token, to_token=to_token)

    def whole(
        self, tokens: Tokens, *, salt: str | None, adapter: str | None
    ) -> dict[Holder, list[Stored]]:
        """Of each holder the parts that together have the longest beginning of the prompt and
        nothing beyond it, the last first; holders that have none are left out."""
        keys, found = self._keys(tokens, salt, adapter), {}
        for holder, holding in self._holdings.items():
            parts = _Parts(holding.of_prompt(keys))
            paths = (parts.path(from_token=0, to_token=end) for end in parts.ends())
            path = next(filter(None, paths), None)
            if path is not None:
                found[holder] = path
        return found

    def _keys(self, tokens: Tokens, salt: str | None, adapter: str | None) -> Callable[[int], Keys]:
        """A prompt's, by the size of blocks."""
        return functools.cache(
            lambda size: keys_of_prompt(self._hasher, tokens, size, salt=salt, adapter=adapter)
        )

    def _check_key(self, agent: str, told: str) -> None:
        """What an agent tells under another key is nothing that a prompt could be found in."""
        if told == self.key_id:
            self._other_keys.discard(agent)
        elif agent not in self._other_keys:
            self._other_keys.add(agent)
            logger.warning(
                "agent %s has another cache key than this gateway, or is of another release: what "
                "it has cached is not known here; give all agents and gateways the same cache.key, "
                "which they take over while they run, and tls to all or to none",
                agent,
            )

    def _holding(self, holder: Holder) -> Holding | None:
        """None where there are as many as there may be, of all agents or of this one."""
        found = self._holdings.get(holder)
        if found is None and len(self._holdings) < self._most_holders:
            own = self._of_agent.setdefault(holder.agent, [])
            if len(own) < _MOST_LAYOUTS:
                found = self._holdings[holder] = Holding(functools.partial(self._admit, holder))
                own.append(found)
        return found

    def _has_room(self, agent: str, block_tokens: int) -> bool:
        sizes = self._sizes.setdefault(agent, set())
        if len(sizes) < _MOST_SIZES:
            sizes.add(block_tokens)
        blocks = sum(holding.blocks for holding in self._of_agent[agent])
        return block_tokens in sizes and blocks <= self._most_blocks

    def _pass_over(self, agent: str) -> None:
        if self._lines.times(agent, time.monotonic()):
            logger.warning("agent %s tells of more cached prefixes than are kept", agent)

    def _admit(self, holder: Holder, in_memory: bool) -> EngineIndex:
        name = f"{holder.agent} {holder.layout}" + " in memory" * in_memory
        (self._in_memory if in_memory else self._names)[name] = holder
        return self.index.engine(name)


async def watch_cache(agent: AgentClient, pools: Pools) -> None:
    """Follow one agent's cache, for ever."""
    while True:
        key_id = pools.key_id
        try:
            async with contextlib.aclosing(agent.cache_news()) as told:
                async for news in told:
                    if pools.key_id != key_id:
                        break  # It may have been told under the key of before.
                    for _ in pools.steps(agent.name, news):
                        await asyncio.sleep(0)
                        if pools.key_id != key_id:
                            break
        except LocalFault as error:
            logger.warning("%s", error)
        except LinkError as error:
            logger.debug("%s", error)
        finally:
            pools.lost(agent.name)
        await asyncio.sleep(_RETRY_S)
