"""What a simulation runs on: the topology, and how its engines and lines behave."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import msgspec

from prfaas.policies.views import Costs
from prfaas.scheduler.journal import CostInputs
from prfaas.scheduler.topology import Topology
from prfaas.workload.machine_cache import MachineModel


class EngineModel(msgspec.Struct, frozen=True):
    """How an engine of the topology behaves: its decode step by batch, bounds, loads."""

    name: str
    step_seconds: Callable[[int], float] | None
    max_batch: int
    kv_tokens: float = inf
    load_seconds: Callable[[float], float] | None = None
    """Of a hand-off of so many tokens that lies ready, to the first token; None: one step."""

    def load_s(self, tokens: int) -> float:
        """How much longer than one step the first token of such a hand-off takes."""
        if self.load_seconds is None or self.step_seconds is None:
            return 0.0
        return max(0.0, self.load_seconds(tokens) - self.step_seconds(1))


class LineModel(msgspec.Struct, frozen=True):
    """How a line of the topology behaves; ``changes``: (time, rate), rate 0 is a cut."""

    source: str
    target: str
    rate_bytes_per_s: float
    rtt_s: float = 0.0
    loss: float = 0.0
    connections: int = 16
    changes: tuple[tuple[float, float], ...] = ()


class Outage(msgspec.Struct, frozen=True):
    """An engine that is dead from ``at`` for ``for_s`` seconds; its work is lost. (Its cluster's
    prefix cache is not.) Those of one engine do not overlap."""

    engine: str
    at: float
    for_s: float


class World(msgspec.Struct, frozen=True):
    """What there is: the topology and how its parts behave. ``cache_blocks``: cluster -> blocks
    of its prefix cache pool; ``machines``: in its place, those whose agents' caches are simulated
    one by one; ``lan_bytes_per_s``: cluster -> rate between its machines; ``link_report_s``: how
    often lines report their state, None: only when they change."""

    topology: Topology
    engines: tuple[EngineModel, ...]
    lines: tuple[LineModel, ...]
    costs: Costs
    state_bytes: float
    cost_inputs: CostInputs | None = None
    """What ``costs`` were made from, for a journal."""
    cache_blocks: dict[str, int] = {}
    machines: tuple[MachineModel, ...] = ()
    lan_bytes_per_s: dict[str, float] = {}
    outages: tuple[Outage, ...] = ()
    link_report_s: float | None = None
