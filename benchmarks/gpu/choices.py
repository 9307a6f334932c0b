"""Which kernels engines of one configuration choose apart, and whether their bits follow.

Every engine compiles into a directory of its own, all share Triton's tuning results, which the
first has made alone. Where two of them then differ, it is by what torch's compiler chose: each
kernel that it timed is shown with its kind, and whether the engines chose alike.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prfaas.core.deployment import Deployment, EngineConfig, parse_deployment
from prfaas.launch.addresses import free_address
from prfaas.launch.commands import Command, engine_command, installed_vllm
from prfaas.launch.tuning import COMPILATION
from prfaas.testing.calling import call
from prfaas.testing.running import engine_args_here, running_command
from prfaas.tiny_models.cache import ensure

Row = dict[str, Any]

KINDS = ("gdn", "sliding_window")
LENGTHS = (257, 1000, 5000)
SETTINGS: dict[str, Row] = {"vLLM's own": {}, "as prfaas up": COMPILATION}
"""Compilation settings of vLLM, beside ``TORCHINDUCTOR_DETERMINISTIC=1``."""


class _Engine:
    """A stock engine whose compiler works in a directory of its own."""

    def __init__(self, name: str, how: Mapping[str, Any]) -> None:
        self.name, self.how = name, how
        self.logprobs: list[float] = []
        self.timed: Row = {}

    def run(self, stack: ExitStack, deployment: Deployment, home: Path, args: list[str]) -> None:
        """Start it; ask for first tokens; see what its compiler has timed."""
        own = home / re.sub(r"\W+", "-", self.name)
        own.mkdir()
        url = f"http://{free_address()}"
        config = EngineConfig(
            name=own.name, role="decode", url=url, gpus="0", gpu_memory_share=0.05,
            args=(*args, "--compilation-config", json.dumps(self.how)),
            env={"VLLM_CACHE_ROOT": str(own), "TRITON_CACHE_DIR": str(home / "triton")},
        )  # fmt: skip
        command: Command = engine_command(
            deployment, config, vllm=installed_vllm(), connector=False
        )
        running = running_command(command, log=own / "log", probe=f"{url}/health")
        stack.enter_context(running)
        for length in LENGTHS:
            ids = random.Random(length).choices(range(300, 4000), k=length)
            body = {"model": "m", "prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 5}
            answer = call(f"{url}/v1/completions", body).json()
            self.logprobs += sorted(answer["choices"][0]["logprobs"]["top_logprobs"][0].values())
        self.timed = _timed(own)


def measure(kinds: Sequence[str], args: list[str]) -> Iterator[Row]:
    for kind in kinds:
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            needed = engine_args_here(kind)
            yield from _one_kind(kind, stack, Path(directory), [*needed, *args])


def _one_kind(kind: str, stack: ExitStack, home: Path, args: list[str]) -> Iterator[Row]:
    deployment = deployment_of(str(ensure(kind)))
    stock, ours = SETTINGS
    first = _Engine(f"{stock}, first", {})
    first.run(stack, deployment, home, args)
    yield {"what": "first", "kind": kind, "timed": len(first.timed)}
    others = [
        _Engine(f"{stock}, second", {}),
        _Engine(f"{ours}, first", SETTINGS[ours]),
        _Engine(f"{ours}, second", SETTINGS[ours]),
        _Engine(f"{ours}, piecewise", SETTINGS[ours] | {"cudagraph_mode": "PIECEWISE"}),
    ]
    with ThreadPoolExecutor(len(others)) as pool:
        list(pool.map(lambda engine: engine.run(stack, deployment, home, args), others))
    for setting in SETTINGS:
        engines = [e for e in (first, *others) if e.name.startswith(setting)]
        yield from _compared(kind, setting, engines)


def _compared(kind: str, setting: str, engines: Sequence[_Engine]) -> Iterator[Row]:
    reference = engines[0].logprobs
    yield {
        "what": "bits", "kind": kind, "setting": setting,
        "equal": {engine.name: engine.logprobs == reference for engine in engines},
        "furthest": max(
            abs(a - b) for e in engines for a, b in zip(e.logprobs, reference, strict=True)
        ),
    }  # fmt: skip
    for kernel in sorted(set().union(*(engine.timed for engine in engines))):
        chosen = {json.dumps(engine.timed.get(kernel)) for engine in engines}
        yield {
            "what": "timed", "kind": kind, "setting": setting, "kernel": kernel,
            "alike": len(chosen) == 1, "choices": sorted(chosen),
        }  # fmt: skip


def deployment_of(model: str) -> Deployment:
    """Of engines that are started by hand; its addresses are nobody's."""
    decode = {"name": "d", "role": "decode", "url": "http://127.0.0.1:1"}
    prefill = {"name": "p", "role": "prefill", "url": "http://127.0.0.1:2"}
    agents = [
        {"name": n, "listen": f"127.0.0.1:{at}", "admin": f"127.0.0.1:{at + 1}", "socket": n}
        for n, at in (("a", 3), ("b", 5))
    ]
    return parse_deployment(json.dumps({
        "clusters": [
            {"name": "east", "kind": "prfaas", "engines": [prefill], "agent": agents[0]},
            {"name": "west", "kind": "pd", "engines": [decode], "agent": agents[1]},
        ],
        "links": [{"from": "east", "to": "west", "rate": "10 Gbit/s"}],
        "model": {"path": model, "served_name": "m", "kv_cache": "256 MiB", "max_model_len": 8192},
    }), source="choices")  # fmt: skip


def _timed(cache: Path) -> Row:
    """Kernels whose form torch's compiler has chosen by timing, and its choice."""
    found: Row = {}
    for choice in cache.rglob("*.best_config"):
        source = choice.with_suffix(".py")
        code = source.read_text() if source.exists() else ""
        heuristics = re.search(r"@triton_heuristics\.(\w+)\(", code)
        name = re.search(r"def (triton_\w+)\(", code)
        reductions = len(re.findall(r"triton_helpers\.\w*(?:sum|max|min)\w*\(|tl\.sum\(", code))
        label = f"{name[1] if name else choice.stem} ({heuristics[1] if heuristics else '?'})"
        config = json.loads(choice.read_text())
        for volatile in ("time_taken_ms", "triton_cache_hash", "found_by_coordesc"):
            config.pop(volatile, None)
        found[f"{label}, reductions: {reductions}"] = config
    return found
