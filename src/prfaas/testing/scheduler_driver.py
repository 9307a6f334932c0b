"""A scheduler on a small topology, driven event by event with time moved by hand."""

from __future__ import annotations

from typing import Any

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.api import Policy
from prfaas.policies.costs import LearnedCosts
from prfaas.policies.learned_prefills import LearnedPrefills
from prfaas.policies.registry import make_policy
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.scheduler import Scheduler
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology

LONG, SHORT, THRESHOLD = 2000, 600, 1024
"""Prompt tokens, and the threshold between them."""


def topology(*, prefills: int = 1, decodes: int = 1, capacity: int = 8) -> Topology:
    """One prefill engine in the east, any number of both roles in the west."""
    engines = [EngineSpec("east-1", "east", "prefill", capacity)]
    engines += [EngineSpec(f"west-p{i}", "west", "prefill", capacity) for i in range(prefills)]
    engines += [EngineSpec(f"west-d{i}", "west", "decode", capacity) for i in range(decodes)]
    return Topology(
        clusters=(ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
        engines=tuple(engines),
        links=(LinkSpec("east", "west", 25e6),),
        alignment_tokens=256,
    )


class Driver:
    """Feeds events, keeps every command; time moves by hand. ``config``: of `SchedulerConfig`;
    `THRESHOLD` unless a policy is named."""

    def __init__(
        self, topo: Topology | None = None, *, policy: Policy | None = None, **config: Any
    ) -> None:
        if policy is None and "policy" not in config:
            config = {"threshold": THRESHOLD, **config}
        settings = SchedulerConfig(**config)
        topo = topo or topology()
        self.learned = LearnedPrefills(topo.cluster_of)
        self.costs = LearnedCosts(self.learned, lambda start, end: end - start)
        self.scheduler = Scheduler(
            topo, policy or make_policy(settings), settings, costs=self.costs, learner=self.learned
        )
        self.now = 0.0
        self.log: list[c.AnyCommand] = []

    def __call__(self, event: e.AnyEvent, *, at: float | None = None) -> list[c.AnyCommand]:
        """Handle one event; what is to be done but `SetTimer`."""
        self.now = self.now if at is None else at
        out = self.scheduler.handle(event, now=self.now)
        self.scheduler.check_integrity()
        self.log += out
        return [command for command in out if not isinstance(command, c.SetTimer)]

    def arrive(
        self, tokens: int, rid: str = "r", *, at: float | None = None, **more: Any
    ) -> list[c.AnyCommand]:
        """A request of ten output tokens arrives."""
        return self(e.RequestArrived(rid, tokens, 10, **more), at=at)

    def alarm(self) -> list[c.AnyCommand]:
        """The time of the last `SetTimer` comes."""
        timer = next(x for x in reversed(self.log) if isinstance(x, c.SetTimer))
        return self(e.TimerFired(), at=timer.at)
