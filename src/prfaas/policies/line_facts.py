"""What policies read of a line for every prompt."""

from __future__ import annotations

from typing import Generic, TypeVar

from prfaas.policies.line_rate import LineRate

R = TypeVar("R")


class LineFacts(Generic[R]):
    """The part of a `LinkView` that changes, with the records ``R`` of the requests whose KV cache
    is to cross it. A class and no protocol, so that compiled code reads it without a look-up: an
    arrival in a fleet looks at dozens of lines."""

    def __init__(self, rate_bytes_per_s: float, rtt_s: float) -> None:
        self.up = True
        self.rate = LineRate(rate_bytes_per_s)
        self.rtt_s = rtt_s
        self.outstanding_bytes = 0.0
        self.records: dict[str, R] = {}
