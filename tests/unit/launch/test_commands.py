"""The command line of an engine says all of the schedule, and the connector's place."""

import importlib
import json
import socket
from pathlib import Path

import msgspec
import pytest
import zmq

from prfaas.core.deployment import TenantConfig, load_deployment
from prfaas.core.deployment.agents import CacheConfig
from prfaas.core.errors import ConfigError
from prfaas.launch.addresses import free_address, resolve
from prfaas.launch.commands import agent_command, engine_command
from prfaas.launch.start import embedded_default
from prfaas.process.spans import ENDPOINT_VARIABLES, PROTOCOL_VARIABLE


def _option(arguments: tuple[str, ...], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def _resolved():  # type: ignore[no-untyped-def]
    deployment = load_deployment(embedded_default())
    gateway = msgspec.structs.replace(deployment.gateway, listen="127.0.0.1:0")
    model = msgspec.structs.replace(deployment.model, path="some/model")
    return resolve(
        msgspec.structs.replace(deployment, gateways=(gateway,), model=model),
        sockets=Path("/tmp/s"),
    )


def test_a_prefill_engine_exports_through_its_clusters_agent() -> None:
    deployment = _resolved()
    command = engine_command(deployment, deployment.clusters[0].engines[0], vllm="cpu")
    transfer = json.loads(_option(command.arguments, "--kv-transfer-config"))
    assert transfer["kv_role"] == "kv_producer"
    assert transfer["kv_load_failure_policy"] == "recompute"
    assert transfer["kv_connector_extra_config"] == {
        "agent_socket": "/tmp/s/east-agent.sock",
        "engine": "east-prefill",
        "decodes": False,
    }
    assert _option(command.arguments, "--block-size") == "256"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("tcp://*:5557", "tcp://*:5557"),
        ("ipc:///run/prfaas/e.events", "ipc:///run/prfaas/e.events"),
        ("tcp://127.0.0.1:5557", "tcp://[::ffff:127.0.0.1]:5557"),
        ("tcp://localhost:5557", "tcp://[::ffff:127.0.0.1]:5557"),
        ("tcp://10.0.0.5:5557", "tcp://[::ffff:10.0.0.5]:5557"),
    ],
)
def test_an_engine_publishes_where_the_file_says(said: str, told: str) -> None:
    """vLLM binds what has ``*`` or ``::``; to anything else it connects, and nobody hears it."""
    deployment = _resolved()
    engine = msgspec.structs.replace(deployment.engines[0], kv_events=said)
    arguments = engine_command(deployment, engine, vllm="cpu").arguments
    assert json.loads(_option(arguments, "--kv-events-config"))["endpoint"] == told


def test_an_address_that_is_told_so_is_bound_and_heard() -> None:
    """At the address and nowhere else, by the library that vLLM publishes with."""
    address = free_address()
    with zmq.Context() as context, context.socket(zmq.PUB) as publisher:
        host, _, port = address.rpartition(":")
        publisher.bind(f"tcp://[::ffff:{host}]:{port}")
        with context.socket(zmq.SUB) as follower:
            follower.subscribe(b"")
            follower.connect(f"tcp://{address}")
            while not follower.poll(50):
                publisher.send(b"told")
            assert follower.recv() == b"told"
        with (
            pytest.raises(ConnectionRefusedError),
            socket.create_connection(("127.0.0.2", int(port)), 5),
        ):
            pass


def test_a_name_is_no_place_to_publish_at() -> None:
    deployment = _resolved()
    engine = msgspec.structs.replace(deployment.engines[0], kv_events="tcp://west-1:5557")
    with pytest.raises(ConfigError, match="not at a name"):
        engine_command(deployment, engine, vllm="cpu")


