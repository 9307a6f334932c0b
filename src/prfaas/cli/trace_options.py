"""The options that say what a trace does not say of itself, the same for every verb."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from prfaas.workload.stamps import TimeUnit

_OPTIONS = ("clip", "time_unit", "time_zone", "block_tokens")


def add_trace_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; `told` reads them."""
    group = parser.add_argument_group("traces")
    group.add_argument(
        "--clip", metavar="TOKENS", help="cut prompts that are longer, for example to 128K"
    )
    group.add_argument(
        "--time-unit", choices=get_args(TimeUnit), help="the unit of times that are numbers"
    )
    group.add_argument(
        "--time-zone",
        metavar="ZONE",
        help="the zone of times that name none: UTC, +02:00, Europe/Berlin",
    )
    group.add_argument(
        "--block-tokens", type=int, metavar="N", help="how many tokens one of hash_ids stands for"
    )


def told(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a `TraceSource` that the options set."""
    return {name: value for name in _OPTIONS if (value := getattr(args, name)) is not None}
