"""``prfaas bench`` as a user runs it, against a mock deployment's gateway."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from prfaas.cli.bench import _Lines
from prfaas.cli.main import main
from prfaas.testing.mock_deployment import MockDeployment


async def bench(*arguments: str) -> int:
    """In another thread: the gateway runs in this one's loop."""
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        url = str(client._base_url)
        return await asyncio.to_thread(main, ["bench", url, *arguments])


async def test_a_run_is_reported_saved_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, drawn = tmp_path / "run.jsonl", tmp_path / "run.svg"
    status = await bench(
        "--prompt", "500", "--output", "5", "--requests", "6", "--concurrency", "2",
        "--ttft", "60s", "--json", "--save", str(saved), "--plot", str(drawn),
    )  # fmt: skip
    assert status == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["requests"], found["completed"], found["slo_share"]) == (6, 6, 1.0)
    assert found["most_concurrent"] <= 2
    assert sum(route["completed"] for route in found["routes"].values()) == 6
    lines = [json.loads(line) for line in saved.read_text().splitlines()]
    assert [line["status"] for line in lines] == [200] * 6
    assert drawn.read_text().startswith("<?xml")


async def test_the_report_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert await bench("--rate", "200", "--output", "5", "--requests", "4", "--clip", "9") == 2
    assert "only of a trace" in capsys.readouterr().err
    short = ("--rate", "200", "--output", "5", "--requests", "4")
    assert await bench(*short, "--prompt", "500") == 0
    shown = capsys.readouterr().out
    assert "mock-model: 4 of 4 answered" in shown
    assert "TTFT, s" in shown
    assert await bench(*short, "--prompt", "100K") == 1
    shown = capsys.readouterr().out
    assert "failed: 4, HTTP 413:" in shown  # And why, in the gateway's words.
    assert "bytes" in shown


def test_a_run_that_takes_long_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 1.0, 5.5, 6.0, 10.0, 12.0])
    tell = _Lines(30, clock=lambda: next(times))
    for ended in range(1, 6):
        tell(30, ended, 1)
    said = capsys.readouterr().err.splitlines()
    assert said == ["2/30 ended, 1 failed", "5/30 ended, 1 failed"]


async def test_a_trace_is_asked_with_its_own_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "t.jsonl"
    line = '{"timestamp": %d, "input_length": 40, "output_length": 5, "hash_ids": [1, %d]}\n'
    trace.write_text("".join(line % (20 * n, n) for n in range(5)))
    arguments = ("--trace", str(trace), "--time-unit", "ms", "--block-tokens", "32", "--json")
    assert await bench(*arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["completed"], found["input_tokens"]) == (5, 5 * 40)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "when? write --rate"),
        (["--concurrency", "0"], "--concurrency 0"),
        (["--rate", "1", "--requests", "0"], "--requests 0"),
        (["--rate", "0"], "rate 0"),
        (["--rate", "1", "--timeout", "0s"], "--timeout 0s: write more than 0"),
        (["--rate", "1", "--seed", "-1"], "--seed -1: write 0 or more"),
        (["--rate", "1", "--prompt", "0"], "--prompt 0"),
        (["--rate", "1", "--prompt", "8K", "--trace", "t"], "exclude each other"),
        (["--rate", "1", "--plot", "x.txt"], "--plot x.txt"),
        (["--rate", "1", "--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["--rate", "1"], "cannot be reached"),
    ],
)
def test_what_cannot_be_run_is_said(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "http://127.0.0.1:9", *arguments]) == 2
    assert said in capsys.readouterr().err
