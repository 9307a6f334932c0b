"""One agent: arena, engine socket, KV link and HTTP API, from start to shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import NoReturn

from prfaas.agent.admin import Admin
from prfaas.agent.arena import Arena
from prfaas.agent.driver import PoolDriver
from prfaas.agent.engine_caches import EngineCaches, registered_pids
from prfaas.agent.engine_server import EngineServer
from prfaas.agent.link_port import LinkPort
from prfaas.agent.metrics import DoorCounts, agent_metrics
from prfaas.agent.no_link import NoLink
from prfaas.agent.peers import Peers
from prfaas.agent.settings import AgentSettings, by_descriptors
from prfaas.agent.spans import LocalHandOffs, TracedLink, TracedSink
from prfaas.agent.spill_files import spill_files
from prfaas.agent.spill_metrics import SpillCollector
from prfaas.agent.spill_port import SpillPort
from prfaas.agent.tunnels import Tunnels
from prfaas.agent.watching import look_at, watch_cache_key, watch_certificates
from prfaas.core.addresses import Address, parse_url
from prfaas.core.errors import PrfaasError
from prfaas.engine_socket.messages import Registered
from prfaas.index.keyed_prefixes import PLAINTEXT_KEY, KeyedPrefixes
from prfaas.link.api import Link, TransferSink
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.pool.effects import HandedOver
from prfaas.pool.events import NamesChanged, Reconfigured, TimePassed
from prfaas.pool.pool import Pool
from prfaas.process.descriptors import allow_all_files
from prfaas.process.front_door import connections, serving_strangers
from prfaas.process.given_connections import GivenConnections
from prfaas.process.spans import NO_SPANS, Spans
from prfaas.tls.cache_key import LiveCacheKey
from prfaas.tls.files import TlsFiles
from prfaas.tls.live import LiveTls

log = logging.getLogger(__name__)

SWEEP_PERIOD_S = 0.25
"""How late a deadline may be noticed."""
_SHUTDOWN_TIMEOUT_S = 2.0
"""What HTTP requests under way may take when the agent ends."""

MakeLink = Callable[[TransferSink], Link]


class Agent:
    """`start` on a running event loop, then `close`. ``make_link`` replaces the TCP link in tests.

    ``admin_url`` is known after the start. ``spans``: of transfers, closed by whoever made them.
    """

    def __init__(
        self,
        settings: AgentSettings,
        make_link: MakeLink | None = None,
        *,
        spans: Spans = NO_SPANS,
    ) -> None:
        self.settings = settings
        self._spans = spans
        self._make_link = make_link or self._tcp_link
        self._cleanup = contextlib.AsyncExitStack()
        self.admin_url = ""

    async def start(self) -> None:
        """Raises ConfigError or LinkError for what cannot be had; then nothing stays behind."""
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._cleanup = stack.pop_all()

    async def take(self, settings: AgentSettings) -> None:
        """Go on with what another deployment file says of this agent: its engines, who sends to it
        its certificates and its cache key, to whom it sends. Raises ConfigError, having changed
        nothing, for certificates that cannot be used. What was bound or allocated at its start
        stays so."""
        tls, files = self.peers.tls, settings.tls
        if tls is not None and files is not None:
            tls.read(files)
        key, named = self._cache_key, settings.cache_key
        if key is not None and named not in (None, key.path):
            look_at(key, named, self._rekey)
        self.driver.handle(Reconfigured(settings.engines, settings.longest_deadline_s))
        if self.caches is not None:
            self.caches.take(settings.reach)
        self.tunnels.engines = _addresses(settings)
        self.peers.gateways = settings.gateways | {settings.name}
        if settings.link is not None and isinstance(self._link, TcpLink):
            accepted = settings.link.accept_from
            # Threads of links to those that have left are waited for.
            await asyncio.to_thread(
                self._link.reconfigure,
                settings.link.peers,
                accepted or frozenset(),
                settings.link.max_incoming_connections,
            )
        for what in _stays(self.settings, settings):
            log.warning("agent %s: %s has changed: that takes a restart", settings.name, what)

    async def close(self) -> None:
        """Everything in flight fails; memory, sockets and threads are given back."""
        await self._cleanup.aclose()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.settings
        self._arena = arena = Arena(settings.name, settings.arena_bytes)
        stack.callback(arena.close)
        pool = _make_pool(settings)
        post = asyncio.get_running_loop().call_soon_threadsafe
        self.driver = driver = PoolDriver(pool, post=post, copy=arena.copy)
        port = LinkPort(driver, arena.view, settings.slot_bytes)
        self._http = None
        """What comes to the KV link's port and is not for that, where HTTP has none of its own."""
        if settings.one_port is not None:
            self._http = GivenConnections(settings.one_port)
            stack.callback(self._http.close)
        tls = self._join_link(stack, port)
        self.peers = peers = Peers(tls, {*settings.gateways, settings.name})
        self.tunnels = Tunnels(peers, _addresses(settings))
        stack.callback(self.tunnels.close)
        self.connections = connections()
        door = DoorCounts(peers.refusals.total, self.tunnels, self.connections)
        self.metrics = agent_metrics(driver, self._link, door)
        self.caches, self._cache_key, key = None, None, PLAINTEXT_KEY
        if settings.cache_key is not None:
            self._cache_key = LiveCacheKey(settings.cache_key)
            self.caches = EngineCaches(key := self._cache_key.key)
            stack.push_async_callback(self.caches.close)
            self.caches.take(settings.reach)
        self._prefixes = prefixes = KeyedPrefixes(key)
        self._spill = spill = SpillPort(
            driver, spill_files(settings.spill, prefixes.key_id, arena.view)
        )
        stack.push_async_callback(asyncio.to_thread, spill.close)
        self.metrics.register(SpillCollector(driver, spill))
        self._admin = admin = Admin(
            settings.name, driver, port, self._link, self.metrics, prefixes, peers, self.caches,
            disk_rate=lambda: spill.measured_bytes_per_s,
        )  # fmt: skip
        spill.look_through()

        slots = settings.arena_bytes // settings.slot_bytes
        welcome = Registered(settings.name, settings.slot_bytes, slots)
        engines = EngineServer(driver, port, prefixes, welcome=welcome, arena_fd=arena.fd)
        stack.push_async_callback(engines.close)
        await engines.start(settings.socket)
        await self._open_door(stack, admin, tls)

        if tls is not None:
            watcher = asyncio.create_task(watch_certificates(tls, peers))
            stack.callback(watcher.cancel)
        if self._cache_key is not None:
            watcher = asyncio.create_task(watch_cache_key(self._cache_key, self._rekey))
            stack.callback(watcher.cancel)
        sweeper = asyncio.create_task(_sweep(driver, port, self.caches))
        stack.callback(sweeper.cancel)
        log.info("agent ready name=%s socket=%s admin=%s arena_bytes=%d",
                 settings.name, settings.socket, self.admin_url, settings.arena_bytes)  # fmt: skip

    def _rekey(self) -> None:
        """Make all names with the new cache key. In one go: nobody is told anything meanwhile, nor
        under both keys."""
        assert self._cache_key is not None
        key = self._cache_key.key
        self.driver.handle(NamesChanged())
        self._prefixes.rekey(key)
        self._spill.rekey(self._prefixes.key_id)
        self._admin.begin_news_anew()
        if self.caches is not None:
            self.caches.rekey(key)
        log.warning("names are made with a new cache key: what was cached is forgotten")

    def _join_link(self, stack: contextlib.AsyncExitStack, port: LinkPort) -> LiveTls | None:
        """Have the pool send and receive; returns the certificates, of link and HTTP alike."""
        spans = self._spans
        self._link = link = self._make_link(TracedSink(port, spans) if spans.on else port)
        stack.push_async_callback(asyncio.to_thread, link.close)
        port.connect(TracedLink(link, spans) if spans.on else link)
        if spans.on:
            self.driver.carry_out(HandedOver, LocalHandOffs(spans).over)
        tls = link.tls if isinstance(link, TcpLink) else None
        if tls is None and self.settings.tls is not None:
            tls = LiveTls(self.settings.tls)
        return tls

    async def _open_door(
        self, stack: contextlib.AsyncExitStack, admin: Admin, tls: LiveTls | None
    ) -> None:
        """Serve HTTP, and tunnels to engines, from now on."""
        self.admin_url = await stack.enter_async_context(
            serving_strangers(
                admin.application(),
                self._http or self.settings.admin,
                what=f"agent {self.settings.name!r}: admin",
                shutdown_timeout_s=_SHUTDOWN_TIMEOUT_S,
                tls=None if tls is None else lambda: tls.http_server,
                book=self.connections,
                others=self.tunnels.others,
            )
        )

    def _tcp_link(self, sink: TransferSink) -> Link:
        if self.settings.link is None:
            return NoLink()
        link = by_descriptors(self.settings.link)
        memory = SharedMemory(self._arena.fd, self._arena.view)
        return TcpLink(link, sink, memory, others=self._http)


