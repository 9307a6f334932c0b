"""Copies between GPU pages and a pinned arena, as an export and a load make them, and what they
cost the model's thread; plain copies of pinned memory beside them. Needs a GPU, no engine."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prfaas.agent.arena import Arena
from prfaas.core.handoff import ExportParams
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.testing.loopback_agent_client import LoopbackAgentClient
from prfaas.vllm_plugin.cuda_copies import CudaCopier
from prfaas.vllm_plugin.export import Exporter
from prfaas.vllm_plugin.metadata import ExportStep
from prfaas.vllm_plugin.pages import Pages, address_of

MIB, GIB = 1 << 20, 1 << 30
SLOTS_MIB = (1, 4, 16)
PAGES_KIB = (128, 288, 1024, 2304)
BLOCK_TOKENS, STEP_BLOCKS = 256, 32
"""A step of 8,192 tokens."""
ROUNDS = 5


def measure() -> Iterator[dict[str, Any]]:
    """One row after the other."""
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    copier = CudaCopier(device)
    arena = Arena("bench", 2 * GIB)
    yield {"what": "device", "name": torch.cuda.get_device_name(device)}
    yield _pinning(copier, arena)
    yield _plain(arena, device)
    for page_kib in PAGES_KIB:
        yield _load(copier, arena, page_kib * 1024, device)
        for slot_mib in SLOTS_MIB:
            yield _export(copier, arena, page_kib * 1024, slot_mib * MIB, device)
    copier.close()


def _pinning(copier: CudaCopier, arena: Arena) -> dict[str, Any]:
    """How long it takes, and the longest that a launch had to wait meanwhile."""
    x = torch.zeros(16, device="cuda")
    usual = max(_timed(lambda: x.add_(1)) for _ in range(200))
    began, longest, launches = time.perf_counter(), 0.0, 0
    copier.arena_opened(arena.view)
    while not copier._pinner.has_pinned(arena.view):
        longest, launches = max(longest, _timed(lambda: x.add_(1))), launches + 1
        time.sleep(0.0005)
    took_s = time.perf_counter() - began
    return {
        "what": "pinning", "arena_gib": arena.size_bytes / GIB,
        "s_per_gib": took_s / (arena.size_bytes / GIB),
        "longest_launch_ms": 1e3 * longest, "longest_launch_before_ms": 1e3 * usual,
        "launches": launches, "huge_pages": _huge_pages(),
    }  # fmt: skip


def _huge_pages() -> str:
    return Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled").read_text().strip()


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _plain(arena: Arena, device: torch.device) -> dict[str, Any]:
    host = torch.frombuffer(arena.view, dtype=torch.uint8)[:GIB]
    memory = torch.empty(GIB, dtype=torch.uint8, device=device)

    def rate(copy: Callable[[], object]) -> float:
        def both() -> None:
            copy()
            torch.cuda.synchronize()

        return GIB / statistics.median(_timed(both) for _ in range(ROUNDS)) / 1e9

    return {
        "what": "plain",
        "d2h_gb_per_s": rate(lambda: host.copy_(memory, non_blocking=True)),
        "h2d_gb_per_s": rate(lambda: memory.copy_(host, non_blocking=True)),
    }


def _load(
    copier: CudaCopier, arena: Arena, page_bytes: int, device: torch.device
) -> dict[str, Any]:
    """A gigabyte into scattered pages, 64 to a layer."""
    count = GIB // page_bytes
    cache = torch.empty((count, page_bytes), dtype=torch.uint8, device=device)
    targets = np.array(Pages.of(cache).at(torch.randperm(count).tolist()))
    sources = address_of(arena.view) + page_bytes * np.arange(count)
    sizes = np.full(count, page_bytes)
    launching, whole = [], []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for at in range(0, count, 64):
            part = slice(at, at + 64)
            copier.scatter(sources[part], targets[part], sizes[part])
        launching.append(time.perf_counter() - began)
        copier.wait_scattered()
        whole.append(time.perf_counter() - began)
    return {
        "what": "load", "page_kib": page_bytes / 1024,
        "h2d_gb_per_s": count * page_bytes / statistics.median(whole) / 1e9,
        "load_thread_us_per_mib": _us_per_mib(launching, count * page_bytes),
    }  # fmt: skip


def _export(
    copier: CudaCopier, arena: Arena, page_bytes: int, slot_bytes: int, device: torch.device
) -> dict[str, Any]:
    """Steps of 8,192 tokens of a model of eight attention layers, about a gigabyte."""
    layers, step_bytes = 8, 8 * STEP_BLOCKS * page_bytes
    steps = max(1, GIB // step_bytes)
    blocks = STEP_BLOCKS * steps
    layout = _layout(layers, page_bytes)
    pages = {
        f"l.{n}": torch.zeros((blocks + 1, page_bytes), dtype=torch.uint8, device=device)
        for n in range(layers)
    }
    table = (1 + torch.randperm(blocks)).tolist()
    client = LoopbackAgentClient(slot_bytes=slot_bytes, slots=arena.size_bytes // slot_bytes)
    client.session.arena = arena.view
    exporter = Exporter(client, layout, pages, copier)  # type: ignore[arg-type]
    thread_s, whole_s = [], []
    for number in range(ROUNDS):
        client.free = list(range(arena.size_bytes // slot_bytes))
        torch.cuda.synchronize()
        began, in_calls = time.perf_counter(), 0.0
        for step in _steps(f"t{number}", table, steps):
            in_calls += _timed(lambda step=step: _one_step(exporter, step, layers))  # type: ignore[misc]
        done = threading.Event()
        copier.when_gathered(done.set)
        copier.submit()
        done.wait(60)
        whole_s.append(time.perf_counter() - began)
        thread_s.append(in_calls)
        assert client.finished == {f"t{n}" for n in range(number + 1)}, client.aborted
    total = blocks * layers * page_bytes
    return {
        "what": "export", "page_kib": page_bytes / 1024, "slot_mib": slot_bytes / MIB,
        "d2h_gb_per_s": total / statistics.median(whole_s) / 1e9,
        "model_thread_us_per_mib": _us_per_mib(thread_s, total),
    }  # fmt: skip


def _layout(layers: int, page_bytes: int) -> KvLayout:
    every = tuple(
        LayerLayout(name=f"l.{n}", index=n, page_bytes=page_bytes, dtype="uint8", shape=())
        for n in range(layers)
    )
    group = KvGroup(kind="full_attention", block_tokens=BLOCK_TOKENS, layers=every)
    return KvLayout(model="bench", groups=(group,))


def _steps(transfer_id: str, table: list[int], steps: int) -> Iterator[ExportStep]:
    to_token = steps * STEP_BLOCKS * BLOCK_TOKENS
    params = ExportParams(
        transfer_id=transfer_id, destination="x", readers=("x",), from_token=0, to_token=to_token
    )
    for n in range(steps):
        first, end = (BLOCK_TOKENS * STEP_BLOCKS * at for at in (n, n + 1))
        yield ExportStep("r", params, "", first, end, end == to_token, (table,))


def _one_step(exporter: Exporter, step: ExportStep, layers: int) -> None:
    for n in range(layers):
        exporter.layer_computed(step, f"l.{n}")
    exporter.step_ended([step])


def _us_per_mib(seconds: list[float], total_bytes: int) -> float:
    return 1e6 * statistics.median(seconds) / (total_bytes / MIB)
