"""Mooncake's TCP transport, tuned, as a contender; runs in its own interpreter.

``mooncake_end.py receive|send ARGUMENTS-AS-JSON``. Tuned: connection pool on, 16 lanes, 4 I/O
threads, 1 MiB slices.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import workload

os.environ.setdefault("MC_TCP_ENABLE_CONNECTION_POOL", "1")
os.environ.setdefault("MC_TCP_LANES_PER_PEER", "16")
os.environ.setdefault("MC_NUM_TCP_IO_THREADS", "4")
os.environ.setdefault("MC_SLICE_SIZE", str(workload.MIB))
os.environ.setdefault("MC_LOG_LEVEL", "ERROR")

from mooncake.engine import TransferEngine


def engine(host: str, value: int) -> tuple[TransferEngine, np.ndarray]:
    made = TransferEngine()
    if made.initialize(host, "P2PHANDSHAKE", "tcp", "") != 0:
        raise SystemExit("Mooncake could not be initialised")
    array = np.full(workload.TOTAL_BYTES, value, np.uint8)
    if made.register_memory(array.ctypes.data, workload.TOTAL_BYTES) != 0:
        raise SystemExit("Mooncake could not register the memory")
    return made, array


def receive(options: dict[str, str]) -> None:
    made, array = engine(options["host"], 0)
    where = f"{options['host']}:{made.get_rpc_port()} {array.ctypes.data}"
    workload.say("listening", address=where)
    workload.wait_for_the_end()
    workload.say("checked", intact=bool((array == 7).all()))


def send(options: dict[str, object]) -> None:
    where, base = str(options["address"]).split()
    made, array = engine(str(options["own_host"]), 7)
    mine, theirs = array.ctypes.data, int(base)
    pieces = workload.ranges()
    sources = [mine + offset for offset, _ in pieces]
    targets = [theirs + offset for offset, _ in pieces]
    lengths = [length for _, length in pieces]
    for number in range(int(str(options["repeats"])) + 1):
        started = time.perf_counter()
        if made.batch_transfer_sync_write(where, sources, targets, lengths) != 0:
            raise SystemExit("Mooncake reported an error")
        took = time.perf_counter() - started
        if number == 0:
            workload.say("warm", cpu_s=workload.cpu_s())
        else:
            workload.say("transfer", seconds=took)
    workload.say("done", cpu_s=workload.cpu_s())


if __name__ == "__main__":
    {"receive": receive, "send": send}[sys.argv[1]](json.loads(sys.argv[2]))
