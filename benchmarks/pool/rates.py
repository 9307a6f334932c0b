"""How fast cached prefixes move, as shares of what the memory, the network and the line allow.

Three agents as processes, and this process as their engines: it has a prefix cached at each, loads
it as the connector does (the same code, into tensors of an engine's shape), and has it copied to
another machine of the cluster and over a paced line. Beside each rate stands its limit, measured in
the same run: memcpy, the KV link's own test data between the same agents, the line's configured
rate.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from prfaas.core.cache_copies import AwaitCopy, CopyCached
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.extents import Extent
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.core.prefixes import PromptPrefix, chain, root_digest, stretch
from prfaas.core.prompt_digest import prompt_digest
from prfaas.core.transfer_plan import TransferPlan
from prfaas.engine_socket.client import AgentClient
from prfaas.engine_socket.messages import BeginExport
from prfaas.index.keyed_prefixes import PLAINTEXT_KEY, KeyedPrefixes
from prfaas.launch.addresses import free_address
from prfaas.launch.commands import agent_command
from prfaas.testing.running import running_command
from prfaas.vllm_plugin.cached import CachedPages, open_cached
from prfaas.vllm_plugin.metadata import CachedPart, ImportStart
from prfaas.vllm_plugin.pages import CpuCopier, Pages

BLOCK_TOKENS, BLOCKS, LAYERS, PAGE_BYTES = 256, 64, 8, 128 << 10
"""64 MiB: 16,384 tokens at 4 KiB each."""
LINE_BYTES_PER_S = 1e9 / 8
ROUNDS = 5
_WAIT_S = 60.0
_DEPLOYMENT = """
clusters:
  - name: east
    kind: prfaas
    engines: [{{name: p, role: prefill}}]
    agent: {{name: east-agent, listen: "{a[0]}", admin: "{a[1]}", socket: {run}/e, plaintext: true,
             arena: 512 MiB}}
  - name: west
    kind: pd
    lan: {{rate: 100 Gbit/s}}
    machines:
      - name: west-1
        agent: {{name: west-1-agent, listen: "{a[2]}", admin: "{a[3]}", socket: {run}/w1,
                 plaintext: true, arena: 512 MiB}}
        engines: [{{name: d1, role: decode}}]
      - name: west-2
        agent: {{name: west-2-agent, listen: "{a[4]}", admin: "{a[5]}", socket: {run}/w2,
                 plaintext: true, arena: 512 MiB}}
        engines: [{{name: d2, role: decode}}]
