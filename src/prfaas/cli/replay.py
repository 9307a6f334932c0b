"""``prfaas replay JOURNAL``: what became of the requests of a journal, of all or of one."""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from prfaas.cli.console import progress_after, report_console
from prfaas.cli.outputs import prepare_output
from prfaas.cli.reports import add_json, teach
from prfaas.core.errors import CallerError
from prfaas.core.units import format_bytes, format_count, format_duration
from prfaas.plots.figure import check_picture
from prfaas.plots.replay import draw_requests
from prfaas.scheduler.journal import Entry
from prfaas.scheduler.replay import read_journal
from prfaas.scheduler.stories import Story, spans, stories
from prfaas.scheduler.timelines import Timeline, timelines

EXAMPLES = """
examples:
  prfaas replay events.jsonl                        a summary, and the requests that took longest
  prfaas replay events.jsonl REQUEST                one request, step by step
  prfaas replay events.jsonl --slowest 40 --plot slow.svg
  prfaas replay events.jsonl --json | jq 'select(.first_token_s > 2) | {route, reason}'

JOURNAL is what --events of 'prfaas gateway', 'prfaas up' or 'prfaas simulate' has written; it may
still be written to. REQUEST is an id of the gateway or the client's own (x-request-id). Exit
status: 0, or 2 where the file is no journal or does not have the request.
"""
_SILENT_S = 2.0
_TELL_EVERY = 10_000
_BAR_COLUMNS = 56


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    teach(parser, EXAMPLES)
    parser.add_argument("journal", type=Path, metavar="JOURNAL", help="a file that --events wrote")
    parser.add_argument("request", nargs="?", metavar="REQUEST", help="tell this one step by step")
    parser.add_argument(
        "--slowest", type=int, default=12, metavar="N",
        help="show so many, those longest without a first token (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw what is shown to .png, .svg or .pdf"
    )
    add_json(parser, Timeline, help_text="print one JSON line per request: all, or REQUEST")


def run(args: argparse.Namespace) -> int:
    """Returns the exit status. Raises CallerError for what is no journal, and for no request."""
    if args.slowest < 1:
        raise CallerError(f"--slowest {args.slowest}: write 1 or more")
    prepare_output("--plot", args.plot)
    if args.plot is not None:
        check_picture(args.plot)
    if args.request is None and args.json and args.plot is None:
        with args.journal.open("rb") as lines:
            for timeline in timelines(_entries(lines)):
                sys.stdout.write(_json(timeline))
        return 0
    with progress_after(_SILENT_S, f"reading {args.journal}") as step:
        shown = _one(args) if args.request is not None else _all(args, step)
    if args.plot is not None:
        draw_requests(args.plot, shown)
        if not args.json:
            report_console().print(f"plot: {args.plot}", highlight=False)
    return 0


def _entries(lines: BinaryIO) -> Iterator[tuple[float, Entry]]:
    """Of a file. Raises CallerError, which names it."""
    try:
        yield from read_journal(lines)
    except CallerError as error:
        raise CallerError(f"{lines.name}: {error}") from None


def _json(timeline: Timeline) -> str:
    return msgspec.json.encode(timeline).decode() + "\n"


def _one(args: argparse.Namespace) -> list[Timeline]:
    """Tells the last request of that id: simulations give theirs the same ids again."""
    with args.journal.open("rb") as lines:
        found = [
            story
            for story in stories(_entries(lines))
            if args.request in (story.timeline.request_id, story.timeline.client_request_id)
        ]
    if not found:
        raise CallerError(
            f"{args.journal} has no request {args.request!r}: 'prfaas replay {args.journal}' shows "
            "some, with --json all"
        )
    story = found[-1]
    if args.json:
        sys.stdout.write(_json(story.timeline))
        return [story.timeline]
    console = report_console()
    if len(found) > 1:
        console.print(f"{len(found)} requests have this id; the last:", highlight=False)
    _tell(story, console)
    return [story.timeline]


def _tell(story: Story, console: Console) -> None:
    timeline = story.timeline
    own = timeline.client_request_id
    title = f"{timeline.request_id}{f' (client: {own})' if own else ''}: {timeline.outcome}"
    came = "" if timeline.arrived_at < 1e9 else f", arrived {_date(timeline.arrived_at)}"
    console.print(f"{title}{came}", style="bold", highlight=False, markup=False)
    for since_s, words in story.steps:
        line = f"  {since_s:+10.3f} s  {words}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if timeline.kv_bytes:
        console.print(f"  {_carried(timeline)}", highlight=False)
    stages = spans(timeline)
    whole = max((span.end_s for span in stages), default=0.0)
    if whole <= 0:
        return
    console.print(f"\n{'':10}0 s{f'{whole:.3f} s':>{_BAR_COLUMNS - 3}}", highlight=False)
    for stage, start, end in stages:
        left = round(start / whole * _BAR_COLUMNS)
        drawn = "█" * (round(end / whole * _BAR_COLUMNS) - left) or "▏"
        bar = f"{' ' * min(left, _BAR_COLUMNS - 1)}{drawn}"
        took = format_duration(end - start)
        console.print(f"{stage:10}{bar:{_BAR_COLUMNS + 1}} {took}", highlight=False)


