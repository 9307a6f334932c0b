"""The index against a model engine that keeps whole prefixes instead of digests."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from prfaas.index.keys import PromptKeys
from prfaas.index.prefix_index import BlocksStored, EngineIndex, PrefixMatch

BLOCK = 2
WINDOW = 4
HYBRIDS = [
    {0: "full_attention", 1: "mamba"},
    {0: "full_attention", 2: "sliding_window"},
    {0: "full_attention", 1: "mamba", 2: "sliding_window"},
    {0: "full_attention"},
]
Prefix = tuple[int, ...]
PROMPTS = st.lists(st.integers(0, 1), min_size=0, max_size=9).map(tuple)


class ModelEngine(RuleBasedStateMachine):
    """Holds, per group, the prefixes whose last block it caches. Hash of a prefix: its repr."""

    @initialize(bound=st.sampled_from([1000, 6]), kinds=st.sampled_from(HYBRIDS))
    def start(self, bound: int, kinds: dict[int, str]) -> None:
        self.kinds = kinds
        self.exact = bound == 1000
        self.index = EngineIndex(max_blocks=bound)
        self.held: dict[int, set[Prefix]] = {group: set() for group in (0, 1, 2)}
        self.announced: set[int] = set()

    @rule(prompt=PROMPTS, state_at=st.integers(0, 4), seen_from=st.integers(0, 4))
    def compute(self, prompt: Prefix, state_at: int, seen_from: int) -> None:
        """A prompt is computed: all full-attention blocks, one state, the last window blocks."""
        ends = [prompt[:end] for end in range(BLOCK, len(prompt) + 1, BLOCK)]
        have = 0
        while have < len(ends) and ends[have] in self.held[0]:
            have += 1
        fresh = ends[have:]
        if not fresh:
            return
        self._store(0, fresh, have, fresh)
        self._store(1, [ends[state_at]] if state_at < len(ends) else [], have, fresh)
        self._store(2, ends[max(have, seen_from) :], have, fresh)

    def _store(self, group: int, prefixes: list[Prefix], have: int, fresh: list[Prefix]) -> None:
        parent = repr(fresh[0][:-BLOCK]).encode() if have else None
        if group not in self.kinds:
            return
        self.held[group].update(prefixes)
        self.announced.add(group)
        self.index.stored(
            BlocksStored(
                group=group,
                kind=self.kinds[group],
                block_tokens=BLOCK,
                hashes=[repr(prefix).encode() for prefix in prefixes],
                parent=parent,
                token_ids=fresh[-1][have * BLOCK :],
                window_tokens=WINDOW if group == 2 else None,
            )
        )

    @rule(group=st.sampled_from([0, 1, 2, None]), prefix=PROMPTS)
    def evict(self, group: int | None, prefix: Prefix) -> None:
        for each in (0, 1, 2) if group is None else [group]:
            self.held[each].discard(prefix)
        self.index.removed(group, [repr(prefix).encode()])

    @rule()
    def clear(self) -> None:
        for prefixes in self.held.values():
            prefixes.clear()
        self.announced.clear()
        self.index.clear()

    @rule(prompt=PROMPTS)
    def match(self, prompt: Prefix) -> None:
        found = self.index.match(PromptKeys(prompt))
        expected = self._expected(prompt)
        if self.exact:
            assert found == expected
        else:
            assert found.transferable_tokens <= self._run(prompt)
            assert found.reusable_tokens <= expected.reusable_tokens

    def _run(self, prompt: Prefix) -> int:
        run = 0
        while run + BLOCK < len(prompt) and prompt[: run + BLOCK] in self.held[0]:
            run += BLOCK
        return run

    def _expected(self, prompt: Prefix) -> PrefixMatch:
        run = self._run(prompt)
        reusable = next((n for n in range(run, 0, -BLOCK) if self._continues(prompt, n)), 0)
        beyond = range(run + BLOCK, len(prompt), BLOCK)
        lagging = any(prompt[:end] in self.held[1] for end in beyond)
        whole_run = 1 in self.announced and 2 not in self.announced and not lagging
        return PrefixMatch(run if whole_run else reusable, reusable)

    def _continues(self, prompt: Prefix, length: int) -> bool:
        state = 1 not in self.announced or prompt[:length] in self.held[1]
        first = max(0, length - WINDOW + 1) // BLOCK * BLOCK
        ends = range(first + BLOCK, length + 1, BLOCK)
        return state and (
            2 not in self.announced or all(prompt[:end] in self.held[2] for end in ends)
        )

    @invariant()
    def whole(self) -> None:
        if hasattr(self, "index"):
            self.index.check_integrity()


TestPrefixIndex = ModelEngine.TestCase
