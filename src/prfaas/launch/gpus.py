"""Which GPUs of this machine each engine gets, and what share of their memory. Pure but for
`installed_gpus` and `kinds`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from itertools import takewhile

import msgspec

from prfaas.core.deployment import Deployment, EngineConfig, MachineConfig
from prfaas.core.errors import ConfigError

_USABLE = 0.9
"""Share of a GPU's memory that its engines may have together, as vLLM's own default."""
_DECODE_WEIGHT = 2
"""A decode engine is the last to share its GPU: its clients see every token."""
WIDTH_OPTIONS = ("--tensor-parallel-size", "-tp")
_SHARE_OPTION = "--gpu-memory-utilization"


def installed_gpus() -> list[str]:
    """The GPUs that engines may use, as ``CUDA_VISIBLE_DEVICES`` names them; empty without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return list(takewhile(_is_one, _names(visible)))
    return _told("index")


def kinds() -> str:
    """Of this machine's GPUs, each once; empty where none tells."""
    return ", ".join(sorted(set(_told("name"))))


def _told(what: str) -> list[str]:
    """Of each GPU, a line."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.stdout.splitlines() if line.strip()]


def _names(visible: str) -> list[str]:
    return [name.strip() for name in visible.split(",") if name.strip()]


def _is_one(name: str) -> bool:
    """CUDA hides whatever stands behind a name of no GPU: -1, or what Slurm writes for none."""
    return not name.startswith("-") and name != "NoDevFiles"


def placed(deployment: Deployment, gpus: Sequence[str]) -> Deployment:
    """``deployment`` with GPUs for each engine that it starts and that names none.

    One engine each as far as GPUs go, then the least loaded, decode engines last to share. Each
    gets an even share of what its GPU's memory has beside the shares that the file names, one such
    share being left for a stock engine beside them.

    Raises ConfigError for an engine that wants more GPUs than there are, or for which others leave
    no memory.
    """
    if not gpus:
        return deployment
    engines = [e for e in deployment.engines if e.url is None]
    named = {e.name: _names(e.env.get("CUDA_VISIBLE_DEVICES") or e.gpus or "") for e in engines}
    chosen = {name: choice for name, choice in named.items() if choice}
    load = dict.fromkeys(gpus, 0)
    for engine in sorted(engines, key=lambda e: (e.name not in chosen, e.role != "decode")):
        if engine.name not in chosen:
            chosen[engine.name] = sorted(gpus, key=lambda g: (load[g], gpus.index(g)))[
                : _width(engine, len(gpus))
            ]
        for gpu in chosen[engine.name]:
            load[gpu] = load.get(gpu, 0) + (_DECODE_WEIGHT if engine.role == "decode" else 1)
    shares = {engine.name: _named_share(engine) for engine in engines}

    def left(gpu: str) -> float:
        """For each engine on it that names no share."""
        users = [shares[name] for name, gpus in chosen.items() if gpu in gpus]
        taken = sum(share for share in users if share is not None)
        return round((_USABLE - taken) / (1 + users.count(None)), 3)

    def place(engine: EngineConfig) -> EngineConfig:
        if engine.name not in chosen:
            return engine
        names, share = chosen[engine.name], shares[engine.name]
        if share is None:
            gpu = min(names, key=left)
            share = left(gpu)
            if share <= 0:
                raise ConfigError(
                    f"{engine.name}: of GPU {gpu} the file gives other engines all the memory that "
                    f"there is ({_USABLE:.0%}): name its gpu_memory_share too, or other gpus"
                )
        return msgspec.structs.replace(engine, gpus=",".join(names), gpu_memory_share=share)

    def place_all(machine: MachineConfig) -> MachineConfig:
        return msgspec.structs.replace(machine, engines=tuple(map(place, machine.engines)))

    return deployment.with_machines(place_all)


def _named_share(engine: EngineConfig) -> float | None:
    """Of each of its GPUs' memory, as the file says it: vLLM takes what ``args`` say last."""
    value = engine.option(_SHARE_OPTION)
    try:
        return engine.gpu_memory_share if value is None else float(value)
    except ValueError as error:
        raise ConfigError(f"{engine.name}: {_SHARE_OPTION} {value!r} is no share") from error


def _width(engine: EngineConfig, available: int) -> int:
    """How many GPUs its tensor-parallel ranks need."""
    value = engine.option(*WIDTH_OPTIONS)
    if value is not None and (not value.isdigit() or int(value) < 1):
        raise ConfigError(f"{engine.name}: {WIDTH_OPTIONS[0]} {value!r} is no number of GPUs")
    width = 1 if value is None else int(value)
    if width > available:
        raise ConfigError(
            f"{engine.name} wants {width} GPUs for its ranks, this machine has {available}"
        )
    return width
