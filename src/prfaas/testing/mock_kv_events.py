"""vLLM's KV events of an engine without a cache: which blocks it would have (LRU)."""

from __future__ import annotations

import hashlib
import time
from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq
import zmq.asyncio

_END = (-1).to_bytes(8, "big", signed=True)
_REMEMBERED = 100
"""Batches for replays."""


class MockKvEvents:
    """Publishes at ``events`` and answers replays at ``replay``, once `serve` runs.

    Args:
        blocks: how many of ``block_tokens`` tokens the engine has.
    """

    def __init__(self, events: str, replay: str, *, blocks: int, block_tokens: int = 16) -> None:
        self._context = zmq.asyncio.Context()
        self._pub, self._router = self._context.socket(zmq.PUB), self._context.socket(zmq.ROUTER)
        for socket, address in ((self._pub, events), (self._router, replay)):
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(address)
        self._blocks, self._block_tokens = blocks, block_tokens
        self._held: OrderedDict[int, None] = OrderedDict()
        self._sent: deque[tuple[int, bytes]] = deque(maxlen=_REMEMBERED)
        self._number = 0

    async def serve(self) -> None:
        """Answer replays until cancelled."""
        while True:
            client, _, start = await self._router.recv_multipart()
            wanted = int.from_bytes(start, "big")
            for number, payload in list(self._sent):
                if number >= wanted:
                    told = [client, b"", b"", number.to_bytes(8, "big"), payload]
                    await self._router.send_multipart(told)
            await self._router.send_multipart([client, b"", b"", _END, b""])

    async def store(self, token_ids: Sequence[int]) -> None:
        """The engine has computed these: it holds their full blocks now."""
        size, parent, first, fresh = self._block_tokens, None, None, list[int]()
        kept = 0
        for at in range(0, len(token_ids) - size + 1, size):
            block = array("I", token_ids[at : at + size]).tobytes()
            name = _hash(parent, block)
            if name in self._held:
                self._held.move_to_end(name)
                kept, first = at + size, name
            else:
                self._held[name] = None
                fresh.append(name)
            parent = name
        removed = [self._held.popitem(last=False)[0] for _ in range(len(self._held) - self._blocks)]
        told: list[dict[str, Any]] = []
        if removed:
            told.append({"type": "BlockRemoved", "block_hashes": removed, "group_idx": 0})
        if fresh and kept + len(fresh) * size <= len(token_ids):
            told.append({
                "type": "BlockStored", "block_hashes": fresh, "parent_block_hash": first,
                "token_ids": list(token_ids[kept : kept + len(fresh) * size]), "block_size": size,
                "group_idx": 0, "kv_cache_spec_kind": "full_attention",
            })  # fmt: skip
        if told:
            await self._publish(msgspec.msgpack.encode([time.monotonic(), told, 0]))

    async def _publish(self, payload: bytes) -> None:
        self._sent.append((self._number, payload))
        await self._pub.send_multipart([b"", self._number.to_bytes(8, "big"), payload])
        self._number += 1


def _hash(parent: int | None, block: bytes) -> int:
    digest = hashlib.blake2b(block, digest_size=8, key=b"%d" % (parent or 0)).digest()
    return int.from_bytes(digest, "big") >> 1