def _carried(timeline: Timeline) -> str:
    words = f"{format_bytes(timeline.kv_bytes)} of KV cache were sent"
    if timeline.kv_bytes_hidden is None:
        return words
    share = timeline.kv_bytes_hidden / timeline.kv_bytes
    return f"{words}, {share:.0%} of it before prefill had ended"


def _date(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))


class _Summed:
    """Counts and times to first token, by route, and the slowest requests."""

    def __init__(self, slowest: int) -> None:
        self.routes: dict[str, list[float]] = {}
        self.outcomes: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.tokens: dict[str, int] = {}
        self.kv_bytes: dict[str, int] = {}
        self.requests = 0
        self._slowest: list[tuple[float, int, Timeline]] = []
        self._most = slowest

    def take(self, timeline: Timeline) -> None:
        self.requests += 1
        route = timeline.route or "none"
        waits = self.routes.setdefault(route, [])
        self.outcomes[timeline.outcome] = self.outcomes.get(timeline.outcome, 0) + 1
        self.counts[route] = self.counts.get(route, 0) + 1
        self.tokens[route] = self.tokens.get(route, 0) + (timeline.total_tokens or 0)
        self.kv_bytes[route] = self.kv_bytes.get(route, 0) + timeline.kv_bytes
        if timeline.first_token_s is not None:
            waits.append(timeline.first_token_s)
        wait_s = timeline.first_token_s if timeline.first_token_s is not None else -1.0
        heapq.heappush(self._slowest, (wait_s, -self.requests, timeline))
        if len(self._slowest) > self._most:
            heapq.heappop(self._slowest)

    def slowest(self) -> list[Timeline]:
        return [timeline for _, _, timeline in sorted(self._slowest, reverse=True)]


def _all(args: argparse.Namespace, step: Callable[[str], None]) -> list[Timeline]:
    summed = _Summed(args.slowest)
    with args.journal.open("rb") as lines:
        for timeline in _told(timelines(_entries(lines)), step):
            summed.take(timeline)
            if args.json:
                sys.stdout.write(_json(timeline))
    shown = summed.slowest()
    if args.json:
        return shown
    console = report_console()
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(summed.outcomes.items()))
    every = format_count(summed.requests, "request")
    console.print(f"{every}: {counts or 'none'}", highlight=False)
    if summed.requests:
        console.print(_routes(summed))
        console.print(_requests(shown))
        console.print(
            f"One of them, step by step: prfaas replay {args.journal} {shown[0].request_id}",
            highlight=False,
        )
    return shown


def _told(requests: Iterator[Timeline], step: Callable[[str], None]) -> Iterator[Timeline]:
    for number, timeline in enumerate(requests, 1):
        if number % _TELL_EVERY == 0:
            step(f"{number:,} requests")
        yield timeline


def _routes(summed: _Summed) -> Table:
    table = Table("route", "requests", "tokens", "KV sent", "TTFT P50", "P90", "P99", box=None,
                  pad_edge=False)  # fmt: skip
    for route, waits in sorted(summed.routes.items()):
        shown = ["-"] * 3
        if waits:
            shown = [format_duration(float(s)) for s in np.percentile(waits, (50, 90, 99))]
        kv_bytes = summed.kv_bytes[route]
        table.add_row(
            route,
            f"{summed.counts[route]:,}",
            f"{summed.tokens[route]:,}",
            format_bytes(kv_bytes) if kv_bytes else "-",
            *shown,
        )
    return table


def _requests(shown: list[Timeline]) -> Table:
    table = Table("\nslowest", "\nroute", "\ntokens", "\ncached", "\nwait", "\nprefill",
                  "\ntransfer", "\nload", "\nTTFT", "\noutcome", box=None,
                  pad_edge=False)  # fmt: skip
    for timeline in shown:
        took = {span.stage: format_duration(span.end_s - span.start_s) for span in spans(timeline)}
        first = timeline.first_token_s
        table.add_row(
            timeline.request_id,
            timeline.route or "-",
            "-" if timeline.total_tokens is None else f"{timeline.total_tokens:,}",
            f"{timeline.cached_tokens:,}",
            *(took.get(stage, "-") for stage in ("wait", "prefill", "transfer", "load")),
            "-" if first is None else format_duration(first),
            timeline.outcome,
        )
    return table
