"""Two clusters of mock engines and agents, and a real gateway in front of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from prfaas.core.addresses import Address
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.http import make_app
from prfaas.link.api import LinkState
from prfaas.process.front_door import serving_strangers
from prfaas.scheduler.replay import read_journal
from prfaas.scheduler.timelines import Timeline, timelines
from prfaas.testing.mock_agent import MockAgent
from prfaas.testing.mock_engine import MockEngine

BLOCK_TOKENS = 4
THRESHOLD_TOKENS = 40
KNOW_A_THRESHOLD = frozenset({"threshold", "adaptive"})
"""Policies that it is an option of."""

_FILE = """
clusters:
  - name: east
    kind: prfaas
    agent: {{name: east-agent, admin: "{east}"}}
    engines:
      - {{name: e1, role: prefill, url: "{e1}", kv_events: "tcp://127.0.0.1:1"{engine}}}
{e2}
  - name: west
    kind: pd
    agent: {{name: west-agent, admin: "{west}"}}
    engines:
      - {{name: p1, role: prefill, url: "{p1}", kv_events: "tcp://127.0.0.1:1"{engine}}}
      - {{name: d1, role: decode, url: "{d1}", kv_events: "tcp://127.0.0.1:1"{engine}}}
      - {{name: d2, role: decode, url: "{d2}", kv_events: "tcp://127.0.0.1:1"{engine}}}
links:
  - {{from: east, to: west, rate: 200 Mbit/s}}
