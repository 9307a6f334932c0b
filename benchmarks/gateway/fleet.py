"""What a large fleet costs the gateway: idle, per arrival, while caches change; memory per block.

The gateway is real: health checks, agents' polls and link states, KV events over real sockets from
mock engines in a process of their own. Arrivals are measured from token ids to the first command.

    python -m benchmarks.gateway.fleet [--engines 1000] [--clusters 20] [--parts idle arrivals ...]

Writes build/bench/fleet.json. Times are by the wall clock; beside them stand those of the thread's
own CPU clock (``..._cpu``), which a busy machine changes less. The modules of the compiled wheel
are measured with ``PYTHONPATH=build/compiled``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import time
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import numpy as np
import uvloop
from benchmarks.gateway.fleet_decisions import Rig, percentile
from benchmarks.gateway.fleet_mocks import ENGINES_PER_MACHINE, serve

from prfaas.core.deployment import parse_deployment
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.server import allow_open_files
from prfaas.kv_events.feed import FeedState
from prfaas.testing.mock_deployment import until

_PATH = Path("build/bench/fleet.json")
_PARTS = ("memory", "arrivals", "idle")
_POLICIES = ("threshold", "auto")
_TICK_S = 0.001


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _memory(pipe: Connection, blocks: int, engines: int, block_tokens: int) -> None:
    before = _resident_bytes()
    rig = Rig(engines=engines, clusters=20, blocks=blocks, block_tokens=block_tokens, seed=3)
    rig.random = None  # type: ignore[assignment]
    held = sum(index.blocks for index in rig.held)
    pipe.send((_resident_bytes() - before, rig.index.blocks, held))


def measure_memory(args: argparse.Namespace) -> dict[str, float]:
    """In a process of its own, by its resident memory."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_memory, args=(theirs, args.memory_blocks, args.engines, 16))
    process.start()
    used, blocks, held = ours.recv()
    process.join()
    return {
        "bytes_per_block": round(used / blocks, 1),
        "memory_blocks": blocks,
        "memory_holders_per_block": round(held / blocks, 2),
    }


def measure_arrivals(args: argparse.Namespace) -> dict[str, float]:
    """p50 and p99 for both policies; the keys without a policy's name are its that is slower."""
    found: dict[str, float] = {}
    for block_tokens, cases in ((256, ("27k", "128k_block256")), (16, ("128k_block16",))):
        rig = Rig(
            engines=args.engines,
            clusters=args.clusters,
            blocks=args.blocks,
            block_tokens=block_tokens,
            seed=1,
        )
        for case in cases:
            tokens = 27_000 if case == "27k" else 131_072
            for policy in _POLICIES:
                wall, cpu = rig.arrivals_ms(policy, tokens, args.arrivals)
                for name, times in (("", wall), ("_cpu", cpu)):
                    for share in (50, 99):
                        key = f"arrival_p{share}_ms_{case}{name}"
                        value = round(percentile(times, share / 100), 3)
                        found[f"{key}_{policy}"] = value
                        found[key] = max(value, found.get(key, 0.0))
                print(f"{case} {policy}: p50 {percentile(wall, 0.5):.2f} ms, p99 "
                      f"{percentile(wall, 0.99):.2f} ms", flush=True)  # fmt: skip
    return found


class _Stalls:
    """The longest time for which the loop did not turn, by the wall and by its own CPU time."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    async def watch(self) -> None:
        """For ever."""
        at, cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(_TICK_S)
            now, cpu_now = time.perf_counter(), time.thread_time()
            self.wall_s = max(self.wall_s, now - at - _TICK_S)
            self.cpu_s = max(self.cpu_s, cpu_now - cpu)
            at, cpu = now, cpu_now


def _stored(random: np.random.Generator, tokens: int, block_tokens: int) -> bytes:
    blocks = tokens // block_tokens
    event = {
        "type": "BlockStored",
        "block_hashes": random.integers(1, 1 << 63, blocks).tolist(),
        "parent_block_hash": None,
        "token_ids": random.integers(0, 150_000, blocks * block_tokens).tolist(),
        "block_size": block_tokens,
        "medium": "GPU",
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }
    return msgspec.msgpack.encode([time.time(), [event], 0])


async def _gateway(args: argparse.Namespace, pipe: Connection) -> dict[str, float]:
    deployment = parse_deployment(pipe.recv(), source="mock")
    allow_open_files(deployment.gateway.max_inflight_requests)
    gateway = Gateway(deployment, resolve(deployment, source="mock"))
    started = time.perf_counter()
    await gateway.start()
    await until(lambda: len(gateway.fleet.up) == args.engines, within_s=300)
    names = list(gateway.engines)
    await until(
        lambda: all(gateway.feed(name).state is FeedState.LIVE for name in names), within_s=300
    )
    found = {"all_up_s": round(time.perf_counter() - started, 2)}
    await asyncio.sleep(3.0)
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.sleep(args.seconds)
    spent = (time.process_time() - cpu) / (time.perf_counter() - wall)
    found["idle_cpu_share"] = round(spent, 4)
    random = np.random.default_rng(5)
    # A prompt of 128K tokens in one event, then smaller ones; a machine's engines all get them.
    bursts = [
        [_stored(random, tokens, 16) for tokens in (131_072, *[2048] * 10)]
        for _ in range(args.bursts)
    ]
    await asyncio.sleep(0.1)
    stalls = _Stalls()
    watching = asyncio.ensure_future(stalls.watch())
    cpu = time.process_time()
    for number, payloads in enumerate(bursts):
        for payload in payloads:
            pipe.send((number, payload))
            await asyncio.sleep(0)
    expected = args.bursts * 11 * ENGINES_PER_MACHINE
    await until(
        lambda: sum(gateway.feed(name).follower.batches_total for name in names) >= expected,
        within_s=600,
    )
    watching.cancel()
    found["longest_stall_ms"] = round(stalls.wall_s * 1e3, 2)
    found["longest_stall_cpu_ms"] = round(stalls.cpu_s * 1e3, 2)
    found["stored_blocks"] = args.bursts * ENGINES_PER_MACHINE * (8192 + 10 * 128)
    found["stored_cpu_us_per_block"] = round(
        (time.process_time() - cpu) / found["stored_blocks"] * 1e6, 2
    )
    await gateway.close()
    return found


def measure_idle(args: argparse.Namespace) -> dict[str, float]:
    """A gateway in this process, everything else in another."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=serve, args=(theirs, args.clusters, args.engines, 16), daemon=True
    )
    process.start()
    try:
        return uvloop.run(_gateway(args, ours))
    finally:
        ours.send(None)
        process.join(10)
        process.terminate()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engines", type=int, default=1000)
    parser.add_argument("--clusters", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--memory-blocks", type=int, default=10_000_000)
    parser.add_argument("--arrivals", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--bursts", type=int, default=20)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS)
    args = parser.parse_args()
    _PATH.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(_PATH.read_text()) if _PATH.exists() else {}
    measures = {"memory": measure_memory, "arrivals": measure_arrivals, "idle": measure_idle}
    for part in args.parts:
        figures = measures[part](args)
        print(part, json.dumps(figures), flush=True)
        found |= figures
    found |= {"engines": args.engines, "clusters": args.clusters, "blocks": args.blocks}
    found |= {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    found["compiled"] = find_spec("prfaas.gateway.token_text") is not None
    found["load_average"] = round(os.getloadavg()[0], 2)
    found["unix_time"] = round(time.time())
    _PATH.write_text(json.dumps(found, indent=2) + "\n")
    print(f"written to {_PATH}")


if __name__ == "__main__":
    main()
