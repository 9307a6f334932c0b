"""How much of a prompt each engine of a kind holds, from the holders of its blocks.

Theory of operation. Engines whose KV groups are alike form a family and are matched together: a set
of engines is one integer, and a group of an engine is a bit in that group's *plane* of the holders'
bits. A prompt's known blocks come as stretches with the same holders, which are few. Walking them
forward, engines drop out where they lack a full-attention block; what they hold so far is their
run. Walking back from its end, those whose other groups are served are found: a recurrent group by
the state at exactly that length, a sliding window by the blocks that the next token still sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import NamedTuple

import msgspec

CHAINED_KINDS = frozenset({"full_attention", "mla_attention", "sink_full_attention"})
_STATE_KIND = "mamba"
_WINDOW_KINDS = frozenset({"sliding_window", "sliding_window_mla"})
_MOST_LOOKS = 16_384
"""At the holders of a prompt's blocks, in one plane each: milliseconds. Stretches are few, unless
somebody tells of every block otherwise."""


class PrefixMatch(msgspec.Struct, frozen=True):
    """Tokens of a prompt's prefix that one engine holds (see `prefix_index`)."""

    transferable_tokens: int = 0
    reusable_tokens: int = 0


class Group(NamedTuple):
    """A KV group of an engine; ``plane``: where its bits are. ``window_tokens`` only for sliding
    windows."""

    plane: int
    kind: str
    block_tokens: int
    window_tokens: int | None

    @property
    def chained(self) -> bool:
        """Whether it is of full attention: every block from the first on is needed."""
        return self.kind in CHAINED_KINDS


class Stretch(NamedTuple):
    """Blocks [start, end) of a prompt, with the same holders (bits in all planes)."""

    start: int
    end: int
    holders: int


class Found(NamedTuple):
    """Engines (bits in a plane) that hold so many blocks of a prompt."""

    engines: int
    transferable: int
    reusable: int


class _Window(NamedTuple):
    plane: int
    step: int
    """Blocks of the prompt to one of its own."""
    needed: int
    """Of its own blocks that the next token sees."""


class Family:
    """Engines with these groups. ``width``: bits in a plane."""

    def __init__(self, groups: tuple[Group, ...], width: int) -> None:
        self.engines = 0
        """Its members, as bits in a plane."""
        self.groups = groups
        chained = [group for group in groups if group.chained]
        self.block_tokens = chained[0].block_tokens if chained else None
        self._width, self._full = width, (1 << width) - 1
        self._chained = [group.plane for group in chained]
        self._states = [group.plane for group in groups if group.kind == _STATE_KIND]
        self._windows: list[_Window] = []
        self._hopeless = False
        """Whether it has a group that nothing is known to serve."""
        others = [g for g in groups if not g.chained and g.kind != _STATE_KIND]
        for group in others if self.block_tokens else ():
            assert self.block_tokens is not None
            step, odd = divmod(group.block_tokens, self.block_tokens)
            if group.kind not in _WINDOW_KINDS or group.window_tokens is None or odd:
                self._hopeless = True
                continue
            needed = -(-(group.window_tokens - 1) // group.block_tokens)
            self._windows.append(_Window(group.plane, step, needed))
        self._windows_end_at = lcm(*(window.step for window in self._windows))
        self._simple = not others and not self._states
        self._states_travel = bool(self._states) and len(groups) == len(self._states) + 1
        self._looks = 0

    def match(self, stretches: Sequence[Stretch]) -> list[Found]:
        """Of the known blocks of a prompt, from the first on."""
        self._looks = 0
        found: list[Found] = []
        held = self.engines
        ends: list[tuple[int, int]] = []  # (run, engines whose run ends there)
        for stretch in stretches:
            still = held & self._all(self._chained, stretch.holders)
            if still != held:
                ends.append((stretch.start, held & ~still))
                held = still
                if not held:
                    break
        if held and stretches:
            ends.append((stretches[-1].end, held))
        for run, engines in ends:
            if not run:
                continue
            if self._simple:
                found.append(Found(engines, run, run))
            else:
                found += self._resumable(stretches, run, engines)
        return found

    def _resumable(self, stretches: Sequence[Stretch], run: int, engines: int) -> list[Found]:
        """The same for engines with a run of that length, by how much they can go on from."""
        lagging = self._lagging(stretches, run) if self._states_travel else 0
        travels = engines & ~lagging if self._states_travel else 0
        found: list[Found] = []

        def add(who: int, count: int) -> None:
            if who & travels:
                found.append(Found(who & travels, run, count))
            if who & ~travels and count:
                found.append(Found(who & ~travels, count, count))

        left = engines
        for number in range(len(stretches) - 1, -1, -1):
            start, end, holders = stretches[number]
            count = min(end, run)
            if start >= run or self._hopeless or not left:
                continue
            serves = left & self._all(self._states, holders)
            for at, who in self._windows_serve(stretches, number, count, serves):
                add(who & left, at)
                left &= ~who
        add(left, 0)
        return found

    def _windows_serve(
        self, stretches: Sequence[Stretch], number: int, count: int, engines: int
    ) -> list[tuple[int, int]]:
        """(count, engines whose windows are all served there), of the counts in a stretch up to
        ``count`` the largest."""
        count -= count % self._windows_end_at
        if not engines or count <= stretches[number].start:
            return []
        for window in self._windows:
            engines &= self._in_window(stretches, number, count, window)
        return [(count, engines)] if engines else []

    def _in_window(
        self, stretches: Sequence[Stretch], number: int, count: int, window: _Window
    ) -> int:
        """Engines that hold the blocks of a window that ends at ``count``."""
        engines = self._full
        lowest = max(0, count - window.needed * window.step)
        end = count
        while end > lowest and engines:
            while stretches[number].start >= end:
                number -= 1
            engines &= self._all((window.plane,), stretches[number].holders)
            # The other blocks of this stretch have the same holders.
            end -= -(-(end - stretches[number].start) // window.step) * window.step
        return engines

    def _lagging(self, stretches: Sequence[Stretch], run: int) -> int:
        """Engines that hold a state beyond their run."""
        beyond = 0
        for stretch in reversed(stretches):
            if stretch.end <= run:
                break
            beyond |= stretch.holders
        engines = 0
        for plane in self._states:
            engines |= beyond >> (plane * self._width) & self._full
        return engines

    def _all(self, planes: Sequence[int], holders: int) -> int:
        """Engines that are among the holders in all these planes. After `_MOST_LOOKS` none are."""
        engines = self._full
        for plane in planes:
            self._looks += 1
            engines &= holders >> (plane * self._width)
            if not engines or self._looks > _MOST_LOOKS:
                return 0
        return engines
