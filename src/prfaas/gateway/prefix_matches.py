"""What each engine holds of a prompt: one question to the prefix index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from prfaas.core.boundary import aligned_boundary
from prfaas.core.deployment import EngineRole
from prfaas.gateway.endpoints import EngineEndpoint
from prfaas.gateway.load_costs import Load
from prfaas.gateway.pools import Held, Holder, Pull
from prfaas.index.keys import PromptKeys
from prfaas.index.matching import PrefixMatch
from prfaas.index.prefix_index import PrefixIndex


class Matches(NamedTuple):
    """Engine -> tokens, as `RequestArrived` wants them: of ``resumable`` only those engines that
    cannot go on from all they hold. ``pool``: of ``cached``, those that have less of it in their
    own cache, and load it from their agent's."""

    cached: Mapping[str, int]
    resumable: Mapping[str, int]
    pool: Mapping[str, int] = {}
    at_agent: Mapping[str, int] = {}
    """What each one's agent has, whether or not the engine has as much itself."""
    pulls: Mapping[str, Pull] = {}
    """Of ``cached``, those that count what is to be pulled to their agent first."""
    agents: Held = Held()
    """What each agent's cache has."""
    from_disk: Mapping[str, int] = {}
    """Of what engines load, how many tokens their agents read from disk first."""
    fetch_s: Mapping[str, float] = {}
    """What it takes to load, and to pull, what of ``cached`` an engine does not hold itself."""


_ROLES: tuple[EngineRole, ...] = ("prefill", "decode")
NO_MATCHES = Matches({}, {})


def with_pools(
    matches: Matches,
    pools: Held,
    engines: Mapping[str, EngineEndpoint],
    layout_of: Callable[[str], str | None],
    pull: Callable[[str, str, int], Pull | None] = lambda engine, layout, own: None,
    load: Callable[[str, int, Load], Load | None] = lambda engine, own, whole: whole,
) -> Matches:
    """The same, counting what engines can load from their agents' caches where that is more than
    they hold.

    Args:
        pools: what each agent's cache could give.
        layout_of: engine -> the fingerprint of pages that it can load; None: it loads nothing.
        pull: engine, layout, tokens that it needs no pull for -> the pull that is worth it.
        load: engine, tokens that it holds, what its agent has -> what of it is loaded; None where
            it had better be computed.
    """
    if not pools.tokens:
        return matches
    cached, resumable, pool = dict(matches.cached), dict(matches.resumable), {}
    pulls: dict[str, Pull] = {}
    at_agent: dict[str, int] = {}
    from_disk: dict[str, int] = {}
    fetch_s: dict[str, float] = {}
    longest = max(pools.tokens.values())
    for name, engine in engines.items():
        own = resumable.get(name, cached.get(name, 0))
        layout = layout_of(name)
        if layout is None:
            continue
        holder = Holder(engine.agent, layout)
        tokens, on_disk = pools.tokens.get(holder, 0), pools.on_disk.get(holder, 0)
        if tokens > cached.get(name, 0):
            loaded = load(name, own, Load(tokens, on_disk))
            tokens = 0 if loaded is None else loaded.tokens
            if loaded is not None and tokens > cached.get(name, 0):
                cached[name] = pool[name] = own = tokens
                from_disk[name], fetch_s[name] = loaded.on_disk, loaded.seconds
                resumable.pop(name, None)
        if tokens:
            at_agent[name] = tokens
        wanted = pull(name, layout, own) if longest > own else None
        if wanted is not None:
            pulls[name], cached[name] = wanted, wanted.to_token
            fetch_s[name] = wanted.seconds
            resumable.pop(name, None)
    return Matches(cached, resumable, pool, at_agent, pulls, pools, from_disk, fetch_s)


def match_engines(
    keys: PromptKeys,
    index: PrefixIndex,
    engines: Mapping[str, EngineEndpoint],
    *,
    prompt_tokens: int,
    alignment_tokens: Mapping[str, int],
) -> Matches:
    """What each engine holds of the prompt, and what of it it can go on from by itself.

    Args:
        keys: the prompt's, with its salt and adapter.
        alignment_tokens: engine -> hand-offs end at multiples of it; absent: there are none.
    """
    cached: dict[str, int] = {}
    resumable: dict[str, int] = {}
    block_sizes = {None, *alignment_tokens.values()}
    for names, match in index.match(keys):
        usable: dict[tuple[EngineRole, int | None], int] = {
            (role, block_tokens): usable_prefix(
                role, match, prompt_tokens=prompt_tokens, block_tokens=block_tokens
            )
            for role in _ROLES
            for block_tokens in block_sizes
        }
        if set(usable.values()) == {match.reusable_tokens}:
            # Mostly so, and a fleet's system prompt is held by all its engines.
            if match.reusable_tokens:
                cached.update(dict.fromkeys(names, match.reusable_tokens))
            continue
        for name in names:
            tokens = usable[engines[name].role, alignment_tokens.get(name)]
            if tokens > 0:
                cached[name] = tokens
                if match.reusable_tokens < tokens:
                    resumable[name] = match.reusable_tokens
    return Matches(cached, resumable)


def usable_prefix(
    role: EngineRole, match: PrefixMatch, *, prompt_tokens: int, block_tokens: int | None
) -> int:
    """Tokens of a prompt's prefix for which the scheduler may count on the cache of an engine with
    this role.

    A prefill engine must be able to continue from there by itself. A decode engine is given the
    recurrent state with the transfer, so its full-attention blocks are enough, as long as
    something is left to transfer: where they reach the hand-off boundary but the state does not,
    the last block counts as absent, or the engine would be left to compute everything alone.
    """
    if block_tokens is None:
        return match.reusable_tokens
    boundary = aligned_boundary(prompt_tokens, block_tokens)
    if role == "prefill" or match.reusable_tokens >= boundary:
        return match.reusable_tokens
    return min(match.transferable_tokens, boundary - block_tokens)
