"""Prefill throughput of one engine: stock, with the connector idle, and while exporting.

Two real vLLM servers on one core, one with the connector and one without, are asked in turn for
the first token of fresh prompts; the connector's is asked both without and with a hand-off (to the
agent of this machine, so no line is in the way). Medians of the rounds, as ratios to stock.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path

import msgspec

from prfaas.core.layout import KvLayout
from prfaas.testing.calling import call
from prfaas.testing.running import PlainEngine, RunningDeployment

DEPLOYMENT = """
clusters:
- name: here
  kind: pd
  engines: [{name: exporter, role: prefill, cpus: "0"}, {name: unused, role: decode, cpus: "1"}]
  agent: {name: agent, plaintext: true, arena: 256 MiB}
"""
MODES = ("stock", "idle", "exporting")
LENGTHS = (1000, 4000, 8000, 16000)
SETTLE_S = 1.3
"""A vLLM worker polls for a second after its last step; the other engine shares its core."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="prompts per mode and length")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="prompt tokens")
    parser.add_argument("--output", type=Path, default=Path("build/bench/engine.json"))
    args = parser.parse_args()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = home / "deployment.yaml"
        file.write_text(DEPLOYMENT)
        print("starting two engines with, one without the connector ...", flush=True)
        running = stack.enter_context(RunningDeployment(file, home / "up"))
        plain = stack.enter_context(PlainEngine(running, home / "plain", cpus="0"))
        rows = [_measure(running, plain, length, args.rounds) for length in args.lengths]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(rows, indent=1))
    print(f"\n{args.output}")
    return 0


def _measure(
    running: RunningDeployment, plain: PlainEngine, length: int, rounds: int
) -> dict[str, float]:
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    for number in range(rounds + 1):
        order = random.sample(MODES, len(MODES))
        for mode in order:
            seconds = _prefill(running, plain, mode, length)
            if number:  # The first round warms up.
                times[mode].append(seconds)
    medians = {mode: statistics.median(times[mode]) for mode in MODES}
    row = {"prompt_tokens": length}
    for mode in MODES:
        row[f"{mode}_tokens_per_s"] = length / medians[mode]
        row[f"{mode}_to_stock"] = medians["stock"] / medians[mode]
    print(
        f"{length:6d} tokens: stock {row['stock_tokens_per_s']:8.0f} tok/s, "
        f"idle {row['idle_to_stock']:.3f}, exporting {row['exporting_to_stock']:.3f}",
        flush=True,
    )
    return row


def _prefill(running: RunningDeployment, plain: PlainEngine, mode: str, length: int) -> float:
    """Seconds to the first token of a prompt no cache knows."""
    ids = random.choices(range(300, 4000), k=length)
    body: dict[str, object] = {
        "model": running.deployment.model.served_name,
        "prompt": ids,
        "max_tokens": 1,
        "temperature": 0,
    }
    admin = running.admin("here")
    transfer_id = uuid.uuid4().hex
    if mode == "exporting":
        body["kv_transfer_params"] = {
            "prfaas": "export",
            "transfer_id": transfer_id,
            "destination": "agent",
            "readers": ["unused"],
            "from_token": 0,
            "to_token": _boundary(admin, length),
        }
    time.sleep(SETTLE_S)
    url = plain.url if mode == "stock" else str(running.engine("exporter").url)
    began = time.perf_counter()
    answer = call(f"{url}/v1/completions", body)
    seconds = time.perf_counter() - began
    if answer.status != 200:
        sys.exit(f"{url}: {answer.body.decode()}")
    if mode == "exporting":
        if not answer.json()["kv_transfer_params"]["ok"]:
            sys.exit(f"export failed: {answer.json()['kv_transfer_params']}")
        call(f"{admin}/transfers/{transfer_id}", method="DELETE")
    return seconds


def _boundary(admin: str, length: int) -> int:
    engines = call(f"{admin}/engines").json()["engines"]
    return msgspec.convert(engines[0]["layout"], KvLayout).boundary(length)


if __name__ == "__main__":
    sys.exit(main())
