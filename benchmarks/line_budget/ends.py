"""One machine of the shared line: ``ends.py receive|send OPTIONS-AS-JSON``.

A sender has transfers under way from the command ``go`` until ``stop``; a receiver writes
down how many bytes came from whom, by the clock that all namespaces of one computer share.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Sequence

from prfaas.link.api import OutgoingTransfer, Reception, Refusal, TransferKey, TransferOffer
from prfaas.link.tcp.config import PeerConfig, Plaintext, SharedLine, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink

BIN_S = 0.01
_STEP_BYTES, _MOST_STEPS = 64 * 1024, 32
_UNDER_WAY = 32
"""Some 0.25 s of 1 Gbit/s, of sizes that differ: transfers of one size end together, and until the
next are accepted a sender has nothing to send."""


class Counter:
    """A `TransferSink` whose transfers all land in the same memory."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(_STEP_BYTES * _MOST_STEPS))
        self._lock = threading.Lock()
        self.bins: dict[str, dict[int, int]] = {}
        """Sender -> number of a bin of time -> bytes."""

    def views(self, flat_offset: int, length: int) -> Sequence[memoryview]:
        return (self._memory[flat_offset : flat_offset + length],)

    def offered(self, peer: str, offer: TransferOffer) -> Reception | Refusal:
        return self

    def stored(self, key: TransferKey, flat_offset: int, length: int) -> None:
        sender, now = key.transfer_id.partition("-")[0], int(time.monotonic() / BIN_S)
        with self._lock:
            bins = self.bins.setdefault(sender, {})
            bins[now] = bins.get(now, 0) + length

    def completed(self, key: TransferKey) -> None:
        pass

    def failed(self, key: TransferKey, reason: str) -> None:
        pass

    def withdrawn(self, key: TransferKey, reason: str) -> None:
        pass


class Sender:
    """Sends to all receivers in turn."""

    def __init__(self, link: TcpLink, name: str, receivers: Sequence[str]) -> None:
        self._link, self._name, self._receivers = link, name, receivers
        self._data = memoryview(bytes(_STEP_BYTES * _MOST_STEPS))
        self._sizes = random.Random(name)
        self._number = 0
        self._under_way: dict[int, OutgoingTransfer] = {}
        self._going = False

    def go(self) -> None:
        self._going = True
        for _ in range(_UNDER_WAY):
            self._next()

    def stop(self) -> None:
        """What is under way is withdrawn, so that the machine is idle at once at any rate."""
        self._going = False
        for handle in list(self._under_way.values()):
            handle.cancel("the machine stops")
        self._under_way.clear()

    def _failed(self, reason: str) -> None:
        if self._going:
            print(f"{self._name}: a transfer failed: {reason}", file=sys.stderr)

    def _next(self) -> None:
        if not self._going:
            return
        self._number += 1
        number, size = self._number, _STEP_BYTES * self._sizes.randint(1, _MOST_STEPS)

        def done() -> None:
            self._under_way.pop(number, None)
            self._next()

        key = TransferKey(f"{self._name}-{number}", 0, 1)
        offer = TransferOffer(key, "line", 0, 1, size, 300.0)
        receiver = self._receivers[number % len(self._receivers)]
        handle = self._link.send(receiver, offer, on_complete=done, on_failed=self._failed)
        self._under_way[number] = handle
        handle.add(0, self._data[:size], lambda: None)


def main() -> None:
    """Until the standard input ends."""
    role, options = sys.argv[1], json.loads(sys.argv[2])
    line = SharedLine(
        rate_bytes_per_s=options["rate"],
        senders=tuple(options["senders"]),
        receivers=tuple(options["receivers"]),
    )
    peers = {
        name: PeerConfig(address=address, rate_bytes_per_s=options["rate"])
        for name, address in options.get("addresses", {}).items()
    }
    config = TcpLinkConfig(
        name=options["name"],
        security=Plaintext(),
        listen=f"{options['host']}:0",
        peers=peers,
        lines=(line,),
        congestion_control=options["congestion_control"],
    )
    counter = Counter()
    link = TcpLink(config, counter)
    print(link.address, flush=True)
    sender = Sender(link, options["name"], list(peers))
    for command in sys.stdin:
        {"go": sender.go, "stop": sender.stop}[command.strip()]()
    sender.stop()
    link.close()
    if role == "receive":
        print(json.dumps(counter.bins), flush=True)


if __name__ == "__main__":
    main()
