"""The few calls of NVIDIA's driver that torch does not offer, through ctypes."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

from prfaas.core.errors import EngineError
from prfaas.vllm_plugin.pages import Addresses

_STREAM_ORDER = 1
"""CU_MEMCPY_SRC_ACCESS_ORDER_STREAM: sources are read when the stream gets there."""
_CAPTURE_RELAXED = 2
"""CU_STREAM_CAPTURE_MODE_RELAXED"""
_BATCH_SINCE = 12080
"""CUDA 12.8, whose form of cuMemcpyBatchAsync (with the index of what failed) is used."""


class _Location(ctypes.Structure):
    _fields_ = (("type", ctypes.c_uint), ("id", ctypes.c_int))


class _CopyAttributes(ctypes.Structure):
    _fields_ = (
        ("source_access_order", ctypes.c_uint),
        ("source_hint", _Location),
        ("target_hint", _Location),
        ("flags", ctypes.c_uint),
    )


_BatchCopy = ctypes.CFUNCTYPE(
    ctypes.c_uint,
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t,  # targets, sources, sizes
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t,  # attributes, where each begins, their count
    ctypes.c_void_p, ctypes.c_void_p,  # what failed, stream
)  # fmt: skip


class CudaDriver:
    """Thread-safe. The calling thread must have chosen its device (`torch.cuda.set_device`)."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise EngineError(f"NVIDIA's driver library cannot be loaded: {error}") from error
        self._batch_copy = self._find_batch_copy()
        self._attributes = _CopyAttributes(source_access_order=_STREAM_ORDER)
        self._first = ctypes.c_size_t(0)

    def copy(self, targets: Addresses, sources: Addresses, sizes: Addresses, stream: int) -> None:
        """Queue ``len(sizes)`` copies on ``stream``, in any order among themselves.

        Returns before they are over, except where host memory is not pinned. Raises EngineError.
        """
        if self._batch_copy is None:
            for target, source, size in zip(
                targets.tolist(), sources.tolist(), sizes.tolist(), strict=True
            ):
                self._check(self._library.cuMemcpyAsync(
                    ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(size),
                    ctypes.c_void_p(stream),
                ))  # fmt: skip
            return
        arrays = [np.ascontiguousarray(a, dtype=np.int64) for a in (targets, sources, sizes)]
        failed = ctypes.c_size_t(0)
        self._check(self._batch_copy(
            *(a.ctypes.data for a in arrays), len(sizes),
            ctypes.addressof(self._attributes), ctypes.addressof(self._first), 1,
            ctypes.addressof(failed), stream,
        ))  # fmt: skip

    def allow_during_capture(self) -> None:
        """This thread's calls have nothing to do with CUDA graphs: let them through while another
        thread captures one, where most would fail, and the capture with them."""
        mode = ctypes.c_int(_CAPTURE_RELAXED)
        self._check(self._library.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)))

    def _find_batch_copy(self) -> ctypes._FuncPointer | None:
        found = ctypes.c_void_p()
        status = ctypes.c_int(0)
        self._library.cuGetProcAddress_v2(
            b"cuMemcpyBatchAsync", ctypes.byref(found), _BATCH_SINCE, ctypes.c_uint64(0),
            ctypes.byref(status),
        )  # fmt: skip
        return _BatchCopy(found.value) if found.value else None

    def _check(self, status: int) -> None:
        if status != 0:
            raise EngineError(f"a CUDA driver call failed with error {status}")


@cache
def cuda_driver() -> CudaDriver:
    """The one of this process. Raises EngineError where there is none."""
    return CudaDriver()