def _make_pool(settings: AgentSettings) -> Pool:
    return Pool(
        settings.name,
        slot_bytes=settings.slot_bytes,
        slot_count=settings.arena_bytes // settings.slot_bytes,
        export_slots=settings.export_slots,
        engines=settings.engines,
        longest_deadline_s=settings.longest_deadline_s,
        # Above those of an earlier life: milliseconds, and a million transfers in each.
        first_epoch=time.time_ns() // 1_000_000 << 20,
        cache_slots=settings.cache_slots,
        disk_bytes=0 if settings.spill is None else settings.spill.most_bytes,
    )


def _addresses(settings: AgentSettings) -> frozenset[Address]:
    """Of engines that gateways reach through this agent."""
    found = [engine.url for engine in settings.reach if engine.url.startswith("http:")]
    return frozenset(parse_url(url) for url in found) if settings.tls else frozenset()


async def _take_again(agent: Agent, reread: Callable[[], AgentSettings]) -> None:
    try:
        await agent.take(reread())
    except (PrfaasError, OSError) as error:
        log.error("the deployment file is not taken over: %s", error)
    except Exception:
        log.exception("a fault of ours: the deployment file cannot be taken over")
    else:
        log.info("the deployment file is taken over")


async def _sweep(driver: PoolDriver, port: LinkPort, caches: EngineCaches | None = None) -> None:
    """What only time decides."""
    while True:
        await asyncio.sleep(SWEEP_PERIOD_S)
        try:
            port.report_progress()
            driver.handle(TimePassed())
            if caches is not None:
                caches.registered(registered_pids(driver.snapshot().engines))
        except Exception:
            log.exception("a fault of ours in the agent's sweep; it goes on")


