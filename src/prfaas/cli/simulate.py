"""``prfaas simulate``: replay a workload or trace under routing policies."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import rich.progress
from rich.console import Console

from prfaas.cli.console import report_console
from prfaas.cli.description_options import add_description_options, described
from prfaas.cli.outputs import prepare_output
from prfaas.cli.reports import add_json, teach
from prfaas.cli.simulate_journal import Replay, replayed
from prfaas.core.errors import CallerError, ConfigError
from prfaas.description.experiments import RunConfig
from prfaas.description.file import Description
from prfaas.plots.figure import check_picture
from prfaas.plots.simulation import disturbances, plot, plot_sweep
from prfaas.policies.registry import POLICIES
from prfaas.scheduler.journal import Entry, encode
from prfaas.sim.build import build_workload
from prfaas.sim.parallel import Job, Outcome, Progress, Setting, cores, run_all, run_one, sweep_all
from prfaas.sim.report import results_tables
from prfaas.sim.runs import check_runs, run_for, with_seed
from prfaas.sim.simulation import Log
from prfaas.sim.summary import Summary
from prfaas.sim.sweep import Sweep, SweepPoint
from prfaas.workload.files import clip_note
from prfaas.workload.requests import Workload

EXAMPLES = """
examples:
  prfaas simulate examples/paper.yaml --policy elastic threshold
  prfaas simulate examples/paper.yaml --policy auto --sweep rate --parallel
  prfaas simulate examples/paper.yaml --policy auto --requests 500 --events run.jsonl
  prfaas simulate deployment.yaml --journal events.jsonl    what a gateway did, what else could
  prfaas simulate deployment.yaml --trace trace.jsonl.gz --speed-up 2 --plot run.svg --json

