"""How every engine holds its KV cache, and which of them therefore cannot hand over to each other.

Engines with one layout form a group, called by its fingerprint. Groups are compared, not engines:
there are thousands of pairs of engines, and one group, or two while a cluster is upgraded. A pair
that does not fit is not used, everything else goes on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import msgspec

from prfaas.core.deployment import EngineRole
from prfaas.core.errors import LayoutMismatch
from prfaas.core.layout import MAX_LAYOUT_BYTES, KvLayout
from prfaas.gateway.endpoints import Endpoints, EngineEndpoint
from prfaas.gateway.registered_ranks import RegisteredRank

logger = logging.getLogger(__name__)

_LONGEST_DIFFERENCE = 1000
"""Characters of what is said of one: it quotes what agents say."""
_NAMED = 4
"""So many engines of a group are named, the others counted."""

Ranks = Mapping[int, KvLayout]
"""Tensor-parallel rank -> its layout."""


class Mismatch(msgspec.Struct, frozen=True):
    """Prefill engines of which none can hand over to any of some decode engines, and why."""

    prefill: tuple[str, ...]
    decode: tuple[str, ...]
    difference: str

    def __str__(self) -> str:
        return (
            f"KV layouts of {named(self.prefill)} and {named(self.decode)} do not pair: "
            f"{self.difference}"
        )


class Layouts:
    """What agents have registered.

    Args:
        on_known: told how engines hold their KV cache when they have registered with all ranks.
        on_pairing: told which groups (of prefill engines, of decode engines) do not fit, whenever
            that has changed.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        on_known: Callable[[KvLayout, tuple[str, ...]], None],
        on_pairing: Callable[[tuple[tuple[str, str], ...]], None],
    ) -> None:
        self._endpoints = endpoints
        self._reached: dict[str, set[str]] = {}
        """Cluster -> groups of decode engines that its prefill engines may hand over to."""
        self._on_known, self._on_pairing = on_known, on_pairing
        self._by_agent: dict[str, list[RegisteredRank]] = {}
        self._ranks: dict[str, dict[int, KvLayout]] = {}
        self._groups: dict[str, str] = {}
        self._groups_of: dict[str, int] = {}
        """Cluster -> how many groups its engines form."""
        self._compared: dict[tuple[str, str], str | None] = {}
        """Of all groups that meet: the difference, or None."""
        self._least_block_tokens = 0
        self.unfit: dict[tuple[str, str], str] = {}
        """(group of prefill engines, of decode engines) -> the difference."""
        self.alignment_tokens: dict[str, int] = {}
        """Engine -> hand-offs to and from it begin and end at multiples of it."""

    def registered(self, agent: str, ranks: list[RegisteredRank]) -> set[str] | None:
        """All ranks that an agent knows now. Returns engines that are another process than before;
        None where nothing has changed."""
        before = self._by_agent.get(agent, [])
        if ranks == before:
            return None
        self._by_agent[agent] = ranks
        gone, here = self._of_machine(agent, before), self._of_machine(agent, ranks)
        for rank in gone:
            self._ranks.pop(rank.engine, None)
        self._hear(here)
        self._regroup({rank.engine for rank in (*gone, *here)})
        return replaced(gone, here)

    def reshaped(self) -> None:
        """Engines joined, left or moved: an agent may have told of them before they were known."""
        for agent in self._by_agent.keys() - self._endpoints.agents.keys():
            del self._by_agent[agent]
        self._ranks.clear()
        for agent, ranks in self._by_agent.items():
            self._hear(self._of_machine(agent, ranks))
        self._regroup(self._groups.keys() | self._ranks.keys())

    def is_whole(self, engine: str) -> bool:
        """Whether it has registered with all its ranks."""
        return engine in self._groups

    def least_block_tokens(self, engines: Iterable[str]) -> int:
        """Of the smallest block that any of these has; 0 while that is not known of all."""
        if not all(engine in self._groups for engine in engines):
            return 0
        return self._least_block_tokens

    def is_uniform(self, cluster: str) -> bool:
        """Whether all engines of a cluster that have registered hold their KV cache alike."""
        return self._groups_of.get(cluster, 0) <= 1

    def layout(self, engine: str) -> KvLayout | None:
        """Of one of its ranks; None until all have registered."""
        if engine not in self._groups:
            return None
        ranks = self._ranks[engine]
        return ranks[min(ranks)]

    def loads(self, engine: str) -> str | None:
        """The fingerprint of the pages that an engine can load from its agent's cache: of the first
        of its ranks that hands something over; None until all have registered."""
        layout = self.layout(engine)
        if layout is None:
            return None
        return layout.of_rank(layout.sending_ranks()[0]).fingerprint()

    def parts_and_readers(self, sender: str, engine: str) -> tuple[int, int]:
        """How many parts a hand-off between them has, and how many ranks read each."""
        parts = self.parts(sender)
        return parts, max(1, len(self._ranks.get(engine, {})) // parts)

    def parts(self, engine: str) -> int:
        """How many of its ranks send a part of a hand-off (1 while unknown)."""
        for layout in self._ranks.get(engine, {}).values():
            return len(layout.sending_ranks())
        return 1

    def source(self, prefill_engine: str | None, decode_engine: str) -> str | None:
        """What the decode engine must know to read the prefill engine's parts: `ImportParams`."""
        for theirs in self._ranks.get(prefill_engine or "", {}).values():
            for ours in self._ranks.get(decode_engine, {}).values():
                return None if theirs.is_held_as(ours) else theirs.of_rank(0).packed()
        return None

    def any_decodes(self) -> bool:
        """Whether a decode engine has registered."""
        return any(self._endpoints.engines[name].role == "decode" for name in self._groups)

    def why_unpaired(self, engine: EngineEndpoint) -> str | None:
        """Why a prefill engine can hand over to no decode engine that has registered; None where it
        can, or where none has."""
        if not self.unfit:
            return None
        ours = self._groups.get(engine.name)
        why = None
        for theirs in self._in_reach(engine):
            why = self.unfit.get((ours or "", theirs))
            if why is None:
                return None
        return why and f"its KV layout pairs with no decode engine's: {why}"

    def mismatches(self) -> list[Mismatch]:
        """All pairs that are not used, those alike together."""
        prefill, decode = self._by_cluster("prefill"), self._by_cluster("decode")
        found = []
        for (ours, theirs), difference in sorted(self.unfit.items()):
            givers: set[str] = set()
            takers: set[str] = set()
            for source, target in self._endpoints.joined:
                a, b = prefill.get((source, ours)), decode.get((target, theirs))
                if a and b:
                    givers.update(a)
                    takers.update(b)
            found.append(Mismatch(tuple(sorted(givers)), tuple(sorted(takers)), difference))
        return found

    def _of_machine(self, agent: str, ranks: list[RegisteredRank]) -> list[RegisteredRank]:
        """Those of engines of the agent's own machine: it has no say in others'."""
        own = self._endpoints.engines_at(agent)
        return [rank for rank in ranks if rank.engine in own]

    def _hear(self, ranks: list[RegisteredRank]) -> None:
        """Ranks that cannot be one engine's with those before them are none, nor are those that no
        model has: a layout is journalled whenever it is another."""
        for rank in ranks:
            layout, known = rank.layout, self._ranks.setdefault(rank.engine, {})
            if len(msgspec.json.encode(layout)) > MAX_LAYOUT_BYTES:
                continue
            first = next(iter(known.values()), layout)
            if layout.tp_rank < layout.tp_size and layout.is_held_as(first):
                known[layout.tp_rank] = layout

    def _regroup(self, engines: Iterable[str]) -> None:
        self._reached.clear()
        grown: dict[str, list[str]] = {}
        for name in sorted(engines):
            ranks = self._ranks.get(name, {})
            if not ranks or len(ranks) < next(iter(ranks.values())).tp_size:
                self._groups.pop(name, None)
                self.alignment_tokens.pop(name, None)
                continue
            layout = ranks[min(ranks)]
            group = layout.fingerprint()
            if self._groups.get(name) != group:
                self._groups[name] = group
                self.alignment_tokens[name] = layout.alignment_tokens
                grown.setdefault(group, []).append(name)
        for names in grown.values():
            ranks = self._ranks[names[0]]
            self._on_known(ranks[min(ranks)], tuple(names))
        layouts = [next(iter(self._ranks[name].values())) for name in self._groups]
        blocks = (group.block_tokens for layout in layouts for group in layout.groups)
        self._least_block_tokens = min(blocks, default=0)
        engines_of = self._endpoints.engines
        found = {(engines_of[name].cluster, group) for name, group in self._groups.items()}
        self._groups_of = Counter(cluster for cluster, _ in found)
        self._compare()

    def _compare(self) -> None:
        found: dict[tuple[str, str], str] = {}
        examples = {group: self._ranks[name] for name, group in self._groups.items()}
        known, self._compared = self._compared, {}
        for ours, theirs in self._meeting():
            pair = ours, theirs
            if pair in known:
                difference = known[pair]
            else:
                difference = difference_of(examples[ours], examples[theirs])
            self._compared[pair] = difference
            if difference is not None:
                found[pair] = difference
        if found != self.unfit:
            new = found.keys() - self.unfit.keys()
            self.unfit = found
            for mismatch in self.mismatches():
                if new:
                    logger.error("%s", mismatch)
            self._on_pairing(tuple(sorted(found)))

    def _meeting(self) -> set[tuple[str, str]]:
        """Groups of which an engine may hand over to one of the other."""
        prefill, decode = self._by_cluster("prefill"), self._by_cluster("decode")
        return {
            (ours, theirs)
            for source, ours in prefill
            for target, theirs in decode
            if (source, target) in self._endpoints.joined
        }

    def _by_cluster(self, role: EngineRole) -> dict[tuple[str, str], list[str]]:
        """(cluster, group) -> its engines of this role."""
        found: dict[tuple[str, str], list[str]] = {}
        for name, group in self._groups.items():
            engine = self._endpoints.engines[name]
            if engine.role == role:
                found.setdefault((engine.cluster, group), []).append(name)
        return found

    def _in_reach(self, engine: EngineEndpoint) -> set[str]:
        """Groups of decode engines that a prefill engine may hand over to."""
        found = self._reached.get(engine.cluster)
        if found is None:
            found = self._reached[engine.cluster] = {
                group
                for target, group in self._by_cluster("decode")
                if (engine.cluster, target) in self._endpoints.joined
            }
        return found


def difference_of(ours: Ranks, theirs: Ranks) -> str | None:
    """Why engines with these layouts cannot hand over to each other; None if they can."""
    try:
        ours[min(ours)].check_pairs_with(theirs[min(theirs)])
    except LayoutMismatch as error:
        return str(error)[:_LONGEST_DIFFERENCE]
    return None


def named(engines: tuple[str, ...]) -> str:
    """Engines in words, however many they are."""
    if len(engines) <= _NAMED:
        return ", ".join(engines)
    return f"{', '.join(engines[:_NAMED])} and {len(engines) - _NAMED} more"


def replaced(before: list[RegisteredRank], now: list[RegisteredRank]) -> set[str]:
    """Engines of which a rank is another process now. One that is missing says nothing: after an
    agent's restart they come back one by one."""
    pids = {(rank.engine, rank.layout.tp_rank): rank.pid for rank in before}
    return {
        rank.engine
        for rank in now
        if pids.get((rank.engine, rank.layout.tp_rank), rank.pid) != rank.pid
    }
