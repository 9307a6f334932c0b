"""How fast the lines between agents are: each pair measured over its own KV link, one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import msgspec

from prfaas.core.deployment import AgentConfig, Deployment, Line, lines_of
from prfaas.core.errors import UNREADABLE
from prfaas.core.units import format_count, format_rate
from prfaas.doctor.finding import Finding, ok
from prfaas.link.api import MeasuredLine
from prfaas.tls.agents import Trust

_SLACK_S = 8.0
"""An agent waits so long for a first byte, and answers."""
_ENOUGH = 0.8
"""Of the rate in the file: shorter measurements do not get all of it."""


async def check_rates(
    deployment: Deployment, trust: Trust, *, seconds: float
) -> AsyncIterator[Finding]:
    """A finding for every pair of agents of every line, in the direction in which KV travels.

    Args:
        seconds: for which each pair is measured.
    """
    timeout = aiohttp.ClientTimeout(total=seconds + _SLACK_S)
    agents = {agent.name: agent for agent in deployment.agents}
    async with aiohttp.ClientSession(timeout=timeout) as http:
        for line in lines_of(deployment):
            for pair in line.pairs:
                sender = agents[pair.sender]
                yield await _rate(http, trust, line, sender, pair.receiver, seconds)


async def _rate(
    http: aiohttp.ClientSession,
    trust: Trust,
    line: Line,
    sender: AgentConfig,
    receiver: str,
    seconds: float,
) -> Finding:
    check = f"rate {sender.name} -> {receiver}"
    url = f"{sender.admin_url}/links/{receiver}/measure?seconds={seconds:g}"
    try:
        async with http.post(url, ssl=trust.of(url)) as answer:
            body, status = await answer.read(), answer.status
        if status != 200:
            return _refused(check, sender, status, msgspec.json.decode(body, type=_Refusal).error)
        measured = msgspec.json.decode(body, type=MeasuredLine)
    except (aiohttp.ClientError, TimeoutError, OSError, *UNREADABLE):
        return Finding(check, "note", f"not measured: agent {sender.name} does not answer")
    return _judged(check, line, measured)


class _Refusal(msgspec.Struct, frozen=True):
    error: str = ""


def _refused(check: str, sender: AgentConfig, status: int, why: str) -> Finding:
    if status == 503:
        return Finding(
            check, "warning", f"not measured: {why}",
            f"see the log of agent {sender.name}; 'prfaas status' says which lines are down",
        )  # fmt: skip
    if status == 403:
        why = f"run 'prfaas doctor' on the machine of {sender.name} or of a gateway"
    elif status == 404:
        why = f"agent {sender.name} is of an earlier version"
    return Finding(check, "note", f"not measured: {why or f'status {status}'}")


def _judged(check: str, line: Line, measured: MeasuredLine) -> Finding:
    rate = max(measured.goodput_bytes_per_s, measured.all_bytes_per_s)
    words = (
        f"{format_rate(rate)} over {format_count(measured.connections, 'connection')}, RTT "
        f"{measured.min_rtt_s * 1e3:.1f} ms, {measured.rtt_s * 1e3:.1f} ms under this load"
    )
    configured = line.rate_bytes_per_s
    if configured is None:
        return ok(check, words)
    words += f"; the file says {format_rate(configured)}"
    if len(line.pairs) > 1:
        words += " for all pairs of the line together"
    elif rate < _ENOUGH * configured:
        return Finding(
            check, "warning", words,
            "write what the line carries as its 'rate', or see what holds it up: 'prfaas link "
            "test' tries more connections, docs/tune-a-line.md the rest",
        )  # fmt: skip
    return ok(check, words)
