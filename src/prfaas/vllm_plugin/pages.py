"""Pages of a KV cache as rows of bytes, and the copies between them and the agent's arena.

`page_view` turns whatever vLLM registered into ``[num_blocks, page_bytes]`` uint8, without a copy.
`PageCopier` is the one place where CPU and GPU differ. It knows memory by address alone: one launch
can then carry any number of pages, whole or in parts, of any number of layers and slots.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from prfaas.core.errors import EngineError

Addresses = npt.NDArray[np.int64]


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


class Pages(NamedTuple):
    """Where a layer's pages lie."""

    address: int
    stride_bytes: int

    @classmethod
    def of(cls, view: torch.Tensor) -> Pages:
        """Of a view that `page_view` made, which must outlive this."""
        return cls(view.data_ptr(), view.stride(0))

    def at(self, block_ids: list[int]) -> list[int]:
        """The addresses of these blocks' pages."""
        address, stride_bytes = self
        return [address + block_id * stride_bytes for block_id in block_ids]


def address_of(memory: memoryview) -> int:
    """Where it begins, in this process."""
    return torch.frombuffer(memory, dtype=torch.uint8).data_ptr()


class PageCopier(Protocol):
    """Copies between pages and arena memory. What is copied must not move or be freed before the
    copy is over; nothing here keeps it alive."""

    def arena_opened(self, arena: memoryview) -> None:
        """From now on copies will mostly be to and from ``arena``. Returns at once; callable from
        any thread."""

    def arena_unused(self, arena: memoryview) -> None:
        """No copy to or from ``arena`` is in flight, and none will follow."""

    def gather(self, sources: list[int], target: int, size: int) -> None:
        """``size`` bytes from each of ``sources`` (pages, or parts of pages), one after the other,
        to the arena at ``target``. May begin only with the next `submit`. Model's thread only."""

    def when_gathered(self, then: Callable[[], object]) -> None:
        """Call ``then`` once everything gathered so far is in the arena, on whatever thread. Takes
        effect with the next `submit`. Model's thread only."""

    def submit(self, *, at_least_bytes: int = 0) -> None:
        """Begin what was gathered since the last call, unless it is less than ``at_least_bytes``.
        Model's thread only."""

    def scatter(self, sources: Addresses, targets: Addresses, sizes: Addresses) -> None:
        """Arena bytes to pages, or parts of pages. Load thread only."""

    def converting(self) -> AbstractContextManager[object]:
        """What torch is told inside comes after what has been scattered so far, and before what
        follows. Load thread only."""

    def wait_scattered(self) -> None:
        """Return once everything scattered or converted so far is visible to the model."""

    def hold_model(self) -> None:
        """What is queued from now on may overwrite pages gathered so far (the model's next step, a
        load into a freed block): order it after the copies. Model's thread only."""

    def close(self) -> None: ...


class CpuCopier:
    """Pages in host memory: plain synchronous copies."""

    def arena_opened(self, arena: memoryview) -> None:
        pass

    def arena_unused(self, arena: memoryview) -> None:
        pass

    def gather(self, sources: list[int], target: int, size: int) -> None:
        for at, source in enumerate(sources):
            ctypes.memmove(target + at * size, source, size)

    def when_gathered(self, then: Callable[[], object]) -> None:
        then()

    def submit(self, *, at_least_bytes: int = 0) -> None:
        pass

    def scatter(self, sources: Addresses, targets: Addresses, sizes: Addresses) -> None:
        for source, target, size in zip(
            sources.tolist(), targets.tolist(), sizes.tolist(), strict=True
        ):
            ctypes.memmove(target, source, size)

    def converting(self) -> AbstractContextManager[object]:
        return nullcontext()

    def wait_scattered(self) -> None:
        pass

    def hold_model(self) -> None:
        pass

    def close(self) -> None:
        pass
