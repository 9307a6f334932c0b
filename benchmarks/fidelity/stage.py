"""What is measured: real engines on this machine's CPU, or engines that take a profile's times."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from prfaas.launch.start import embedded_default
from prfaas.testing.running import RunningDeployment

SLOW, BYTE_SCALE, BLOCK_TOKENS, MAX_BATCH = 0.5, 64.0, 64, 16
_POOLS = (
    ("east", "prefill", 2, "paper-1t-h200"),
    ("west", "prefill", 2, "paper-1t-h20-fit"),
    ("west", "decode", 2, "paper-1t-h20-fit"),
)
RATE = "200 Mbit/s"
"""A line that is felt: about what both PrfaaS engines produce at their busiest."""


class Stage(msgspec.Struct, frozen=True):
    """``longest``: prompts that are tried; ``first_id``: of token ids that engines have."""

    mu: float
    sigma: float
    longest: int
    output_tokens: int
    first_id: int


REAL = Stage(7.0, 0.8, 6000, 24, 300)
MOCK = Stage(9.6, 0.8, 60_000, 200, 0)


@contextmanager
def real(home: Path, journal: Path) -> Iterator[RunningDeployment]:
    """The embedded deployment: two clusters, a paced line, three engines."""
    with RunningDeployment(embedded_default(), home / "up", journal=journal) as running:
        yield running


@contextmanager
def mock(home: Path, journal: Path) -> Iterator[RunningDeployment]:
    """Six engines that take the paper's times; gateway, agents and link are real."""
    engines = [
        {"name": f"{cluster}-{role}-{i}", "role": role, "cluster": cluster, "profile": profile}
        | {"socket": str(home / f"{cluster}.sock")}
        for cluster, role, count, profile in _POOLS
        for i in range(count)
    ]
    order = {
        "engines": engines,
        "slow": SLOW,
        "byte_scale": BYTE_SCALE,
        "block_tokens": BLOCK_TOKENS,
        "max_batch": MAX_BATCH,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.case_study.engines"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        urls = json.loads(process.stdout.readline())
        file = home / "mock.json"
        file.write_text(json.dumps(_deployment(engines, urls, home)))
        with RunningDeployment(file, home / "up", journal=journal) as running:
            yield running
    finally:
        process.stdin.close()
        process.wait(30)


def _deployment(
    engines: list[dict[str, object]], urls: dict[str, str], home: Path
) -> dict[str, object]:
    clusters = [
        {
            "name": name,
            "kind": kind,
            "agent": {"name": f"{name}-agent", "socket": str(home / f"{name}.sock"),
                      "arena": "1 GiB"},
            "engines": [
                {"name": e["name"], "role": e["role"], "url": urls[str(e["name"])],
                 "kv_events": "tcp://127.0.0.1:1", "max_num_seqs": MAX_BATCH}
                for e in engines
                if e["cluster"] == name
            ],
        }
        for name, kind in (("east", "prfaas"), ("west", "pd"))
    ]  # fmt: skip
    return {
        "clusters": clusters,
        "links": [{"from": "east", "to": "west", "rate": RATE}],
        "scheduler": {"policy": "threshold", "threshold": "16K"},
        "gateway": {"max_body": "64 MiB"},
        "model": {"served_name": "mock-model", "block_tokens": BLOCK_TOKENS},
    }
