"""What a process says on standard error: one format, from a level on."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import argparse, logging
from prfaas.process.logs import add_log_level, log_to_stderr
parser = argparse.ArgumentParser()
add_log_level(parser)
log_to_stderr(parser.parse_args().log_level)
logging.getLogger("prfaas.x").info("told")
logging.getLogger("prfaas.x").warning("warned")
"""


def said(*arguments: str) -> list[str]:
    """Lines without their time, of a process of its own: logging is set up once per process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True
    )
    return [line.split(" ", 2)[2] for line in done.stderr.splitlines()]


def test_messages_of_the_level_and_above_are_shown() -> None:
    assert said() == ["INFO prfaas.x: told", "WARNING prfaas.x: warned"]
    assert said("--log-level", "warning") == ["WARNING prfaas.x: warned"]
