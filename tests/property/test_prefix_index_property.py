"""The index of three engines against models that keep whole prefixes instead of keys."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from prfaas.index.cache_events import BlocksStored
from prfaas.index.engine_index import EngineIndex
from prfaas.index.keys import PromptKeys
from prfaas.index.matching import PrefixMatch
from prfaas.index.prefix_index import PrefixIndex

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


ENGINES = st.integers(0, 2)


class ModelEngine:
    """Holds, per group, the prefixes whose last block it caches. Hash of a prefix: its repr, which
    may be other engines' too."""

    def __init__(self, index: EngineIndex, kinds: dict[int, str], hashes_as: str) -> None:
        self.index = index
        self.kinds = kinds
        self.hashes_as = hashes_as
        self.held: dict[int, set[Prefix]] = {group: set() for group in (0, 1, 2)}
        self.announced: set[int] = set()

    def hash_of(self, prefix: Prefix) -> bytes:
        return f"{self.hashes_as}{prefix}".encode()

    def compute(self, prompt: Prefix, state_at: int, seen_from: int, states_first: bool) -> None:
        ends = [prompt[:end] for end in range(BLOCK, len(prompt) + 1, BLOCK)]
        have = 0
        while have < len(ends) and ends[have] in self.held[0]:
            have += 1
        fresh = ends[have:]
        if not fresh:
            return
        stores = [
            (0, fresh),
            (1, [ends[state_at]] if have <= state_at < len(ends) else []),
            (2, ends[max(have, seen_from) :]),
        ]
        for group, prefixes in reversed(stores) if states_first else stores:
            self._store(group, prefixes, have, fresh)

    def _store(self, group: int, prefixes: list[Prefix], have: int, fresh: list[Prefix]) -> None:
        parent = self.hash_of(fresh[0][:-BLOCK]) if have else None
        if group not in self.kinds:
            return
        self.held[group].update(prefixes)
        self.announced.add(group)
        self.index.stored(
            BlocksStored(
                group=group,
                kind=self.kinds[group],
                block_tokens=BLOCK,
                hashes=[self.hash_of(prefix) for prefix in prefixes],
                parent=parent,
                token_ids=fresh[-1][have * BLOCK :],
                window_tokens=WINDOW if group == 2 else None,
            )
        )

    def evict(self, group: int | None, prefix: Prefix) -> None:
        for each in (0, 1, 2) if group is None else [group]:
            self.held[each].discard(prefix)
        self.index.removed(group, [self.hash_of(prefix)])

    def clear(self) -> None:
        for prefixes in self.held.values():
            prefixes.clear()
        self.announced.clear()
        self.index.clear()

    def run(self, prompt: Prefix) -> int:
        run = 0
        while run + BLOCK < len(prompt) and prompt[: run + BLOCK] in self.held[0]:
            run += BLOCK
        return run

    def expected(self, prompt: Prefix) -> PrefixMatch:
        run = self.run(prompt)
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


class ModelFleet(RuleBasedStateMachine):
    """Three engines of any kinds; where the index is ``exact`` nothing had to make room."""

    @initialize(
        bound=st.sampled_from([1000, 6]),
        kinds=st.lists(st.sampled_from(HYBRIDS), min_size=3, max_size=3),
        hashes=st.lists(st.sampled_from(["", "", "salt"]), min_size=3, max_size=3),
    )
    def start(self, bound: int, kinds: list[dict[int, str]], hashes: list[str]) -> None:
        self.exact = bound == 1000
        self.index = PrefixIndex(max_blocks=bound, max_engines=3, seed=b"seed")
        self.engines = [
            ModelEngine(self.index.engine(str(number)), *of)
            for number, of in enumerate(zip(kinds, hashes, strict=True))
        ]

    @rule(
        engine=ENGINES,
        prompt=PROMPTS,
        state_at=st.integers(0, 4),
        seen_from=st.integers(0, 4),
        states_first=st.booleans(),
    )
    def compute(
        self, engine: int, prompt: Prefix, state_at: int, seen_from: int, states_first: bool
    ) -> None:
        """A prompt is computed: all full-attention blocks, one state, the last window blocks."""
        self.engines[engine].compute(prompt, state_at, seen_from, states_first)

    @rule(engine=ENGINES, group=st.sampled_from([0, 1, 2, None]), prefix=PROMPTS)
    def evict(self, engine: int, group: int | None, prefix: Prefix) -> None:
        self.engines[engine].evict(group, prefix)

    @rule(engine=ENGINES)
    def clear(self, engine: int) -> None:
        self.engines[engine].clear()

    @rule()
    def tidy(self) -> None:
        self.index.tidy()

    @rule(prompt=PROMPTS)
    def match(self, prompt: Prefix) -> None:
        found = {
            name: match for names, match in self.index.match(PromptKeys(prompt)) for name in names
        }
        for engine in self.engines:
            match = found.get(engine.index.name, PrefixMatch())
            expected = engine.expected(prompt)
            if self.exact:
                assert match == expected
            else:
                assert match.transferable_tokens <= engine.run(prompt)
                assert match.reusable_tokens <= expected.reusable_tokens

    @invariant()
    def whole(self) -> None:
        if hasattr(self, "index"):
            self.index.check_integrity()

    def teardown(self) -> None:
        """Cleared, all memory is free again."""
        if hasattr(self, "index"):
            for engine in self.engines:
                engine.clear()
            while self.index.tidy():
                pass
            self.index.check_integrity()
            assert self.index.blocks == 0


TestPrefixIndex = ModelFleet.TestCase
