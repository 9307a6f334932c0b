"""One end of the KV link under test: ``ours.py receive|send ARGUMENTS-AS-JSON``."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import workload

from prfaas.agent.arena import Arena
from prfaas.link.api import Reception, Refusal, TransferKey, TransferOffer
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.tls.files import TlsFiles, files_of


class Memory:
    """An agent's arena; every transfer lands in the same place."""

    def __init__(self) -> None:
        self.arena = Arena("bench", workload.TOTAL_BYTES)
        self.memory = self.arena.view
        self.shared = SharedMemory(self.arena.fd, self.memory)
        for page in range(0, workload.TOTAL_BYTES, 4096):
            self.memory[page] = page // 4096 % 251

    def views(self, flat_offset: int, length: int) -> Sequence[memoryview]:
        return (self.memory[flat_offset : flat_offset + length],)

    def offered(self, peer: str, offer: TransferOffer) -> Reception | Refusal:
        return self

    def stored(self, key: TransferKey, flat_offset: int, length: int) -> None:
        pass

    def completed(self, key: TransferKey) -> None:
        pass

    def failed(self, key: TransferKey, reason: str) -> None:
        print(f"{key} failed: {reason}", file=sys.stderr)

    def withdrawn(self, key: TransferKey, reason: str) -> None:
        pass


def security(directory: str | None, name: str) -> TlsFiles | Plaintext:
    if directory is None:
        return Plaintext()
    return files_of(Path(directory), name)


def workers(options: Mapping[str, object]) -> int | None:
    """None: as many as pay."""
    count = options.get("workers")
    return count if isinstance(count, int) else None


def chunks(options: Mapping[str, object], config: TcpLinkConfig) -> TcpLinkConfig:
    """With chunks of the size that was asked for, if any."""
    size = options.get("chunk_bytes")
    if not isinstance(size, int):
        return config
    least = min(size, config.min_chunk_bytes)
    return msgspec.structs.replace(config, max_chunk_bytes=size, min_chunk_bytes=least)


def receive(options: dict[str, str]) -> None:
    config = TcpLinkConfig(
        name="west",
        security=security(options["certs"], "west"),
        listen=f"{options['host']}:0",
        workers=workers(options),
    )
    config = chunks(options, config)
    arena = Memory()
    link = TcpLink(config, arena, arena.shared)
    workload.say("listening", address=link.address)
    workload.wait_for_the_end()
    link.close()


def send(options: dict[str, object]) -> None:
    count = options.get("connections")
    rate = options.get("rate")
    peer = PeerConfig(
        address=str(options["address"]),
        connections=count if isinstance(count, int) else None,
        rate_bytes_per_s=rate if isinstance(rate, float) else None,
    )
    certs = options["certs"]
    config = TcpLinkConfig(
        name="east",
        security=security(certs if isinstance(certs, str) else None, "east"),
        peers={"west": peer},
        workers=workers(options),
    )
    config = chunks(options, config)
    arena = Memory()
    link = TcpLink(config, arena, arena.shared)
    move(link, arena, "warm-up", int(str(options.get("warm_bytes", workload.TOTAL_BYTES))))
    while not all_by_workers(link):
        time.sleep(0.05)
    workload.say("warm", cpu_s=cpu_s(link))
    at_once = int(str(options.get("at_once", 1)))
    for number in range(int(str(options["repeats"]))):
        workload.say("transfer", seconds=move(link, arena, f"run-{number}", at_once=at_once))
    state = link.states()[0]
    workload.say(
        "done", cpu_s=cpu_s(link), connections=state.connections, memory_mib=memory_mib(link)
    )
    link.close()


def memory_mib(link: TcpLink) -> float:
    """This process's and its workers', without the arena; what they share is counted once."""
    pids = [os.getpid(), *([] if link.workers is None else link.workers.pids())]
    text = "".join(Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    found = [int(kib) for kib in re.findall(r"^Pss_(?:Anon|File): +(\d+) kB", text, re.MULTILINE)]
    return sum(found) / 1024


def all_by_workers(link: TcpLink) -> bool:
    """Whether as many as were asked for are up and carry all connections."""
    if link.workers is None:
        return True
    open_now = link.states()[0].connections
    return link.workers.ready and open_now == link.workers.connections > 0


def cpu_s(link: TcpLink) -> float:
    """CPU seconds of this process and its link workers so far."""
    return workload.cpu_s() + (0.0 if link.workers is None else link.workers.cpu_s())


def move(
    link: TcpLink, arena: Memory, name: str, total: int = workload.TOTAL_BYTES, at_once: int = 1
) -> float:
    """Seconds until the first ``total`` bytes of each of ``at_once`` transfers are acknowledged."""
    open_now = threading.Semaphore(0)
    problems: list[str] = []

    def fail(reason: str) -> None:
        problems.append(reason)
        open_now.release()

    started = time.perf_counter()
    for number in range(at_once):
        offer = TransferOffer(TransferKey(f"{name}-{number}", 0, 1), "bench", 0, 256, total, 300.0)
        handle = link.send("west", offer, on_complete=open_now.release, on_failed=fail)
        for offset, length in workload.ranges():
            end = min(offset + length, total)
            if end > offset:
                handle.add(offset, arena.memory[offset:end], lambda: None)
    for _ in range(at_once):
        open_now.acquire()
    if problems:
        raise SystemExit(problems[0])
    return time.perf_counter() - started


if __name__ == "__main__":
    {"receive": receive, "send": send}[sys.argv[1]](json.loads(sys.argv[2]))
