"""``prfaas replay``: a journal in JSON lines, summed up, and one request step by step."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from prfaas.cli import replay
from prfaas.cli.main import main
from prfaas.cli.replay import Timeline
from prfaas.policies.api import Route
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.journal import Entry, encode

SHORT: list[tuple[float, Entry]] = [
    (9.0, e.RequestArrived("quick", 7, 1)),
    (9.0, c.StartDecode("quick", 1, "d1", None, 0, 0, Route.DIRECT, "short")),
    (9.1, e.FirstToken("quick", 1)),
    (9.2, e.RequestCompleted("quick", 1)),
]
OFFLOADED: list[tuple[float, Entry]] = [
    (1.0, e.RequestArrived("slow", 70, 9)),
    (1.5, c.StartPrefill("slow", 1, "e1", "d1", "slow-1", 0, 64, Route.OFFLOAD, "long")),
    (3.0, e.PrefillCompleted("slow", 1)),
    (3.25, e.TransferCompleted("slow", 1)),
    (3.25, c.StartDecode("slow", 1, "d1", "slow-1", 0, 64, Route.OFFLOAD, "long")),
    (3.5, e.FirstToken("slow", 1)),
    (4.0, e.RequestCompleted("slow", 1, 9)),
]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(encode(at, item) for at, item in (*OFFLOADED, *SHORT)))
    return path


def test_json_is_one_line_per_request(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(journal), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["request_id"], row["total_tokens"]) for row in lines] == [
        ("slow", 70),
        ("quick", 7),
    ]
    for row in lines:
        jsonschema.validate(row, msgspec.json.schema(Timeline))
    assert main(["replay", str(journal), "quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == lines[1]


def test_a_summary_shows_the_slowest(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "slow.svg"
    assert main(["replay", str(journal), "--slowest", "1", "--plot", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "2 requests: ok 2" in shown
    assert f"step by step: prfaas replay {journal} slow" in shown
    assert "quick" not in shown
    assert picture.read_text().startswith("<?xml")


def test_one_request_step_by_step(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(journal), "slow"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "+0.500 s  attempt 1, offload: e1 prefills, and tokens 0 to 64 go to d1 (long)" in (
        shown[2].strip()
    )
    bars = {line.split()[0]: line for line in shown if "█" in line}
    assert set(bars) == {"wait", "prefill", "transfer", "load", "answer"}
    # Prefill takes half of the three seconds, after half a second.
    assert bars["prefill"][10:].index("█") == round(0.5 / 3 * 56)
    assert bars["prefill"].count("█") == 28


def test_of_one_there_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    ended = (9.2, e.RequestCompleted("quick", 1, 1))
    path.write_bytes(b"".join(encode(at, item) for at, item in (*SHORT[:-1], ended)))
    assert main(["replay", str(path)]) == 0
    assert capsys.readouterr().out.startswith("1 request: ok 1\n")
    assert main(["replay", str(path), "quick"]) == 0
    assert "the answer is complete: 1 token\n" in capsys.readouterr().out


def test_a_stage_too_short_for_a_column_is_a_thin_mark(
    journal: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_BAR_COLUMNS", 10)
    assert main(["replay", str(journal), "slow"]) == 0
    thin = [line for line in capsys.readouterr().out.splitlines() if "▏" in line]
    assert thin
    assert not any("█" in line for line in thin)


def test_what_cannot_be_replayed_is_said(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(journal), "nobody"]) == 2
    assert "has no request 'nobody'" in capsys.readouterr().err
    assert main(["replay", str(journal), "--slowest", "0"]) == 2
    assert "write 1 or more" in capsys.readouterr().err
    path = tmp_path / "other.txt"
    path.write_text("hello\nworld\n")
    assert main(["replay", str(path)]) == 2
    assert "line 1 is no line of a journal" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err
