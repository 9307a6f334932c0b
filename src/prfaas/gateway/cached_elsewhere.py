"""What agents' caches can give to engines: found for a prompt, fetched for a request, learned from,
and copied ahead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.exchange import Exchange
from prfaas.gateway.hot_copies import HotCopies
from prfaas.gateway.layouts import Layouts
from prfaas.gateway.load_costs import LoadCosts
from prfaas.gateway.pools import Held, Pools
from prfaas.gateway.prefix_matches import Matches, with_pools
from prfaas.gateway.pulls import PromptToPull, PullCosts, Puller
from prfaas.index.keys import PromptKeys
from prfaas.policies.api import View


class CachedElsewhere:
    """Looks for what a prompt could be given from caches of other machines.

    Args:
        pools: what the agents' caches hold.
        layouts: how engines hold their KV cache, as far as they have registered.
        new_key: makes a fresh name, fit to be a transfer id.
        gateways: how many share the agents, this one among them.
    """

    def __init__(
        self,
        pools: Pools,
        layouts: Layouts,
        endpoints: Endpoints,
        view: View,
        *,
        agents: Mapping[str, AgentClient],
        loads: LoadCosts,
        new_key: Callable[[], str],
        gateways: Callable[[], int],
    ) -> None:
        self._pools, self._layouts, self._endpoints = pools, layouts, endpoints
        self._loads = loads
        self._pull_costs = PullCosts(endpoints, view, loads)
        self._puller = Puller(pools, agents, new_id=new_key, fetches=loads.fetches)
        self.hot_copies = HotCopies(self._puller, self._pull_costs, agents, gateways)

    def beside(self, found: Matches, keys: PromptKeys, prompt: PromptToPull) -> Matches:
        """What engines hold of a prompt, and what they can load and pull.

        Raises OverflowError where agents have some of it and one of its ids is no uint32.
        """
        pools = self._pools.match(keys)
        if pools.tokens:
            keys.look_through()  # As a pull or a copy will, when nobody hears of it any more.
        pull = partial(self._pull_costs.best, prompt, pools=pools)
        load = partial(self._loads.best, prompt.total_tokens)
        return with_pools(found, pools, self._endpoints.engines, self._layouts.loads, pull, load)

    async def loadable(self, exchange: Exchange, engine: str) -> int:
        """`Exchange.loadable`."""
        facts, ids = exchange.facts, exchange.prompt.token_ids
        wanted = facts.pulls.get(engine)
        if wanted is not None and ids is not None:
            ranks, within_s = self._layouts.parts(engine), exchange.time_left_s()
            if await self._puller.pull(wanted, ids, ranks=ranks, within_s=within_s):
                facts.note_pull(engine, wanted.to_token)
        self._loads.begins(facts, engine, exchange.elapsed_s())
        return facts.at_agent.get(engine, 0)

    def ended(self, exchange: Exchange, agents: Held, adapter: str | None) -> None:
        """A request is over. Whoever computed it may have lacked what another agent had.

        Args:
            agents: what each agent's cache had of it.
            adapter: that it was asked with.
        """
        facts, ids = exchange.facts, exchange.prompt.token_ids
        self._loads.ended(facts)
        engine = facts.computed_by
        if not agents.tokens or ids is None or engine not in self._endpoints.engines:
            return
        layout = self._layouts.loads(engine)
        if layout is None or facts.pulled_tokens:
            return
        prompt = PromptToPull(len(ids), exchange.body.cache_salt, adapter)
        pull = self._pull_costs.missed(prompt, engine, layout, pools=agents.tokens)
        if pull is not None:
            size, ranks = self._pull_costs.kv_bytes(pull), self._layouts.parts(engine)
            self.hot_copies.missed(pull, ids, kv_bytes=size, ranks=ranks)
