"""Which adapter a request uses: its name, and what its weights are.

Two engines may have different weights under one name, for example while an adapter is rolled out;
the KV cache of one is wrong for the other.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

_FILES = ("adapter_config.json", "adapter_model.*", "new_embeddings.*")
_READ_BYTES = 1 << 20
_Stamp = tuple[tuple[str, int, int], ...]


class AdapterIdentities:
    """Reads each adapter's files once, and again when they have changed (about 1 s per GB)."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[_Stamp, str]] = {}

    def of(self, request: LoRARequest | None) -> str | None:
        """None without an adapter. One that is no folder here is known by its name and where it is
        said to come from."""
        if request is None:
            return None
        return f"{request.lora_name} {self._weights(request.lora_path)}"

    def _weights(self, path: str) -> str:
        folder = Path(path)
        try:
            files = sorted({file for pattern in _FILES for file in folder.glob(pattern)})
            stats = [(file.name, file.stat()) for file in files]
            stamp = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
            known = self._known.get(path)
            if not files:
                return path
            if known is None or known[0] != stamp:
                known = self._known[path] = (stamp, _digest(files))
            return known[1]
        except OSError:
            return path


def _digest(files: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as stream:
            while part := stream.read(_READ_BYTES):
                digest.update(part)
    return digest.hexdigest()
