"""Asks a deployment's processes what they do now."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from statistics import median
from typing import Any, TypeVar

import aiohttp
import msgspec

from prfaas.core.deployment import (
    ClusterConfig,
    Deployment,
    EngineConfig,
    Line,
    MachineConfig,
    SchedulerConfig,
    lines_of,
    way_in_words,
)
from prfaas.core.errors import UNREADABLE, EngineError
from prfaas.core.readiness import Readiness
from prfaas.gateway.carrying import CarryingConnector
from prfaas.link.api import LinkState, LinkStates
from prfaas.policies.registry import policy_config
from prfaas.policies.threshold import ThresholdConfig
from prfaas.process.answers import read_at_most
from prfaas.status.caches import caches_of, hit_share
from prfaas.status.exposition import MetricsPage
from prfaas.status.snapshot import (
    ClusterStatus,
    Decision,
    EngineStatus,
    GatewayStatus,
    LineStatus,
    MachineStatus,
    Snapshot,
)
from prfaas.tls.agents import Trust

T = TypeVar("T")

_LONGEST_ANSWER = 32 * 1024 * 1024
"""Bytes: a gateway's metrics of a thousand engines are a few MB."""
TIMEOUT_S = 3.0
"""A process that takes longer is shown as not answering."""


class _Decisions(msgspec.Struct, frozen=True):
    requests: list[dict[str, Any]] = []


class _Asked:
    """The answers of all processes, by URL; None for what did not answer."""

    def __init__(self, answers: dict[str, bytes | None]) -> None:
        self._answers = answers

    def answered(self, url: str) -> bool:
        return self._answers.get(url) is not None

    def page(self, url: str) -> MetricsPage:
        return MetricsPage((self._answers.get(url) or b"").decode(errors="replace"))

    def json(self, url: str, kind: type[T]) -> T:
        body = self._answers.get(url)
        try:
            return msgspec.json.decode(body or b"{}", type=kind)
        except UNREADABLE:
            return kind()


async def collect(
    deployment: Deployment,
    http: aiohttp.ClientSession,
    *,
    gateway: str,
    now: float,
    timeout_s: float = TIMEOUT_S,
) -> Snapshot:
    """One snapshot. Never raises for a process that is away or answers nonsense.

    Args:
        deployment: with every address known.
        gateway: base URL of the gateway to ask.
        now: Unix seconds.
    """
    asked = await _ask(deployment, gateway, http, timeout_s)
    page = asked.page(f"{gateway}/metrics")
    readiness = asked.json(f"{gateway}/ready", Readiness)
    up = asked.answered(f"{gateway}/metrics")
    clusters = [_cluster(cluster, asked, page) for cluster in deployment.clusters]
    lines = [_line(line, asked) for line in lines_of(deployment)]
    return Snapshot(
        at=now,
        model=deployment.model.served_name,
        policy=deployment.scheduler.policy,
        threshold_tokens=_threshold_tokens(deployment.scheduler),
        searched_thresholds=page.by("prfaas_scheduler_threshold_tokens", "cluster"),
        gateway=GatewayStatus(
            url=gateway,
            up=up,
            ready=readiness.ready,
            inflight=int(page.value("prfaas_gateway_inflight_requests") or 0),
            requests=page.by("prfaas_gateway_requests_total", "route", "outcome"),
            waiting_tokens=int(page.value("prfaas_scheduler_waiting_tokens") or 0),
            waiting_for_decode=page.by("prfaas_scheduler_waiting_requests", "cluster"),
        ),
        clusters=clusters,
        lines=lines,
        decisions=_decisions(asked.json(f"{gateway}/requests", _Decisions)),
        troubles=[
            *_troubles(gateway, asked, readiness, clusters, lines),
            *_other_gateways(deployment, gateway, asked),
        ],
    )


