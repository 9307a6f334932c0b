"""What arrives: times, prompt and output lengths, and which prefix blocks prompts share."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

import msgspec
import numpy as np

from prfaas.core.errors import ConfigError
from prfaas.workload.arrivals import Arrivals
from prfaas.workload.lengths import LengthDistribution


class Held(NamedTuple):
    """What engines held of one prompt when it came: engine -> tokens, and how many of these each
    can go on from without a hand-off (absent: all)."""

    cached: Mapping[str, int]
    resumable: Mapping[str, int]


class Workload(msgspec.Struct, frozen=True):
    """Equal-length sequences (what is drawn comes in arrays: there may be millions), arrivals in
    seconds and rising. ``blocks``: per request the chained hashes of its prefix blocks of
    ``block_tokens`` tokens; empty where nothing is shared. ``held``: per request what caches held,
    where that is known instead. ``conversed``: as ``blocks``, of prompt and answer together, where
    later prompts go on from answers; empty where that is not known."""

    arrivals: Sequence[float]
    prompts: Sequence[int]
    outputs: Sequence[int]
    blocks: Sequence[Sequence[int]] = ()
    block_tokens: int = 512
    clipped_share: float = 0.0
    """Of the prompts of a trace: those that were cut to the length asked for."""
    held: Sequence[Held] = ()
    conversed: Sequence[Sequence[int]] = ()

    def __len__(self) -> int:
        return len(self.arrivals)

    @property
    def rate(self) -> float:
        """Mean arrivals per second; nan where all arrive at once."""
        span = self.arrivals[-1] - self.arrivals[0] if self.arrivals else 0.0
        return (len(self) - 1) / span if span else float("nan")

    def sped_up(self, factor: float) -> Workload:
        """The same requests, arriving ``factor`` times as fast. Raises ConfigError."""
        if not 0 < factor < inf:
            raise ConfigError(f"speed-up {factor:g}: write more than 0")
        times = np.asarray(self.arrivals) / factor
        return msgspec.structs.replace(self, arrivals=array("d", times.tobytes()))

    def first(self, count: int) -> Workload:
        """At most ``count`` requests."""
        return msgspec.structs.replace(
            self,
            arrivals=self.arrivals[:count],
            prompts=self.prompts[:count],
            outputs=self.outputs[:count],
            blocks=self.blocks[:count],
            held=self.held[:count],
            conversed=self.conversed[:count],
        )


def draw(
    lengths: LengthDistribution,
    output_tokens: int,
    arrivals: Arrivals,
    count: int,
    rng: np.random.Generator,
) -> Workload:
    """``count`` independent requests without shared prefixes."""
    times = arrivals.times(count, rng)
    prompts = lengths.sample(rng, count)
    return Workload(
        array("d", np.asarray(times, np.float64).tobytes()),
        array("q", np.asarray(prompts, np.int64).tobytes()),
        array("q", [output_tokens]) * count,
    )