scheduler:
  policy: {policy}
  link_grace: 1 ms
  transfer_stall: {transfer_stall}
  engine_wait: 1 s
  attempt_share: {attempt_share}
  max_attempts: {attempts}
{threshold}
gateway:
  request_deadline: "{deadline}"
  max_body: "{max_body}"
  api_keys: {keys}
  max_inflight_requests: {inflight}
  max_index_blocks: 65536
{gateway}
"""


def mock_layout(*, page_bytes: int = 64, block_tokens: int = BLOCK_TOKENS) -> KvLayout:
    """One full-attention layer, as a single rank registers it."""
    layer = LayerLayout(name="l0", index=0, page_bytes=page_bytes, dtype="u8", shape=(page_bytes,))
    group = KvGroup(kind="full_attention", block_tokens=block_tokens, layers=(layer,))
    return KvLayout(model="mock-model", groups=(group,))


def clear_line(peer: str, *, connections: int = 1) -> LinkState:
    """A line to ``peer`` with room; without connections it is down."""
    return LinkState(
        peer, 0.0, connections, 0.0, 25e6, 0.0, 0.03, 0.03, 0, 0, 0.0, 0, 0
    )  # fmt: skip


class MockDeployment:
    """Everything started, for use with ``async with``. Engines: e1 (PrfaaS), p1, d1, d2; with
    ``second_prefill`` also e2 (PrfaaS). Agents named in ``absent`` are not started. ``host``:
    where all of it listens, and the gateway.
    ``gateway``: more lines of its section of the file; ``engine_entry``: more of each engine's.
    As it is, no transfer stalls, and no attempt is late, because this machine is busy elsewhere."""

    def __init__(
        self,
        *,
        deadline: str = "20 s",
        transfer_stall: str = "10 s",
        attempt_share: float = 0.5,
        keys: str = "[]",
        inflight: int = 100,
        gateway: str = "",
        engine_entry: str = "",
        max_body: str = "64 KiB",
        block_tokens: int = BLOCK_TOKENS,
        attempts: int = 8,
        policy: str = "threshold",
        threshold_tokens: int = THRESHOLD_TOKENS,
        journal_file: Path | None = None,
        learned_file: Path | None = None,
        second_prefill: bool = False,
        absent: tuple[str, ...] = (),
        host: str = "127.0.0.1",
    ) -> None:
        self._host = host
        self._absent = absent
        self._newcomers: list[MockEngine | MockAgent] = []
        self._settings = {
            "deadline": deadline,
            "transfer_stall": transfer_stall,
            "attempt_share": attempt_share,
            "keys": keys,
            "inflight": inflight,
            "gateway": gateway,
            "engine": engine_entry,
            "max_body": max_body,
            "policy": policy,
            "attempts": attempts,
            "threshold": f"  threshold: {threshold_tokens}" if policy in KNOW_A_THRESHOLD else "",
        }
        self._journal_file = journal_file
        self._learned_file = learned_file
        self.agents = {name: MockAgent(name) for name in ("east-agent", "west-agent")}
        places = {"e2": "east-agent"} if second_prefill else {}
        places |= {"e1": "east-agent", "p1": "west-agent", "d1": "west-agent", "d2": "west-agent"}
        self.engines = {
            name: MockEngine(name, self.agents[agent], self.agents)
            for name, agent in places.items()
        }
        for server in (*self.agents.values(), *self.engines.values()):
            server.host = host
        self.agents["east-agent"].links = [clear_line("west-agent")]
        for name, engine in self.engines.items():
            engine.agent.register(name, mock_layout(block_tokens=block_tokens))

    def deployment_text(self) -> str:
        """The deployment file, once the servers have their ports."""
        addresses = {
            "east": self.agents["east-agent"].url.removeprefix("http://"),
            "west": self.agents["west-agent"].url.removeprefix("http://"),
            **{name: engine.url for name, engine in self.engines.items()},
        }
        second = (
            f'{{name: e2, role: prefill, url: "{addresses.get("e2")}", kv_events: "tcp://h:1"}}'
        )
        addresses["e2"] = f"      - {second}" if "e2" in self.engines else ""
        return _FILE.format(**addresses, **self._settings)

    def deployment(self) -> Deployment:
        """The same, read."""
        return parse_deployment(self.deployment_text(), source="mock")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Start everything and the gateway; yields a client session rooted at the gateway."""
        servers = [*self.agents.values(), *self.engines.values()]
        for server in servers:
            await server.start()
        for name in self._absent:
            await self.agents[name].stop()
        deployment = self.deployment()
        self.gateway = Gateway(
            deployment,
            resolve(deployment, source="mock"),
            journal_file=self._journal_file,
            learned_file=self._learned_file,
        )
        await self.gateway.start()
        served = serving_strangers(
            make_app(self.gateway),
            str(Address(self._host, 0)),
            what="mock",
            shutdown_timeout_s=0.1,
            book=self.gateway.access.connections,
        )
        try:
            async with served as url, aiohttp.ClientSession(url) as client:
                yield client
        finally:
            await self.gateway.close()
            for server in (*servers, *self._newcomers):
                await server.stop()

    @asynccontextmanager
    async def another_gateway(
        self, name: str
    ) -> AsyncIterator[tuple[Gateway, aiohttp.ClientSession]]:
        """One more before the same engines, while it is running, and a client of it."""
        text = f"{self.deployment_text()}  name: {name}\n"
        deployment = parse_deployment(text, source="mock")
        gateway = Gateway(deployment, resolve(deployment, source="mock"))
        await gateway.start()
        served = serving_strangers(
            make_app(gateway),
            str(Address(self._host, 0)),
            what="mock",
            shutdown_timeout_s=0.1,
            book=gateway.access.connections,
        )
        try:
            async with served as url, aiohttp.ClientSession(url) as client:
                yield gateway, client
        finally:
            await gateway.close()

    async def join(self, name: str, agent: str) -> MockEngine:
        """Start one more engine, or another of that name, which its agent knows before the gateway
        does."""
        if agent not in self.agents:
            self.agents[agent] = MockAgent(agent)
            self._newcomers.append(self.agents[agent])
            await self.agents[agent].start()
        engine = MockEngine(name, self.agents[agent], self.agents)
        engine.agent.register(name, mock_layout())
        await engine.start()
        self._newcomers.append(engine)
        return engine

    def second_pd_cluster(self, name: str, engine: MockEngine) -> str:
        """The entry of a PD cluster with one engine that has joined, for the deployment file."""
        agent = f'{{name: {engine.agent.name}, admin: "{engine.agent.url[7:]}"}}'
        only = f'{{name: {engine.name}, role: decode, url: "{engine.url}", kv_events: "tcp://h:1"}}'
        return f"  - name: {name}\n    kind: pd\n    agent: {agent}\n    engines: [{only}]\n"

    async def ready(self) -> None:
        """Until the gateway has nothing to complain of, every engine is up and its events are
        followed (which begins with an empty index)."""
        await until(self._is_ready)

    def _is_ready(self) -> bool:
        gateway = self.gateway
        return (
            not gateway.troubles()
            and not gateway.fleet.warnings()
            and not gateway.lines.warnings()
            and gateway.fleet.up == self.engines.keys()
            and all(gateway.feed(name).follower.resets_total for name in self.engines)
        )


async def until(condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Let the loop turn until the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def journalled(path: Path) -> list[Timeline]:
    """The requests of a journal that is complete."""
    with path.open("rb") as lines:
        return list(timelines(read_journal(lines)))
