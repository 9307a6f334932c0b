"""Asks a deployment's processes what they do now."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import aiohttp
import msgspec

from prfaas.core.deployment import ClusterConfig, Deployment, EngineConfig, SchedulerConfig
from prfaas.link.api import LinkState
from prfaas.policies.registry import policy_config
from prfaas.policies.threshold import ThresholdConfig
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

T = TypeVar("T")

TIMEOUT_S = 3.0
"""A process that takes longer is shown as not answering."""


class _Readiness(msgspec.Struct, frozen=True):
    ready: bool = False
    troubles: list[str] = []


class _Links(msgspec.Struct, frozen=True):
    links: list[LinkState] = []


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
        except msgspec.DecodeError:
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
    readiness = asked.json(f"{gateway}/ready", _Readiness)
    up = asked.answered(f"{gateway}/metrics")
    clusters = [_cluster(cluster, asked, page) for cluster in deployment.clusters]
    lines = _lines(deployment, asked)
    return Snapshot(
        at=now,
        model=deployment.model.served_name,
        policy=deployment.scheduler.policy,
        threshold_tokens=_threshold_tokens(deployment.scheduler),
        gateway=GatewayStatus(
            url=gateway,
            up=up,
            ready=readiness.ready,
            inflight=int(page.value("prfaas_gateway_inflight_requests") or 0),
            requests=page.by("prfaas_gateway_requests_total", "route", "outcome"),
        ),
        clusters=clusters,
        lines=lines,
        decisions=_decisions(asked.json(f"{gateway}/requests", _Decisions)),
        troubles=_troubles(gateway, up, readiness, clusters, lines),
    )


def _urls(deployment: Deployment, gateway: str) -> list[str]:
    urls = [f"{gateway}/{path}" for path in ("metrics", "ready", "requests")]
    for cluster in deployment.clusters:
        urls += [f"http://{cluster.agent.admin}/{path}" for path in ("metrics", "links")]
        urls += [f"{_base(engine)}/metrics" for engine in cluster.engines if engine.url]
    return urls


def _base(engine: EngineConfig) -> str:
    return (engine.url or "").rstrip("/")


async def _ask(
    deployment: Deployment, gateway: str, http: aiohttp.ClientSession, timeout_s: float
) -> _Asked:
    urls = _urls(deployment, gateway)
    keys = deployment.gateway.api_keys
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    guarded = f"{gateway}/requests"  # All else is open.
    timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def one(url: str) -> bytes | None:
        given = headers if url == guarded else {}
        try:
            async with http.get(url, timeout=timeout, headers=given) as response:
                body = await response.read()
                # /ready answers 503 with its troubles.
                return body if response.status in (200, 503) else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    return _Asked(dict(zip(urls, await asyncio.gather(*map(one, urls)), strict=True)))


def _cluster(cluster: ClusterConfig, asked: _Asked, gateway: MetricsPage) -> ClusterStatus:
    admin = f"http://{cluster.agent.admin}"
    page = asked.page(f"{admin}/metrics")
    machine = MachineStatus(
        agent=cluster.agent.name,
        address=cluster.agent.admin,
        up=asked.answered(f"{admin}/metrics") or asked.answered(f"{admin}/links"),
        engines_registered=int(page.value("prfaas_agent_engines") or 0),
        slots=page.by("prfaas_agent_slots", "state"),
        slot_bytes=int(page.value("prfaas_agent_slot_bytes") or 0),
        transfers=page.by("prfaas_agent_open_transfers", "side"),
    )
    engines = [_engine(engine, asked, gateway) for engine in cluster.engines]
    return ClusterStatus(name=cluster.name, kind=cluster.kind, machines=[machine], engines=engines)


def _engine(engine: EngineConfig, asked: _Asked, gateway: MetricsPage) -> EngineStatus:
    url = f"{_base(engine)}/metrics"
    page = asked.page(url)
    seen = gateway.value("prfaas_gateway_engine_up", engine=engine.name)
    blocks = gateway.value("prfaas_gateway_index_blocks", engine=engine.name)
    running = page.value("vllm:num_requests_running")
    waiting = page.value("vllm:num_requests_waiting")
    return EngineStatus(
        name=engine.name,
        role=engine.role,
        url=_base(engine),
        up=asked.answered(url) if seen is None else seen == 1,
        running=None if running is None else int(running),
        waiting=None if waiting is None else int(waiting),
        kv_used=page.value("vllm:kv_cache_usage_perc"),
        cached_blocks=None if blocks is None else int(blocks),
    )


def _lines(deployment: Deployment, asked: _Asked) -> list[LineStatus]:
    found = []
    for link in deployment.links:
        sender = deployment.cluster(link.source).agent
        receiver = deployment.cluster(link.target).agent
        states = asked.json(f"http://{sender.admin}/links", _Links).links
        state = next((s for s in states if s.peer == receiver.name), None)
        found.append(
            LineStatus(
                source=link.source,
                target=link.target,
                up=state is not None and state.connections > 0,
                connections=state.connections if state else 0,
                goodput_bytes_per_s=state.goodput_bytes_per_s if state else 0.0,
                limit_bytes_per_s=state.limit_bytes_per_s if state else link.rate_bytes_per_s,
                rtt_s=state.rtt_s if state else 0.0,
                queued_bytes=state.queued_bytes if state else 0,
                congestion=state.congestion if state else 0.0,
            )
        )
    return found


def _threshold_tokens(config: SchedulerConfig) -> int | None:
    options = policy_config(config)
    return options.threshold_tokens if isinstance(options, ThresholdConfig) else None


def _decisions(answer: _Decisions) -> list[Decision]:
    names = Decision.__struct_fields__
    rows = [{k: v for k, v in row.items() if k in names} for row in answer.requests]
    return [msgspec.convert(row, Decision) for row in rows]


def _troubles(
    gateway: str,
    up: bool,
    readiness: _Readiness,
    clusters: list[ClusterStatus],
    lines: list[LineStatus],
) -> list[str]:
    away = [f"the gateway at {gateway} does not answer"]
    found = list(readiness.troubles) if up else away
    for cluster in clusters:
        found += [
            f"agent {machine.agent} of {cluster.name} does not answer at {machine.address}"
            for machine in cluster.machines
            if not machine.up
        ]
        found += [
            f"engine {engine.name} of {cluster.name} is down" for engine in cluster.engines
            if not engine.up
        ]  # fmt: skip
    found += [f"no KV can travel from {x.source} to {x.target}" for x in lines if not x.up]
    return found