def _urls(deployment: Deployment, gateway: str) -> list[str]:
    urls = [f"{gateway}/{path}" for path in ("metrics", "ready", "requests")]
    urls += [f"{url}/ready" for _, url in _others(deployment, gateway)]
    for machine in deployment.machines:
        urls += [f"{machine.agent.admin_url}/{path}" for path in ("metrics", "links")]
        urls += [_metrics_of(engine) for engine in machine.engines if engine.url]
    return urls


def _base(engine: EngineConfig) -> str:
    return (engine.url or "").rstrip("/")


def _metrics_of(engine: EngineConfig) -> str:
    """Engines of two machines may have one address, on each machine's loopback."""
    return f"{_base(engine)}/metrics#{engine.name}"


async def _ask(
    deployment: Deployment, gateway: str, http: aiohttp.ClientSession, timeout_s: float
) -> _Asked:
    urls = _urls(deployment, gateway)
    key = deployment.gateway.key_to_look_with()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    guarded = (f"{gateway}/requests", f"{gateway}/metrics")  # All else is open.
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    trust = Trust(deployment)

    through = {_metrics_of(e): trust.carried.get(e.name) for e in deployment.engines}

    async def one(url: str) -> bytes | None:
        given = headers if url in guarded else {}
        agent = through.get(url)
        session, ssl = (http, trust.of(url)) if agent is None else (carrying, agent)
        try:
            async with session.get(url, timeout=timeout, headers=given, ssl=ssl) as response:
                body = await read_at_most(response, _LONGEST_ANSWER)
                # /ready answers 503 with its troubles.
                return body if response.status in (200, 503) else None
        except (aiohttp.ClientError, TimeoutError, OSError, EngineError):
            return None

    async with aiohttp.ClientSession(connector=CarryingConnector()) as carrying:
        answers = await asyncio.gather(*map(one, urls))
    return _Asked(dict(zip(urls, answers, strict=True)))


def _cluster(cluster: ClusterConfig, asked: _Asked, gateway: MetricsPage) -> ClusterStatus:
    return ClusterStatus(
        name=cluster.name,
        kind=cluster.kind,
        machines=[_machine(machine, asked) for machine in cluster.machines],
        engines=[
            _engine(engine, machine.name, asked, gateway)
            for machine in cluster.machines
            for engine in machine.engines
        ],
    )


def _machine(machine: MachineConfig, asked: _Asked) -> MachineStatus:
    admin = machine.agent.admin_url
    page = asked.page(f"{admin}/metrics")
    return MachineStatus(
        name=machine.name,
        agent=machine.agent.name,
        address=machine.agent.admin_address,
        up=asked.answered(f"{admin}/metrics") or asked.answered(f"{admin}/links"),
        engines_registered=int(page.value("prfaas_agent_engines") or 0),
        slots=page.by("prfaas_pool_slots", "state"),
        slot_bytes=int(page.value("prfaas_pool_slot_bytes") or 0),
        transfers=page.by("prfaas_pool_open_transfers", "side"),
        caches=caches_of(page),
    )


def _engine(
    engine: EngineConfig, machine: str, asked: _Asked, gateway: MetricsPage
) -> EngineStatus:
    url = _metrics_of(engine)
    page = asked.page(url)
    seen = gateway.value("prfaas_gateway_engine_up", engine=engine.name)
    blocks = gateway.value("prfaas_gateway_index_blocks", engine=engine.name)
    running = page.value("vllm:num_requests_running")
    waiting = page.value("vllm:num_requests_waiting")
    return EngineStatus(
        name=engine.name,
        machine=machine,
        role=_role(engine, gateway),
        url=_base(engine),
        up=asked.answered(url) if seen is None else seen == 1,
        draining=gateway.value("prfaas_gateway_engine_draining", engine=engine.name) == 1,
        running=None if running is None else int(running),
        waiting=None if waiting is None else int(waiting),
        kv_used=page.value("vllm:kv_cache_usage_perc"),
        cached_blocks=None if blocks is None else int(blocks),
        hit_share=hit_share(page),
    )


