"""A production trace as planner and simulator use it, whatever schema it was published in."""

from __future__ import annotations

import msgspec
import numpy as np

from prfaas.core.errors import ConfigError
from prfaas.core.strict import Strict
from prfaas.workload.blocks import MOONCAKE_BLOCK_TOKENS
from prfaas.workload.lengths import EmpiricalLengths
from prfaas.workload.stamps import TimeUnit


class TraceFormat(Strict, frozen=True):
    """What a trace does not say of itself. None: as its text says, and refused where that is
    ambiguous."""

    time_unit: TimeUnit | None = None
    """Of times that are numbers."""
    time_zone: str | None = None
    """Of stamps that name none: UTC, +02:00, Europe/Berlin."""
    block_tokens: int | None = None
    """Tokens that one of Mooncake's ``hash_ids`` stands for."""

    def __post_init__(self) -> None:
        if self.block_tokens is not None and self.block_tokens < 1:
            raise ConfigError(f"block_tokens: {self.block_tokens}; write 1 or more")


_LONGEST, _LONGEST_S = 1 << 40, 1e9
"""Tokens, and seconds (30 years): what is beyond is a slip, and would be simulated without end."""


class RecordedTrace(msgspec.Struct, frozen=True, kw_only=True):
    """Requests in order of arrival, in sequences of equal length. Raises ConfigError for lengths
    and times that none has."""

    arrivals: list[float] | None
    """Seconds after the first, rising; None where the trace records no times (then the order is
    the file's)."""
    prompts: list[int]
    """Tokens, at least 1."""
    outputs: list[int]
    blocks: list[list[int]]
    """Ids of each prompt's whole blocks of ``block_tokens``; empty where prefixes are not known."""
    block_tokens: int = MOONCAKE_BLOCK_TOKENS
    clipped_share: float = 0.0
    """Of the prompts: those that `clipped` cut."""

    def __post_init__(self) -> None:
        for what, least, counts in (("prompt", 1, self.prompts), ("answer", 0, self.outputs)):
            for found in (min(counts, default=least), max(counts, default=least)):
                if not least <= found <= _LONGEST:
                    raise ConfigError(f"no {what} has {str(found)[:40]} tokens, at most {_LONGEST}")
        if self.arrivals and not self.arrivals[-1] - self.arrivals[0] <= _LONGEST_S:
            span_s = self.arrivals[-1] - self.arrivals[0]
            raise ConfigError(f"times: {span_s:g} s are between the first and the last")

    def clipped(self, tokens: int) -> RecordedTrace:
        """The same requests with no prompt longer than ``tokens`` (1 or more)."""
        longer = sum(prompt > tokens for prompt in self.prompts)
        whole = tokens // self.block_tokens
        return msgspec.structs.replace(
            self,
            prompts=[min(prompt, tokens) for prompt in self.prompts],
            blocks=[blocks[:whole] for blocks in self.blocks],
            clipped_share=longer / len(self.prompts),
        )


class PooledTrace(msgspec.Struct, frozen=True, kw_only=True):
    """Only distributions: ``rates`` are (start in s, requests per s) of spans of 600 s; empty where
    the trace records none."""

    prompts: EmpiricalLengths
    outputs: EmpiricalLengths
    rates: list[tuple[float, float]]
    clipped_share: float = 0.0
    """Of the prompts: those that `clipped` cut."""

    def clipped(self, tokens: int) -> PooledTrace:
        """The same distributions with no prompt longer than ``tokens`` (1 or more)."""
        share = self.prompts.share_above(tokens)
        return msgspec.structs.replace(
            self,
            prompts=self.prompts.mapped(lambda lengths: np.minimum(lengths, tokens)),
            clipped_share=share,
        )
