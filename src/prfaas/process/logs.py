"""What every process of a deployment says, in one format: for people, or as JSON for collectors."""

from __future__ import annotations

import argparse
import json
import logging
import logging.handlers
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prfaas.core.control_characters import escaped
from prfaas.core.once_a_second import OnceASecond

_LEVELS = ("debug", "info", "warning", "error")
_FORMATS = ("text", "json")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """The options ``--log-level``, ``--log-format`` and ``--log-file``, for `set_up_logs`."""
    parser.add_argument(
        "--log-level",
        default="info",
        choices=_LEVELS,
        help="least severe message that is logged (default: %(default)s)",
    )
    parser.add_argument(
        "--log-format",
        default="text",
        choices=_FORMATS,
        help="lines for people, or a JSON object each with the ids of requests and transfers in "
        "fields of their own (default: %(default)s)",
    )
    parser.add_argument(
        "--log-file",
        type=Path,
        metavar="FILE",
        help="log to this file instead of standard error; when it is moved away (logrotate) a new "
        "one is begun",
    )


def set_up_logs(level: str, *, form: str = "text", file: Path | None = None) -> None:
    """Log messages of ``level`` and above. Once per process. Raises OSError for a file that cannot
    be written."""
    handler = logging.StreamHandler() if file is None else LogFile(file)
    handler.setFormatter(JsonLines() if form == "json" else Lines(_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class LogFile(logging.handlers.WatchedFileHandler):
    """A file that is begun anew when it was moved away. Lines that cannot be written, as on a full
    disk or where no file may be made, are lost: who logs them goes on. Standard error says so, once
    a second."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._lost = OnceASecond()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line. Raises nothing, also where the file cannot be begun anew."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Called where a line could not be written, with the error under way."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        if lost := self._lost.times("", time.monotonic()):
            with suppress(OSError):
                sys.stderr.write(f"{self.baseFilename}: {lost} lines lost: {error}\n")


class Lines(logging.Formatter):
    """A line for each message: what others have said is in some, and begins no line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Without the traceback, which follows in lines of its own."""
        record.message = escaped(record.message)
        return super().formatMessage(record)


class JsonLines(logging.Formatter):
    """A JSON object for each message: ``time`` (UTC), ``level``, ``logger``, ``message``, whatever
    the message was given as ``extra``, and ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in it."""
        at = datetime.fromtimestamp(record.created, UTC)
        found: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        found |= {k: v for k, v in vars(record).items() if k not in _USUAL and v is not None}
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)