@pytest.mark.parametrize(("args", "role"), [((), "kv_both"), (("--enable-dbo",), "kv_consumer")])
def test_an_engine_of_a_pd_cluster_exports_and_imports_whatever_it_begins_as(
    args: tuple[str, ...], role: str
) -> None:
    deployment = _resolved()
    for engine in deployment.clusters[1].engines:
        asked = msgspec.structs.replace(engine, args=args)
        command = engine_command(deployment, asked, vllm="cpu")
        transfer = json.loads(_option(command.arguments, "--kv-transfer-config"))
        assert transfer["kv_role"] == role
        assert transfer["kv_connector_extra_config"]["decodes"] is True


@pytest.mark.parametrize(
    ("cpus", "expected"),
    [
        (None, {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}),
        ("2-5", {"VLLM_CPU_OMP_THREADS_BIND": "2-5"}),
    ],
)
def test_a_cpu_engine_is_always_told_its_threads(
    cpus: str | None, expected: dict[str, str]
) -> None:
    deployment = _resolved()
    engine = msgspec.structs.replace(deployment.clusters[0].engines[0], cpus=cpus)
    environment = engine_command(deployment, engine, vllm="cpu").environment
    threads = {key: value for key, value in environment.items() if "OMP" in key or "V1" in key}
    assert threads == expected


def test_a_plain_engine_differs_by_the_connector_alone() -> None:
    deployment = _resolved()
    engine = deployment.clusters[1].engines[1]
    ours = engine_command(deployment, engine, vllm="cpu")
    plain = engine_command(deployment, engine, vllm="cpu", connector=False)
    assert set(ours.arguments) - set(plain.arguments) == {
        "--kv-transfer-config",
        _option(ours.arguments, "--kv-transfer-config"),
    }
    assert ours.environment == plain.environment


def test_a_plain_engine_need_not_be_in_the_file() -> None:
    deployment = _resolved()
    beside = msgspec.structs.replace(deployment.clusters[1].engines[1], name="plain-engine")
    assert engine_command(deployment, beside, vllm="cpu", connector=False)


def test_an_engine_listens_at_the_host_of_its_url() -> None:
    deployment = _resolved()
    engine = msgspec.structs.replace(deployment.clusters[1].engines[1], url="http://[::1]:8001")
    arguments = engine_command(deployment, engine, vllm="cpu").arguments
    assert _option(arguments, "--host") == "::1"
    assert _option(arguments, "--port") == "8001"


@pytest.mark.parametrize("vllm", ["cpu", "gpu"])
def test_ranks_of_an_engine_meet_on_loopback_unless_the_file_says_otherwise(vllm: str) -> None:
    deployment = _resolved()
    engine = deployment.clusters[1].engines[1]
    environment = engine_command(deployment, engine, vllm=vllm).environment
    assert environment["GLOO_SOCKET_IFNAME"] == environment["NCCL_SOCKET_IFNAME"] == "lo"
    engine = msgspec.structs.replace(engine, env={"GLOO_SOCKET_IFNAME": "eth1"})
    environment = engine_command(deployment, engine, vllm=vllm).environment
    assert environment["GLOO_SOCKET_IFNAME"] == "eth1"


def test_an_engine_that_is_started_again_has_the_key_of_its_file(tmp_path: Path) -> None:
    """Gateways read an exchanged one at once: with the old one it was refused until all of
    `prfaas up` began anew."""
    deployment, file = _resolved(), tmp_path / "key"
    file.write_text("the-old-one\n")
    keyed = msgspec.structs.replace(deployment.engines[0], api_key_file=str(file))
    command = engine_command(deployment, keyed, vllm="cpu")
    assert command.environment_in({})["VLLM_API_KEY"] == "the-old-one"
    file.write_text("the-new-one\n")
    assert command.environment_in({})["VLLM_API_KEY"] == "the-new-one"
    file.unlink()
    assert command.environment_in({})["VLLM_API_KEY"] == "the-old-one"
    mine = msgspec.structs.replace(keyed, api_key_file=None, env={"VLLM_API_KEY": "mine"})
    assert engine_command(deployment, mine, vllm="cpu").environment_in({})["VLLM_API_KEY"] == "mine"


