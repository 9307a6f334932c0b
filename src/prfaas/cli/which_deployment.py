"""Which deployment a verb is about: the file that is named, or the one that runs here."""

from __future__ import annotations

import argparse
from pathlib import Path

from prfaas.core.errors import ConfigError
from prfaas.launch.ray.runs import remembered
from prfaas.launch.runs import running, the_running


def add_deployment(parser: argparse.ArgumentParser) -> None:
    """The argument DEPLOYMENT.yaml, which may be left out."""
    parser.add_argument(
        "deployment",
        nargs="?",
        type=Path,
        metavar="DEPLOYMENT.yaml",
        help="deployment file; without one: that of the running 'prfaas up'",
    )


def file_here() -> Path:
    """That of the only `prfaas up` on this machine. Raises ConfigError where there is none, or one
    must be named."""
    runs = running()
    if len(runs) > 1:
        files = " or ".join(str(run.deployment_file) for run in runs)
        raise ConfigError(f"several 'prfaas up' run on this machine; name the file of one: {files}")
    return the_running().readable_file()


def deployment_file(args: argparse.Namespace) -> Path:
    """The file that was named or is running. Raises ConfigError where neither is."""
    named: Path | None = args.deployment
    if named is not None:
        return named
    on_ray = remembered()
    if running() or len(on_ray) != 1:
        return file_here()
    from prfaas.launch.ray.run import refresh  # Only where it is asked for: Ray is an extra.

    (run,) = on_ray
    refresh(run)
    return run.deployment_file
