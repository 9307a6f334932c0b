"""Which GPUs of this machine each engine gets, and what share of their memory. Pure but for
`installed_gpus`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

import msgspec

from prfaas.core.deployment import Deployment, EngineConfig, MachineConfig
from prfaas.core.errors import ConfigError

_USABLE = 0.9
"""Share of a GPU's memory that its engines may have together, as vLLM's own default."""
_DECODE_WEIGHT = 2
"""A decode engine is the last to share its GPU: its clients see every token."""
WIDTH_OPTIONS = ("--tensor-parallel-size", "-tp")


def installed_gpus() -> list[str]:
    """The GPUs that engines may use, as ``CUDA_VISIBLE_DEVICES`` names them; empty without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return told.stdout.split()


def placed(deployment: Deployment, gpus: Sequence[str]) -> Deployment:
    """``deployment`` with GPUs for each engine that it starts and that names none.

    One engine each as far as GPUs go, then the least loaded, decode engines last to share. Each
    gets an even share of its GPU's memory, one share being left for a stock engine beside them.

    Raises ConfigError for an engine that wants more GPUs than there are.
    """
    if not gpus:
        return deployment
    engines = [e for e in deployment.engines if e.url is None]
    named = {e.name: e.gpus or e.env.get("CUDA_VISIBLE_DEVICES") for e in engines}
    chosen = {name: choice.split(",") for name, choice in named.items() if choice}
    load = dict.fromkeys(gpus, 0)
    for engine in sorted(engines, key=lambda e: (e.name not in chosen, e.role != "decode")):
        if engine.name not in chosen:
            chosen[engine.name] = sorted(gpus, key=lambda g: (load[g], gpus.index(g)))[
                : _width(engine, len(gpus))
            ]
        for gpu in chosen[engine.name]:
            load[gpu] = load.get(gpu, 0) + (_DECODE_WEIGHT if engine.role == "decode" else 1)
    users = [gpu for names in chosen.values() for gpu in names]

    def place(engine: EngineConfig) -> EngineConfig:
        if engine.name not in chosen:
            return engine
        names = chosen[engine.name]
        share = _USABLE / (1 + max(users.count(gpu) for gpu in names))
        return msgspec.structs.replace(
            engine,
            gpus=",".join(names),
            gpu_memory_share=engine.gpu_memory_share or round(share, 3),
        )

    def place_all(machine: MachineConfig) -> MachineConfig:
        return msgspec.structs.replace(machine, engines=tuple(map(place, machine.engines)))

    return deployment.with_machines(place_all)


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
