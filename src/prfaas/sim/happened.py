"""What a gateway's journal says did happen, as a workload to simulate and as a row to compare with.

Theory of operation. Requests arrive when they did, with what the engines' caches held of each
prompt then. Answers are as long as they became; where an engine did not say how long that was, as
the time of their decode says, at the profile's steps. Engines that went down and links
that were cut are outages and line changes of the simulation. What would have been asked for
otherwise, and what other routes would have left in the caches, no journal knows: both stay as
they were.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial
from math import nan
from pathlib import Path

import msgspec
import numpy as np

from prfaas.core.errors import CallerError
from prfaas.description.experiments import LineChange, OutageConfig, RunConfig
from prfaas.description.file import Description
from prfaas.models.profiles import DecodeProfile
from prfaas.policies.api import Route
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.journal import Entry, JournalOpened, LinesLost, RequestEnded
from prfaas.scheduler.replay import read_journal
from prfaas.scheduler.timelines import Timeline, timelines
from prfaas.sim.fleet import fleet_of
from prfaas.sim.metrics import ROUTE_CODE, Column, RequestTable
from prfaas.workload.requests import Held, Workload


class Happened(msgspec.Struct, frozen=True):
    """``opened``: how its gateway was set up. The rest in seconds from the first arrival."""

    opened: JournalOpened
    table: RequestTable
    workload: Workload
    egress: Column
    """Bytes that left the PrfaaS clusters in each second."""
    failures: tuple[OutageConfig, ...]
    line_changes: tuple[LineChange, ...]
    left_out: int
    """Requests that the scheduler never saw, or never ended."""
    failed_by_error: dict[str, int]
    """How many ended without an answer, by `ErrorKind`."""


def read_happened(path: Path, description: Description, *, beside: Path) -> Happened:
    """A gateway's journal; of several in one file the last.

    Raises CallerError for what is no journal, or has no request.
    """
    try:
        with path.open("rb") as lines:
            entries = list(read_journal(lines))
    except OSError as error:
        raise CallerError(f"--journal {path}: cannot be read: {error.strerror}") from error
    starts = [i for i, (_, item) in enumerate(entries) if isinstance(item, JournalOpened)]
    if not starts:
        raise CallerError(f"--journal {path}: it does not say how its gateway was set up")
    entries = entries[starts[-1] :]
    if any(isinstance(item, LinesLost) for _, item in entries):
        raise CallerError(f"--journal {path}: lines of it were lost")
    opened = entries[0][1]
    assert isinstance(opened, JournalOpened)
    arrived = {i.request_id: i for _, i in entries if isinstance(i, e.RequestArrived)}
    seen = [t for t in timelines(entries) if t.request_id in arrived]
    kept = sorted(
        (t for t in seen if t.total_tokens is not None and t.outcome != "unfinished"),
        key=lambda t: t.arrived_at,
    )
    if not kept:
        raise CallerError(f"--journal {path}: no request of it has ended")
    began = kept[0].arrived_at
    # Timelines are in Unix seconds, entries on the gateway's clock.
    offset = 0.0 if opened.unix_time is None else opened.unix_time - entries[0][0]
    steps = _steps(description, beside)
    table = _table(kept, began, _answers(kept, began, steps))
    return Happened(
        opened=opened,
        table=table,
        workload=_workload(table, [arrived[t.request_id] for t in kept]),
        egress=_egress(kept, began, opened),
        failures=_failures(entries, began - offset, opened),
        line_changes=_cuts(entries, began - offset, description),
        failed_by_error=_failed(entries, {t.request_id for t in kept}),
        left_out=max(0, sum(isinstance(i, RequestEnded) for _, i in entries) - len(kept)),
    )


def _failed(entries: Iterable[tuple[float, Entry]], kept: Container[str]) -> dict[str, int]:
    kinds = [i.kind for _, i in entries if isinstance(i, c.FailRequest) and i.request_id in kept]
    return {kind.value: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def as_it_was(description: Description, happened: Happened) -> tuple[Description, RunConfig]:
    """The description with the journal's outages (where it names none of its own) and costs, and
    the gateway's own scheduler as a run."""
    own = description.experiments
    links = {(link.source, link.target) for link in description.links}
    engines = {engine.name for engine in description.planned_engines}
    changes = tuple(
        change for change in happened.line_changes if (change.source, change.target) in links
    )
    failures = tuple(f for f in happened.failures if f.engine in engines)
    learned = happened.opened.costs.prefill is None
    experiments = msgspec.structs.replace(
        own,
        failures=own.failures or failures,
        line_changes=own.line_changes or changes,
        costs="learned" if learned else own.costs,
    )
    scheduler = happened.opened.scheduler
    run = RunConfig(name=f"{scheduler.policy}, simulated", scheduler=scheduler)
    return msgspec.structs.replace(description, experiments=experiments), run


_Steps = Mapping[str, Callable[[float], float] | None]


def _steps(description: Description, beside: Path) -> _Steps:
    """Engine -> seconds of a decode step by batch; beyond what was measured as at its end."""
    found: dict[str, Callable[[float], float] | None] = {}
    for engine in fleet_of(description, RunConfig(name=""), beside=beside):
        decode = engine.profile.decode
        found[engine.name] = None if decode is None else partial(_step_seconds, decode)
    return found


def _step_seconds(decode: DecodeProfile, batch: float) -> float:
    return decode.step_seconds(min(batch, decode.max_batch))


