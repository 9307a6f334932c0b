"""Runs and sweeps on several cores, with the results of one.

Theory of operation. A run depends on nothing but its scenario, its workload and its seed, so each
is a job for a pool of processes, which are given scenario and workloads once. Of a sweep the rates
to try follow from those before; where cores are idle meanwhile, those that may be asked for next
are simulated ahead (`Rates.expect`) and dropped if they are not.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from prfaas.core.errors import CallerError
from prfaas.description.experiments import RunConfig
from prfaas.description.file import Description
from prfaas.scheduler.journal import CostInputs
from prfaas.scheduler.topology import EngineSpec
from prfaas.sim.experiment import simulate
from prfaas.sim.metrics import Column, RequestTable
from prfaas.sim.simulation import Log
from prfaas.sim.summary import Summary, egress, summarise
from prfaas.sim.sweep import PRECISION, InTurn, Sweep, SweepPoint, simulate_rate, sweep_rate
from prfaas.sim.world import LineModel, Outage
from prfaas.workload.requests import Workload

Progress = Callable[[int, int], None]
"""(job, requests that have arrived in it)."""
OnPoint = Callable[[int, SweepPoint], None]
"""(job, a rate that its sweep has tried)."""


class Setting(NamedTuple):
    """What all jobs share. ``begun_with``: see `simulate`."""

    scenario: Description
    workloads: tuple[Workload, ...]
    beside: Path
    begun_with: CostInputs | None = None


class Job(NamedTuple):
    """One run over one of the workloads; ``name`` is that of its row."""

    name: str
    run: RunConfig
    workload: int = 0


class Outcome(NamedTuple):
    """``table``, ``sent``: see `RequestTable` and `egress`; only where they were asked for."""

    summary: Summary
    engines: tuple[EngineSpec, ...]
    lines: tuple[LineModel, ...]
    outages: tuple[Outage, ...]
    table: RequestTable | None
    sent: Column | None


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_one(
    setting: Setting,
    job: Job,
    *,
    number: int = 0,
    whole: bool = False,
    log: Log | None = None,
    on_progress: Progress | None = None,
) -> Outcome:
    """One job, here. ``log``: see `simulate`."""
    simulation = simulate(
        setting.scenario,
        job.run,
        setting.workloads[job.workload],
        beside=setting.beside,
        log=log,
        on_progress=None if on_progress is None else lambda arrived: on_progress(number, arrived),
        begun_with=setting.begun_with,
    )
    world = simulation.world
    return Outcome(
        summarise(job.name, simulation, setting.scenario.slo),
        world.topology.engines,
        world.lines,
        world.outages,
        simulation.recorder.table() if whole else None,
        egress(simulation) if whole else None,
    )


def run_all(
    setting: Setting,
    jobs: Sequence[Job],
    *,
    processes: int,
    whole: bool = False,
    on_progress: Progress | None = None,
) -> Iterator[Outcome]:
    """The outcomes, in order. ``whole``: with what a plot needs. Raises CallerError."""
    if min(processes, len(jobs)) < 2:
        for number, job in enumerate(jobs):
            yield run_one(setting, job, number=number, whole=whole, on_progress=on_progress)
        return
    with _pool(setting, min(processes, len(jobs)), on_progress) as pool:
        futures = [pool.submit(_run, number, job, whole) for number, job in enumerate(jobs)]
        for future in futures:
            yield future.result()


def sweep_all(
    setting: Setting,
    jobs: Sequence[Job],
    *,
    processes: int,
    precision: float = PRECISION,
    on_point: OnPoint | None = None,
) -> list[Sweep]:
    """The highest rate of each job, in order. Raises CallerError."""

    def tell(number: int) -> Callable[[SweepPoint], None] | None:
        return None if on_point is None else lambda point: on_point(number, point)

    def sweep(number: int, job: Job, pool: ProcessPoolExecutor | None) -> Sweep:
        workload = setting.workloads[job.workload]
        alone = InTurn(setting.scenario, job.run, workload, beside=setting.beside)
        rates = alone if pool is None else _Ahead(pool, job, max(1, processes // len(jobs)))
        rate = workload.rate
        return sweep_rate(job.name, rates, rate, precision=precision, on_point=tell(number))

    if processes < 2:
        return [sweep(number, job, None) for number, job in enumerate(jobs)]
    with _pool(setting, processes, None) as pool, ThreadPoolExecutor(len(jobs)) as threads:
        futures = [threads.submit(sweep, number, job, pool) for number, job in enumerate(jobs)]
        return [future.result() for future in futures]


@contextmanager
def _pool(
    setting: Setting, processes: int, on_progress: Progress | None
) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes: this one may have threads, with which a copy of it would not be safe."""
    context = multiprocessing.get_context("spawn")
    news = None if on_progress is None else context.SimpleQueue()
    listener = None
    if news is not None and on_progress is not None:
        listener = Thread(target=_listen, args=(news, on_progress), daemon=True)
        listener.start()
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(setting, news)
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise CallerError(
            "a process that simulated was killed, perhaps for want of memory; take fewer at a "
            f"time than {processes}: --parallel N"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        if news is not None and listener is not None:
            news.put(None)
            listener.join()


def _listen(news: SimpleQueue[tuple[int, int] | None], on_progress: Progress) -> None:
    while (item := news.get()) is not None:
        on_progress(*item)


class _Ahead:
    """`Rates` from a pool: the one asked for, and meanwhile at most ``most`` in all."""

    def __init__(self, pool: ProcessPoolExecutor, job: Job, most: int) -> None:
        self._pool, self._job, self._most = pool, job, most
        self._known: dict[float, Future[Summary]] = {}

    def at(self, rate: float) -> Summary:
        """See `Rates`."""
        return self._begin(rate).result()

    def expect(self, rates: Sequence[float]) -> None:
        """See `Rates`."""
        for rate in [r for r, future in self._known.items() if r not in rates and future.cancel()]:
            del self._known[rate]
        for rate in rates:
            if sum(not future.done() for future in self._known.values()) >= self._most:
                return
            self._begin(rate)

    def _begin(self, rate: float) -> Future[Summary]:
        if rate not in self._known:
            self._known[rate] = self._pool.submit(_run_at, self._job, rate)
        return self._known[rate]


# -- in the processes of the pool -----------------------------------------------------------------

_given: list[tuple[Setting, SimpleQueue[tuple[int, int] | None] | None]] = []


def _begin(setting: Setting, news: SimpleQueue[tuple[int, int] | None] | None) -> None:
    _given.append((setting, news))


def _run(number: int, job: Job, whole: bool) -> Outcome:
    setting, news = _given[0]
    on_progress = None if news is None else lambda job, arrived: news.put((job, arrived))
    return run_one(setting, job, number=number, whole=whole, on_progress=on_progress)


def _run_at(job: Job, rate: float) -> Summary:
    setting, _ = _given[0]
    workload = setting.workloads[job.workload]
    return simulate_rate(setting.scenario, job.run, workload, rate, beside=setting.beside)
