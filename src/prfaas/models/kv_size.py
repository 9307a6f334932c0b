"""S_kv(l): how many bytes of KV cache a prefill of l tokens leaves, and a hand-off must move."""

from __future__ import annotations

from typing import overload

import msgspec
import numpy as np

from prfaas.models.interpolation import FloatArray


class Window(msgspec.Struct, frozen=True):
    """Layers that keep only the last ``tokens`` tokens (sliding window)."""

    bytes_per_token: float
    tokens: int


class KvSize(msgspec.Struct, frozen=True):
    """The three kinds of cache the paper tells apart (section 3.2).

    ``bytes_per_token`` is block-level: it grows with length (full attention). ``constant_bytes``
    is request-level: recurrent and convolution state, the same for every length. ``windows`` grow
    until the window is full.
    """

    constant_bytes: float
    bytes_per_token: float
    windows: tuple[Window, ...] = ()

    @overload
    def bytes(self, tokens: float) -> float: ...
    @overload
    def bytes(self, tokens: FloatArray) -> FloatArray: ...
    def bytes(self, tokens: float | FloatArray) -> float | FloatArray:
        """S_kv in bytes for ``tokens`` (a number or an array; the same shape comes back)."""
        total = self.constant_bytes + self.bytes_per_token * tokens
        for window in self.windows:
            total = total + window.bytes_per_token * np.minimum(tokens, window.tokens)
        return total if isinstance(tokens, np.ndarray) else float(total)
