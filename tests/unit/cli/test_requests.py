"""``prfaas requests``: one JSON line per request of a journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prfaas.cli.main import main
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.journal import encode


def test_one_line_per_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(encode(n, RequestArrived(f"r{n}", 10 * n, 1)) for n in (1, 2)))
    assert main(["requests", str(path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["request_id"], line["total_tokens"]) for line in lines] == [
        ("r1", 10),
        ("r2", 20),
    ]


def test_what_is_no_journal_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.txt"
    path.write_text("hello\nworld\n")
    assert main(["requests", str(path)]) == 2
    assert "line 1 is no line of a journal" in capsys.readouterr().err
    assert main(["requests", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err
