"""Time to first token: prefilled across the line, beside prefilled in the same cluster.

The embedded deployment (two clusters, a line paced to 200 Mbit/s, three real engines) is asked for
one token of fresh prompts, in turn through a gateway that offloads and one that does not. For each
length: medians, their difference, what of it the line's rate makes unavoidable (the bytes that
come into being with prefill's last step), and the share of the KV bytes that had been acknowledged
by the receiving machine when prefill ended.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from prfaas.core.layout import KvLayout
from prfaas.core.transfer_plan import TransferPlan
from prfaas.launch.start import embedded_default
from prfaas.testing.calling import call
from prfaas.testing.running import RunningDeployment, SecondGateway

LENGTHS = (1000, 4000, 16000)
SETTLE_S = 1.3
"""A vLLM worker polls for a second after its last step; the prefill engines share a core."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.handoff", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="prompts per route and length")
    parser.add_argument("--output", type=Path, default=Path("build/bench/handoff.json"))
    args = parser.parse_args()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print("starting the embedded deployment ...", flush=True)
        running = stack.enter_context(RunningDeployment(embedded_default(), home / "up"))
        offload = stack.enter_context(SecondGateway(running, home / "offload", threshold="1"))
        local = stack.enter_context(SecondGateway(running, home / "local", threshold="1M"))
        rows = [_measure(running, offload, local, length, args.rounds) for length in LENGTHS]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(rows, indent=1))
    print(f"\n{args.output}")
    return 0


def _measure(
    running: RunningDeployment,
    offload: SecondGateway,
    local: SecondGateway,
    length: int,
    rounds: int,
) -> dict[str, float]:
    times: dict[str, list[float]] = {"offload": [], "pd-p": []}
    hidden, kv_bytes = [], 0
    for number in range(rounds + 1):
        for gateway, route in ((offload, "offload"), (local, "pd-p")):
            seconds, headers = _first_token(running, gateway, length)
            if not headers["x-prfaas-route"].startswith(route):
                sys.exit(f"asked for {route}, got {headers['x-prfaas-route']}")
            if number == 0:  # The first round warms up.
                continue
            times[route].append(seconds)
            if route == "offload":
                hidden.append(float(headers["x-prfaas-kv-hidden"]))
                kv_bytes = int(headers["x-prfaas-kv-bytes"])
    row = {
        "prompt_tokens": float(length),
        "kv_bytes": float(kv_bytes),
        "offload_ttft_s": statistics.median(times["offload"]),
        "local_ttft_s": statistics.median(times["pd-p"]),
        "unavoidable_s": _unavoidable_s(running, length),
        "hidden_share": statistics.median(hidden),
    }
    row["excess_s"] = row["offload_ttft_s"] - row["local_ttft_s"]
    print(
        f"{length:6d} tokens: TTFT {row['offload_ttft_s']:.3f} s across the line, "
        f"{row['local_ttft_s']:.3f} s local: +{row['excess_s']:.3f} s, of which "
        f"{row['unavoidable_s']:.3f} s is the line's; {row['hidden_share']:.1%} of "
        f"{kv_bytes / 1e6:.1f} MB hidden",
        flush=True,
    )
    return row


def _first_token(
    running: RunningDeployment, gateway: SecondGateway, length: int
) -> tuple[float, dict[str, str]]:
    body = {
        "model": running.deployment.model.served_name,
        "prompt": random.choices(range(300, 4000), k=length),
        "max_tokens": 1,
        "temperature": 0,
    }
    time.sleep(SETTLE_S)
    began = time.perf_counter()
    answer = call(f"{gateway.url}/v1/completions", body)
    if answer.status != 200:
        sys.exit(answer.body.decode())
    return time.perf_counter() - began, answer.headers


def _unavoidable_s(running: RunningDeployment, length: int) -> float:
    """Wire time of what prefill's last step brings into being: its blocks and all states."""
    (link,) = running.deployment.links
    assert link.rate_bytes_per_s is not None
    engines = call(f"{running.admin('east')}/engines").json()["engines"]
    layout = msgspec.convert(engines[0]["layout"], KvLayout)
    boundary = layout.boundary(length)
    chunk = running.deployment.model.max_num_batched_tokens
    last_step = TransferPlan(layout, from_token=(boundary - 1) // chunk * chunk, to_token=boundary)
    return last_step.total_bytes / link.rate_bytes_per_s


if __name__ == "__main__":
    sys.exit(main())
