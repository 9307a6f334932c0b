"""What the conversations are asked of: deployments with and without the pool, and stock engines
with what vLLM and LMCache offer for the same. Each is started as its users start it; what does not
start is reported with the reason it gave."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from benchmarks.pool import lmcache_setup

from prfaas.core.deployment import Deployment, EngineConfig
from prfaas.launch.addresses import free_address
from prfaas.launch.commands import Command, engine_command, installed_vllm
from prfaas.launch.supervisor import decode_engine
from prfaas.testing.running import RunningDeployment, engine_args_here, running_command


class Size(NamedTuple):
    """What every system gets: ``kv_cache`` of each engine, ``host`` for what has left it."""

    kind: str
    kv_cache: str
    host: str
    longest: int


class System(NamedTuple):
    """``url`` answers; ``engines`` are those behind it."""

    url: str
    engines: Sequence[str]
    model: str
    deployment: Deployment | None = None
    admins: Sequence[str] = ()
    """Of agents."""


class NotStarted(Exception):
    """Why a system does not run here."""


_DEPLOYMENT = """
clusters:
{clusters}
{links}
model: {{kv_cache: {kv_cache}, max_model_len: {longest}}}
scheduler: {{policy: threshold, threshold: {threshold}}}
"""
_EAST = """
  - name: east
    kind: prfaas
    engines: [{{name: east-prefill, role: prefill, args: {args}}}]
    agent: {{name: east-agent, arena: {arena}, cache: {{size: {cache}}}}}
"""
_WEST = """
  - name: west
    kind: pd
    engines: [{{name: west-decode, role: decode, args: {args}}}]
    agent: {{name: west-agent, arena: {arena}, cache: {{size: {cache}, answers: {answers}}}}}
"""
_OFFLOADED_FROM = 1000
"""Uncached tokens: a turn alone is not worth the way, a conversation that was forgotten is."""
_LINKS = "links: [{from: east, to: west, rate: 10 Gbit/s}]"
_OFFLOAD = {
    "vllm_offloading": ("OffloadingConnector", "cpu_bytes_to_use"),
    "vllm_simple_offload": ("SimpleCPUOffloadConnector", "cpu_bytes_to_use"),
}
OURS = ("pool", "pool_off", "pool_one_engine")
NAMES = (*OURS, "stock", *_OFFLOAD, "lmcache")


@contextmanager
def started(name: str, size: Size, model: Deployment | None, home: Path) -> Iterator[System]:
    """One of `NAMES`; raises NotStarted. ``model``: a deployment that ran before, from which the
    stock engines take model and schedule."""
    home.mkdir(parents=True, exist_ok=True)
    if name in OURS:
        file = home / "pool.yaml"
        file.write_text(_ours(name, size))
        with RunningDeployment(file, home / "up", model=f"tiny:{size.kind}") as running:
            engines = [str(engine.url) for engine in running.deployment.engines]
            served = running.deployment.model.served_name
            assert served is not None
            admins = [agent.admin_url for agent in running.deployment.agents]
            yield System(running.url, engines, served, running.deployment, admins)
        return
    assert model is not None
    with _engine(name, size, model, home) as system:
        yield system


def _ours(name: str, size: Size) -> str:
    kept = name != "pool_off"
    filled = {
        "args": json.dumps(list(engine_args_here(size.kind))),
        "arena": _twice(size.host),
        "cache": size.host if kept else "0 B",
        "answers": "true" if kept else "false",
    }
    two = name != "pool_one_engine"
    return _DEPLOYMENT.format(
        clusters=(_EAST.format(**filled) if two else "") + _WEST.format(**filled),
        links=_LINKS if two else "",
        kv_cache=size.kv_cache,
        longest=size.longest,
        threshold=_OFFLOADED_FROM if two else 10**9,
    )


def _twice(size: str) -> str:
    """Transfers need room beside what is cached."""
    number, unit = size.split()
    return f"{2 * int(number)} {unit}"


@contextmanager
def _engine(name: str, size: Size, model: Deployment, home: Path) -> Iterator[System]:
    url = f"http://{free_address()}"
    beside = decode_engine(model)
    engine = EngineConfig(
        name=name, role="decode", url=url, args=engine_args_here(size.kind),
        gpus=beside.gpus, gpu_memory_share=beside.gpu_memory_share,
    )  # fmt: skip
    command = engine_command(model, engine, vllm=installed_vllm(), connector=False)
    arguments, environment = _with_peer(name, size, command)
    log = home / f"{name}.log"
    running = running_command(
        msgspec.structs.replace(command, arguments=arguments, environment=environment),
        log=log,
        probe=f"{url}/health",
    )
    served = model.model.served_name
    assert served is not None
    try:
        running.__enter__()
    except RuntimeError as error:
        raise NotStarted(_reason(log)) from error
    try:
        yield System(url, [url], served)
    finally:
        running.__exit__(None, None, None)


def _with_peer(
    name: str, size: Size, command: Command
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    number, unit = size.host.split()
    host_bytes = int(number) * {"MiB": 1 << 20, "GiB": 1 << 30}[unit]
    if name in _OFFLOAD:
        connector, key = _OFFLOAD[name]
        config = {"kv_connector": connector, "kv_role": "kv_both",
                  "kv_connector_extra_config": {key: host_bytes}}  # fmt: skip
        return (*command.arguments, "--kv-transfer-config", json.dumps(config)), command.environment
    if name == "lmcache":
        why = lmcache_setup.missing()
        if why is not None:
            raise NotStarted(why)
        config = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
        arguments = (str(lmcache_setup.interpreter()), *command.arguments[1:])
        return (*arguments, "--kv-transfer-config", json.dumps(config)), {
            **command.environment,
            "LMCACHE_LOCAL_CPU": "True",
            "LMCACHE_MAX_LOCAL_CPU_SIZE": str(host_bytes / (1 << 30)),
            "LMCACHE_CHUNK_SIZE": "256",
            "LMCACHE_TRACK_USAGE": "false",
        }
    return command.arguments, command.environment


def _reason(log: Path) -> str:
    """The error that an engine ended with: the first that names one, not those that follow."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    said = re.findall(r"\b(\w*(?:Error|Exception|Exit): .+)$", text, re.MULTILINE)
    own = [line for line in said if "initialization failed" not in line]
    if own:
        return str(own[-1])[:300]
    asserted = re.findall(r"^.*(assert .+)$", text, re.MULTILINE)
    return str((asserted or text.splitlines() or ["it ended without a word"])[-1])[:300]
