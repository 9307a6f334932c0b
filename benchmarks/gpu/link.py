"""The KV link over loopback on a machine with many cores: one agent pair, link workers, chunks of
1 MiB and of 64 KiB, and workers that are killed. Needs no GPU.

Rates are of transfers of 256 MiB in the pieces of a hybrid model, `AT_ONCE` on their way at a
time; CPU seconds are of both ends with their workers.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.transfer import contenders, workload
from benchmarks.transfer.contenders import Ends, following

from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.tls import authority
from prfaas.tls.files import TlsFiles, files_of

Row = dict[str, Any]

WORKERS = (0, 2, 4, 6, 8)
AT_ONCE = 4
REPEATS = 16
CHUNKS_KIB = (1024, 64)
KILL_EVERY_S = 0.2
KILLS_LAST_S = 4.0
GIB = 1 << 30
_OURS = Path(contenders.__file__).parent / "ours.py"


def measure(workers: Sequence[int]) -> Iterator[Row]:
    """Chunks of 64 KiB with the most workers alone."""
    cores = os.cpu_count()
    with tempfile.TemporaryDirectory() as directory:
        certificates = Path(directory)
        authority.create_authority(certificates)
        for end in ("east", "west"):
            authority.issue(certificates, end)
        for chunk_kib, tls, count in product(CHUNKS_KIB, (False, True), workers):
            if chunk_kib != CHUNKS_KIB[0] and count != max(workers):
                continue
            files = certificates if tls else None
            row = {"what": "loopback", "cores": cores, "tls": tls, "workers": count,
                   "chunk_kib": chunk_kib}  # fmt: skip
            yield row | _rate(files, count, chunk_kib * 1024)
        for tls in (False, True):
            yield {"what": "workers killed", "cores": cores, "tls": tls, "workers": max(workers),
                   **_killed(certificates if tls else None, max(workers))}  # fmt: skip


def _rate(certificates: Path | None, count: int, chunk_bytes: int) -> Row:
    ends = Ends(None)
    options: Row = {
        "certs": certificates and str(certificates), "workers": count, "chunk_bytes": chunk_bytes,
        "at_once": AT_ONCE, "repeats": REPEATS, "host": ends.hosts[1],
    }  # fmt: skip
    receiver = ends.start(1, [sys.executable, str(_OURS), "receive", json.dumps(options)])
    try:
        options["address"] = following(receiver, "listening")["address"]
        sender = ends.start(0, [sys.executable, str(_OURS), "send", json.dumps(options)])
        try:
            warm_s = float(str(following(sender, "warm")["cpu_s"])) + contenders.cpu_of(
                receiver.pid
            )
            rates: list[float] = []
            while (said := following(sender, "transfer", "done"))["event"] == "transfer":
                rates.append(8e-9 * AT_ONCE * workload.TOTAL_BYTES / float(str(said["seconds"])))
            spent_s = float(str(said["cpu_s"])) + contenders.cpu_of(receiver.pid) - warm_s
        finally:
            sender.kill()
            sender.communicate()
    except RuntimeError as error:
        return {"reason": str(error)}
    finally:
        receiver.kill()
        receiver.communicate()
    moved_gib = REPEATS * AT_ONCE * workload.TOTAL_BYTES / GIB
    return {
        "gbit_per_s": statistics.median(rates), "slowest_gbit_per_s": min(rates),
        "fastest_gbit_per_s": max(rates), "transfers": REPEATS * AT_ONCE,
        "cpu_s_per_gib": spent_s / moved_gib, "connections": said["connections"],
        "memory_mib_beside_the_arena": said["memory_mib"],
    }  # fmt: skip


def _killed(certificates: Path | None, count: int) -> Row:
    """A worker of one end or the other is killed again and again under transfers of random bytes;
    each is compared when it is complete."""
    sys.path.insert(0, str(_OURS.parent))
    from ours import Memory  # type: ignore[import-not-found]

    def security(name: str) -> TlsFiles | Plaintext:
        return Plaintext() if certificates is None else files_of(certificates, name)

    arenas = {"west": Memory(), "east": Memory()}
    west = TcpLink(
        TcpLinkConfig(name="west", security=security("west"), listen="127.0.0.1:0", workers=count),
        arenas["west"], arenas["west"].shared,
    )  # fmt: skip
    to_west = {"west": PeerConfig(address=west.address)}
    east = TcpLink(
        TcpLinkConfig(name="east", security=security("east"), peers=to_west, workers=count),
        arenas["east"], arenas["east"].shared,
    )  # fmt: skip
    try:
        return _under_kills(east, west, arenas["east"].memory, arenas["west"].memory)
    finally:
        east.close()
        west.close()


def _under_kills(east: TcpLink, west: TcpLink, source: memoryview, target: memoryview) -> Row:
    over, killed = threading.Event(), 0
    workers = [end.workers for end in (east, west) if end.workers is not None]
    _until(lambda: all(of_end.ready for of_end in workers))
    _move(east, source, "warm-up")
    before = east.states()[0].resent_bytes_total

    def kill() -> None:
        nonlocal killed
        while not over.wait(KILL_EVERY_S):
            pids = workers[killed % 2].pids()
            if pids:
                os.kill(random.choice(pids), signal.SIGKILL)
                killed += 1

    killing = threading.Thread(target=kill)
    source[:] = os.urandom(len(source))
    target[:] = bytes(len(target))
    killing.start()
    outcomes, identical, began = [], 0, time.monotonic()
    while time.monotonic() - began < KILLS_LAST_S:
        outcomes.append(_move(east, source, f"killed-{len(outcomes)}"))
        identical += target == source
        target[:] = bytes(len(target))
    took_s = time.monotonic() - began
    over.set()
    killing.join()
    moved = len(outcomes) * len(source)
    return {
        "kills": killed, "seconds": took_s, "transfers": len(outcomes),
        "complete": outcomes.count("complete"), "identical": identical,
        "sent_again_share": (east.states()[0].resent_bytes_total - before) / moved,
    }  # fmt: skip


def _move(link: TcpLink, memory: memoryview, name: str) -> str:
    over, outcome = threading.Event(), ["complete"]

    def failed(reason: str) -> None:
        outcome[0] = reason
        over.set()

    offer = TransferOffer(TransferKey(name, 0, 1), "bench", 0, 256, len(memory), 300.0)
    handle = link.send("west", offer, on_complete=over.set, on_failed=failed)
    for offset, length in workload.ranges():
        handle.add(offset, memory[offset : offset + length], lambda: None)
    over.wait(120)
    return outcome[0] if over.is_set() else "no outcome in 120 s"


def _until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not reached():
        if time.monotonic() > end:
            raise RuntimeError("the link's workers did not start")
        time.sleep(0.05)
