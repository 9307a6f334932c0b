"""Copies between pages in GPU memory and the agent's arena: the GPU's side of `PageCopier`.

Theory of operation. Copies run on two streams of their own, so the model's stream never waits for
the host. What the model's thread gathers is only noted; `submit` hands all of it to the driver in
one call, behind one event (what the model's stream has queued so far, which has written these
pages) and before one event (at which a thread announces the slots). The copy engines do the rest:
no kernel runs, so nothing is taken from the model, unless pages are converted on their way in. (A
kernel that writes to pinned memory showed no clear gain: docs/connector.md.)
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch

from prfaas.vllm_plugin.cuda_driver import cuda_driver
from prfaas.vllm_plugin.pages import Addresses
from prfaas.vllm_plugin.pinning import ArenaPinner

_Announcements = list[Callable[[], object]]


class Noted(NamedTuple):
    """``size`` bytes from each of ``sources``, one after the other to ``target``."""

    sources: list[int]
    target: int
    size: int


class CudaCopier:
    """A `PageCopier` for caches in the memory of ``device``."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._driver = cuda_driver()
        self._out = torch.cuda.Stream(device)
        self._in = torch.cuda.Stream(device)
        self._pinner = ArenaPinner(device)
        self._noted: list[Noted] = []
        self._noted_bytes = 0
        self._then: _Announcements = []
        self._waiting: queue.SimpleQueue[tuple[torch.cuda.Event, _Announcements] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._announce, name="prfaas-copies", daemon=True)
        self._thread.start()

    def arena_opened(self, arena: memoryview) -> None:
        self._pinner.pin(arena)

    def arena_unused(self, arena: memoryview) -> None:
        self._pinner.let_go(arena)

    def gather(self, sources: list[int], target: int, size: int) -> None:
        self._noted.append(Noted(sources, target, size))
        self._noted_bytes += len(sources) * size

    def when_gathered(self, then: Callable[[], object]) -> None:
        self._then.append(then)

    def submit(self, *, at_least_bytes: int = 0) -> None:
        if self._noted_bytes < at_least_bytes:
            return
        if self._noted:
            self._out.wait_stream(torch.cuda.current_stream(self._device))
            copies = flattened(self._noted)
            self._noted, self._noted_bytes = [], 0
            self._driver.copy(*copies, self._out.cuda_stream)
        if self._then:
            # The waiting thread sleeps: it may wait for most of a prefill.
            event = torch.cuda.Event(blocking=True)
            event.record(self._out)
            then, self._then = self._then, []
            self._waiting.put((event, then))

    def scatter(self, sources: Addresses, targets: Addresses, sizes: Addresses) -> None:
        torch.cuda.set_device(self._device)
        self._driver.copy(targets, sources, sizes, self._in.cuda_stream)

    def converting(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._in)

    def wait_scattered(self) -> None:
        self._in.synchronize()

    def hold_model(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._out)
        self._in.wait_stream(self._out)

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join(timeout=5)
        self._pinner.close()

    def _announce(self) -> None:
        torch.cuda.set_device(self._device)
        self._driver.allow_during_capture()
        while (item := self._waiting.get()) is not None:
            event, announcements = item
            event.synchronize()
            for then in announcements:
                then()


def flattened(noted: list[Noted]) -> tuple[Addresses, Addresses, Addresses]:
    """Targets, sources and sizes of the single copies, neighbours joined: a fresh prompt's blocks
    often follow each other, and the driver's cost is per copy. ``noted`` must not be empty."""
    counts = np.array([len(note.sources) for note in noted])
    sizes = np.repeat(np.array([note.size for note in noted], dtype=np.int64), counts)
    begins = np.repeat(np.array([note.target for note in noted], dtype=np.int64), counts)
    within = np.arange(len(sizes)) - np.repeat(np.cumsum(counts) - counts, counts)
    targets = begins + within * sizes
    sources = np.fromiter(
        itertools.chain.from_iterable(note.sources for note in noted), np.int64, len(sizes)
    )
    ends = (targets[:-1] + sizes[:-1], sources[:-1] + sizes[:-1])
    apart = (targets[1:] != ends[0]) | (sources[1:] != ends[1])
    first = np.flatnonzero(np.concatenate(([True], apart)))
    return targets[first], sources[first], np.add.reduceat(sizes, first)
