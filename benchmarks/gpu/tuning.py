"""Whether ranks that tuned Triton's kernels beside each other must be started again.

On a machine that has tuned nothing, a stock engine of two ranks starts alone and tunes, as `prfaas
up` has the first one do. A second one finds what it has written. Both are asked the same; then the
first is started again, which finds the same, and is asked once more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.gpu.choices import deployment_of
from benchmarks.gpu.identity import difference, prompt

from prfaas.core.deployment import Deployment, EngineConfig
from prfaas.launch.addresses import free_address
from prfaas.launch.commands import engine_command, installed_vllm
from prfaas.launch.gpus import installed_gpus
from prfaas.testing.comparing import complete
from prfaas.testing.running import engine_args_here, running_command
from prfaas.tiny_models.cache import ensure

Row = dict[str, Any]

KINDS = ("gdn", "kda")
LENGTHS = (257, 1000, 2049, 5000, 257, 1000, 2049, 5000, 8000)
RANKS = 2
_TUNING_TOKENS = (2348, 300)
"""More than one chunk, as `prfaas up` asks for, and a short prompt."""


def measure(kinds: Sequence[str], args: list[str]) -> Iterator[Row]:
    for kind in kinds:
        needed = [*args, *engine_args_here(kind), "--tensor-parallel-size", str(RANKS)]
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            for row in _one_kind(stack, Path(directory), str(ensure(kind)), needed):
                yield {"kind": kind, "ranks": RANKS, **row}


def _one_kind(stack: ExitStack, home: Path, model: str, args: list[str]) -> Iterator[Row]:
    deployment = deployment_of(model)
    with ExitStack() as first:
        tuned = _start(first, deployment, home, "first", args)
        for length in _TUNING_TOKENS:
            complete(tuned, "m", prompt(f"tuning {length}", length))
        other = _start(stack, deployment, home, "other", args)
        yield from _compared(tuned, other, "has just tuned")
    again = _start(stack, deployment, home, "again", args)
    yield from _compared(again, other, "was started again")


def _start(stack: ExitStack, deployment: Deployment, home: Path, name: str, args: list[str]) -> str:
    """Its address, once it serves."""
    url = f"http://{free_address()}"
    engine = EngineConfig(
        name=name, role="decode", url=url, gpus=",".join(installed_gpus()[:RANKS]),
        gpu_memory_share=0.05, args=tuple(args), env={"TRITON_CACHE_DIR": str(home / "triton")},
    )  # fmt: skip
    command = engine_command(deployment, engine, vllm=installed_vllm(), connector=False)
    running = running_command(command, log=home / f"{name}.log", probe=f"{url}/health")
    stack.enter_context(running)
    return url


def _compared(url: str, other: str, which: str) -> Iterator[Row]:
    """First answers of both engines: what they compute without any cached prefix."""
    for number, length in enumerate(LENGTHS):
        ids = prompt(f"{which} {number}: {length}", length)
        ours, theirs = (complete(engine, "m", ids)[0] for engine in (url, other))
        yield {"engine": which, "prompt_tokens": length, **difference(ours, theirs)}
