"""NIXL (UCX over TCP, WRITE) as a contender; runs in its own interpreter.

``nixl_end.py receive|send ARGUMENTS-AS-JSON``. UCX is told to use TCP; everything else is its
default, which is what its users get.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import workload

os.environ.setdefault("UCX_TLS", "tcp")
os.environ.setdefault("UCX_LOG_LEVEL", "error")

from nixl._api import nixl_agent, nixl_agent_config

_PORTS = {"west": 17555, "east": 17556}


def agent(name: str) -> nixl_agent:
    return nixl_agent(name, nixl_agent_config(True, True, _PORTS[name], backends=["UCX"]))


def pieces(base: int) -> list[tuple[int, int, int]]:
    return [(base + offset, length, 0) for offset, length in workload.ranges()]


def memory(value: int) -> tuple[np.ndarray, int]:
    array = np.full(workload.TOTAL_BYTES, value, np.uint8)
    return array, array.ctypes.data


def receive(options: dict[str, str]) -> None:
    mine = agent("west")
    array, base = memory(0)
    mine.register_memory([(base, workload.TOTAL_BYTES, 0, "")], mem_type="DRAM")
    workload.say("listening", address=options["host"])
    while "east" not in mine.get_new_notifs():
        time.sleep(0.01)
    while not mine.check_remote_metadata("east"):
        time.sleep(0.01)
    described = mine.get_serialized_descs(mine.get_xfer_descs(pieces(base), mem_type="DRAM"))
    mine.send_notif("east", described)
    while not any(b"bye" in note for note in mine.get_new_notifs().get("east", [])):
        time.sleep(0.001)
    workload.say("checked", intact=bool((array == 7).all()))
    workload.wait_for_the_end()


def send(options: dict[str, object]) -> None:
    mine = agent("east")
    array, base = memory(7)
    mine.register_memory([(base, workload.TOTAL_BYTES, 0, "")], mem_type="DRAM")
    address = str(options["address"])
    mine.fetch_remote_metadata("west", address, _PORTS["west"])
    mine.send_local_metadata(address, _PORTS["west"])
    while not mine.check_remote_metadata("west"):
        time.sleep(0.01)
    mine.send_notif("west", b"hello")
    theirs = None
    while theirs is None:
        for note in mine.get_new_notifs().get("west", []):
            theirs = mine.deserialize_descs(note)
        time.sleep(0.001)
    ours = mine.get_xfer_descs(pieces(base), mem_type="DRAM")
    for number in range(int(str(options["repeats"])) + 1):
        started = time.perf_counter()
        handle = mine.initialize_xfer("WRITE", ours, theirs, "west", b"run")
        mine.transfer(handle)
        state = "PROC"
        while state != "DONE":
            state = mine.check_xfer_state(handle)
            if state == "ERR":
                raise SystemExit("NIXL reported an error")
        took = time.perf_counter() - started
        mine.release_xfer_handle(handle)
        if number == 0:
            workload.say("warm", cpu_s=workload.cpu_s())
        else:
            workload.say("transfer", seconds=took)
    workload.say("done", cpu_s=workload.cpu_s())
    mine.send_notif("west", b"bye")
    time.sleep(0.5)
    del array


if __name__ == "__main__":
    {"receive": receive, "send": send}[sys.argv[1]](json.loads(sys.argv[2]))
