"""Which prefill engine can hand its KV cache to which decode engine, and where hand-offs end.

Theory of operation. Two engines pair if their KV layouts fit and their machines reach each other.
Neither is a fact of the deployment: engines of two builds serve side by side while a cluster is
upgraded, and of many machines a few may be cut off from a few others. So both are told in events
and asked for each pair. Engines that hold their KV cache alike form a group, called by the
fingerprint of their layout, so that thousands of pairs are a handful of facts. Nothing is handed
over by an engine whose layout is not known yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from math import lcm

import numpy as np

from prfaas.core.boundary import aligned_boundary
from prfaas.core.layout import KvLayout
from prfaas.policies.columns import Bools
from prfaas.scheduler.events import LayoutKnown, MachinesCut, MachinesJoined, PairingChanged
from prfaas.scheduler.state import ClusterState, EngineState

_NO_PROMPT_IS_SO_LONG = 1 << 40
"""Stands for the block size while no layout is known: no hand-off ends at a multiple of it."""
_OF_ALL = ""
"""The group of engines whose layout was never told: the topology's own block size."""


class Pairing:
    """Keeps `EngineState.no_givers` up to date as well.

    Args:
        alignment_tokens: of engines whose layout is not told in an event (`Topology`).
        engines: all, by name.
        joined: (from cluster, to cluster) wherever KV cache may travel.
        on_layout: told of the layout that most engines have: the costs may need it.
    """

    def __init__(
        self,
        alignment_tokens: int | None,
        engines: Mapping[str, EngineState],
        joined: Collection[tuple[str, str]],
        on_layout: Callable[[KvLayout], None] | None = None,
    ) -> None:
        self._engines, self._joined = engines, joined
        self._alignments = {_OF_ALL: alignment_tokens or _NO_PROMPT_IS_SO_LONG}
        self._exact: set[str] = set()
        """Groups whose hand-offs may end inside a block."""
        self._groups: dict[str, str] = {}
        """Engine -> the fingerprint of its layout."""
        self._layouts: dict[str, KvLayout] = {}
        """Of the groups that there are, the one told first first."""
        self._unfit: frozenset[tuple[str, str]] = frozenset()
        """Groups (of a prefill engine, of a decode engine) that do not fit."""
        self.cut: dict[tuple[str, str], float] = {}
        """Machines of which the first does not reach the second -> since when."""
        self._on_layout = on_layout
        self._found: dict[tuple[str, str], tuple[list[EngineState], list[EngineState]]] = {}
        """(cluster, decode engine) -> its prefill engines, and those of them that pair."""
        self._givers: dict[tuple[str, str, str], Bools] = {}
        """Kind of decode engine -> which engines pair with it, in their order."""

    def layout_known(self, event: LayoutKnown) -> None:
        """Engines have registered."""
        group = event.layout.fingerprint()
        self._layouts[group] = event.layout
        self._alignments[group] = event.layout.alignment_tokens
        if event.layout.may_end_inside_a_block:
            self._exact.add(group)
        for engine in event.engines:
            self._groups[engine] = group
        self._count_layouts()
        self._changed()

    def changed(self, event: PairingChanged) -> None:
        """Other groups fit than before."""
        self._unfit = frozenset(event.unfit)
        self._changed()

    def reshaped(self, joined: Collection[tuple[str, str]]) -> None:
        """Engines came or went, or KV cache travels elsewhere. One that went is forgotten: its name
        may come back with another layout."""
        self._joined = joined
        self._groups = {k: group for k, group in self._groups.items() if k in self._engines}
        self._count_layouts()
        self._changed()

    def cut_off(self, event: MachinesCut, now: float) -> None:
        """A machine does not reach another any more."""
        self.cut.setdefault((event.source, event.target), now)
        self._changed()

    def joined(self, event: MachinesJoined) -> None:
        """It does again."""
        self.cut.pop((event.source, event.target), None)
        self._changed()

    def _count_layouts(self) -> None:
        """No engine by itself says what hand-offs between others take."""
        engines = Counter(self._groups.values())
        for gone in self._layouts.keys() - engines.keys():
            del self._layouts[gone], self._alignments[gone]
            self._exact.discard(gone)
        if self._on_layout is not None and self._layouts:
            self._on_layout(self._layouts[max(self._layouts, key=lambda group: engines[group])])

    def role_changed(self) -> None:
        """Other engines prefill than before."""
        self._changed()

    def hands_over(self, prefill: EngineState, decode: EngineState) -> bool:
        """Whether the first can hand its KV cache to the second."""
        if self._unfit:
            groups = self._groups.get(prefill.name, _OF_ALL), self._groups.get(decode.name, _OF_ALL)
            if groups in self._unfit:
                return False
        return not self.cut or (prefill.machine, decode.machine) not in self.cut

    def prefill_engines(self, cluster: ClusterState, decode: EngineState) -> list[EngineState]:
        """The prefill engines of ``cluster`` that can hand over to ``decode``, up or not."""
        every = cluster.prefill_engines
        if self.whole:
            return every
        key = (cluster.name, decode.name)
        known, found = self._found.get(key, (None, every))
        if known is not every:  # A role has changed, or it was never asked.
            found = [engine for engine in every if self.hands_over(engine, decode)]
            self._found[key] = every, found
        return found

    def renumbered(self) -> None:
        """Engines stand in another order than before."""
        self._givers.clear()

    @property
    def whole(self) -> bool:
        """Whether every engine can hand over to every other that it has a line to."""
        return not self._unfit and not self.cut

    def givers(self, decode: EngineState) -> Bools | None:
        """Which of all engines, in their order, can hand over to ``decode``; None: all can."""
        if self.whole:
            return None
        kind = self._kind(decode)
        if kind not in self._givers:
            pair = {self._kind(e): self.hands_over(e, decode) for e in self._engines.values()}
            every = [pair[self._kind(e)] for e in self._engines.values()]
            self._givers[kind] = np.array(every, np.bool_)
        return self._givers[kind]

    def alike(self, one: EngineState, other: EngineState) -> bool:
        """Whether what was handed over for one decode engine can be used by another: it lies in the
        memory of a machine, laid out for a group."""
        return (
            one.place is other.place
            and one.machine == other.machine
            and self._groups.get(one.name) == self._groups.get(other.name)
        )

    def alignment_tokens(self, prefill: EngineState, decode: EngineState) -> int:
        """Hand-offs between the two begin and end at multiples of it."""
        ours = self._alignments[self._groups.get(prefill.name, _OF_ALL)]
        theirs = self._alignments[self._groups.get(decode.name, _OF_ALL)]
        return ours if ours == theirs else lcm(ours, theirs)

    def _changed(self) -> None:
        self._found.clear()
        self._givers.clear()
        whole = self.whole
        givers = (
            {}
            if whole
            else {self._kind(e): e for e in self._engines.values() if e.role == "prefill"}
        )
        answers: dict[tuple[str, str, str], bool] = {}
        for engine in self._engines.values():
            kind = self._kind(engine)
            if not whole and kind not in answers:
                answers[kind] = not any(
                    (other.cluster, engine.cluster) in self._joined
                    and self.hands_over(other, engine)
                    for other in givers.values()
                )
            engine.no_givers = not whole and answers[kind]
            engine.changed()

    def _kind(self, engine: EngineState) -> tuple[str, str, str]:
        """Engines of one kind pair with the same others."""
        return engine.cluster, engine.machine, self._groups.get(engine.name, _OF_ALL)

    def may_be_exact(self, prefill: EngineState, decode: EngineState) -> bool:
        """Whether hand-offs between the two may end inside a block (`handoff_end`)."""
        groups = {self._groups.get(engine.name, _OF_ALL) for engine in (prefill, decode)}
        return groups <= self._exact and len({self._alignments[group] for group in groups}) == 1

    def gives(self, total_tokens: int, cached: int, decode: EngineState) -> bool:
        """Whether of a prompt of which ``decode`` holds so much there is anything to hand over."""
        group = self._groups.get(decode.name, _OF_ALL)
        align = self._alignments[group]
        if group in self._exact:
            return total_tokens - 1 > cached // align * align
        return aligned_boundary(total_tokens, align) > cached // align * align

    def boundary(self, total_tokens: int, prefill: EngineState, decode: EngineState) -> int:
        """Where the hand-off of a prompt of so many tokens ends: the last block boundary before its
        last token; 0 where there is none."""
        return aligned_boundary(total_tokens, self.alignment_tokens(prefill, decode))
