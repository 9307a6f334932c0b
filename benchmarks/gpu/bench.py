"""Servers of one model on the first GPU (or the first few), for the timed parts: engine ``big``
prefills and exports, ``decode`` imports, ``stock`` has no connector, ``piecewise`` is a stock one
with the graphs that the connector asks for; an agent beside the first sends to one beside the
second over a line of 10 Gbit/s on this machine."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.gpu.layouts import model_directory

from prfaas.core.deployment import load_deployment
from prfaas.core.layout import KvLayout
from prfaas.launch.addresses import free_address
from prfaas.launch.commands import Command, agent_command, engine_command, installed_vllm
from prfaas.launch.gpus import installed_gpus
from prfaas.launch.tuning import COMPILATION
from prfaas.testing.calling import call
from prfaas.testing.running import running_command

ENGINES = ("big", "stock", "piecewise", "decode")
CHUNK_TOKENS = 8192
PIECEWISE = ("--compilation-config", json.dumps(COMPILATION | {"cudagraph_mode": "PIECEWISE"}))
"""What vLLM makes of an engine of the PrfaaS cluster, whose connector asks for it."""
GPU_SHARE = 0.05
"""vLLM only looks whether so much is free; `kv_cache` says what the cache takes."""

Row = dict[str, Any]


def prompt(length: int) -> list[int]:
    """Fresh: no cache knows it."""
    return random.choices(range(300, 4000), k=length)


def complete(url: str, ids: list[int], **more: Any) -> Row:
    """Raises RuntimeError for an error status."""
    body = {"model": "big", "prompt": ids, "max_tokens": 1, "temperature": 0, **more}
    answer = call(f"{url}/v1/completions", body)
    if answer.status != 200:
        raise RuntimeError(f"{url}: {answer.body[:500]!r}")
    found: Row = answer.json()
    return found


class Bench:
    """The running servers; leave ``stack`` to end them. ``beside``: what shares the GPU with
    ``big``. Its kernels are tuned before the others start, which find its choices."""

    def __init__(
        self,
        stack: ExitStack,
        home: Path,
        model: str,
        *,
        beside: Sequence[str],
        kv_cache: str,
        max_model_len: int,
        args: Sequence[str],
        ranks: int = 1,
    ) -> None:
        self._stack, self._home = stack, home
        self._gpus = ",".join(installed_gpus()[:ranks])
        self._arena = kv_cache  # What an engine holds, a hand-off may be.
        home.mkdir(parents=True, exist_ok=True)
        path, needed = model_directory(model, home)
        serves = {"path": path, "kv_cache": kv_cache, "max_model_len": max_model_len}
        listens = {name: free_address() for name in ("east", "west", *ENGINES)}
        self.admins = {name: f"http://{free_address()}" for name in ("east", "west")}
        self.engines = {name: f"http://{listens[name]}" for name in ENGINES}
        file = home / "deployment.json"
        file.write_text(
            json.dumps(
                self._deployment(
                    listens, serves, [*needed, *args, "--tensor-parallel-size", str(ranks)]
                )
            )
        )
        deployment = load_deployment(file)
        vllm, exporter = installed_vllm(), deployment.cluster("east").engines[0]
        others = {
            "stock": msgspec.structs.replace(exporter, name="stock", url=self.engines["stock"]),
            "piecewise": msgspec.structs.replace(
                exporter, name="piecewise", url=self.engines["piecewise"],
                args=(*exporter.args, *PIECEWISE),
            ),
            "decode": deployment.cluster("west").engines[0],
        }  # fmt: skip
        agents = [deployment.cluster(name).agents[0] for name in self.admins]
        self._start({
            agent.name: (agent_command(agent, file), f"{admin}/health")
            for agent, admin in zip(agents, self.admins.values(), strict=True)
        })  # fmt: skip
        big = engine_command(deployment, exporter, vllm=vllm)
        self._start({"big": (big, f"{exporter.url}/health")})
        complete(self.engines["big"], prompt(CHUNK_TOKENS + 300))
        self._start({
            name: (
                engine_command(deployment, others[name], vllm=vllm, connector=name == "decode"),
                f"{others[name].url}/health",
            )
            for name in beside
        })  # fmt: skip
        ranks = call(f"{self.admins['east']}/engines").json()["engines"]
        self.layout = msgspec.convert(ranks[0]["layout"], KvLayout)

    def export(self, transfer_id: str, ids: list[int], to_token: int) -> None:
        """``ids`` through the prefill engine, which hands over the first ``to_token`` tokens."""
        params = {"prfaas": "export", "destination": "west-agent", "readers": ["decode"],
                  "from_token": 0, "to_token": to_token, "transfer_id": transfer_id}  # fmt: skip
        complete(self.engines["big"], ids, kv_transfer_params=params)

    def arrival(self, transfer_id: str) -> Row:
        """What the receiving agent says of a transfer that is complete. Raises RuntimeError."""
        arrived = self.transfer("west", transfer_id, wait_s=60)
        if arrived["state"] != "complete":
            raise RuntimeError(f"the transfer did not arrive: {arrived}")
        return arrived

    def transfer(self, at: str, transfer_id: str, *, wait_s: int) -> Row:
        """What the agent ``at`` one of the two ends says of a transfer when it is over."""
        parts = len(self.layout.sending_ranks())
        query = f"wait_s={wait_s}&ranks={parts}"
        said: Row = call(f"{self.admins[at]}/transfers/{transfer_id}?{query}").json()
        return said

    def forget(self, transfer_id: str) -> None:
        for admin in self.admins.values():
            call(f"{admin}/transfers/{transfer_id}", method="DELETE")

    def check_that_no_load_failed(self) -> None:
        """One that fails shows in no answer, only in the time it takes. Raises RuntimeError."""
        page = call(f"{self.admins['west']}/metrics").body.decode()
        counts = dict(re.findall(r'imports_total\{outcome="(\w+)"\} (\S+)', page))
        if float(counts["failed"]) or not float(counts["ready"]):
            raise RuntimeError(f"loads: {counts}")

    def _deployment(self, listens: dict[str, str], model: Row, args: list[str]) -> Row:
        def agent(name: str) -> Row:
            return {
                "name": f"{name}-agent", "listen": listens[name], "plaintext": True,
                "admin": self.admins[name].removeprefix("http://"), "arena": self._arena,
                "socket": str(self._home / f"{name}.sock"),
            }  # fmt: skip

        def engine(name: str, role: str) -> Row:
            return {"name": name, "role": role, "url": self.engines[name], "args": args,
                    "gpus": self._gpus, "gpu_memory_share": GPU_SHARE}  # fmt: skip

        big, decode = engine("big", "prefill"), engine("decode", "decode")
        return {
            "clusters": [
                {"name": "east", "kind": "prfaas", "engines": [big], "agent": agent("east")},
                {"name": "west", "kind": "pd", "engines": [decode], "agent": agent("west")},
            ],
            "links": [{"from": "east", "to": "west", "rate": "10 Gbit/s"}],
            "model": {"served_name": "big", "max_num_batched_tokens": CHUNK_TOKENS, **model},
        }  # fmt: skip

    def _start(self, commands: dict[str, tuple[Command, str]]) -> None:
        """All at once; wait until all serve."""
        started: list[AbstractContextManager[object]] = []
        for name, (command, probe) in commands.items():
            running = running_command(command, log=self._home / f"{name}.log", probe=probe)
            self._stack.push(running.__exit__)
            started.append(running)
        for running in started:
            running.__enter__()
