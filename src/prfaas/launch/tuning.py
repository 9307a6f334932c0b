"""What makes engines on GPUs of one kind compute the same bits: kernels chosen alike.

Two tuners choose kernels by timing them, each process for itself, and another choice rounds
otherwise: torch's compiler, which is told to choose reductions without timing (in two ways: see
`environment`), and Triton's, whose choices for
recurrent layers are kept in a directory. All engines of this machine share it, and the first time a
model is served one engine (of each number of ranks) fills it alone before the others start.
Machines of different places compute the same bits if they are given the same directory
(docs/identity.md).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

import aiohttp

from prfaas.core.deployment import Deployment, EngineConfig
from prfaas.core.errors import EngineError
from prfaas.launch.gpus import WIDTH_OPTIONS, kinds

COMPILATION = {"inductor_compile_config": {"deterministic": True, "combo_kernels": False}}
"""vLLM's ``--compilation-config`` for every engine: the model's own graphs. What torch's compiler
fuses side by side (norms of queries and keys) it times even when told not to time reductions."""

_TAIL_TOKENS = 300
_TOKEN_IDS = range(300, 800)
"""Any will do; every vocabulary has these."""


def directory() -> Path:
    """Where Triton keeps its choices: ``TRITON_CACHE_DIR``, else one in the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TRITON_CACHE_DIR") or home / "prfaas" / "triton")


def environment() -> dict[str, str]:
    """For every engine on a GPU, stock ones to compare with as well.

    Not ``TORCHINDUCTOR_DETERMINISTIC``: torch turns that off once it has traced a process's
    first function (dynamo restores what was set before, by `torch.use_deterministic_algorithms`,
    which writes it). This one stays, also for functions that vLLM compiles outside its graphs.
    """
    return {
        "TRITON_CACHE_DIR": str(directory()),
        "TORCHINDUCTOR_FORCE_FILTER_REDUCTION_CONFIGS": "1",
    }


def to_tune(deployment: Deployment, local: Collection[str]) -> list[EngineConfig]:
    """Of the engines that run here, ``local``, one for each number of ranks for which this machine
    has not tuned the model's kernels yet: a rank's heads are fewer the more ranks there are, and
    kernels of another shape. Data-parallel ranks are none of them: vLLM has each wait for all."""
    first: dict[str, EngineConfig] = {}
    for engine in deployment.engines:
        alone = engine.option("--data-parallel-size", "-dp") in (None, "1")
        if engine.name in local and alone:
            first.setdefault(ranks(engine), engine)
    return [engine for width, engine in first.items() if not _mark(deployment, width).exists()]


async def run(http: aiohttp.ClientSession, deployment: Deployment, engine: EngineConfig) -> None:
    """Have ``engine``, the only one of its number of ranks that runs, use every kernel once: a full
    chunk, a short one, and a token after them. Raises EngineError if it cannot."""
    model = deployment.model
    length = min(model.max_num_batched_tokens + _TAIL_TOKENS, model.max_model_len - 2)
    prompt = [_TOKEN_IDS[n % len(_TOKEN_IDS)] for n in range(length)]
    body = {"model": model.served_name, "prompt": prompt, "max_tokens": 2, "ignore_eos": True}
    headers = {"Authorization": f"Bearer {engine.keys.read()[0]}"} if engine.keys else {}
    timeout = aiohttp.ClientTimeout(total=None)
    url = f"{engine.url}/v1/completions"
    try:
        async with http.post(url, json=body, headers=headers, timeout=timeout) as answer:
            said = "" if answer.status == 200 else await answer.text()
    except aiohttp.ClientError as error:
        raise EngineError(f"{engine.name} ended at its first prompt: {error!r}") from error
    if answer.status != 200:
        raise EngineError(f"{engine.url} did not answer its first prompt: {said}")
    mark = _mark(deployment, ranks(engine))
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def ranks(engine: EngineConfig) -> str:
    """How many tensor-parallel ranks it has, as its arguments say it."""
    return engine.option(*WIDTH_OPTIONS) or "1"


def _mark(deployment: Deployment, width: str) -> Path:
    facts = (str(deployment.model.path), metadata.version("vllm"), width, kinds())
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    return directory() / f"tuned-for-{digest}"
