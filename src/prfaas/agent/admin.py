"""The agent's HTTP API for gateways and operators: health, metrics, engines, transfers, links."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from prfaas.agent.cache_feed import CacheFeed
from prfaas.agent.copies import CopyApi
from prfaas.agent.driver import PoolDriver
from prfaas.agent.engine_caches import EngineCaches
from prfaas.agent.line_rate import LONGEST_S, LineRates
from prfaas.agent.link_port import LinkPort
from prfaas.agent.path_ids import session_id_of, transfer_id_of
from prfaas.agent.peers import Peers
from prfaas.agent.pins import PinApi
from prfaas.core.errors import UNREADABLE, CapacityError, LinkError
from prfaas.core.gateway_sessions import Renewal
from prfaas.core.versions import AGENT_API, AGENT_API_HEADER, refusal
from prfaas.index.keyed_prefixes import KeyedPrefixes
from prfaas.kv_events.wire import MEDIA_TYPE, Deflater, Stopped
from prfaas.link.api import Link, LinkStates
from prfaas.pool.effects import AnnounceTransfer
from prfaas.pool.events import GatewayEnded, TransferCancelled
from prfaas.pool.records import TransferView
from prfaas.process.http_handler import admit, answered, read_body
from prfaas.process.sparing import Sparing

LINK_EVENT_PERIOD_S, LINK_EVENT_PAUSE_S = 0.1, 2.0
LONGEST_WAIT_S = 300.0
"""What ``wait_s`` of a request may be at most."""
MAX_BODY_BYTES = 64 * 1024
"""Of every request but those for copies, which name a long prefix."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """Handlers; `application` makes the aiohttp application that serves them."""

    def __init__(
        self,
        name: str,
        driver: PoolDriver,
        port: LinkPort,
        link: Link,
        metrics: CollectorRegistry,
        prefixes: KeyedPrefixes,
        peers: Peers | None = None,
        caches: EngineCaches | None = None,
        disk_rate: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._caches, self._peers = caches, peers or Peers(None, ())
        self._name, self._driver, self._port, self._link = name, driver, port, link
        self._page = Sparing(lambda: generate_latest(metrics))
        self._registered = Sparing(self._who_is_registered)
        self._rates = LineRates(link)
        self._feed = CacheFeed(driver, prefixes, disk_rate)
        self._copies = CopyApi(driver, prefixes)
        self._pollers: dict[str, set[asyncio.Event]] = {}
        driver.carry_out(AnnounceTransfer, self._announce)

    def begin_news_anew(self) -> None:
        """See `CacheFeed`."""
        self._feed.begin_anew()

    def application(self) -> web.Application:
        """The routes, without a server."""
        app = web.Application(
            client_max_size=MAX_BODY_BYTES, middlewares=[self._admit, _errors_as_json]
        )
        app.on_response_prepare.append(_say_version)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/engines", self._engines)
        app.router.add_get("/engines/{name}/kv-events", self._kv_events)
        app.router.add_get("/transfers/{id}", self._transfer)
        app.router.add_delete("/transfers/{id}", self._delete_transfer)
        app.router.add_get("/cache", self._cache)
        app.router.add_get("/cache/events", self._cache_events)
        self._copies.add_routes(app)
        PinApi(self._driver).add_routes(app)
        app.router.add_get("/gateways", self._gateways)
        app.router.add_put("/gateways/{id}", self._renew_gateway)
        app.router.add_delete("/gateways/{id}", self._end_gateway)
        app.router.add_get("/links", self._links)
        app.router.add_get("/links/events", self._link_events)
        app.router.add_post("/links/{peer}/measure", self._measure_line)
        return app

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if "Origin" in request.headers:
            # A page in a browser on this machine: in plaintext nobody shows a certificate.
            return _json({"error": "agents answer no web pages"}, status=403)
        if not self._peers.may(request.transport, request.method, request.path):
            asked = f"{request.method} {request.path}"
            self._peers.refusals.note("peer", request.transport, asked)
            why = "only a gateway of the deployment may ask for that, with its own certificate"
            return _json({"error": why}, status=403)
        if self._peers.is_gateway(request.transport):
            admit(request)  # Others stay strangers: however many they are, gateways come in.
        try:
            return await handler(request)
        finally:
            answered(request)

    async def _health(self, request: web.Request) -> web.Response:
        return _json({"agent": self._name})

    async def _metrics_page(self, request: web.Request) -> web.Response:
        return self._made(request, self._page, CONTENT_TYPE_PLAIN_0_0_4)

    async def _engines(self, request: web.Request) -> web.Response:
        """Registered ranks, and the memory for what is handed over to them (bytes)."""
        return self._made(request, self._registered, "application/json")

    def _made(self, request: web.Request, what: Sparing[bytes], kind: str) -> web.Response:
        """As it is now for gateways; others take no more of the time."""
        body = what.anew() if self._peers.is_gateway(request.transport) else what()
        return web.Response(body=body, headers={"Content-Type": kind})

    def _who_is_registered(self) -> bytes:
        pool = self._driver.snapshot()
        memory = {
            "total_bytes": pool.reception_slots * pool.slot_bytes,
            "reserved_bytes": (pool.slots.held + pool.slots.promised) * pool.slot_bytes,
            "slot_bytes": pool.slot_bytes,
        }
        return msgspec.json.encode({"engines": pool.engines, "memory": memory})

    async def _kv_events(self, request: web.Request) -> web.StreamResponse:
        """Frames of `kv_events.wire` until the client goes, from where it says it stopped."""
        caches, name = self._caches, request.match_info["name"]
        record = None if caches is None else caches.record(name)
        if caches is None or record is None:
            raise web.HTTPNotFound(text="this agent follows no engine of that name")
        number = int(_number(request, "number", default=0, low=0, high=2**53))
        response = web.StreamResponse(headers={"Content-Type": MEDIA_TYPE})
        await response.prepare(request)
        deflate = Deflater()
        async for frames in record.follow(Stopped.of(request.query, number)):
            if not self._peers.is_gateway(request.transport) or caches.record(name) is not record:
                break  # It has left the file, or the record has begun anew, under another key.
            await response.write(deflate(frames))
            await asyncio.sleep(0)  # Of all that is held no piece makes others wait for the next.
        return response

    async def _transfer(self, request: web.Request) -> web.Response:
        """Answers when every rank is at its end (with ``reads``: was read so often, or will not be
        read), or after ``wait_s``."""
        transfer_id = transfer_id_of(request)
        wait_s = _number(request, "wait_s", default=0.0, low=0.0, high=LONGEST_WAIT_S)
        ranks = int(_number(request, "ranks", default=1, low=1, high=1024))
        reads = int(_number(request, "reads", default=0, low=0, high=1024))
        view, over = self._look(transfer_id, ranks, reads)
        if not over and wait_s > 0:
            await self._wait_until_over(transfer_id, ranks, reads, wait_s)
            view, over = self._look(transfer_id, ranks, reads)
        return _json(view)

    def _look(self, transfer_id: str, ranks: int, reads: int) -> tuple[TransferView, bool]:
        self._port.report_progress(transfer_id)
        view, over = self._driver.transfer(transfer_id, ranks=ranks)
        return view, over and (view.state != "complete" or view.reads >= reads)

    async def _wait_until_over(
        self, transfer_id: str, ranks: int, reads: int, wait_s: float
    ) -> None:
        changed = asyncio.Event()
        pollers = self._pollers.setdefault(transfer_id, set())
        pollers.add(changed)
        try:
            async with asyncio.timeout(wait_s):
                while not self._look(transfer_id, ranks, reads)[1]:
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            pass
        finally:
            pollers.discard(changed)
            if not pollers:
                self._pollers.pop(transfer_id, None)

    def _announce(self, effect: AnnounceTransfer) -> None:
        for changed in self._pollers.get(effect.transfer_id, ()):
            changed.set()

    async def _delete_transfer(self, request: web.Request) -> web.Response:
        """Both sides here end and free their memory, now or when it is read no more."""
        self._driver.handle(TransferCancelled(transfer_id_of(request)))
        return web.Response(status=204)

    async def _cache(self, request: web.Request) -> web.Response:
        """What is cached, the least recently used first; sizes in bytes."""
        pool = self._driver.snapshot()
        used = sum(entry.slots for entry in pool.cached) * pool.slot_bytes
        size = pool.cache_slots * pool.slot_bytes
        return _json(
            {
                "size_bytes": size,
                "used_bytes": used,
                "pinned_bytes": pool.pinned_slots * pool.slot_bytes,
                "most_pinned_bytes": pool.most_pinned_slots * pool.slot_bytes,
                "pinned": pool.pinned,
                "entries": pool.cached,
                "disk": {
                    "size_bytes": pool.disk_bytes,
                    "used_bytes": pool.disk_used_bytes,
                    "entries": self._driver.on_disk(),
                },
            }
        )

    async def _cache_events(self, request: web.Request) -> web.StreamResponse:
        """JSON lines (`core.cache_news`) until the client goes, or is too slow."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async for news in self._feed.follow():
            if not self._peers.is_gateway(request.transport):
                break
            await response.write(msgspec.json.encode(news) + b"\n")
            await asyncio.sleep(0)  # It may be much: others get their turns.
        return response

    async def _gateways(self, request: web.Request) -> web.Response:
        """Whose sessions are live."""
        return _json({"gateways": self._driver.standing().gateways})

    async def _renew_gateway(self, request: web.Request) -> web.Response:
        """It lives for `LAPSES_AFTER_S` more, and is told what it may have at the engines here."""
        session_id = session_id_of(request)
        try:
            renewal = msgspec.json.decode(
                await read_body(request, most=MAX_BODY_BYTES), type=Renewal
            )
        except UNREADABLE as error:
            raise web.HTTPBadRequest(
                text=f"not a renewal of a gateway's session: {error}"
            ) from error
        try:
            return _json(self._driver.renew(session_id, renewal))
        except CapacityError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from error

    async def _end_gateway(self, request: web.Request) -> web.Response:
        """Its transfers are dropped, now."""
        self._driver.handle(GatewayEnded(session_id_of(request)))
        return web.Response(status=204)

    async def _links(self, request: web.Request) -> web.Response:
        return _json(LinkStates(list(self._link.states())))

    async def _measure_line(self, request: web.Request) -> web.Response:
        """Sends test data to the peer for ``seconds``."""
        seconds = _number(request, "seconds", default=1.0, low=0.1, high=LONGEST_S)
        try:
            measured = await self._rates.measure(request.match_info["peer"], seconds)
        except LinkError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from error
        if measured is None:
            raise web.HTTPConflict(text="this agent is measuring a line already")
        return _json(measured)

    async def _link_events(self, request: web.Request) -> web.StreamResponse:
        """JSON lines until the client goes: one when something has changed, at most every
        `LINK_EVENT_PERIOD_S`, and at least every `LINK_EVENT_PAUSE_S`."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        last, silent_s = b"", 0.0
        while self._peers.is_gateway(request.transport):
            line = msgspec.json.encode(LinkStates(list(self._link.states()))) + b"\n"
            if line != last or silent_s >= LINK_EVENT_PAUSE_S:
                await response.write(line)
                last, silent_s = line, 0.0
            await asyncio.sleep(LINK_EVENT_PERIOD_S)
            silent_s += LINK_EVENT_PERIOD_S
        return response


async def _say_version(request: web.Request, response: web.StreamResponse) -> None:
    response.headers[AGENT_API_HEADER] = str(AGENT_API)


def _json(content: Any, *, status: int = 200) -> web.Response:
    body = msgspec.json.encode(content)
    return web.Response(body=body, status=status, content_type="application/json")


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    why = refusal(request.headers.get(AGENT_API_HEADER))
    if why is not None:
        return _json({"error": why}, status=426)
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _json({"error": error.text or error.reason}, status=error.status)
    except ConnectionResetError:
        return web.Response()  # Nobody is there to get it, and that is no news.


def _number(request: web.Request, name: str, *, default: float, low: float, high: float) -> float:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise web.HTTPBadRequest(text=f"{name}={text} is not a number in {low:g}..{high:g}")
    return value