def _answers(kept: list[Timeline], began: float, steps: _Steps) -> dict[str, int]:
    """Request -> tokens of its answer, where its length is not known: its decode time in steps of
    the batches it was in, at most what was allowed."""
    by_engine: dict[str, list[Timeline]] = {}
    for t in kept:
        if t.first_token_s is not None and t.completed_s is not None and t.decode_engine:
            by_engine.setdefault(t.decode_engine, []).append(t)
    found: dict[str, int] = {}
    for engine, answered in by_engine.items():
        step = steps.get(engine)
        first = np.array([t.arrived_at + (t.first_token_s or 0.0) - began for t in answered])
        last = np.array([t.arrived_at + (t.completed_s or 0.0) - began for t in answered])
        times = np.concatenate((first, last))
        order = np.argsort(times, kind="stable")
        batch = np.cumsum(np.repeat([1, -1], len(answered))[order])
        pace = np.array([0.0 if b < 1 or step is None else 1 / step(float(b)) for b in batch])
        gained = np.concatenate(([0.0], np.cumsum(np.diff(times[order]) * pace[:-1])))
        tokens = np.interp(last, times[order], gained) - np.interp(first, times[order], gained)
        for t, count in zip(answered, tokens, strict=True):
            most = t.max_output_tokens or 1
            found[t.request_id] = most if step is None else max(1, min(most, round(count) + 1))
    return found


def _table(kept: list[Timeline], began: float, answers: Mapping[str, int]) -> RequestTable:
    def times(name: str) -> Column:
        seconds = [(t, getattr(t, name)) for t in kept]
        return np.array([nan if s is None else t.arrived_at - began + s for t, s in seconds])

    started, prefilled = times("prefill_started_s"), times("prefilled_s")
    codes = {route.value: code for route, code in ROUTE_CODE.items()}
    return RequestTable(
        arrived_at=np.array([t.arrived_at - began for t in kept]),
        prompt_tokens=np.array([t.total_tokens for t in kept], dtype=np.int64),
        output_tokens=np.array(
            [t.output_tokens or answers.get(t.request_id, t.max_output_tokens or 1) for t in kept],
            dtype=np.int64,
        ),
        first_at=times("first_token_s"),
        done_at=times("completed_s"),
        prefill_at=started,
        prefill_s=prefilled - started,
        transferred_at=times("transferred_s"),
        held_tokens=np.array([t.cached_tokens for t in kept], dtype=np.int64),
        route=np.array([codes.get(t.route or "", 0) for t in kept], dtype=np.uint8),
        attempts=np.array([min(t.attempts, 255) for t in kept], dtype=np.uint8),
    )


def _workload(table: RequestTable, arrivals: Iterable[e.RequestArrived]) -> Workload:
    return Workload(
        table.arrived_at.tolist(),
        table.prompt_tokens.tolist(),
        table.output_tokens.tolist(),
        held=[Held(event.cached, event.resumable) for event in arrivals],
    )


def _egress(kept: list[Timeline], began: float, opened: JournalOpened) -> Column:
    """A transfer's bytes spread evenly from its prefill's start to its arrival."""
    seconds = max(t.arrived_at - began + (t.completed_s or 0.0) for t in kept)
    found = np.zeros(int(seconds) + 1)
    for t in kept:
        if t.route != Route.OFFLOAD.value or not t.kv_bytes:
            continue
        if t.prefill_started_s is None or t.transferred_s is None:
            continue
        begin = t.arrived_at - began + t.prefill_started_s
        end = max(t.arrived_at - began + t.transferred_s, begin + 1e-3)
        for second in range(int(begin), min(int(end) + 1, found.size)):
            inside = min(end, second + 1) - max(begin, second)
            found[second] += t.kv_bytes * inside / (end - begin)
    return found


def _failures(
    entries: list[tuple[float, Entry]], zero: float, opened: JournalOpened
) -> tuple[OutageConfig, ...]:
    """Engines that were up, went down and came back (or never did)."""
    down: dict[str, float] = {}
    up = {spec.name for spec in opened.topology.engines if spec.up}
    found = []
    end = entries[-1][0] - zero
    for at, item in entries:
        now = max(at - zero, 0.0)
        if isinstance(item, e.EngineDown) and item.engine in up:
            up.discard(item.engine)
            down[item.engine] = now
        elif isinstance(item, e.EngineUp):
            up.add(item.engine)
            if (since := down.pop(item.engine, None)) is not None and now > since:
                found.append((item.engine, since, now - since))
    found += [(engine, since, max(end - since, 1.0)) for engine, since in down.items()]
    return tuple(
        OutageConfig(engine=engine, at=f"{at:.3f} s", duration=f"{max(for_s, 0.001):.3f} s")
        for engine, at, for_s in found
    )


def _cuts(
    entries: list[tuple[float, Entry]], zero: float, description: Description
) -> tuple[LineChange, ...]:
    """Links that were up and went down, and came back."""
    rates = {(link.source, link.target): link.rate for link in description.links}
    was_up: dict[tuple[str, str], bool] = {}
    found = []
    for at, item in entries:
        if not isinstance(item, e.LinkStateChanged):
            continue
        line = (item.source, item.target)
        before = was_up.get(line)
        was_up[line] = item.up
        if before is None or before == item.up or line not in rates:
            continue
        place = f"{max(at - zero, 0.0):.3f} s"
        rate = rates[line] if item.up else None
        found.append(
            LineChange(source=line[0], target=line[1], at=place, rate=rate, cut=not item.up)
        )
    return tuple(found)
