"""``prfaas bench URL``: a workload sent to an OpenAI endpoint, and what its clients saw."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import get_args

import aiohttp
import msgspec
import rich.progress
from rich.console import Console

from prfaas.bench.asking import Api, Prompts, fitted
from prfaas.bench.endpoint import Endpoint, Served, api_key_of
from prfaas.bench.load import Pace, Told, send
from prfaas.bench.outcomes import Outcome, Slo, Summary, summarise
from prfaas.cli.bench_report import show
from prfaas.cli.durations import more_than_none
from prfaas.cli.outputs import prepare_output
from prfaas.cli.reports import add_json, teach
from prfaas.cli.trace_options import add_trace_options, told
from prfaas.core.errors import CallerError, ConfigError
from prfaas.core.units import parse_duration, parse_tokens
from prfaas.description.drawing import drawn
from prfaas.description.file import load_workload
from prfaas.description.workload import (
    ArrivalConfig,
    LengthsConfig,
    LogNormalConfig,
    WorkloadConfig,
    with_trace,
)
from prfaas.plots.bench import draw_bench
from prfaas.plots.figure import check_picture
from prfaas.workload.arrivals import Process
from prfaas.workload.files import TraceSource, clip_note
from prfaas.workload.requests import Workload

_TELL_S = 5.0
_PAPERS = LengthsConfig(lognormal=LogNormalConfig())
_EXAMPLES = """
examples:
  prfaas bench http://127.0.0.1:8000 --rate 2                 the paper's lengths
  prfaas bench http://127.0.0.1:8000 --prompt 8K --output 128 --concurrency 4
  prfaas bench https://api.example.com --api-key-env KEY --trace conversation_trace.jsonl.gz \\
      --speed-up 0.1 --requests 500 --ttft 10s --tpot 25ms --plot bench.svg --json

Any server of OpenAI's API can be asked. Requests are sent when they are due, whatever became of the
ones before; with --concurrency alone, the next when one ends. TTFT counts from sending; TPOT is the
mean time of a token after the first; ITL the time between two events with text; the same words mean
the same in 'vllm bench serve'. Exit status: 0 all were answered, 1 some were not, 2 none was sent.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("url", metavar="URL", help="the endpoint, with or without /v1")
    what = parser.add_argument_group("what is asked (without any of these: the paper's lengths)")
    what.add_argument(
        "--workload", type=Path, metavar="FILE", help="send this workload (as simulate does)"
    )
    what.add_argument(
        "--trace", type=Path, metavar="FILE", help="send a trace's, or a journal's, requests"
    )
    what.add_argument("--prompt", metavar="TOKENS", help="make every prompt so long, e.g. 8K")
    what.add_argument(
        "--output",
        type=int,
        metavar="TOKENS",
        help="have every answer so long (default: 1024, or as in the trace)",
    )
    what.add_argument(
        "--requests", type=int, metavar="N", help="send so many (default: 100, or the whole trace)"
    )
    what.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="draw lengths, times and prompts from this seed (default: %(default)s)",
    )
    add_trace_options(parser)
    when = parser.add_argument_group("when")
    when.add_argument("--rate", type=float, metavar="R", help="requests per second, on average")
    when.add_argument(
        "--process",
        choices=get_args(Process),
        default="poisson",
        help="how arrivals are spread (default: %(default)s)",
    )
    when.add_argument(
        "--speed-up", type=float, metavar="X", help="send a trace's requests so many times faster"
    )
    when.add_argument(
        "--concurrency", type=int, metavar="N", help="have no more than N under way at a time"
    )
    when.add_argument("--duration", metavar="TIME", help="send none after so long, for example 60s")
    _configure_endpoint(parser)
    teach(parser, _EXAMPLES)


def _configure_endpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--api",
        choices=get_args(Api),
        default="completions",
        help="which API is asked (default: %(default)s)",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="the model to ask (default: the first that is served)"
    )
    parser.add_argument("--api-key-env", metavar="NAME", help="the variable that holds the API key")
    parser.add_argument(
        "--timeout",
        default="10min",
        metavar="TIME",
        help="what one whole answer may take (default: %(default)s)",
    )
    parser.add_argument("--ttft", metavar="TIME", help="the SLO: the first token comes within TIME")
    parser.add_argument(
        "--tpot", metavar="TIME", help="the SLO: each further token takes TIME at most"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw what was measured to .png, .svg or .pdf"
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="write one JSON line per request")
    add_json(parser, Summary, help_text="print JSON in place of the tables")


def run(args: argparse.Namespace) -> int:
    """Send, measure, report; returns the exit status. Raises CallerError, EngineError."""
    prepare_output("--save", args.save)
    prepare_output("--plot", args.plot)
    if args.plot is not None:
        check_picture(args.plot)
    slo = Slo(*(None if t is None else parse_duration(t) for t in (args.ttft, args.tpot)))
    pace, workload = _pace(args), _workload(args)
    served, outcomes = asyncio.run(_measured(args, pace, workload))
    summary = summarise(served.model, outcomes, slo)
    if args.save is not None:
        _save(args.save, outcomes)
    if args.plot is not None:
        draw_bench(args.plot, outcomes, slo)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(summary), indent=2).decode())
    else:
        show(summary, slo)
    return 0 if summary.completed == summary.requests > 0 else 1


