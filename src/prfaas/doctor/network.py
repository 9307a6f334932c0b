"""Ports of this machine, the way to every other, and whether clocks agree."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Callable
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec

from prfaas.core.addresses import parse_address, parse_url
from prfaas.core.deployment import AgentConfig, Deployment
from prfaas.doctor.finding import Finding, ok
from prfaas.link.api import LinkState

_TIMEOUT_S = 3.0
_TRIES = 3
_SKEW_S = 2.0
"""A ``Date`` header has whole seconds, and some of the way is in it."""


class _Links(msgspec.Struct, frozen=True):
    links: list[LinkState] = []


async def check_network(
    deployment: Deployment, *, clock: Callable[[], float] = time.time
) -> AsyncIterator[Finding]:
    """Of every process the file names: whether it answers, how far away, with which clock; and
    what agents say of the lines between each other. Raises ConfigError for an address that is
    none."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as http:
        yield await _process(http, "gateway", deployment.gateway.listen, "/health", clock)
        for cluster in deployment.clusters:
            for engine in cluster.engines:
                if engine.url:
                    place = str(parse_url(engine.url, what=f"engine {engine.name!r}: url"))
                    yield await _process(http, f"engine {engine.name}", place, "/health", clock)
            agent = cluster.agent
            yield await _process(http, f"agent {agent.name}", agent.admin, "/health", clock)
            yield await _way(agent)
        for link in deployment.links:
            yield await _line(http, deployment, link.source, link.target)


async def _process(
    http: aiohttp.ClientSession, name: str, place: str, path: str, clock: Callable[[], float]
) -> Finding:
    """Whether it answers; where it does not, whether its port is free for it."""
    if place.endswith(":0"):
        return Finding(name, "note", "its port is chosen when it starts")
    try:
        async with http.get(f"http://{place}{path}") as answer:
            now, date = clock(), answer.headers.get("Date")
    except (aiohttp.ClientError, TimeoutError, OSError):
        return _port(name, place)
    skew = 0.0 if date is None else parsedate_to_datetime(date).timestamp() - now
    if abs(skew) > _SKEW_S:
        return Finding(
            name, "warning", f"answers at {place}; its clock differs by {skew:+.0f} s",
            "run chrony or another NTP client on both machines: certificates and traces need it",
        )  # fmt: skip
    return ok(name, f"answers at {place}, clocks agree")


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
    if agent.listen.endswith(":0"):
        return Finding(check, "note", "its port is chosen when it starts")
    host, port = parse_address(agent.listen, what=check)
    took: list[float] = []
    for _ in range(_TRIES):
        begun = time.monotonic()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            why = getattr(error, "strerror", None) or "no answer"
            return Finding(
                check, "warning", f"KV link at {agent.listen}: {why}",
                "start the agent; else open the port in the firewall, in both directions",
            )  # fmt: skip
        took.append(time.monotonic() - begun)
        writer.close()
    return ok(check, f"KV link at {agent.listen} is open, RTT about {min(took) * 1e3:.1f} ms")


async def _line(
    http: aiohttp.ClientSession, deployment: Deployment, source: str, target: str
) -> Finding:
    """What the sending agent says of a line."""
    check = f"line {source} -> {target}"
    sender, receiver = deployment.cluster(source).agent, deployment.cluster(target).agent
    try:
        async with http.get(f"http://{sender.admin}/links") as answer:
            states = msgspec.json.decode(await answer.read(), type=_Links).links
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
        return Finding(check, "note", f"agent {sender.name} does not answer, so it cannot tell")
    state = next((s for s in states if s.peer == receiver.name and s.connections), None)
    if state is None:
        return Finding(
            check, "error", f"{sender.name} has no connection to {receiver.name}",
            f"its log says why; 'prfaas link test {receiver.listen} --peer {receiver.name}' tries",
        )  # fmt: skip
    return ok(
        check,
        f"{state.connections} connections, RTT {state.rtt_s * 1e3:.1f} ms "
        f"(least {state.min_rtt_s * 1e3:.1f} ms)",
    )
