"""A live request of a simulation, and what engines and lines do for it."""

from __future__ import annotations

from collections.abc import Sequence

from prfaas.scheduler.commands import StartPrefill
from prfaas.sim.engine import Task


class Job:
    """``index``: its place in the workload; ``blocks``: hashes of its prefix blocks."""

    __slots__ = ("blocks", "decodes", "index", "output", "prefill", "prompt", "transfer")

    def __init__(self, index: int, prompt: int, output: int, blocks: Sequence[int]) -> None:
        self.index = index
        self.prompt = prompt
        self.output = output
        self.blocks = blocks
        self.prefill: Task | None = None
        self.decodes: dict[int, Task] = {}
        """By attempt: two engines may be asked."""
        self.transfer: StartPrefill | None = None

    def forget(self) -> None:
        """It has ended. Its tasks name it: without the collector (`Simulation.run`) a job that
        named them would stay in memory to the end."""
        self.decodes.clear()
        self.prefill = self.transfer = None
