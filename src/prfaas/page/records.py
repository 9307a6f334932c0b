"""What the page is told, as types. Seconds, bytes, tokens; ``at`` in Unix seconds."""

from __future__ import annotations

import msgspec

from prfaas.scheduler.journal import Entry
from prfaas.scheduler.timelines import Timeline
from prfaas.scheduler.topology import Topology


class ClusterSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cluster at one moment. Of prefill engines that are up: how many work, and how many prompts
    wait for one. Of decode engines that are up: requests that hold a slot, slots, and how many wait
    for one. ``cached_blocks``: KV blocks in its engines' prefix caches, as their events tell.
    ``kv_tokens``: of what its engines' KV memory holds, what running requests may take.
    ``memory``: its agents' bytes for hand-offs, and those reserved."""

    prefill_up: int = 0
    prefill_busy: int = 0
    prefill_waiting: int = 0
    decode_up: int = 0
    decode_running: int = 0
    decode_slots: int = 0
    decode_waiting: int = 0
    cached_blocks: int = 0
    kv_tokens: float = 0
    kv_tokens_used: int = 0
    memory_bytes: int = 0
    memory_reserved_bytes: int = 0


class LineSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One direction of a line. ``goodput``: None where its senders do not say. ``rate``: what the
    scheduler believes that it carries; ``limit``: its budget, None for none."""

    up: bool = True
    goodput_bytes_per_s: float | None = None
    limit_bytes_per_s: float | None = None
    rate_bytes_per_s: float | None = None
    utilisation: float = 0.0
    congestion: float = 0.0
    rtt_s: float = 0.0
    transfers: int = 0
    outstanding_bytes: float = 0.0


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The deployment at one moment.

    ``clusters`` and ``lines`` stand in the topology's order, as do ``engines``, a letter for each:
    ``p`` and ``d`` for one that prefills or decodes, capital where it works, ``s`` suspected, ``c``
    taking no more (drained), ``x`` down. ``loads``: a digit for each, how full it is (0 to 9).
    ``thresholds``: by PD cluster, in use now; ``optima``: those that would carry most.
    """

    at: float
    topology: int
    """Which of the topologies that were told it is of."""
    clusters: list[ClusterSample]
    lines: list[LineSample]
    engines: str
    loads: str
    thresholds: dict[str, float] = {}
    optima: dict[str, float] = {}
    live: int = 0
    """Requests under way."""


class News(msgspec.Struct, frozen=True):
    """An entry of the journal that people want to know of."""

    at: float
    entry: Entry


class Deployed(msgspec.Struct, frozen=True):
    """The deployment that the samples from ``number`` on were taken of."""

    number: int
    topology: Topology


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """What is new since the last one. ``live``: requests under way, the oldest; ``ended``: those
    that have ended since."""

    sample: Sample
    live: list[Timeline]
    ended: list[Timeline]
    news: list[News]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """All that is kept, for a page that opens. ``samples``, ``ended`` and ``news`` are encoded
    already: lists of `Sample`, `Timeline`, `News`."""

    driver: str
    model: str | None
    policy: str
    deployed: list[Deployed]
    samples: msgspec.Raw
    ended: msgspec.Raw
    news: msgspec.Raw
