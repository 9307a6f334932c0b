"""Which adapter a request uses: its name, and what its weights are.

Two engines may have different weights under one name, for example while an adapter is rolled out;
the KV cache of one is wrong for the other.

An engine reads an adapter's files when it loads it, under a number of its own (`lora_int_id`), and
keeps what it has read. Files that are overwritten meanwhile are not what it computes with, until
the adapter is loaded again: under another number, or in place. And yet they may be, since vLLM
reads an adapter once more that it had no room for. So of such a one nobody knows the weights: it
gets names that nobody else has.

The same holds once another one was loaded from the same path under the same name: vLLM's prefix
cache tells adapters by these, and goes on with blocks of the earlier weights.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vllm.logger import init_logger

from prfaas.vllm_plugin.hub import commit_of, files_of

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

# Under "vllm" so that the engine's own logging configuration applies.
logger = init_logger(f"vllm.{__name__}")

_FILES = ("adapter_config.json", "adapter_model.*", "new_embeddings.*")
_READ_BYTES = 1 << 20
_MOST_KNOWN = 4096
_Stamp = tuple[tuple[str, int, int], ...] | str | None
"""Of files here, or a hub's commit."""


class _Known(NamedTuple):
    """``loaded``: what the engine has read; None: something else has lain there since."""

    stamp: _Stamp
    loaded: str | None


class AdapterIdentities:
    """Reads each adapter's files once, and again when they have changed (about 1 s per GB)."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], _Known] = {}
        """By number and path, the one used last at the end."""
        self._computed_with: dict[tuple[str, str], str | None] = {}
        """By name and path, the first at the front; None: with different weights."""

    def of(self, request: LoRARequest | None) -> str | None:
        """None without an adapter. One that is no folder here is known by its name, where it is
        said to come from, and the commit where that is a hub."""
        if request is None:
            return None
        return f"{request.lora_name} {self._weights(request)}"

    def _weights(self, request: LoRARequest) -> str:
        place = request.lora_int_id, request.lora_path
        try:
            known = self._look(request, self._known.get(place))
        except OSError:
            return uuid.uuid4().hex  # They are being written, or are gone.
        self._known.pop(place, None)
        self._known[place] = known
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        return self._alone(request, known.loaded) or uuid.uuid4().hex

    def _alone(self, request: LoRARequest, loaded: str | None) -> str | None:
        """``loaded``, where the engine has computed with nothing else under its name and path."""
        place = request.lora_name, request.lora_path
        before = self._computed_with.setdefault(place, loaded)
        if before is not None and loaded is not None and before != loaded:
            logger.warning(
                "adapter %s: other weights were loaded from %s before, and vLLM may go on with "
                "cached blocks of them: no other engine uses its KV cache; load changed weights "
                "from a new path",
                *place,
            )
        if before != loaded:
            self._computed_with[place] = None
        if len(self._computed_with) > _MOST_KNOWN:
            del self._computed_with[next(iter(self._computed_with))]
        return self._computed_with.get(place)

    def _look(self, request: LoRARequest, known: _Known | None) -> _Known:
        path = request.lora_path
        files = files_of(Path(path), _FILES)
        stamp = _stamp_of(files) or commit_of(path, _FILES[0])
        if request.load_inplace and known is not None and known.loaded is None:
            known = None
        if known is not None and known.stamp == stamp:
            return known
        found = _digest(files) if files else f"{path} {stamp}"
        if known is None or request.load_inplace:
            return _Known(stamp, found)
        if known.loaded is not None and found != known.loaded:
            logger.warning(
                "adapter %s: %s is not what it was when it was loaded; until it is loaded again, "
                "no other engine uses its KV cache, and nothing that is kept of it is found",
                request.lora_name,
                path,
            )
        return _Known(stamp, found if found == known.loaded else None)


def _stamp_of(files: list[Path]) -> tuple[tuple[str, int, int], ...]:
    stats = [(file.name, file.stat()) for file in files]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _digest(files: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as stream:
            while part := stream.read(_READ_BYTES):
                digest.update(part)
    return digest.hexdigest()