def _pace(args: argparse.Namespace) -> Pace:
    if args.concurrency is not None and args.concurrency < 1:
        raise CallerError(f"--concurrency {args.concurrency}: write 1 or more")
    if args.requests is not None and args.requests < 1:
        raise CallerError(f"--requests {args.requests}: write 1 or more")
    if args.seed < 0:
        raise CallerError(f"--seed {args.seed}: write 0 or more")
    timed = args.rate is not None or args.concurrency is None
    duration = inf if args.duration is None else parse_duration(args.duration)
    return Pace(timed=timed, concurrency=args.concurrency, duration_s=duration)


def _workload(args: argparse.Namespace) -> Workload:
    config = _config(args)
    if config.arrivals is None and config.trace is None and args.concurrency is None:
        raise CallerError("when? write --rate REQUESTS_PER_S, or --concurrency N")
    if config.arrivals is None and args.concurrency is not None:
        # Its times are not looked at, but a trace or a drawing must have some.
        config = msgspec.structs.replace(config, arrivals=ArrivalConfig(rate=1.0))
    workload = drawn(config, seed=args.seed, beside=Path.cwd())
    if args.prompt is not None:
        every = [_prompt_tokens(args.prompt)] * len(workload)
        workload = msgspec.structs.replace(workload, prompts=every)
    source = config.source
    if source is not None and source.clip is not None:
        _note(clip_note(source.clip, workload.clipped_share))
    return workload if args.requests is None else workload.first(args.requests)


def _prompt_tokens(text: str) -> int:
    tokens = parse_tokens(text)
    if tokens < 1:
        raise CallerError(f"--prompt {text}: write 1 token or more")
    return tokens


def _config(args: argparse.Namespace) -> WorkloadConfig:
    """The workload that the options describe. Raises ConfigError for what excludes each other."""
    if sum(option is not None for option in (args.workload, args.trace, args.prompt)) > 1:
        raise ConfigError("--workload, --trace and --prompt exclude each other")
    found = WorkloadConfig(lengths=_PAPERS, output_tokens=args.output or 1024, requests=100)
    if args.workload is not None:
        found = load_workload(args.workload)
    if args.output is not None and args.trace is None:
        found = msgspec.structs.replace(found, output_tokens=args.output)
    source = None if args.trace is None else TraceSource(file=str(args.trace.resolve()))
    asked = with_trace(found, source, told(args))
    assert asked is not None
    changes: dict[str, object] = {}
    if args.rate is not None:
        changes["arrivals"] = ArrivalConfig(rate=args.rate, process=args.process)
    if args.requests is not None:
        changes["requests"] = args.requests
    if args.speed_up is not None:
        changes["speed_up"] = args.speed_up
    asked = msgspec.structs.replace(asked, **changes)
    asked.check()
    return asked


async def _measured(
    args: argparse.Namespace, pace: Pace, workload: Workload
) -> tuple[Served, list[Outcome]]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        endpoint = Endpoint(
            args.url,
            session,
            api_key=api_key_of(args.api_key_env),
            timeout_s=more_than_none("--timeout", args.timeout),
        )
        served = await endpoint.served(args.model)
        if served.longest is not None:
            workload, share = fitted(workload, served.longest)
            if share:
                _note(f"{share:.1%} of the prompts cut to what {served.model} takes")
        prompts = Prompts(workload, args.api, args.seed)
        with _progress(len(prompts)) as tell:
            return served, await send(prompts, endpoint, served.model, args.api, pace, tell)


@contextmanager
def _progress(total: int) -> Iterator[Told]:
    """A bar on a terminal, a line now and then elsewhere; both on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(total)
        return
    with rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.TextColumn("{task.fields[now]}"),
        console=console,
        transient=True,
    ) as bars:
        task = bars.add_task("answered", total=total, now="")
        yield lambda sent, ended, failed: bars.update(
            task, completed=ended, now=f"{sent - ended} under way, {failed} failed"
        )


class _Lines:
    """A line where some seconds have gone by since the last."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._told_at = clock()

    def __call__(self, _sent: int, ended: int, failed: int) -> None:
        now = self._clock()
        if now - self._told_at >= _TELL_S:
            self._told_at = now
            _note(f"{ended}/{self._total} ended, {failed} failed")


def _save(path: Path, outcomes: list[Outcome]) -> None:
    with path.open("wb") as file:
        file.writelines(msgspec.json.encode(outcome) + b"\n" for outcome in outcomes)


def _note(text: str) -> None:
    Console(stderr=True).print(text, highlight=False)
