"""``prfaas requests JOURNAL``: a journal as one line per request."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from prfaas.scheduler.replay import read_journal
from prfaas.scheduler.timelines import timelines


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Example: prfaas requests events.jsonl | jq 'select(.first_token_s > 2)'"
    parser.add_argument(
        "journal",
        type=Path,
        metavar="JOURNAL",
        help="written by 'prfaas gateway --events', 'prfaas up --events' or 'prfaas simulate "
        "--events'",
    )


def run(args: argparse.Namespace) -> int:
    with args.journal.open("rb") as lines:
        for timeline in timelines(read_journal(lines)):
            sys.stdout.write(msgspec.json.encode(timeline).decode() + "\n")
    return 0
