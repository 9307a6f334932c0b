"""Prefill of one engine: stock, with the connector idle, and exporting over a line of 10 Gbit/s.

Two servers of one model share the first GPU, one with the connector; an agent beside it sends to a
second one on this machine, the line paced. Fresh prompts, the order of modes drawn anew each round,
two rounds to warm up (kernels are compiled and tuned at the first use of a length).
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from prfaas.core.deployment import EngineConfig, load_deployment
from prfaas.core.layout import KvLayout
from prfaas.core.transfer_plan import TransferPlan
from prfaas.launch.addresses import free_address
from prfaas.launch.commands import Command, agent_command, engine_command, installed_vllm
from prfaas.testing.running import call, running_command

LENGTHS = (1024, 8192, 32768, 131072)
MODES = ("stock", "idle", "exporting")
WARM_UP_ROUNDS = 2
SETTLE_S = 0.25
GPU_SHARE = 0.4

Row = dict[str, Any]


class Bench:
    """The running servers; leave ``stack`` to end them. ``beside``: what shares the GPU with the
    prefill engine ``big``, a ``stock`` engine or the ``decode`` engine."""

    def __init__(
        self, stack: ExitStack, home: Path, model: Row, args: list[str], *, beside: str = "stock"
    ) -> None:
        self._stack, self._home = stack, home
        listens = {name: free_address() for name in ("east", "west", "big", "stock", "decode")}
        self.admins = {name: f"http://{free_address()}" for name in ("east", "west")}
        self.engines = {name: f"http://{listens[name]}" for name in ("big", "stock", "decode")}
        file = home / "deployment.json"
        file.write_text(json.dumps(self._deployment(listens, model, args)))
        deployment = load_deployment(file)
        for name in self.admins:
            agent = deployment.cluster(name).agents[0]
            self._start(agent.name, agent_command(agent, file), f"{self.admins[name]}/health")
        vllm, exporter = installed_vllm(), deployment.cluster("east").engines[0]
        if beside == "stock":
            other = msgspec.structs.replace(exporter, name=beside, url=self.engines[beside])
        else:
            other = deployment.cluster("west").engines[0]
        # One after the other: each looks at how much of the GPU's memory is free.
        self._start_engine(engine_command(deployment, exporter, vllm=vllm), exporter)
        self._start_engine(
            engine_command(deployment, other, vllm=vllm, connector=beside != "stock"), other
        )
        ranks = call(f"{self.admins['east']}/engines").json()["engines"]
        self.layout = msgspec.convert(ranks[0]["layout"], KvLayout)

    def _deployment(self, listens: dict[str, str], model: Row, args: list[str]) -> Row:
        def agent(name: str) -> Row:
            return {
                "name": f"{name}-agent", "listen": listens[name], "plaintext": True,
                "admin": self.admins[name].removeprefix("http://"), "arena": "4 GiB",
                "socket": str(self._home / f"{name}.sock"),
            }  # fmt: skip

        def engine(name: str, role: str) -> Row:
            return {"name": name, "role": role, "url": self.engines[name], "args": args,
                    "gpus": "0", "gpu_memory_share": GPU_SHARE}  # fmt: skip

        big, decode = engine("big", "prefill"), engine("decode", "decode")
        return {
            "clusters": [
                {"name": "east", "kind": "prfaas", "engines": [big], "agent": agent("east")},
                {"name": "west", "kind": "pd", "engines": [decode], "agent": agent("west")},
            ],
            "links": [{"from": "east", "to": "west", "rate": "10 Gbit/s"}],
            "model": {"served_name": "big", "max_num_batched_tokens": 8192, **model},
        }  # fmt: skip

    def _start_engine(self, command: Command, engine: EngineConfig) -> None:
        self._start(engine.name, command, f"{engine.url}/health")

    def _start(self, name: str, command: Command, probe: str) -> None:
        self._stack.enter_context(
            running_command(command, log=self._home / f"{name}.log", probe=probe)
        )


def measure(
    model: str, lengths: Sequence[int], rounds: int, *, kv_cache: str, args: list[str]
) -> Iterator[Row]:
    serves = {"path": model, "kv_cache": kv_cache, "max_model_len": max(lengths) + 4096}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        bench = Bench(stack, Path(directory), serves, args)
        for length in lengths:
            yield one_length(bench, length, rounds)


def one_length(bench: Bench, length: int, rounds: int, modes: Sequence[str] = MODES) -> Row:
    """Prefill of ``length`` tokens in each mode."""
    times: dict[str, list[float]] = {mode: [] for mode in modes}
    exports: list[Row] = []
    for number in range(WARM_UP_ROUNDS + rounds):
        for mode in random.sample(modes, len(modes)):
            seconds, export = _prefill(bench, mode, length)
            if number >= WARM_UP_ROUNDS:
                times[mode].append(seconds)
                exports += [export] if export else []
    medians = {mode: statistics.median(found) for mode, found in times.items()}
    boundary = bench.layout.boundary(length)
    size = (
        TransferPlan(bench.layout, from_token=0, to_token=boundary).total_bytes if boundary else 0
    )
    return {
        "prompt_tokens": length, "boundary": boundary, "kv_bytes": size, "rounds": rounds,
        **{f"{mode}_s": medians[mode] for mode in modes},
        **{f"{mode}_all_s": times[mode] for mode in modes},
        "kv_throughput_gbit_per_s": 8e-9 * size / medians["idle"],
        **{key: statistics.median(e[key] for e in exports) for key in (exports or [{}])[0]},
    }  # fmt: skip


def _prefill(bench: Bench, mode: str, length: int) -> tuple[float, Row | None]:
    """Seconds to the first token of a prompt no cache knows; what became of its export."""
    transfer_id, boundary = uuid.uuid4().hex, bench.layout.boundary(length)
    exports = mode == "exporting" and boundary > 0
    body: Row = {
        "model": "big", "prompt": random.choices(range(300, 4000), k=length),
        "max_tokens": 1, "temperature": 0,
    }  # fmt: skip
    if exports:
        body["kv_transfer_params"] = {
            "prfaas": "export", "transfer_id": transfer_id, "destination": "west-agent",
            "from_token": 0, "to_token": boundary,
        }  # fmt: skip
    time.sleep(SETTLE_S)
    began = time.perf_counter()
    answer = call(f"{bench.engines['stock' if mode == 'stock' else 'big']}/v1/completions", body)
    seconds, answered_at = time.perf_counter() - began, time.time()
    if answer.status != 200:
        raise RuntimeError(f"{mode}: {answer.body[:500]!r}")
    return seconds, _export(bench, transfer_id, answered_at) if exports else None


def _export(bench: Bench, transfer_id: str, answered_at: float) -> Row:
    path = f"transfers/{transfer_id}"
    arrived = call(f"{bench.admins['west']}/{path}?wait_s=60&ranks=1").json()
    sent = call(f"{bench.admins['east']}/{path}?wait_s=5&ranks=1").json()["sent"]
    if arrived["state"] != "complete":
        raise RuntimeError(f"the transfer did not arrive: {arrived}")
    for admin in bench.admins.values():
        call(f"{admin}/{path}", method="DELETE")
    return {
        "arrived_after_answer_s": arrived["completed_at"] - answered_at,
        "hidden_share": sent["bytes_acknowledged_at_export_end"] / sent["bytes_total"],
    }
