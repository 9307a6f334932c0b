"""Ports of this machine, the way to every other, and whether clocks agree."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp
import msgspec

from prfaas.core.addresses import parse_address, parse_url, stays_here
from prfaas.core.deployment import (
    AgentConfig,
    Deployment,
    EngineConfig,
    GatewayConfig,
    Line,
    is_carried,
    lines_of,
)
from prfaas.core.errors import UNREADABLE, PeerError
from prfaas.core.units import format_count
from prfaas.doctor.finding import Finding, ok
from prfaas.gateway.carrying import CarryingConnector
from prfaas.link.api import LinkState, LinkStates
from prfaas.process.failures import in_words
from prfaas.tls.agents import Trust
from prfaas.tls.context import PeerContext
from prfaas.tls.front import trust_of

_TIMEOUT_S = 3.0
_TRIES = 3
_SKEW_S = 2.0
"""A ``Date`` header has whole seconds, and some of the way is in it."""


async def check_network(
    deployment: Deployment, trust: Trust, *, clock: Callable[[], float] = time.time
) -> AsyncIterator[Finding]:
    """Of every process the file names: whether it answers, how far away, with which clock; and
    what agents say of the lines between each other. Raises ConfigError for an address that is
    none."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=CarryingConnector()) as http:
        for gateway in deployment.gateways:
            name = "gateway" if gateway.name == "gateway" else f"gateway {gateway.name}"
            if (lacks := _authority_elsewhere(gateway)) is not None:
                yield Finding(name, "note", f"not asked: {lacks} is not on this machine")
                continue
            yield await _process(
                http, name, gateway.address, f"{gateway.url}/health", clock, trust_of(gateway)
            )
        for machine in deployment.machines:
            agent = machine.agent
            for engine in machine.engines:
                if engine.url:
                    place = str(parse_url(engine.url, what=f"engine {engine.name!r}: url"))
                    url = f"{engine.url.rstrip('/')}/health"
                    name = f"engine {engine.name}"
                    if is_carried(engine, agent):
                        place = f"{place} of {agent.name}"
                        through = trust.carried.get(engine.name)
                        yield await _carried(http, name, place, url, clock, through)
                        continue
                    found = await _process(http, name, place, url, clock, trust=False)
                    yield found
                    if found.level == "ok":
                        async for strangers in _strangers(http, engine):
                            yield strangers
            url = f"{agent.admin_url}/health"
            yield await _process(
                http, f"agent {agent.name}", agent.admin_address, url, clock, trust.of(url)
            )
            yield await _way(agent)
        for line in lines_of(deployment):
            async for finding in _line(http, line, trust):
                yield finding


def _authority_elsewhere(gateway: GatewayConfig) -> str | None:
    """The file by which its door is believed, where this machine has not got it."""
    ca = None if gateway.tls is None else gateway.tls.ca
    return None if ca is None or Path(ca).exists() else f"its authority {ca}"


async def _process(
    http: aiohttp.ClientSession,
    name: str,
    place: str,
    url: str,
    clock: Callable[[], float],
    trust: ssl.SSLContext | bool,
) -> Finding:
    """Whether it answers; where it does not, whether its port is free for it."""
    if place.endswith(":0"):
        return Finding(name, "note", "its port is chosen when it starts")
    try:
        return await _answering(http, name, place, url, clock, trust)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        if isinstance(error, aiohttp.ClientSSLError):
            return Finding(
                name, "error", f"{place} is not spoken to: {_why(error)}",
                "see to the certificates of both machines, to lists of revoked ones, and clocks",
            )  # fmt: skip
        return _port(name, place)


async def _carried(
    http: aiohttp.ClientSession,
    name: str,
    place: str,
    url: str,
    clock: Callable[[], float],
    through: PeerContext | None,
) -> Finding:
    """The same of an engine that its agent alone reaches: whatever has its port on this machine is
    another."""
    if through is None:
        return Finding(
            name, "note", f"not asked: no certificate of this machine's opens the way to {place}"
        )
    try:
        return await _answering(http, name, place, url, clock, through)
    except (aiohttp.ClientError, TimeoutError, OSError, PeerError) as error:
        if isinstance(getattr(error, "os_error", None), PermissionError):
            return Finding(name, "note", f"not asked: {_why(error)}; a gateway's machine can tell")
        return Finding(
            name, "warning", f"does not answer at {place}: {_why(error)}",
            "start it; where its agent does not answer either, that first",
        )  # fmt: skip


def _why(error: Exception) -> str:
    """In the words of TLS or of the agent, where it is one of theirs."""
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    return getattr(inner, "strerror", None) or in_words(error)


