"""Pins an agent's arena for CUDA, so that copies run at the line's speed and on their own.

Pinning costs about half a second per GiB (less with huge pages), so a thread of its own does it as
soon as the agent has been reached: usually while the engine still starts. Until then copies are
right, but slower, and their caller waits for them.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

import torch

from prfaas.core.units import format_bytes
from prfaas.vllm_plugin.cuda_driver import cuda_driver
from prfaas.vllm_plugin.pages import address_of

# Under "vllm" so that the engine's own logging configuration applies.
logger = logging.getLogger(f"vllm.{__name__}")

_PORTABLE = 1
"""cudaHostRegisterPortable: pinned for every device of this process."""


class ArenaPinner:
    """Pins and lets go in the order of the calls, on its own thread. Calls return at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned: dict[int, torch.Tensor] = {}
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="prfaas-pinning", daemon=True)
        self._thread.start()

    def pin(self, arena: memoryview) -> None:
        """Copies between it and the device are asynchronous, and faster, from then on."""
        memory = torch.frombuffer(arena, dtype=torch.uint8)
        self._tasks.put(lambda: self._pin(memory))

    def let_go(self, arena: memoryview) -> None:
        """No copy to or from ``arena`` is in flight, and none will follow. Idempotent."""
        address = address_of(arena)
        self._tasks.put(lambda: self._let_go(address))

    def has_pinned(self, arena: memoryview) -> bool:
        """Whether it has been pinned by now."""
        return address_of(arena) in self._pinned

    def close(self) -> None:
        """End the thread, after what was asked before."""
        self._tasks.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        # A thread starts out on device 0, which may be another rank's.
        torch.cuda.set_device(self._device)
        cuda_driver().allow_during_capture()
        while (task := self._tasks.get()) is not None:
            task()

    def _pin(self, memory: torch.Tensor) -> None:
        began = time.monotonic()
        cudart = torch.cuda.cudart()
        status = int(cudart.cudaHostRegister(memory.data_ptr(), memory.numel(), _PORTABLE))
        if status != 0:
            logger.warning("arena not pinned (CUDA error %d): copies will be slower", status)
            return
        self._pinned[memory.data_ptr()] = memory
        took_s = time.monotonic() - began
        logger.info("arena of %s pinned in %.2f s", format_bytes(memory.numel()), took_s)

    def _let_go(self, address: int) -> None:
        if self._pinned.pop(address, None) is not None:
            torch.cuda.cudart().cudaHostUnregister(address)