Exit status: 0, or 2 where a file or an option is wrong.
"""


class RunsReport(msgspec.Struct, frozen=True):
    """What ``prfaas simulate --json`` prints."""

    runs: list[Summary]


class SweepsReport(msgspec.Struct, frozen=True):
    """What ``prfaas simulate --sweep rate --json`` prints."""

    runs: list[Sweep]


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_description_options(parser)
    parser.add_argument(
        "--journal",
        type=Path,
        metavar="FILE",
        help="show what a gateway's journal says did happen, and beside it what would have: under "
        "its own policy, and under the runs of the file or --policy",
    )
    parser.add_argument(
        "--policy",
        nargs="+",
        metavar="NAME",
        help="runs of the file, or policies on its own engines: " + ", ".join(POLICIES),
    )
    parser.add_argument(
        "--requests",
        type=int,
        metavar="N",
        help="how many requests to draw, or to take from a recorded trace",
    )
    parser.add_argument(
        "--speed-up", type=float, metavar="X", help="let requests arrive this much faster"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="SEED",
        help="each run once for each seed, in place of the file's",
    )
    parser.add_argument(
        "--parallel",
        nargs="?",
        type=int,
        const=cores(),
        default=1,
        metavar="N",
        help="simulate so many at a time (without N: one on each core): runs, seeds, rates of a "
        "sweep; the results are the same",
    )
    parser.add_argument(
        "--sweep", choices=["rate"], help="find the highest rate that meets the SLO"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw TTFT and egress; of a sweep, the SLO by rate",
    )
    parser.add_argument("--events", type=Path, metavar="FILE", help="write the journal of the run")
    add_json(parser, RunsReport, SweepsReport, help_text="print JSON in place of the table")
    teach(parser, EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """The exit status. Raises CallerError."""
    scenario, beside = described(args), args.description.parent
    check_runs(scenario, source=str(args.description))
    replay = None if args.journal is None else replayed(args, scenario, beside)
    scenario = _overridden(scenario, args) if replay is None else replay.description
    runs = _runs(scenario, args.policy, replay)
    if args.events is not None and (len(runs) * len(args.seeds or "1") > 1 or args.sweep):
        raise CallerError("--events writes one run: name one with --policy, and no --sweep")
    if args.parallel < 1:
        raise CallerError(f"--parallel {args.parallel}: at least 1")
    prepare_output("--events", args.events)
    prepare_output("--plot", args.plot)
    if args.plot is not None:
        check_picture(args.plot)  # What cannot be drawn is better known before the run.
    setting, jobs = _jobs(scenario, runs, replay, args)
    if args.sweep:
        return _sweep(setting, jobs, args)
    outcomes = list(_simulated(setting, jobs, args))
    for job, outcome in zip(jobs, outcomes, strict=True):
        _note_split(scenario, job, outcome)
    summaries = [outcome.summary for outcome in outcomes]
    drawn = [
        (o.summary.name, o.table, o.sent)
        for o in outcomes
        if o.table is not None and o.sent is not None
    ]
    if replay is not None:
        summaries.insert(0, replay.row)
        drawn.insert(0, (replay.row.name, replay.happened.table, replay.happened.egress))
    _show(summaries, as_json=args.json)
    if args.plot is not None:
        last = outcomes[-1]
        plot(args.plot, drawn, disturbances(last.lines, last.outages))
    return 0


def _jobs(
    scenario: Description,
    runs: list[RunConfig],
    replay: Replay | None,
    args: argparse.Namespace,
) -> tuple[Setting, list[Job]]:
    """Every run over the workload of every seed."""
    beside = args.description.parent
    if replay is not None:
        setting = Setting(scenario, (replay.workload,), beside, replay.happened.opened.costs)
        return setting, [Job(run.name, run) for run in runs]
    seeds = args.seeds or [scenario.experiments.seed]
    seeded = [with_seed(scenario, seed) for seed in seeds]
    workloads = [_workload(each, args, beside) for each in seeded]
    jobs = [
        Job(f"{run.name}, seed {seed}" if args.seeds else run.name, run, number)
        for run in runs
        for number, seed in enumerate(seeds)
    ]
    return Setting(scenario, tuple(workloads), beside), jobs


def _simulated(setting: Setting, jobs: list[Job], args: argparse.Namespace) -> Iterator[Outcome]:
    whole = args.plot is not None
    if args.events is not None:
        with _log(args.events) as log, _progress(setting, jobs) as on_progress:
            yield run_one(setting, jobs[0], whole=whole, log=log, on_progress=on_progress)
        return
    with _progress(setting, jobs) as on_progress:
        yield from run_all(
            setting, jobs, processes=args.parallel, whole=whole, on_progress=on_progress
        )


def _runs(
    scenario: Description, policies: list[str] | None, replay: Replay | None
) -> list[RunConfig]:
    """What was named; else the file's runs; else its scheduler's policy."""
    names = policies or [run.name for run in scenario.experiments.runs]
    runs = [run_for(scenario, name) for name in names]
    if replay is not None:
        return [replay.run, *runs]
    return runs or [run_for(scenario, scenario.scheduler.policy)]


def _note_split(scenario: Description, job: Job, outcome: Outcome) -> None:
    """Say which split a cluster was given whose roles neither file nor run say."""
    for cluster in scenario.clusters:
        if cluster.name in job.run.instances or all(
            cluster.kind == "prfaas" or pool.role is not None for pool in cluster.pools
        ):
            continue
        roles = [engine.role for engine in outcome.engines if engine.cluster == cluster.name]
        Console(stderr=True).print(
            f"{job.name}: of {cluster.name} {roles.count('prefill')} prefill and "
            f"{roles.count('decode')} decode: the planner's split",
            highlight=False,
        )


def _workload(scenario: Description, args: argparse.Namespace, beside: Path) -> Workload:
    workload = build_workload(scenario, beside=beside)
    source = scenario.asked.source
    if source is not None and source.clip is not None:
        note = clip_note(source.clip, workload.clipped_share)
        Console(stderr=True).print(note, highlight=False)
    if args.requests is not None:
        workload = workload.first(args.requests)  # A recorded trace is read as a whole.
    return workload


def _overridden(scenario: Description, args: argparse.Namespace) -> Description:
    changes: dict[str, Any] = {}
    if args.requests is not None:
        changes["requests"] = args.requests
    if args.speed_up is not None:
        changes["speed_up"] = args.speed_up
    if changes.get("requests", 1) < 1:
        raise ConfigError("--requests: at least 1")
    workload = msgspec.structs.replace(scenario.asked, **changes)
    return msgspec.structs.replace(scenario, workload=workload)


def _sweep(setting: Setting, jobs: list[Job], args: argparse.Namespace) -> int:
    console = Console(stderr=True)

    def tell(job: int, point: SweepPoint) -> None:
        verdict = "meets" if point.met else "misses"
        console.print(
            f"{jobs[job].name}: {point.rate_req_per_s:.3f} req/s {verdict} the SLO "
            f"({point.slo_share:.1%} of requests)",
            highlight=False,
        )

    sweeps = sweep_all(setting, jobs, processes=args.parallel, on_point=tell)
    if args.json:
        _print_json(SweepsReport(sweeps))
    else:
        out = report_console()
        for sweep in sweeps:
            out.print(f"{sweep.name}: at most {sweep.best_req_per_s:.3f} req/s", highlight=False)
        _print_tables([s.best for s in sweeps if s.best is not None])
    if args.plot is not None:
        plot_sweep(args.plot, sweeps)
    return 0


def _show(summaries: list[Summary], *, as_json: bool) -> None:
    if as_json:
        _print_json(RunsReport(summaries))
    else:
        _print_tables(summaries)


def _print_tables(summaries: list[Summary]) -> None:
    console = report_console()
    for table in results_tables(summaries):
        console.print(table)


def _print_json(report: RunsReport | SweepsReport) -> None:
    print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())


@contextmanager
def _log(path: Path | None) -> Iterator[Log | None]:
    if path is None:
        yield None
        return
    try:
        with path.open("wb") as file:
            yield _writer(file)
    except OSError as error:
        raise CallerError(f"--events {path}: cannot be written: {error.strerror}") from error


def _writer(file: BinaryIO) -> Log:
    def write(at: float, item: Entry) -> None:
        file.write(encode(at, item))

    return write


@contextmanager
def _progress(setting: Setting, jobs: list[Job]) -> Iterator[Progress | None]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with rich.progress.Progress(console=console, transient=True) as bars:
        tasks = [
            bars.add_task(job.name, total=len(setting.workloads[job.workload])) for job in jobs
        ]
        yield lambda job, arrived: bars.update(tasks[job], completed=arrived)
