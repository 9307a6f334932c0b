"""What a run has shown: one row per request while it runs, one summary afterwards."""

from __future__ import annotations

from array import array
from math import nan

import msgspec
import numpy as np
from numpy.typing import NDArray

from prfaas.policies.api import Route
from prfaas.scheduler.commands import ErrorKind
from prfaas.workload.requests import Workload

ROUTE_CODE = {Route.DIRECT: 1, Route.PD_P: 2, Route.OFFLOAD: 3}


def _column(count: int) -> array[float]:
    """Eight bytes for each request; a list would keep an object for each."""
    return array("d", [nan]) * count


class Recorder:
    """Times in seconds of simulated time, NaN where it did not happen; one entry per request."""

    def __init__(self, workload: Workload) -> None:
        count = len(workload)
        self._workload = workload
        self.first_at = _column(count)
        self.done_at = _column(count)
        self.prefill_at = _column(count)
        self.prefill_s = _column(count)
        self.transferred_at = _column(count)
        self.held_tokens = array("q", [0]) * count
        self.route = bytearray(count)
        self.attempts = bytearray(count)
        self.failures: dict[ErrorKind, int] = {}

    def prefill(self, index: int, now: float, seconds: float, held: int) -> None:
        """A prefill begins that takes ``seconds``; ``held`` tokens were cached."""
        self.prefill_at[index] = now
        self.prefill_s[index] = seconds
        self.held_tokens[index] = held

    def transferred(self, index: int, now: float) -> None:
        """The hand-off is there."""
        self.transferred_at[index] = now

    def routed(self, index: int, route: Route, attempt: int) -> None:
        """The answer begins over this route."""
        self.route[index] = ROUTE_CODE[route]
        self.attempts[index] = attempt

    def first_token(self, index: int, now: float) -> None:
        """The client has its first token."""
        self.first_at[index] = now

    def completed(self, index: int, now: float) -> None:
        """The client has its last token."""
        self.done_at[index] = now

    def failed(self, kind: ErrorKind) -> None:
        """A request ended without an answer, or with half of one."""
        self.failures[kind] = self.failures.get(kind, 0) + 1

    def table(self) -> RequestTable:
        """The rows as arrays."""
        return RequestTable(
            arrived_at=np.asarray(self._workload.arrivals),
            prompt_tokens=np.asarray(self._workload.prompts),
            output_tokens=np.asarray(self._workload.outputs),
            first_at=np.asarray(self.first_at),
            done_at=np.asarray(self.done_at),
            prefill_at=np.asarray(self.prefill_at),
            prefill_s=np.asarray(self.prefill_s),
            transferred_at=np.asarray(self.transferred_at),
            held_tokens=np.asarray(self.held_tokens),
            route=np.frombuffer(self.route, dtype=np.uint8),
            attempts=np.frombuffer(self.attempts, dtype=np.uint8),
        )


Column = NDArray[np.float64]


class RequestTable(msgspec.Struct, frozen=True):
    """One entry per request, in order of arrival (see `Recorder`)."""

    arrived_at: Column
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    first_at: Column
    done_at: Column
    prefill_at: Column
    prefill_s: Column
    transferred_at: Column
    held_tokens: NDArray[np.int64]
    route: NDArray[np.uint8]
    attempts: NDArray[np.uint8]

    @property
    def ttft_s(self) -> Column:
        """Time to first token."""
        return self.first_at - self.arrived_at

    @property
    def tpot_s(self) -> Column:
        """Time per output token after the first; 0 for answers of one token."""
        return np.asarray((self.done_at - self.first_at) / np.maximum(self.output_tokens - 1, 1))

    @property
    def offloaded(self) -> NDArray[np.bool_]:
        """Prefilled in a PrfaaS cluster."""
        return np.asarray(self.route == ROUTE_CODE[Route.OFFLOAD])

    @property
    def direct(self) -> NDArray[np.bool_]:
        """Prefilled by the engine that decoded."""
        return np.asarray(self.route == ROUTE_CODE[Route.DIRECT])
