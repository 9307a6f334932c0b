"""The page's view of a gateway: a sample a second, and who may see it."""

from __future__ import annotations

import asyncio
import time
from math import isfinite

from aiohttp import web

from prfaas.core.deployment import AgentPair, Deployment, lines_of
from prfaas.gateway.gateway import Gateway
from prfaas.link.api import LinkState
from prfaas.page.recorder import Recorder
from prfaas.page.records import ClusterSample, History, LineSample, Sample
from prfaas.page.server import PageServer
from prfaas.policies.views import ClusterView, EngineView, LinkView
from prfaas.process.http_handler import admit
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.journal import CostInputs, JournalOpened
from prfaas.scheduler.topology import topology_of

AgentPairs = tuple[AgentPair, ...]

_EVERY_S = 1.0


class GatewayPage:
    """Records what a gateway does and serves the page of it. The gateway has been started."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        deployment = gateway.deployment
        opened = JournalOpened(
            driver="gateway",
            unix_time=time.time(),
            topology=topology_of(deployment, alignment_tokens=None, up=False),
            scheduler=deployment.scheduler,
            costs=CostInputs(),
        )
        self._recorder = Recorder(time.monotonic(), opened, self._sample)
        self._told: dict[AgentPair, LinkState] = {}
        self._lines_of: tuple[Deployment | None, dict[tuple[str, str], AgentPairs]] = (None, {})
        access = gateway.access
        self._server = PageServer(
            check=self._check, still=access.is_operator, history=self._history
        )
        gateway.requests.listen(self._recorder.take)
        gateway.run_beside("page", self._run)

    def add_routes(self, app: web.Application) -> None:
        """Serve ``/ui``; its streams end when the server stops."""
        self._server.add_routes(app)
        app.on_shutdown.append(self._stop)

    async def _stop(self, _app: web.Application) -> None:
        self._server.close()

    async def _run(self) -> None:
        while True:
            self._server.tell(self._recorder.sampled(time.monotonic()))
            await asyncio.sleep(_EVERY_S)

    def _check(self, request: web.Request) -> None:
        self._gateway.access.check_operator(request)
        admit(request)  # Or its stream would be closed as a stranger's.

    def _history(self) -> History:
        deployment = self._gateway.deployment
        return self._recorder.history(
            model=deployment.model.served_name, policy=deployment.scheduler.policy
        )

    def _sample(self, at: float, recorder: Recorder) -> Sample:
        gateway, deployed = self._gateway, recorder.deployed
        view, topology = gateway.requests.scheduler.view, deployed.topology
        assert isinstance(view, FleetState)
        self._told = {
            AgentPair(name, state.peer): state
            for name, agent in gateway.agents.items()
            for state in agent.links_now
        }
        clusters = {cluster.name: cluster for cluster in view.clusters}
        engines = [view.engines.get(spec.name) for spec in topology.engines]
        pd_clusters = [spec.name for spec in topology.clusters if spec.kind == "pd"]
        thresholds = {name: view.threshold_of(name) for name in pd_clusters}
        return Sample(
            at=at,
            topology=deployed.number,
            clusters=[self._cluster(clusters.get(s.name), recorder) for s in topology.clusters],
            lines=[self._line(view.link(s.source, s.target)) for s in topology.links],
            engines="".join(self._letter(engine, recorder) for engine in engines),
            loads="".join(str(_load(engine)) for engine in engines),
            thresholds={name: float(t) for name, t in thresholds.items() if t is not None},
            optima={n: float(o.threshold_tokens) for n, o in gateway.thresholds.found.items()},
            live=gateway.requests.inflight,
        )

    def _letter(self, engine: EngineView | None, recorder: Recorder) -> str:
        if engine is None:
            return "x"
        if engine.name in self._gateway.drains.engines:
            return "c"
        if not engine.up:
            return "s" if engine.name in recorder.suspected else "x"
        works = engine.prefills if engine.role == "prefill" else engine.assigned
        letter = "p" if engine.role == "prefill" else "d"
        return letter.upper() if works else letter

    def _cluster(self, cluster: ClusterView | None, recorder: Recorder) -> ClusterSample:
        if cluster is None:
            return ClusterSample()
        prefill = [engine for engine in cluster.prefill_engines if engine.up]
        decode = [engine for engine in cluster.decode_engines if engine.up]
        busy = sum(engine.prefills > 0 for engine in prefill)
        bounded = [engine for engine in cluster.engines if isfinite(engine.kv_tokens)]
        memory = self._memory(cluster, recorder)
        return ClusterSample(
            prefill_up=len(prefill),
            prefill_busy=busy,
            prefill_waiting=sum(engine.prefills for engine in prefill) - busy,
            decode_up=len(decode),
            decode_running=sum(engine.running for engine in decode),
            decode_slots=sum(engine.max_requests for engine in decode),
            decode_waiting=cluster.waiting_for_decode,
            cached_blocks=sum(self._blocks(engine.name) for engine in cluster.engines),
            kv_tokens=sum(engine.kv_tokens for engine in bounded),
            kv_tokens_used=sum(engine.kv_used for engine in bounded),
            memory_bytes=memory[0],
            memory_reserved_bytes=memory[1],
        )

    def _blocks(self, engine: str) -> int:
        return self._gateway.feed(engine).follower.index.blocks

    def _memory(self, cluster: ClusterView, recorder: Recorder) -> tuple[int, int]:
        machines = recorder.machines_of(cluster.name)
        told = [recorder.memory[name] for name in machines if name in recorder.memory]
        return sum(m.total_bytes for m in told), sum(m.reserved_bytes for m in told)

    def _links(self, source: str, target: str) -> list[LinkState]:
        """What a line's senders say of it now; those without a connection count for nothing."""
        deployment = self._gateway.deployment
        if self._lines_of[0] is not deployment:
            self._lines_of = (
                deployment,
                {(k.source, k.target): k.pairs for k in lines_of(deployment)},
            )
        found = []
        for pair in self._lines_of[1].get((source, target), ()):
            state = self._told.get(pair)
            if state is not None and state.connections:
                found.append(state)
        return found

    def _line(self, line: LinkView | None) -> LineSample:
        if line is None:
            return LineSample(up=False)
        states = self._links(line.source, line.target)
        limits = [s.limit_bytes_per_s for s in states if s.limit_bytes_per_s is not None]
        rate = line.rate_bytes_per_s
        return LineSample(
            up=line.up,
            goodput_bytes_per_s=sum(s.goodput_bytes_per_s for s in states) if states else None,
            limit_bytes_per_s=sum(limits) if limits and len(limits) == len(states) else None,
            rate_bytes_per_s=rate if isfinite(rate) else None,
            utilisation=line.utilisation,
            congestion=line.congestion,
            rtt_s=line.rtt_s,
            transfers=line.transfers,
            outstanding_bytes=line.outstanding_bytes,
        )


def _load(engine: EngineView | None) -> int:
    """How full it is, 0 to 9."""
    if engine is None:
        return 0
    if engine.role == "prefill":
        return min(9, engine.prefills)
    return min(9, round(9 * engine.running / max(1, engine.max_requests)))
