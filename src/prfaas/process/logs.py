"""One format for what every process of a deployment says on standard error."""

from __future__ import annotations

import argparse
import logging

_LEVELS = ("debug", "info", "warning", "error")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """The option ``--log-level``, for `log_to_stderr`."""
    parser.add_argument(
        "--log-level",
        default="info",
        choices=_LEVELS,
        help="least severe message on standard error (default: %(default)s)",
    )


def log_to_stderr(level: str) -> None:
    """Show messages of ``level`` (see `add_log_level`) and above. Once per process."""
    logging.basicConfig(level=level.upper(), format=_FORMAT)