async def _answering(
    http: aiohttp.ClientSession,
    name: str,
    place: str,
    url: str,
    clock: Callable[[], float],
    trust: ssl.SSLContext | bool,
) -> Finding:
    """Raises what aiohttp does, and PeerError, where it does not answer."""
    async with http.get(url, ssl=trust) as answer:
        now, date = clock(), answer.headers.get("Date")
    then = _time_of(date)
    if then is None:
        return Finding(name, "note", f"answers at {place}, and does not say what time it has")
    if abs(skew := then - now) > _SKEW_S:
        return Finding(
            name, "warning", f"answers at {place}; its clock differs by {skew:+.0f} s",
            "run chrony or another NTP client on both machines: certificates and traces need it",
        )  # fmt: skip
    return ok(name, f"answers at {place}, clocks agree")


async def _strangers(http: aiohttp.ClientSession, engine: EngineConfig) -> AsyncIterator[Finding]:
    """Whether an engine that is reached over the network, and should ask for a key, answers who
    shows none: vLLM by itself does, at some paths."""
    url = engine.url or ""
    guarded = url.startswith("https:") or engine.keys
    if not guarded or stays_here(parse_url(url).host):
        return
    try:
        async with http.post(f"{url.rstrip('/')}/invocations", json={}, ssl=False) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        return
    if status not in (401, 403, 404):
        yield Finding(
            f"engine {engine.name}", "warning", f"answers whoever comes at {url}/invocations",
            "start it with --middleware prfaas.vllm_plugin.key_for_all.KeyForAll and the key in "
            "VLLM_API_KEY, as 'prfaas engine' does where the file names a key",
        )  # fmt: skip


def _time_of(date: str | None) -> float | None:
    """Unix seconds of a ``Date`` header; None where it is none: anything may answer there."""
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _port(name: str, place: str) -> Finding:
    """Nobody answers HTTP there: is it ours to listen on?"""
    host, port = parse_address(place, what=name)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            if taken:
                return Finding(
                    name, "error", f"{place} is taken by something that does not answer as it",
                    f"see who listens (ss -ltnp 'sport = :{port}') and end it, or another port",
                )  # fmt: skip
            return Finding(
                name, "warning", f"does not answer at {place}",
                "start it, or see to the way there: firewall, routing, the address in the file",
            )  # fmt: skip
    return Finding(name, "note", f"not running; {place} is free for it")


async def _way(agent: AgentConfig) -> Finding:
    """Time to open a TCP connection to an agent's KV link: about one round trip."""
    check = f"way to {agent.name}"
    address = agent.link_address
    host, port = parse_address(address, what=check)
    if port == 0:
        return Finding(check, "note", "its port is chosen when it starts")
    took: list[float] = []
    for _ in range(_TRIES):
        begun = time.monotonic()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            why = getattr(error, "strerror", None) or "no answer"
            return Finding(
                check, "warning", f"KV link at {address}: {why}",
                "start the agent; else open the port in the firewall, in both directions",
            )  # fmt: skip
        took.append(time.monotonic() - begun)
        writer.close()
    return ok(check, f"KV link at {address} is open, RTT about {min(took) * 1e3:.1f} ms")


async def _line(http: aiohttp.ClientSession, line: Line, trust: Trust) -> AsyncIterator[Finding]:
    """What the sending agents say of a line: of all pairs together, and of each that is down."""
    check = f"line {line.source} -> {line.target}"
    if line.source == line.target:
        check = f"network inside {line.source}"
    receivers = {agent.name: agent for agent in line.receivers}
    up: list[LinkState] = []
    for sender in line.senders:
        states = await _link_states(http, sender, trust)
        if states is None:
            yield Finding(check, "note", f"agent {sender.name} does not answer, so it cannot tell")
            continue
        for pair in line.pairs:
            if pair.sender != sender.name:
                continue
            state = states.get(pair.receiver)
            if state is not None and state.connections:
                up.append(state)
                continue
            receiver = line.address_of(receivers[pair.receiver])
            yield Finding(
                check, "error", f"{pair.sender} has no connection to {pair.receiver}",
                f"its log says why; 'prfaas link test {receiver} --peer {pair.receiver}' tries",
            )  # fmt: skip
    if up:
        rtts, least = [s.rtt_s for s in up], [s.min_rtt_s for s in up]
        yield ok(
            check,
            f"{format_count(sum(s.connections for s in up), 'connection')}, "
            f"RTT {max(rtts) * 1e3:.1f} ms (least {min(least) * 1e3:.1f} ms)",
        )


async def _link_states(
    http: aiohttp.ClientSession, agent: AgentConfig, trust: Trust
) -> dict[str, LinkState] | None:
    """By the agent at the other end; None where it does not answer."""
    try:
        url = f"{agent.admin_url}/links"
        async with http.get(url, ssl=trust.of(url)) as answer:
            states = msgspec.json.decode(await answer.read(), type=LinkStates).links
    except (aiohttp.ClientError, TimeoutError, OSError, *UNREADABLE):
        return None
    return {state.peer: state for state in states}
