"""A publisher of KV events that speaks vLLM's wire format."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import zmq
import zmq.asyncio

from prfaas.core.addresses import endpoint_at


class MockPublisher:
    """vLLM's PUB socket and replay ROUTER, keeping what it published."""

    def __init__(self, context: zmq.asyncio.Context, host: str) -> None:
        self._pub = context.socket(zmq.PUB)
        self._router = context.socket(zmq.ROUTER)
        for made in (self._pub, self._router):
            made.setsockopt(zmq.IPV6, ":" in host)
        everywhere, at = endpoint_at("tcp://*", host), partial(endpoint_at, host=host)
        self.events = at(f"tcp://*:{self._pub.bind_to_random_port(everywhere)}")
        self.replay = at(f"tcp://*:{self._router.bind_to_random_port(everywhere)}")
        self.kept: list[bytes] = []
        self.replays = 0
        self.drops: Callable[[int], bool] = lambda _: False
        """Which messages of a replay, counted from its start, are lost on the way; the last one is
        where any is."""

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
