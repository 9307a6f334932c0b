"""An agent's admin API without arena or link: tests say what happens to its transfers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from aiohttp import web

from prfaas.core.cache_news import Stored, Whole
from prfaas.core.gateway_sessions import Renewal
from prfaas.core.layout import KvLayout
from prfaas.core.prefixes import chain, root_digest, stretch
from prfaas.index.keyed_prefixes import PLAINTEXT_KEY, KeyedPrefixes
from prfaas.link.api import LinkState
from prfaas.pool.sessions import Sessions
from prfaas.testing.mock_http import MockServer


class MockAgent(MockServer):
    """``ranks``, ``memory``: what /engines tells; ``links``: what /links/events repeats every
    ``repeats_links_s``, once the line ``garbage`` in its place if there is one; so many of the next
    DELETEs fail as ``failing_drops`` says; without ``keeps_sessions`` it is of a release before;
    ``pinned``: transfers, as long as it ``takes_pins``."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.ranks: list[dict[str, Any]] = []
        self.links: list[LinkState] = []
        self.repeats_links_s = 0.02
        self.transfers: dict[str, dict[str, Any]] = {}
        self.dropped: list[str] = []
        self.polled: set[str] = set()
        self.failing_drops = 0
        self.memory: dict[str, int] | None = None
        self.garbage = b""
        self.sessions = Sessions()
        self.keeps_sessions = True
        self.takes_pins = True
        self.pinned: list[str] = []
        self._cached: list[Stored] = []
        self._changed = asyncio.Condition()

    def routes(self) -> list[web.RouteDef]:
        """The part of the admin API that gateways use."""
        return [
            web.get("/health", self._health),
            web.get("/engines", self._engines),
            web.get("/transfers/{id}", self._transfer),
            web.delete("/transfers/{id}", self._drop),
            web.put("/gateways/{id}", self._renew),
            web.delete("/gateways/{id}", self._end),
            web.get("/cache", self._cache),
            web.get("/cache/events", self._cache_events),
            web.put("/cache/pins/{id}", self._pin),
            web.delete("/cache/pins/{id}", self._unpin),
            web.get("/links", self._links),
            web.get("/links/events", self._link_events),
        ]

    def register(self, engine: str, layout: KvLayout, *, pid: int = 1) -> None:
        """As the engine's rank does when it connects."""
        self.ranks = [rank for rank in self.ranks if rank["engine"] != engine]
        entry = {"engine": engine, "pid": pid, "layout": layout}
        self.ranks = [*self.ranks, {**entry, "fingerprint": layout.fingerprint()}]

    async def receive(self, transfer_id: str, *, total: int, stored: int, state: str) -> None:
        """Move the receiving side of a transfer on."""
        view = self.transfers.setdefault(transfer_id, {"transfer_id": transfer_id})
        view |= {"bytes_total": total, "bytes_stored": stored, "state": state}
        view.setdefault("reads", 0)
        view.setdefault("first_byte_at", time.time())
        if state == "failed":
            view["reason"] = "checksum mismatch"
        async with self._changed:
            self._changed.notify_all()

    async def read(self, transfer_id: str) -> None:
        """A decode engine has loaded it."""
        if (view := self.transfers.get(transfer_id)) is not None:
            view["reads"] = view.get("reads", 0) + 1
        async with self._changed:
            self._changed.notify_all()

    def sent(self, transfer_id: str, *, total: int, at_export_end: int) -> None:
        """The sending side is complete."""
        view = self.transfers.setdefault(
            transfer_id, {"transfer_id": transfer_id, "state": "unknown"}
        )
        view["sent"] = {
            "state": "complete",
            "bytes_total": total,
            "bytes_acknowledged": total,
            "bytes_acknowledged_at_export_end": at_export_end,
            "export_ended_at": time.time(),
            "completed_at": time.time(),
        }

    def caches(self, transfer_id: str, token_ids: list[int], tokens: int) -> None:
        """It has the first ``tokens`` tokens of a prompt, for engines like the last that has
        registered."""
        layout: KvLayout = self.ranks[-1]["layout"]
        size, root = layout.alignment_tokens, root_digest("w", adapter=None, salt=None)
        prefix = stretch(
            chain(root, token_ids, size), root, token_ids, block_tokens=size,
            from_token=0, to_token=tokens, salt=None, adapter=None,
        )  # fmt: skip
        assert prefix is not None
        keyed = KeyedPrefixes(PLAINTEXT_KEY).keyed(prefix)
        self._cached.append(Stored(transfer_id, 0, 1, layout.fingerprint(), keyed))

    async def _cache(self, _request: web.Request) -> web.Response:
        return _json({"size_bytes": 1 << 20, "used_bytes": 0, "pinned": self.pinned})

    async def _cache_events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        told = 0
        await response.write(msgspec.json.encode(Whole()) + b"\n")
        while True:
            for stored in self._cached[told:]:
                await response.write(msgspec.json.encode(stored) + b"\n")
            told = len(self._cached)
            await asyncio.sleep(0.02)

    async def _pin(self, request: web.Request) -> web.Response:
        if not self.takes_pins:
            return web.Response(status=409, text="no more may be pinned")
        self.pinned.append(request.match_info["id"])
        return web.Response(status=204)

    async def _unpin(self, request: web.Request) -> web.Response:
        self.pinned.remove(request.match_info["id"])
        return web.Response(status=204)

    async def _health(self, _request: web.Request) -> web.Response:
        return _json({"agent": self.name})

    async def _engines(self, _request: web.Request) -> web.Response:
        counts = {} if self.memory is None else {"memory": self.memory}
        return _json({"engines": self.ranks, **counts})

    async def _transfer(self, request: web.Request) -> web.Response:
        transfer_id = request.match_info["id"]

        def over() -> bool:
            view = self.transfers.get(transfer_id, {})
            read = view.get("reads", 0) >= int(request.query.get("reads", 0))
            return view.get("state") == "failed" or (view.get("state") == "complete" and read)

        async with self._changed:
            try:
                async with asyncio.timeout(float(request.query["wait_s"])):
                    await self._changed.wait_for(over)
            except TimeoutError:
                pass
        self.polled.add(transfer_id)
        unknown = {"transfer_id": transfer_id, "state": "unknown"}
        return _json(self.transfers.get(transfer_id, unknown))

    async def _drop(self, request: web.Request) -> web.Response:
        if self.failing_drops > 0:
            self.failing_drops -= 1
            return web.Response(status=500)
        self.dropped.append(request.match_info["id"])
        return web.Response(status=204)

    async def _renew(self, request: web.Request) -> web.Response:
        if not self.keeps_sessions:
            return web.Response(status=404)
        now, session_id = time.monotonic(), request.match_info["id"]
        for lapsed in self.sessions.lapsed(now=now):
            self.sessions.end(lapsed)
        renewal = msgspec.json.decode(await request.read(), type=Renewal)
        self.sessions.renew(session_id, renewal, now=now)
        return _json(self.sessions.standing(session_id, now=now))

    async def _end(self, request: web.Request) -> web.Response:
        self.sessions.end(request.match_info["id"])
        return web.Response(status=204)

    async def _links(self, _request: web.Request) -> web.Response:
        return _json({"links": self.links})

    async def _link_events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            told = msgspec.json.encode({"links": self.links}) + b"\n"
            said, self.garbage = self.garbage or told, b""
            await response.write(said)
            await asyncio.sleep(self.repeats_links_s)


def _json(content: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")
