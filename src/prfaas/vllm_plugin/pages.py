"""Pages of a KV cache as rows of bytes, and the copies between them and the agent's arena.

`page_view` turns whatever vLLM registered into ``[num_blocks, page_bytes]`` uint8, without a copy.
`PageCopier` is the one place where CPU and GPU differ.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Protocol

import torch

from prfaas.core.errors import EngineError

# Under "vllm" so that the engine's own logging configuration applies.
logger = logging.getLogger(f"vllm.{__name__}")

_PORTABLE = 1
"""cudaHostRegisterPortable: pinned for every device of this process."""


def page_view(name: str, cache: torch.Tensor, num_blocks: int) -> torch.Tensor:
    """``[num_blocks, page_bytes]`` uint8 view of a registered cache tensor.

    A backend may split a block into several kernel blocks along dimension 0; they lie next to
    each other and form one page again. A page's interior may be permuted, but must be dense.

    Raises EngineError for a page with holes: its bytes could not be moved whole.
    """
    ratio, rest = divmod(cache.shape[0], num_blocks)
    if rest:
        raise EngineError(f"{name}: {cache.shape[0]} rows do not divide into {num_blocks} blocks")
    item = cache.element_size()
    inner = cache[0].numel() * item
    if not _is_dense(cache[0]) or (ratio > 1 and cache.stride(0) * item != inner):
        raise EngineError(
            f"{name}: a block's bytes do not lie together (shape {tuple(cache.shape)}, strides "
            f"{cache.stride()}); choose another VLLM_KV_CACHE_LAYOUT"
        )
    raw = torch.empty(0, dtype=torch.uint8, device=cache.device)
    raw.set_(cache.untyped_storage())
    return raw.as_strided(
        (num_blocks, ratio * inner),
        (ratio * cache.stride(0) * item, 1),
        cache.storage_offset() * item,
    )


def _is_dense(page: torch.Tensor) -> bool:
    dims = sorted(
        (stride, size) for stride, size in zip(page.stride(), page.shape, strict=True) if size > 1
    )
    expected = 1
    for stride, size in dims:
        if stride != expected:
            return False
        expected *= size
    return True


class PageCopier(Protocol):
    """Copies between pages and arena memory (both uint8), in the order of the calls."""

    def adopt_arena(self, arena: memoryview) -> None:
        """This thread's next copies are to or from ``arena``; cheap while it stays the same."""

    def gather(self, pages: torch.Tensor, block_ids: list[int], out: torch.Tensor) -> None:
        """Pages of ``block_ids``, whole and in order, to ``out`` (flat, arena)."""

    def gather_part(self, page: torch.Tensor, out: torch.Tensor) -> None:
        """A byte range of one page to ``out``."""

    def when_gathered(self, then: Callable[[], object]) -> None:
        """Call ``then`` once everything gathered so far is in the arena."""

    def scatter(self, source: torch.Tensor, page: torch.Tensor) -> None:
        """Arena bytes to (a byte range of) a page. Called from the load thread."""

    def wait_scattered(self) -> None:
        """Return once everything scattered so far is visible to the model."""

    def hold_model(self) -> None:
        """What is queued from now on may overwrite pages gathered so far (the model's next step, a
        load into a freed block): order it after the copies. Called on the model's thread."""

    def close(self) -> None: ...


class CpuCopier:
    """Pages in host memory: plain synchronous copies."""

    def adopt_arena(self, arena: memoryview) -> None:
        pass

    def gather(self, pages: torch.Tensor, block_ids: list[int], out: torch.Tensor) -> None:
        index = torch.tensor(block_ids, dtype=torch.long)
        torch.index_select(pages, 0, index, out=out.view(len(block_ids), -1))

    def gather_part(self, page: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_(page)

    def when_gathered(self, then: Callable[[], object]) -> None:
        then()

    def scatter(self, source: torch.Tensor, page: torch.Tensor) -> None:
        page.copy_(source)

    def wait_scattered(self) -> None:
        pass

    def hold_model(self) -> None:
        pass

    def close(self) -> None:
        pass


class CudaCopier:
    """Pages in GPU memory: copies on side streams, so the model's stream never waits for the host.

    The arena is registered with CUDA once (pinned), so copies are asynchronous. ``gather`` waits on
    the GPU for what the model's stream has queued so far: the layer's KV is written by then.

    A thread starts out on device 0, which may be another rank's: ours choose theirs first.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._out = torch.cuda.Stream(device)
        self._in = torch.cuda.Stream(device)
        self._arena: memoryview | None = None
        self._pinned: torch.Tensor | None = None
        self._waiting: queue.SimpleQueue[tuple[torch.cuda.Event, Callable[[], object]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._announce, name="prfaas-copies", daemon=True)
        self._thread.start()

    def adopt_arena(self, arena: memoryview) -> None:
        torch.cuda.set_device(self._device)
        if arena is self._arena:
            return
        cudart = torch.cuda.cudart()
        if self._pinned is not None:
            torch.cuda.synchronize(self._device)
            cudart.cudaHostUnregister(self._pinned.data_ptr())
        memory = torch.frombuffer(arena, dtype=torch.uint8)
        status = int(cudart.cudaHostRegister(memory.data_ptr(), memory.numel(), _PORTABLE))
        if status != 0:
            logger.warning("arena not pinned (CUDA error %d): copies will be slower", status)
        self._arena, self._pinned = arena, memory if status == 0 else None

    def gather(self, pages: torch.Tensor, block_ids: list[int], out: torch.Tensor) -> None:
        self._out.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._out):
            # From pinned memory: any other copy to the GPU would make the host wait for the stream.
            ids = torch.tensor(block_ids, dtype=torch.long).pin_memory()
            index = ids.to(self._device, non_blocking=True)
            staged = torch.index_select(pages, 0, index)
            out.copy_(staged.view(-1), non_blocking=True)

    def gather_part(self, page: torch.Tensor, out: torch.Tensor) -> None:
        self._out.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._out):
            out.copy_(page, non_blocking=True)

    def when_gathered(self, then: Callable[[], object]) -> None:
        event = torch.cuda.Event()
        event.record(self._out)
        self._waiting.put((event, then))

    def scatter(self, source: torch.Tensor, page: torch.Tensor) -> None:
        with torch.cuda.stream(self._in):
            page.copy_(source, non_blocking=True)

    def wait_scattered(self) -> None:
        self._in.synchronize()

    def hold_model(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._out)
        self._in.wait_stream(self._out)

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join(timeout=5)

    def _announce(self) -> None:
        torch.cuda.set_device(self._device)
        while (item := self._waiting.get()) is not None:
            event, then = item
            event.synchronize()
            then()


def copier_for(device: torch.device) -> PageCopier:
    return CudaCopier(device) if device.type == "cuda" else CpuCopier()
