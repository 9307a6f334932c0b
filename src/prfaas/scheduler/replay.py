"""A journal played to a fresh scheduler: the same events at the same times, the same commands.

Theory of operation. `JournalOpened` holds what a scheduler is made from, so `scheduler_from` makes
an equal one. `replay` feeds it the journal's events and compares what it answers with the commands
that follow each event. Where they differ, something of the driver leaked into the scheduler (a
clock, an identity, an order of sets), or the code is another by now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

import msgspec

from prfaas.core.errors import UNREADABLE, CallerError
from prfaas.core.layout import KvLayout
from prfaas.models.interpolation import Table
from prfaas.policies.costs import LearnedCosts, ProfileCosts
from prfaas.policies.learned_loads import LearnedLoads
from prfaas.policies.learned_prefills import LearnedPrefills
from prfaas.policies.learned_steps import LearnedSteps
from prfaas.policies.registry import make_policy
from prfaas.policies.views import Costs, PrefillLearner
from prfaas.scheduler.commands import AnyCommand, Command
from prfaas.scheduler.events import AnyEvent, Event
from prfaas.scheduler.journal import (
    VERSION,
    CostInputs,
    Curve,
    Entry,
    JournalOpened,
    LinesLost,
    decode,
)
from prfaas.scheduler.load_times import LearnedDecodes
from prfaas.scheduler.scheduler import Scheduler


class Difference(msgspec.Struct, frozen=True):
    """At ``at`` the journal has ``recorded`` after ``event``; the fresh scheduler ``replayed``."""

    at: float
    event: AnyEvent
    recorded: tuple[AnyCommand, ...]
    replayed: tuple[AnyCommand, ...]


def read_journal(lines: Iterable[bytes]) -> Iterator[tuple[float, Entry]]:
    """The entries of a file, in order. Raises CallerError for what is no line of a journal, but
    passes over one that was cut short by a full disk or by the end of the writer."""
    unread: CallerError | None = None
    for number, line in enumerate(lines, 1):
        try:
            at, entry = decode(line)
        except UNREADABLE as error:
            if unread is not None:
                raise unread from None
            unread = CallerError(f"line {number} is no line of a journal: {error}")
            if not line.endswith(b"\n"):
                return
            continue
        if unread is not None and not isinstance(entry, LinesLost | JournalOpened):
            raise unread
        unread = None
        yield at, entry
    if unread is not None:
        raise unread


def scheduler_from(opened: JournalOpened) -> Scheduler:
    """A scheduler as the journal's was at its first event. Raises CallerError for a journal of
    another version, ConfigError for a policy that is not known here."""
    if opened.version != VERSION:
        raise CallerError(
            f"the journal is of version {opened.version}, this is a reader of version {VERSION}"
        )
    sizes = HandoffSizes()
    learns = opened.driver == "gateway" and opened.costs.prefill is None
    decodes = learned_decodes(opened.costs) if learns else None
    estimates = estimates_from(
        opened.costs, opened.topology.cluster_of, sizes=sizes, decodes=decodes
    )
    return Scheduler(
        opened.topology,
        make_policy(opened.scheduler),
        opened.scheduler,
        costs=estimates.costs,
        learner=estimates.learner,
        decodes=decodes,
        on_layout=sizes.learn,
        on_engines=None if estimates.learner is None else estimates.learner.engines_are,
    )


class HandoffSizes:
    """Bytes of a hand-off by the engines' layout; none are handed over before it is known."""

    def __init__(self) -> None:
        self._layout: KvLayout | None = None

    def learn(self, layout: KvLayout) -> None:
        """The engines hold their KV cache so."""
        self._layout = layout

    def bytes(self, from_token: int, to_token: int) -> float:
        """Of tokens [from_token, to_token)."""
        return 0.0 if self._layout is None else self._layout.handoff_bytes(from_token, to_token)


def learned_decodes(inputs: CostInputs) -> LearnedDecodes:
    """What is known of decode engines before anything was seen."""
    steps = LearnedSteps(inputs.steps)
    for engine, curve in inputs.step_seeds.items():
        steps.seed(engine, zip(curve.x, curve.y, strict=True))
    return LearnedDecodes(LearnedLoads(inputs.loads), steps)


class Estimates(NamedTuple):
    """What the scheduler reads, and whom it tells how long prefills took (None: nobody)."""

    costs: Costs
    learner: PrefillLearner | None


def estimates_from(
    inputs: CostInputs,
    cluster_of: Mapping[str, str],
    *,
    sizes: HandoffSizes | None = None,
    decodes: LearnedDecodes | None = None,
) -> Estimates:
    """The estimates that the scheduler begins with. ``sizes`` stand in where the inputs do not say
    how large a hand-off is; ``decodes`` go on being learned."""
    if inputs.prefill is None:
        prefills = LearnedPrefills(cluster_of)
        for engine, curve in inputs.seeds.items():
            prefills.seed(engine, zip(curve.x, curve.y, strict=True))
        prefills.restore(inputs.learned)
        if inputs.kv_size is None:
            kv_bytes = (sizes or HandoffSizes()).bytes
        else:
            kv_bytes = ProfileCosts({}, inputs.kv_size.bytes).kv_bytes
        return Estimates(LearnedCosts(prefills, kv_bytes, *(decodes or ())), prefills)
    assert inputs.kv_size is not None
    seconds = {curve: cache(_seconds(curve)) for curve in set(inputs.prefill.values())}
    prefill = {engine: seconds[curve] for engine, curve in inputs.prefill.items()}
    return Estimates(ProfileCosts(prefill, cache(inputs.kv_size.bytes)), None)


def replay(entries: Iterable[tuple[float, Entry]]) -> Iterator[Difference]:
    """Each event after which a fresh scheduler does not do what the journal says.

    Raises CallerError where an event comes before a `JournalOpened`, or lines were lost.
    """
    scheduler: Scheduler | None = None
    last: tuple[float, AnyEvent] | None = None
    recorded: list[AnyCommand] = []
    for at, item in entries:
        if isinstance(item, Command):
            recorded.append(item)
            continue
        if last is not None and isinstance(item, Event | JournalOpened):
            yield from _compared(scheduler, *last, recorded)
            last, recorded = None, []
        if isinstance(item, JournalOpened):
            scheduler = scheduler_from(item)
        elif isinstance(item, LinesLost):
            raise CallerError(f"{item.lines} lines of the journal were lost before {at:g}")
        elif isinstance(item, Event):
            last = at, item
    if last is not None:
        yield from _compared(scheduler, *last, recorded)


def _compared(
    scheduler: Scheduler | None, at: float, event: AnyEvent, recorded: list[AnyCommand]
) -> Iterator[Difference]:
    if scheduler is None:
        raise CallerError("the journal does not say what its scheduler was made from")
    replayed = scheduler.handle(event, now=at)
    if replayed != recorded:
        yield Difference(at, event, tuple(recorded), tuple(replayed))


def _seconds(curve: Curve) -> Callable[[float], float]:
    return Table(curve.x, curve.y, interpolation=curve.interpolation, what="prefill").at
