"""Connections that link workers carry, and workers that die."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from prfaas.agent.arena import Arena
from prfaas.core.errors import CallerError
from prfaas.link.api import Reception, Refusal, TransferKey, TransferOffer
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.tls import authority
from prfaas.tls.files import TlsFiles, files_of

MIB = 1024 * 1024
SIZE = 64 * MIB
PIECE = 192 * 1024


class End:
    """A link over an arena; every transfer lands at its start, in pieces."""

    def __init__(
        self,
        name: str,
        security: TlsFiles | Plaintext,
        peers: dict[str, PeerConfig],
        workers: int | None,
    ) -> None:
        self.arena = Arena(name, SIZE)
        self.failed_because: list[str] = []
        config = TcpLinkConfig(name=name, security=security, peers=peers, workers=workers)
        self.link = TcpLink(config, self, SharedMemory(self.arena.fd, self.arena.view))

    def views(self, flat_offset: int, length: int) -> Sequence[memoryview]:
        end = flat_offset + length
        return [self.arena.view[at : min(at + PIECE, end)] for at in range(flat_offset, end, PIECE)]

    def offered(self, peer: str, offer: TransferOffer) -> Reception | Refusal:
        return self

    def stored(self, key: TransferKey, flat_offset: int, length: int) -> None:
        pass

    def completed(self, key: TransferKey) -> None:
        pass

    def failed(self, key: TransferKey, reason: str) -> None:
        self.failed_because.append(reason)

    def withdrawn(self, key: TransferKey, reason: str) -> None:
        pass

    def wait_for_workers(self, count: int) -> None:
        until = time.monotonic() + 30
        while self.link.counters().workers < count:
            assert time.monotonic() < until, "no workers"
            time.sleep(0.02)

    def close(self) -> None:
        self.link.close()
        self.arena.close()


class Pair:
    """east sends to west."""

    def __init__(
        self, security: Callable[[str], TlsFiles | Plaintext], workers: int | None, **peer: object
    ) -> None:
        self.west = End("west", security("west"), {}, workers)
        address = self.west.link.address
        to_west = {"west": PeerConfig(address=address, **peer)}  # type: ignore[arg-type]
        self.east = End("east", security("east"), to_west, workers)
        if workers:
            self.west.wait_for_workers(workers)
            self.east.wait_for_workers(workers)

    def move(self, name: str, timeout_s: float = 60.0) -> str:
        """The outcome of sending all of east's arena."""
        over, outcome = threading.Event(), ["complete"]

        def failed(why: str) -> None:
            outcome[0] = why
            over.set()

        offer = TransferOffer(TransferKey(name, 0, 1), "layout", 0, 256, SIZE, timeout_s)
        handle = self.east.link.send("west", offer, on_complete=over.set, on_failed=failed)
        for start in range(0, SIZE, 3 * MIB):
            handle.add(start, self.east.arena.view[start : start + 3 * MIB], lambda: None)
        assert over.wait(timeout_s + 5), "no outcome"
        return outcome[0]

    def close(self) -> None:
        self.east.close()
        self.west.close()


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made: list[Pair] = []
    yield made
    for pair in made:
        pair.close()


@pytest.fixture(params=["plaintext", "tls"])
def security(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[str], TlsFiles | Plaintext]:
    if request.param == "plaintext":
        return lambda name: Plaintext()
    authority.create_authority(tmp_path)
    for name in ("east", "west"):
        authority.issue(tmp_path, name)
    return lambda name: files_of(tmp_path, name)


def test_workers_carry_everything(
    pairs: list[Pair], security: Callable[[str], TlsFiles | Plaintext]
) -> None:
    pair = Pair(security, 2, connections=4)
    pairs.append(pair)
    pair.east.arena.view[:] = random.Random(1).randbytes(SIZE)
    assert pair.move("first") == "complete"
    assert pair.west.arena.view == pair.east.arena.view
    pair.west.arena.view[:MIB] = bytes(MIB)
    before = [Path(f"/proc/{pid}/io").read_text() for pid in pair.west.link.workers.pids()]  # type: ignore[union-attr]
    assert pair.move("second") == "complete"
    assert pair.west.arena.view == pair.east.arena.view
    after = [Path(f"/proc/{pid}/io").read_text() for pid in pair.west.link.workers.pids()]  # type: ignore[union-attr]
    read = sum(
        _read_bytes(now) - _read_bytes(then) for then, now in zip(before, after, strict=True)
    )
    assert read >= SIZE, "who read it?"
    assert pair.west.link.counters().bytes_stored == 2 * SIZE


def _read_bytes(io: str) -> int:
    return int(next(line for line in io.splitlines() if line.startswith("rchar")).split()[1])


def test_a_worker_killed_every_200_ms(
    pairs: list[Pair], security: Callable[[str], TlsFiles | Plaintext]
) -> None:
    pair = Pair(security, 2, connections=4, rate_bytes_per_s=32e6)
    pairs.append(pair)
    pair.east.arena.view[:] = random.Random(2).randbytes(SIZE)
    over, killed = threading.Event(), [0]

    def kill() -> None:
        ends = [pair.east.link.workers, pair.west.link.workers]
        while not over.wait(0.2):
            pids = [pid for end in ends if end is not None for pid in end.pids()]
            if pids:
                os.kill(pids[killed[0] % len(pids)], signal.SIGKILL)
                killed[0] += 1

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert pair.move("t") == "complete"
    finally:
        over.set()
        killer.join()
    assert killed[0] >= 4
    assert pair.west.arena.view == pair.east.arena.view
    state = pair.east.link.states()[0]
    assert state.acknowledged_bytes_total == SIZE
    assert state.resent_bytes_total <= SIZE // 10, state.resent_bytes_total
    assert not pair.west.failed_because


def test_workers_end_with_their_agent(
    pairs: list[Pair], security: Callable[[str], TlsFiles | Plaintext]
) -> None:
    pair = Pair(security, 1)
    assert pair.move("t") == "complete"
    pids = [*pair.east.link.workers.pids(), *pair.west.link.workers.pids()]  # type: ignore[union-attr]
    pair.close()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_memory_that_workers_do_not_share_is_refused(pairs: list[Pair]) -> None:
    pair = Pair(lambda name: Plaintext(), 1)
    pairs.append(pair)
    offer = TransferOffer(TransferKey("t", 0, 1), "layout", 0, 256, 8, 5.0)
    handle = pair.east.link.send("west", offer, on_complete=list, on_failed=list)
    with pytest.raises(CallerError, match="the agent's arena only"):
        handle.add(0, memoryview(bytearray(8)), lambda: None)


def test_whom_workers_turn_away_is_counted_by_the_agent(pairs: list[Pair]) -> None:
    pair = Pair(lambda name: Plaintext(), 1)
    pairs.append(pair)
    pair.west.link.reconfigure({}, frozenset())
    pair.east.link.reconfigure({}, frozenset())
    pair.east.link.set_peer("west", PeerConfig(address=pair.west.link.address))
    until = time.monotonic() + 20
    while not pair.west.link.counters().turned_away.get("forbidden"):
        assert time.monotonic() < until, pair.west.link.counters()
        time.sleep(0.05)