def test_an_engine_with_a_key_asks_for_it_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = _resolved()
    engine = deployment.clusters[0].engines[0]
    assert "--middleware" not in engine_command(deployment, engine, vllm="cpu").arguments
    monkeypatch.setenv("AN_ENGINES_KEY", "a-key-of-an-engine")
    keyed = msgspec.structs.replace(engine, api_key_env="AN_ENGINES_KEY")
    command = engine_command(deployment, keyed, vllm="cpu")
    module, _, name = _option(command.arguments, "--middleware").rpartition(".")
    assert command.environment["VLLM_API_KEY"] == "a-key-of-an-engine"
    with monkeypatch.context() as patch:
        patch.setenv("VLLM_API_KEY", "a-key-of-an-engine")
        getattr(importlib.import_module(module), name)(None)


def test_an_engine_at_https_speaks_it_and_has_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = _resolved()
    engine = deployment.clusters[0].engines[0]
    monkeypatch.setenv("AN_ENGINES_KEY", "a-key-of-an-engine")
    plain = msgspec.structs.replace(
        engine, url="https://10.0.0.5:8001", api_key_env="AN_ENGINES_KEY"
    )
    with pytest.raises(ConfigError, match=r"listen in plaintext at https://10\.0\.0\.5:8001"):
        engine_command(deployment, plain, vllm="cpu")
    speaks = msgspec.structs.replace(plain, args=("--ssl-certfile", "e.pem"))
    environment = engine_command(deployment, speaks, vllm="cpu").environment
    assert environment["VLLM_USE_RUST_FRONTEND"] == "0"  # Also where the supervisor has another.
    for args, env, says in (
        (("--grpc",), {}, "--grpc: what answers there asks for no key"),
        (("--grpc-port=50051",), {}, "--grpc-port: what answers there"),
        ((), {"VLLM_USE_RUST_FRONTEND": "1"}, "env: VLLM_USE_RUST_FRONTEND: what answers"),
    ):
        other = msgspec.structs.replace(speaks, args=(*speaks.args, *args), env=env)
        with pytest.raises(ConfigError, match=says):
            engine_command(deployment, other, vllm="cpu")
    open_to_all = msgspec.structs.replace(speaks, api_key_env=None)
    with pytest.raises(ConfigError, match="write api_key_file or api_key_env"):
        engine_command(deployment, open_to_all, vllm="cpu")
    here = msgspec.structs.replace(open_to_all, url="https://127.0.0.1:8001")
    assert engine_command(deployment, here, vllm="cpu")


def test_on_gpus_vllm_serve_is_started_and_no_core_is_bound() -> None:
    deployment = _resolved()
    command = engine_command(deployment, deployment.clusters[1].engines[1], vllm="gpu")
    assert command.arguments[1:4] == ("-m", "vllm.entrypoints.cli.main", "serve")
    assert "--enforce-eager" not in command.arguments
    assert "VLLM_CPU_OMP_THREADS_BIND" not in command.environment


def test_on_gpus_memory_is_shared_and_kernels_are_chosen_alike() -> None:
    deployment = _resolved()
    engine = msgspec.structs.replace(
        deployment.clusters[1].engines[1], gpus="1", gpu_memory_share=0.3
    )
    for connector in (True, False):
        command = engine_command(deployment, engine, vllm="gpu", connector=connector)
        assert _option(command.arguments, "--gpu-memory-utilization") == "0.3"
        assert command.environment["CUDA_VISIBLE_DEVICES"] == "1"
        assert command.environment["TORCHINDUCTOR_FORCE_FILTER_REDUCTION_CONFIGS"] == "1"
        assert command.environment["TRITON_CACHE_DIR"]
        compilation = json.loads(_option(command.arguments, "--compilation-config"))
        assert compilation == {
            "inductor_compile_config": {"deterministic": True, "combo_kernels": False}
        }
    mine = msgspec.structs.replace(engine, env={"TRITON_CACHE_DIR": "/mine"})
    assert engine_command(deployment, mine, vllm="gpu").environment["TRITON_CACHE_DIR"] == "/mine"


