"""A deployment as processes of this machine: agents first, then engines and the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from prfaas.core.deployment import Deployment, EngineConfig
from prfaas.core.errors import UNREADABLE
from prfaas.core.readiness import Readiness
from prfaas.launch import first_prompt, tuning
from prfaas.launch.addresses import free_address
from prfaas.launch.child import Child, all_ready
from prfaas.launch.commands import (
    Command,
    agent_command,
    engine_command,
    gateway_command,
    installed_vllm,
    journal_of,
)
from prfaas.launch.gateway_pages import metrics_pages, unused_engines
from prfaas.launch.run_directory import RunDirectory
from prfaas.tls.agents import Trust

_GATEWAY_LAST_S = 10.0
"""Beyond the time that answers under way may take to their end: to tell the clients of those that
were cut, and to have agents drop transfers."""
_ENGINE_GRACE_S = 20.0
"""A vLLM server needs some seconds to end its workers."""
_ENGINES_SEEN_S = 30.0
"""The gateway looks at engines twice a second, at agents once; on a busy machine an answer may take
it seconds. Only a start with an engine that is not in use waits this long."""
_LOOK_S = 1.0
"""How soon a process that has joined is watched."""
_PATIENCE_S = 5.0
"""So much later than the engines the gateway should be ready; else it says what it misses."""

_TUNES = "it tunes the model's kernels, once on this machine; other engines wait for it"


class Supervisor:
    """Starts, watches, restarts and ends the processes of a resolved deployment.

    Use as ``async with``: leaving ends every process, also when the start failed half way.

    Args:
        deployment: every address filled in (`addresses.resolve`); what the file gave an address
            itself runs elsewhere and is not started.
        local_engines: names of the engines to start here.
        changed: called when a process changes state, or what it waits for is known.
        journal_file: where the gateway writes its journal, if anywhere.
        plain_engine: start a stock engine beside the deployment: the same model, blocks and
            chunks, no connector.
    """

    def __init__(
        self,
        deployment: Deployment,
        *,
        local_engines: frozenset[str],
        run: RunDirectory,
        changed: Callable[[Child], None],
        journal_file: Path | None = None,
        plain_engine: bool = False,
    ) -> None:
        self.deployment = deployment
        self.run, self._changed = run, changed
        self.file = run.write_deployment(deployment)
        self.trust = Trust(deployment)
        self.journal_file = journal_file
        self.agents = self._agents()
        self.engines = self._engines(local_engines)
        self.gateways = self._gateways()
        self.plain_url = f"http://{free_address()}" if plain_engine else ""
        self._plain = self._plain_engine() if plain_engine else None
        self._tasks: dict[Child, asyncio.Task[None]] = {}
        self._http: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """Of the first gateway."""
        return self.deployment.gateway.url

    @property
    def http(self) -> aiohttp.ClientSession:
        """For this machine's processes; there from the start to the end."""
        assert self._http is not None
        return self._http

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        # First: nobody asks for what is going away.
        await asyncio.gather(*(child.stop() for child in self.gateways))
        await asyncio.gather(*(child.stop() for child in [*self.engines, *self._beside]))
        await asyncio.gather(*(child.stop() for child in self.agents))
        await self.http.close()

    async def start(self) -> list[str]:
        """Start everything; returns when all of it is ready, with the names of engines that the
        gateway does not use (its log says why). Raises ProcessError."""
        await self._until_ready(self.agents)
        explaining = asyncio.create_task(self._explain_gateways())
        try:
            untuned = await self._tuned_first()
            await self._until_ready([*untuned, *self.gateways, *self._beside])
        finally:
            explaining.cancel()
        give_up_at = time.monotonic() + _ENGINES_SEEN_S
        while (  # noqa: ASYNC110
            unused := await self._unused_engines()
        ) and time.monotonic() < give_up_at:
            await asyncio.sleep(0.1)
        return unused

    async def _tuned_first(self) -> list[Child]:
        """The engines that are still to be started. On GPUs, where this machine has not tuned its
        kernels for this model yet, one (of each number of ranks) has tuned them for all."""
        if not self.engines or installed_vllm() != "gpu":
            return self.engines
        names = [child.name for child in self.engines]
        engines = {e.name: e for e in tuning.to_tune(self.deployment, names)}
        first = [child for child in self.engines if child.name in engines]
        for child in first:  # One by one: some kernels are the same with any number of ranks.
            child.starts_first = _TUNES
            await self._until_ready([child])
            await first_prompt.tune(self.http, self.deployment, child, engines[child.name])
            child.starts_first = ""
        # Ranks that tune beside each other keep what each chose; started again all read the same.
        again = [child for child in first if tuning.ranks(engines[child.name]) != "1"]
        await asyncio.gather(*map(self._stopped, again))
        return [child for child in self.engines if child not in first or child in again]

    async def watch(self) -> None:
        """Never returns: what dies is started again. Raises ProcessError for a process that ended
        before it was ever ready."""
        while True:
            running = [*self._tasks.values()]
            ended, _ = await asyncio.wait(
                running, return_when=asyncio.FIRST_COMPLETED, timeout=_LOOK_S
            )
            for task in ended:
                if not task.cancelled():
                    task.result()

    def take(
        self, deployment: Deployment, *, local: frozenset[str]
    ) -> tuple[list[Child], list[Child]]:
        """Go on with another deployment, which every process reads. Returns what is to be started
        agents first, and what is to be ended with `end` in time."""
        self.deployment = deployment
        self.trust = Trust(deployment)
        self.run.write_deployment(deployment)
        came, gone = [], []
        for ours, wanted in (
            (self.agents, self._agents()),
            (self.engines, self._engines(local)),
            (self.gateways, self._gateways()),
        ):
            names, before = {child.name for child in wanted}, {child.name for child in ours}
            gone += [child for child in ours if child.name not in names]
            new = [child for child in wanted if child.name not in before]
            ours += new
            came += new
        return came, gone

    async def end(self, child: Child) -> None:
        """For good."""
        for ours in (self.agents, self.engines, self.gateways):
            if child in ours:
                ours.remove(child)
        await self._stopped(child)

    async def stop_plain_engine(self) -> None:
        """End the stock engine; the deployment runs on."""
        assert self._plain is not None
        await self._stopped(self._plain)
        self._plain = None

    async def _stopped(self, child: Child) -> None:
        if (task := self._tasks.pop(child, None)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await child.stop()

    async def _explain_gateways(self) -> None:
        """Show what a gateway misses, where it is not ready though the engines started here are:
        their KV layouts may differ, or an engine that runs elsewhere may be down."""
        await all_ready(self.engines)
        while True:
            await asyncio.sleep(_PATIENCE_S)
            for gateway in self.gateways:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, *UNREADABLE):
                    trust = self.trust.of_own(gateway.probe)
                    async with self.http.get(gateway.probe, ssl=trust) as response:
                        answer = msgspec.json.decode(await response.read(), type=Readiness)
                    gateway.explain("; ".join([*answer.troubles, *answer.warnings]))

    async def _unused_engines(self) -> list[str]:
        """Engines that a gateway gives no work, as far as gateways tell."""
        unused: set[str] = set()
        for page in filter(None, await metrics_pages(self.http, self.deployment, self.trust)):
            unused.update(unused_engines(page, self.deployment))
        return sorted(unused)

    async def _until_ready(self, children: list[Child]) -> None:
        for child in children:
            self._tasks[child] = asyncio.create_task(child.supervise(self.http))
        ready = asyncio.create_task(all_ready(children))
        waited_for = [ready, *self._tasks.values()]
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await self.watch()

    def _engines(self, local: frozenset[str]) -> list[Child]:
        if not local:
            return []
        vllm = installed_vllm()
        return [
            self._child(
                engine.name,
                engine_command(self.deployment, engine, vllm=vllm),
                str(engine.url),
                grace_s=_ENGINE_GRACE_S,
            )
            for engine in self.deployment.engines
            if engine.name in local
        ]

    def _agents(self) -> list[Child]:
        hidden = self.deployment.secret_variables
        return [
            self._child(agent.name, agent_command(agent, self.file, hidden=hidden), agent.admin_url)
            for agent in self.deployment.agents
            if not agent.external
        ]

    def _gateways(self) -> list[Child]:
        children = []
        for gateway in self.deployment.gateways:
            journal = journal_of(gateway, self.deployment, self.journal_file)
            command = gateway_command(self.file, name=gateway.name, journal_file=journal)
            grace_s = gateway.drain_s + _GATEWAY_LAST_S
            child = self._child(
                gateway.name, command, gateway.own_urls[0], path="/ready", grace_s=grace_s
            )
            children.append(child)
        return children

    @property
    def _beside(self) -> list[Child]:
        return [] if self._plain is None else [self._plain]

    def _plain_engine(self) -> Child:
        beside = decode_engine(self.deployment)
        engine = EngineConfig(
            name="plain-engine",
            role="decode",
            url=self.plain_url,
            gpus=beside.gpus,
            gpu_memory_share=beside.gpu_memory_share,
            args=beside.args,
            env=beside.env,
        )
        command = engine_command(self.deployment, engine, vllm=installed_vllm(), connector=False)
        return self._child(engine.name, command, self.plain_url, grace_s=_ENGINE_GRACE_S)

    def _child(
        self,
        name: str,
        command: Command,
        url: str,
        *,
        path: str = "/health",
        grace_s: float = 10.0,
    ) -> Child:
        return Child(
            name,
            command,
            probe=f"{url}{path}",
            run=self.run,
            changed=self._changed,
            grace_s=grace_s,
            trust=self.trust.of_own(url + path),
        )


def decode_engine(deployment: Deployment) -> EngineConfig:
    """The first: a stock engine runs beside it, on its GPUs."""
    return next(e for e in deployment.engines if e.role == "decode")


def local_engines(deployment: Deployment) -> frozenset[str]:
    """Engines the file gives no address: to be started here. Ask before resolving."""
    return frozenset(e.name for e in deployment.engines if e.url is None)