links: [{{from: east, to: west, rate: 1 Gbit/s}}]
"""


def _layout() -> KvLayout:
    size = PAGE_BYTES
    layers = tuple(
        LayerLayout(name=f"l{n}", index=n, page_bytes=size, dtype="uint8", shape=(size,))
        for n in range(LAYERS)
    )
    return KvLayout("rates", (KvGroup("full_attention", BLOCK_TOKENS, layers),))


LAYOUT = _layout()
TOKENS = list(range(BLOCK_TOKENS * BLOCKS))
PLAN = TransferPlan(LAYOUT, from_token=0, to_token=len(TOKENS))


def _prefix() -> PromptPrefix:
    root = root_digest("rates", adapter=None, salt=None)
    found = stretch(
        chain(root, TOKENS, BLOCK_TOKENS), root, TOKENS, block_tokens=BLOCK_TOKENS,
        from_token=0, to_token=len(TOKENS), salt=None, adapter=None,
    )  # fmt: skip
    assert found is not None
    return found


PREFIX = _prefix()
KEYED = KeyedPrefixes(PLAINTEXT_KEY).keyed(PREFIX)
"""As agents and gateways call it that speak plaintext."""


def measured() -> dict[str, Any]:
    """All rates, in bytes per second, with their limits and shares; printed as they are known."""
    found: dict[str, Any] = {"bytes": PLAN.total_bytes, "rounds": ROUNDS}
    with contextlib.ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        addresses = [free_address() for _ in range(6)]
        file = run / "rates.yaml"
        file.write_text(_DEPLOYMENT.format(a=addresses, run=run))
        deployment = parse_deployment(file.read_text(), source=str(file))
        for agent in deployment.agents:
            command = agent_command(agent, file)
            log = run / f"{agent.name}.log"
            stack.enter_context(
                running_command(command, log=log, probe=f"{agent.admin_url}/health")
            )
        site = _Site(deployment, run, stack)
        site.fill("w1", "d1", "", "west-1-agent")
        memcpy = _rate(_memcpy)
        found["load"] = _share(site.load_rate("w1", "d1"), memcpy, "memcpy")
        lan = site.link_rate("west-1-agent", "west-2-agent")
        copied = site.copy_rate("west-1-agent", "west-2-agent", site.cached["west-1-agent"])
        found["lan_pull"] = _share(copied, lan, "link's test data")
        site.fill("e", "p", "west-2-agent", "east-agent")
        copied = site.copy_rate("east-agent", "west-1-agent", site.cached["east-agent"])
        found["line_pull"] = _share(copied, LINE_BYTES_PER_S, "line's rate")
    for name in ("load", "lan_pull", "line_pull"):
        one = found[name]
        print(
            f"{name:>10}: {one['bytes_per_s'] / 1e9:.2f} GB/s, {one['share']:.0%} of "
            f"{one['limit']} ({one['limit_bytes_per_s'] / 1e9:.2f} GB/s)",
            flush=True,
        )
    return found


class _Site:
    def __init__(self, deployment: Deployment, run: Path, stack: contextlib.ExitStack) -> None:
        self._run, self._stack = run, stack
        self._urls = {agent.name: agent.admin_url for agent in deployment.agents}
        self._clients: dict[str, AgentClient] = {}
        self.cached: dict[str, str] = {}
        for socket, engine in (("e", "p"), ("w1", "d1"), ("w2", "d2")):
            client = AgentClient(str(run / socket), engine=engine, layout=LAYOUT)
            stack.callback(client.close)
            client.wait_connected(_WAIT_S)
            self._clients[socket] = client
        self._until(lambda: self._links("west-1-agent") and self._links("east-agent"))

    def fill(self, socket: str, engine: str, destination: str, agent: str) -> None:
        """The engine hands the whole prefix over; ``agent`` has it cached then."""
        client, name = self._clients[socket], uuid.uuid4().hex
        client.begin_export(
            BeginExport(
                transfer_id=name,
                destination=destination,
                from_token=0,
                to_token=len(TOKENS),
                total_bytes=PLAN.total_bytes,
                deadline_s=_WAIT_S,
                prompt_digest=prompt_digest(TOKENS, to_token=len(TOKENS)),
                readers=() if destination == "" else ("d2",),
            )
        )
        client.describe(name, PREFIX)
        done = 0
        while done < PLAN.total_bytes:
            slot = client.lease(_WAIT_S, transfer_id=name)
            length = min(len(slot.view), PLAN.total_bytes - done)
            client.export_slot(name, slot, [Extent(done, slot.offset, length)])
            done += length
        why = client.finish_export(name)
        if why is not None:
            raise SystemExit(f"{engine}'s export failed: {why}")
        self._until(lambda: bool(self._get(agent, "/cache")["entries"]))
        (entry,) = self._get(agent, "/cache")["entries"]
        self.cached[agent] = entry["transfer_id"]

    def load_rate(self, socket: str, engine: str) -> float:
        """As the connector loads: asks its agent, copies every page to its place, lets go."""
        client, copier = self._clients[socket], CpuCopier()
        tensors = {
            layer.name: torch.zeros(BLOCKS + 1, PAGE_BYTES, dtype=torch.uint8)
            for layer in LAYOUT.groups[0].layers
        }
        pages = CachedPages(LAYOUT, {n: Pages.of(t) for n, t in tensors.items()}, copier)
        item = ImportStart(
            "r", None, "", len(TOKENS), len(TOKENS), 0, (list(range(1, BLOCKS + 1)),),
            cached=CachedPart(len(TOKENS), BLOCK_TOKENS, PREFIX.digests),
        )  # fmt: skip

        def once() -> None:
            load = open_cached(client, LAYOUT, item)
            try:
                pages.copy(item, load)
                copier.wait_scattered()
            finally:
                for opened in load.loads.values():
                    client.close_load(opened)

        return _rate(once)

    def copy_rate(self, sender: str, receiver: str, transfer_id: str) -> float:
        """From the order to the last byte that is verified and stored."""

        def once() -> None:
            name = uuid.uuid4().hex
            self._tell("PUT", receiver, name, AwaitCopy(prefix=KEYED, deadline_s=_WAIT_S))
            wanted = CopyCached(transfer_id=transfer_id, destination=receiver, deadline_s=_WAIT_S)
            self._tell("POST", sender, name, wanted)
            status = self._get(receiver, f"/transfers/{name}?wait_s={_WAIT_S}")
            if status["state"] != "complete":
                raise SystemExit(f"a copy from {sender} to {receiver} failed: {status}")

        return _rate(once)

    def link_rate(self, sender: str, receiver: str) -> float:
        """Test data of the KV link itself between the two."""
        url = f"{self._urls[sender]}/links/{receiver}/measure?seconds=2"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST")) as answer:
            found: float = json.loads(answer.read())["goodput_bytes_per_s"]
        return found

    def _links(self, agent: str) -> bool:
        links = self._get(agent, "/links")["links"]
        return bool(links) and all(link["connections"] > 0 for link in links)

    def _tell(self, method: str, agent: str, name: str, content: msgspec.Struct) -> None:
        url = f"{self._urls[agent]}/cache/copies/{name}"
        request = urllib.request.Request(url, msgspec.msgpack.encode(content), method=method)
        try:
            urllib.request.urlopen(request, timeout=_WAIT_S).close()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{url}: {error.read()!r}") from error

    def _get(self, agent: str, path: str) -> Any:
        with urllib.request.urlopen(f"{self._urls[agent]}{path}", timeout=2 * _WAIT_S) as answer:
            return json.loads(answer.read())

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _WAIT_S
        while not condition():
            if time.monotonic() > end:
                raise SystemExit("the agents do not get ready")
            time.sleep(0.05)


_SOURCE = np.ones(PLAN.total_bytes, dtype=np.uint8)
_TARGET = np.zeros(PLAN.total_bytes, dtype=np.uint8)


def _memcpy() -> None:
    np.copyto(_TARGET, _SOURCE)


def _rate(once: Callable[[], None]) -> float:
    """The median's, after one that warms up."""
    once()
    took = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        once()
        took.append(time.monotonic() - began)
    return PLAN.total_bytes / statistics.median(took)


def _share(rate: float, limit: float, name: str) -> dict[str, Any]:
    return {
        "bytes_per_s": rate,
        "limit": name,
        "limit_bytes_per_s": limit,
        "share": rate / limit,
    }
