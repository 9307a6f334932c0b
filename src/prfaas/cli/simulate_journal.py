"""``prfaas simulate FILE --journal JOURNAL``: what did happen, and beside it what would have."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
from rich.console import Console

from prfaas.core.errors import CallerError
from prfaas.core.units import format_count
from prfaas.description.experiments import RunConfig
from prfaas.description.file import Description
from prfaas.sim.happened import Happened, as_it_was, read_happened
from prfaas.sim.summary import Summary, summarise_table
from prfaas.workload.requests import Workload


class Replay(msgspec.Struct, frozen=True):
    """A journal ready to be simulated otherwise."""

    description: Description
    happened: Happened
    run: RunConfig
    """The gateway's own scheduler."""
    row: Summary
    """What did happen."""

    @property
    def workload(self) -> Workload:
        """The journal's requests."""
        return self.happened.workload


def replayed(args: argparse.Namespace, description: Description, beside: Path) -> Replay:
    """The journal that the arguments name. Raises CallerError."""
    if args.sweep or args.seeds or args.requests is not None or args.speed_up is not None:
        raise CallerError(
            "--journal is replayed as it was: no --sweep, --seeds, --requests or --speed-up"
        )
    happened = read_happened(args.journal, description, beside=beside)
    described, run = as_it_was(description, happened)
    if happened.left_out:
        Console(stderr=True).print(
            "left out (refused before scheduling, or passed on unread): "
            f"{format_count(happened.left_out, 'request')}",
            highlight=False,
        )
    row = summarise_table(
        "as it was",
        happened.opened.scheduler.policy,
        happened.table,
        happened.egress,
        description.slo,
        failed_by_error=happened.failed_by_error,
        utilisation={},
    )
    return Replay(described, happened, run, row)
