"""What a process says on standard error: one format, from a level on."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from prfaas.gateway.access_log import log_access
from prfaas.gateway.facts import RequestFacts
from prfaas.process.logs import JsonLines, Lines, LogFile, set_up_logs

SCRIPT = """
import argparse, logging
from prfaas.process.logs import add_log_options, set_up_logs
parser = argparse.ArgumentParser()
add_log_options(parser)
args = parser.parse_args()
set_up_logs(args.log_level, form=args.log_format, file=args.log_file)
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


def test_json_has_ids_in_fields_of_their_own() -> None:
    record = logging.makeLogRecord(
        {"name": "prfaas.x", "levelname": "WARNING", "msg": "import %s\nfailed", "args": ("t-1",),
         "request_id": "r-1", "transfer_id": None, "created": 0.25}
    )  # fmt: skip
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.250+00:00",
        "level": "warning",
        "logger": "prfaas.x",
        "message": "import t-1\nfailed",
        "request_id": "r-1",
    }


def test_what_others_have_said_begins_no_line_of_its_own() -> None:
    said = "no\n2026-11-29 00:00:00 INFO prfaas.audit: all is well\x1b[2J"
    record = logging.makeLogRecord({"msg": "peer says %s, käme später", "args": (said,)})
    line = Lines("%(message)s").format(record)
    assert line == (
        "peer says no\\n2026-11-29 00:00:00 INFO prfaas.audit: all is well\\x1b[2J, käme später"
    )


def test_an_exception_is_part_of_its_line() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.makeLogRecord({"msg": "it broke", "exc_info": sys.exc_info()})
    assert "ValueError: no" in json.loads(JsonLines().format(record))["exception"]


def test_a_file_that_is_moved_away_is_begun_anew(tmp_path: Path) -> None:
    file, root = tmp_path / "log", logging.getLogger()
    before, root.handlers, level = root.handlers, [], root.level
    try:
        set_up_logs("info", file=file)
        logging.getLogger("prfaas.x").warning("one")
        file.rename(tmp_path / "log.1")
        logging.getLogger("prfaas.x").warning("two")
        for handler in root.handlers:
            handler.close()
    finally:
        root.handlers = before
        root.setLevel(level)
    assert [(tmp_path / n).read_text().split(": ")[1] for n in ("log.1", "log")] == [
        "one\n",
        "two\n",
    ]


UNWRITABLE = """
import logging, sys
from pathlib import Path
from prfaas.process.logs import set_up_logs
file = Path(sys.argv[1]) / "log"
file.parent.mkdir()
set_up_logs("info", file=file)
file.parent.rename(sys.argv[1] + ".moved")
for _ in range(50):
    logging.getLogger("prfaas.x").info("told")
file.parent.mkdir()
logging.getLogger("prfaas.x").info("told again")
"""


def test_lines_that_cannot_be_written_are_lost_and_who_logs_goes_on(tmp_path: Path) -> None:
    where = tmp_path / "logs"
    done = subprocess.run(
        [sys.executable, "-c", UNWRITABLE, where], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[0].startswith(f"{where}/log: 1 lines lost: [Errno 2]")
    assert "Traceback" not in done.stderr
    assert (where / "log").read_text().endswith("told again\n")


def test_a_full_disk_is_said_once_a_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("prfaas.process.logs.time.monotonic", lambda: now)
    handler = LogFile(Path("/dev/full"))
    for _ in range(30):
        handler.emit(logging.makeLogRecord({"msg": "told"}))
    now = 101.0
    handler.emit(logging.makeLogRecord({"msg": "told"}))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "/dev/full: 1 lines lost: [Errno 28] No space left on device"
    assert second == "/dev/full: 30 lines lost: [Errno 28] No space left on device"
    assert handler.stream is not None
    with pytest.raises(OSError, match="No space"):
        handler.close()


def test_the_access_log_says_how_a_request_ended_and_nothing_of_what_it_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    facts = RequestFacts(
        request_id="r", endpoint="/v1/completions", arrived_at=0.0, route="offload", outcome="ok",
        first_token_s=0.12345, error="prompt 'secret' is too long", total_tokens=7,
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "prfaas.access"):
        log_access(facts, 1.5)
    (record,) = caplog.records
    assert vars(record)["request_id"] == "r"
    assert vars(record)["ttft_s"] == 0.1235
    assert "outcome=ok" in record.getMessage()
    assert "secret" not in JsonLines().format(record)
