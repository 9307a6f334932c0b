"""A publisher of KV events that speaks vLLM's wire format.

``python -m prfaas.testing.mock_publisher PORT REPLAY_PORT BATCH ...`` publishes batches
(hexadecimal) on loopback and answers replays until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial

import zmq
import zmq.asyncio

from prfaas.core.addresses import endpoint_at


class MockPublisher:
    """vLLM's PUB socket and replay ROUTER, keeping what it published."""

    def __init__(
        self, context: zmq.asyncio.Context, host: str, ports: tuple[int, int] | None = None
    ) -> None:
        self._pub = context.socket(zmq.PUB)
        self._router = context.socket(zmq.ROUTER)
        for made in (self._pub, self._router):
            made.setsockopt(zmq.IPV6, ":" in host)
        everywhere, at = endpoint_at("tcp://*", host), partial(endpoint_at, host=host)
        if ports is None:
            found = [s.bind_to_random_port(everywhere) for s in (self._pub, self._router)]
        else:
            found = list(ports)
            for made, port in zip((self._pub, self._router), found, strict=True):
                made.bind(f"{everywhere}:{port}")
        self.events, self.replay = (at(f"tcp://*:{port}") for port in found)
        self.kept: list[bytes] = []
        self.replays = 0
        self.drops: Callable[[int], bool] = lambda _: False
        """Which messages of a replay, counted from its start, are lost on the way; the last one is
        where any is."""
        self.late_s = 0.0
        """It takes so long before it answers a replay."""

    async def publish(self, payload: bytes, *, lose: bool = False) -> None:
        """Number a batch and send it, or lose it on the way."""
        number = len(self.kept).to_bytes(8, "big")
        self.kept.append(payload)
        if not lose:
            await self._pub.send_multipart([b"kv", number, payload])

    async def send(self, frames: list[bytes]) -> None:
        """Send what may be no batch."""
        await self._pub.send_multipart(frames)

    async def serve_replays(self) -> None:
        """Answer for ever."""
        while True:
            client, _, start = await self._router.recv_multipart()
            self.replays += 1
            await asyncio.sleep(self.late_s)
            begin = int.from_bytes(start, "big")
            lost = [self.drops(number - begin) for number in range(begin, len(self.kept))]
            for number in range(begin, len(self.kept)):
                if lost[number - begin]:
                    continue
                frames = [client, b"", b"kv", number.to_bytes(8, "big"), self.kept[number]]
                await self._router.send_multipart(frames)
            if any(lost):
                continue
            end = (-1).to_bytes(8, "big", signed=True)
            await self._router.send_multipart([client, b"", b"", end, b""])

    def close(self) -> None:
        """Fall silent."""
        self._pub.close(0)
        self._router.close(0)


async def serve(ports: tuple[int, int], batches: list[bytes]) -> None:
    """Until cancelled."""
    publisher = MockPublisher(zmq.asyncio.Context(), "127.0.0.1", ports)
    for batch in batches:
        await publisher.publish(batch)
    await publisher.serve_replays()


if __name__ == "__main__":
    given = [bytes.fromhex(text) for text in sys.argv[3:]]
    asyncio.run(serve((int(sys.argv[1]), int(sys.argv[2])), given))