def _stays(old: AgentSettings, new: AgentSettings) -> list[str]:
    """What differs and cannot be changed while the agent runs."""
    fixed = (
        "arena_bytes", "slot_bytes", "cache_slots", "socket", "admin", "spill",
    )  # fmt: skip
    found = [what for what in fixed if getattr(old, what) != getattr(new, what)]
    if (old.link is None) != (new.link is None):
        found.append("whether it has a KV link")
    elif old.link is not None and new.link is not None:
        bound = ("listen", "dscp", "workers")
        found += [what for what in bound if getattr(old.link, what) != getattr(new.link, what)]
        if isinstance(old.link.security, TlsFiles) != isinstance(new.link.security, TlsFiles):
            found.append("tls or plaintext")
    return found


async def serve(
    settings: AgentSettings,
    *,
    reread: Callable[[], AgentSettings] | None = None,
    told: asyncio.Event | None = None,
    spans: Spans = NO_SPANS,
) -> NoReturn:
    """Run one agent until cancelled; it then shuts down in order.

    Args:
        reread: its settings by the deployment file as it is now; may raise ConfigError, and the
            agent then stays as it is.
        told: when it is set, the file is read again.
        spans: where its transfers are recorded; closed at the end.
    """
    allow_all_files()  # A streamed answer takes two: the gateway's connection, and the engine's.
    agent = Agent(settings, spans=spans)
    await agent.start()
    told = told or asyncio.Event()
    try:
        while True:
            await told.wait()
            told.clear()
            if reread is not None:
                await _take_again(agent, reread)
    finally:
        log.info("agent stopping name=%s", settings.name)
        await agent.close()
        await asyncio.to_thread(spans.close)