@pytest.mark.parametrize(
    ("cache", "keeps"),
    [({}, False), ({"answers": True}, True), ({"answers": True, "size": "0 B"}, False)],
)
def test_engines_keep_answers_where_their_agent_is_told_to(
    cache: dict[str, object], keeps: bool
) -> None:
    deployment = _resolved()
    west = deployment.clusters[1]
    machine = west.machines[0]
    agent = msgspec.structs.replace(machine.agent, cache=CacheConfig(**cache))  # type: ignore[arg-type]
    machine = msgspec.structs.replace(machine, agent=agent)
    clusters = (deployment.clusters[0], msgspec.structs.replace(west, machines=(machine,)))
    told = msgspec.structs.replace(deployment, clusters=clusters)
    for engine, expected in ((machine.engines[0], keeps), (clusters[0].engines[0], False)):
        command = engine_command(told, engine, vllm="cpu")
        transfer = json.loads(_option(command.arguments, "--kv-transfer-config"))
        assert transfer["kv_connector_extra_config"].get("keeps_answers", False) is expected
        assert ("--prefix-cache-retention-interval" in command.arguments) is expected


def test_engines_speak_to_a_collector_as_the_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint for traces is one of OTLP over HTTP here; vLLM would speak gRPC to it."""
    deployment = _resolved()
    engine = deployment.clusters[0].engines[0]
    ours = "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"
    for name in (*ENDPOINT_VARIABLES, PROTOCOL_VARIABLE, *ours):
        monkeypatch.delenv(name, raising=False)
    environment = engine_command(deployment, engine, vllm="cpu").environment
    assert PROTOCOL_VARIABLE not in environment
    monkeypatch.setenv(ENDPOINT_VARIABLES[0], "http://collector:4318/v1/traces")
    environment = engine_command(deployment, engine, vllm="cpu").environment
    assert environment[PROTOCOL_VARIABLE] == "http/protobuf"
    assert environment["OTEL_SERVICE_NAME"] == "prfaas-engine"
    assert environment["OTEL_RESOURCE_ATTRIBUTES"] == f"service.instance.id={engine.name}"
    monkeypatch.setenv(PROTOCOL_VARIABLE, "grpc")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "site=west")
    environment = engine_command(deployment, engine, vllm="cpu").environment
    assert not {PROTOCOL_VARIABLE, "OTEL_SERVICE_NAME"} & set(environment)
    named = f"site=west,service.instance.id={engine.name}"
    assert environment["OTEL_RESOURCE_ATTRIBUTES"] == named


def test_keys_in_variables_are_for_gateways_alone() -> None:
    deployment = _resolved()
    gateway = msgspec.structs.replace(
        deployment.gateway,
        api_keys_env="CLIENTS",
        operator_keys_env="OPERATORS",
        tenants=(TenantConfig(name="t", api_keys_env="TENANT"),),
    )
    deployment = msgspec.structs.replace(deployment, gateways=(gateway,)).with_machines(
        lambda machine: msgspec.structs.replace(
            machine,
            engines=tuple(
                msgspec.structs.replace(e, api_key_env=f"KEY_OF_{e.role}") for e in machine.engines
            ),
        )
    )
    hidden = {"CLIENTS", "OPERATORS", "TENANT", "KEY_OF_prefill", "KEY_OF_decode"}
    own = dict.fromkeys(hidden, "a-key") | {"HOME": "/root"}
    agent = deployment.agents[0]
    command = agent_command(agent, Path("f"), hidden=deployment.secret_variables)
    assert command.environment_in(own) == {"HOME": "/root"}
    engine = msgspec.structs.replace(deployment.engines[0], api_key_env=None)
    made = engine_command(deployment, engine, vllm="cpu").environment_in(own)
    assert not hidden & made.keys()
    assert made["HOME"] == "/root"