def _line(line: Line, asked: _Asked) -> LineStatus:
    """All links of its pairs of agents together."""
    up: list[LinkState] = []
    down: list[str] = []
    for sender in line.senders:
        links = asked.json(f"{sender.admin_url}/links", LinkStates).links
        states = {state.peer: state for state in links}
        for pair in line.pairs:
            state = states.get(pair.receiver) if pair.sender == sender.name else None
            if state is not None and state.connections > 0:
                up.append(state)
            elif pair.sender == sender.name:
                down.append(f"{pair.sender} to {pair.receiver}")
    limits = [state.limit_bytes_per_s for state in up]
    paced = [limit for limit in limits if limit is not None]
    return LineStatus(
        source=line.source,
        target=line.target,
        up=bool(up),
        pairs=len(line.pairs),
        down=down,
        connections=sum(state.connections for state in up),
        goodput_bytes_per_s=sum(state.goodput_bytes_per_s for state in up),
        limit_bytes_per_s=(
            (sum(paced) if len(paced) == len(up) else None) if up else line.rate_bytes_per_s
        ),
        rtt_s=median(state.rtt_s for state in up) if up else 0.0,
        queued_bytes=sum(state.queued_bytes for state in up),
        congestion=max((state.congestion for state in up), default=0.0),
    )


def _other_gateways(deployment: Deployment, gateway: str, asked: _Asked) -> list[str]:
    """Gateways beside the one that is asked, as far as they do not answer requests."""
    found = []
    for name, url in _others(deployment, gateway):
        if not asked.answered(f"{url}/ready"):
            found.append(f"gateway {name} at {url} does not answer")
        elif not asked.json(f"{url}/ready", Readiness).ready:
            found.append(f"gateway {name} at {url} is not ready")
    return list(dict.fromkeys(found))  # The gateway may have said it too.


def _others(deployment: Deployment, gateway: str) -> list[tuple[str, str]]:
    """Names and URLs of all beside the one that is asked; an only one has none beside it."""
    every = [(g.name, url) for g in deployment.gateways for url in g.admin_urls]
    others = [named for named in every if named[1] != gateway]
    return [] if len(others) == len(every) == 1 else others


def _role(engine: EngineConfig, gateway: MetricsPage) -> str:
    """The work that the gateway gives it now; without a gateway what the file says."""
    for role in ("prefill", "decode"):
        if gateway.value("prfaas_gateway_engine_role", engine=engine.name, role=role):
            return role
    return engine.role


def _threshold_tokens(config: SchedulerConfig) -> int | None:
    options = policy_config(config)
    return options.threshold_tokens if isinstance(options, ThresholdConfig) else None


def _decisions(answer: _Decisions) -> list[Decision]:
    names, found = Decision.__struct_fields__, list[Decision]()
    for row in answer.requests:
        known = {k: v for k, v in row.items() if k in names}
        with suppress(*UNREADABLE):
            found.append(msgspec.convert(known, Decision))
    return found


def _troubles(
    gateway: str,
    asked: _Asked,
    readiness: Readiness,
    clusters: list[ClusterStatus],
    lines: list[LineStatus],
) -> list[str]:
    found = [*readiness.troubles, *readiness.warnings]
    told, shown = (asked.answered(f"{gateway}/{path}") for path in ("ready", "metrics"))
    if not shown:
        closed = "tells operators alone what it does, and no key of one is here"
        found = [f"the gateway at {gateway} {closed if told else 'does not answer'}", *found]
    for cluster in clusters:
        found += [
            f"agent {machine.agent} of {cluster.name} does not answer at {machine.address}"
            for machine in cluster.machines
            if not machine.up
        ]
        found += [
            f"engine {engine.name} of {cluster.name} is down" for engine in cluster.engines
            if not engine.up and (shown or not told)
        ]  # fmt: skip
    for line in lines:
        way = way_in_words(line.source, line.target)
        if line.down:
            part = f"KV travels only in part {way}: down is {', '.join(line.down)}"
            found.append(part if line.up else f"no KV can travel {way}")
    return list(dict.fromkeys(found))  # The gateway may have said it too.
