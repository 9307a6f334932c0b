"""Every key that a deployment file may have holds in pods, is refused, is told to be otherwise, or
is of those that are pods' own: a new key has to be put into one of these tables."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.deployment.agents import AgentConfig, CacheConfig, SpillConfig, TlsConfig
from prfaas.core.deployment.clusters import LanConfig, MachineConfig
from prfaas.core.deployment.engines import EngineConfig
from prfaas.core.deployment.file import ClusterEntry, DeploymentFile
from prfaas.core.deployment.gateways import FrontTlsConfig, GatewayConfig
from prfaas.core.deployment.links import LinkConfig
from prfaas.core.deployment.model import ModelConfig
from prfaas.core.deployment.scheduling import SchedulerConfig
from prfaas.core.deployment.tenants import TenantConfig
from prfaas.core.errors import ConfigError
from prfaas.core.planned import KvSizeConfig
from prfaas.render import kubernetes
from prfaas.render.membership import expand, parse_template

TLS = {"ca": "/t/ca.pem", "cert": "/t/c.pem", "key": "/t/k.pem"}
HELD: dict[type, dict[str, Any]] = {
    AgentConfig: {"arena": "300 MiB", "slot": "2 MiB", "plaintext": True, "dscp": 10,
                  "link_workers": 2},
    CacheConfig: {"size": "100 MiB", "answers": True},
    SpillConfig: {"path": "/var/lib/prfaas/kv", "size": "3 GiB"},
    EngineConfig: {"role": "decode", "api_key_env": "ENGINE_KEY", "gpu_memory_share": 0.5,
                   "max_num_seqs": 7, "env": {"A": "b"}, "profile": "p", "kv_tokens": 1000},
    LanConfig: {"rate": "1 Gbit/s", "leave_to_others": 0.2, "connections": 3},
    LinkConfig: {"from": "east", "to": "west", "rate": "2 Gbit/s", "leave_to_others": 0.1,
                 "connections": 5, "rtt": "10 ms", "loss": 0.01},
    ModelConfig: {"path": "/srv/m", "served_name": "m", "max_model_len": 1000,
                  "block_tokens": 128, "max_num_batched_tokens": 512, "kv_cache": "2 GiB",
                  "kv_dtype": "fp8", "state_dtype": "float32"},
    KvSizeConfig: {"constant": "1 MiB", "per_token": "2 KiB"},
    SchedulerConfig: {"policy": "threshold", "threshold": "3K", "bandwidth": "scarce",
                      "options": {"x": 1}, "roles": "fixed", "link_grace": "3 s",
                      "transfer_stall": "11 s", "engine_wait": "60 s", "attempt_share": 0.4,
                      "max_attempts": 3},
    GatewayConfig: {"plaintext": True, "cors_origins": ["https://a.example"], "near": "west",
                    "api_keys_env": "CLIENT_KEYS", "isolate_caches": False,
                    "request_deadline": "100 s", "keepalive": "5 s", "max_body": "1 MiB",
                    "max_inflight_requests": 9, "max_bodies": "2 GiB",
                    "max_waiting_tokens": "17M", "max_wait": "9 s", "max_index_blocks": 1000,
                    "drain": "20 s"},
    TenantConfig: {"name": "acme", "api_keys_env": "ACME", "requests_per_s": 2.0,
                   "tokens_per_min": "5K", "max_requests": 3, "max_tokens": "6K", "priority": 1,
                   "weight": 2.0, "models": ["m"]},
}  # fmt: skip
"""What must be there unchanged, with a value that is none by default."""

REFUSED: dict[type, dict[str, Any]] = {
    AgentConfig: {},
    EngineConfig: {"cpus": "0-3"},
    LinkConfig: {"via": "h:1"},
    GatewayConfig: {"workers": 2, "api_keys": ["k"], "operator_keys": ["k"]},
    TenantConfig: {"api_keys": ["k"]},
    ClusterEntry: {"instances": {"count": 1}},
}

TOLD: dict[type, dict[str, Any]] = {
    AgentConfig: {"external": True},
    TlsConfig: {"crl": "/t/crl.pem", "names": "spiffe://a/{agent}"},
    GatewayConfig: {"operator_keys_file": "/k/o", "operator_keys_env": "OPERATORS"},
}

OWN: dict[type, set[str]] = {
    AgentConfig: {"name", "listen", "advertise", "admin", "admin_advertise", "socket", "tls"},
    TlsConfig: {"ca", "cert", "key", "cache_key"},
    EngineConfig: {"name", "url", "ca", "kv_events", "kv_events_replay", "gpus", "api_key_file"},
    MachineConfig: {"name"},
    GatewayConfig: {"name", "listen", "advertise", "agent_tls", "certificate_name", "admin",
                    "api_keys_file"},
    FrontTlsConfig: {"cert", "key", "ca"},
    TenantConfig: {"api_keys_file"},
    ClusterEntry: {"profile", "prefix_cache"},
    DeploymentFile: {"name", "workload", "slo", "prices", "experiments"},
}  # fmt: skip
"""Names, addresses, files of certificates and keys (of which Secrets are made), GPUs (of which the
number counts), and what is for planning alone."""

PARTS: dict[type, set[str]] = {
    AgentConfig: {"cache"},
    CacheConfig: {"spill"},
    EngineConfig: {"args"},
    MachineConfig: {"agent", "engines"},
    ModelConfig: {"kv_size"},
    GatewayConfig: {"tls", "tenants"},
    ClusterEntry: {"name", "kind", "agent", "engines", "machines", "lan"},
    DeploymentFile: {"clusters", "links", "model", "gateway", "gateways", "scheduler"},
}
"""What is made of those above, or has a test elsewhere."""

TABLES = (HELD, REFUSED, TOLD, OWN, PARTS)
KINDS = {kind for table in TABLES for kind in table}


def file(**parts: dict[str, Any]) -> Deployment:
    """Two machines in west, one in east; ``parts`` are put into each of their kind."""
    agent = {"plaintext": True, **parts.get("agent", {})}
    if "tls" in agent:
        del agent["plaintext"]

    def machine(name: str, role: str) -> dict[str, Any]:
        engine = parts.get("engine", {}) | {"name": f"{name}-e", "role": role}
        return {"name": name, "agent": {"name": f"{name}-a", **agent}, "engines": [engine]}

    text = {
        "clusters": [
            {"name": "east", "kind": "prfaas", "machines": [machine("e", "prefill")]},
            {"name": "west", "kind": "pd", "lan": parts.get("lan", {}),
             "machines": [machine("w", "decode"), machine("v", "decode")]},
        ],
        "links": [{"from": "east", "to": "west", **parts.get("link", {})}],
        "model": parts.get("model", {}),
        "scheduler": parts.get("scheduler", {}),
        "gateway": {"plaintext": True, **parts.get("gateway", {})},
    }  # fmt: skip
    return parse_deployment(json.dumps(text), source="here")


def in_pods(deployment: Deployment) -> Deployment:
    text = kubernetes.render(deployment)["west/template.json"]
    template = parse_template(text.encode(), source="west/template.json")
    found = {group.service: ["10.0.0.7"] for group in template.gateways}
    return expand(template, {g.name: range(g.replicas) for g in template.groups}, found)


@pytest.mark.parametrize("kind", sorted(KINDS, key=lambda kind: kind.__name__))
def test_every_key_is_in_one_table(kind: type) -> None:
    named = [key for table in TABLES for key in table.get(kind, ())]
    assert sorted(named) == sorted(f.encode_name for f in msgspec.structs.fields(kind))


def test_what_holds_is_unchanged_in_pods() -> None:
    spill = {"spill": HELD[SpillConfig]}
    said: dict[type, dict[str, Any]] = {
        AgentConfig: HELD[AgentConfig] | {"cache": HELD[CacheConfig] | spill},
        EngineConfig: HELD[EngineConfig],
        LanConfig: HELD[LanConfig],
        LinkConfig: HELD[LinkConfig],
        ModelConfig: HELD[ModelConfig] | {"kv_size": HELD[KvSizeConfig]},
        SchedulerConfig: HELD[SchedulerConfig],
        GatewayConfig: HELD[GatewayConfig] | {"tenants": [HELD[TenantConfig]]},
    }
    found = in_pods(
        file(
            agent=said[AgentConfig], engine=said[EngineConfig], lan=said[LanConfig],
            link=said[LinkConfig], model=said[ModelConfig], scheduler=said[SchedulerConfig],
            gateway=said[GatewayConfig],
        )
    )  # fmt: skip
    west = found.cluster("west")
    there: dict[type, msgspec.Struct] = {
        AgentConfig: west.agents[0], EngineConfig: west.engines[0], LanConfig: west.lan,
        LinkConfig: found.links[0], ModelConfig: found.model, SchedulerConfig: found.scheduler,
        GatewayConfig: found.gateway,
    }  # fmt: skip
    for kind, part in there.items():
        assert said[kind].items() <= json.loads(msgspec.json.encode(part)).items(), kind


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("engine", REFUSED[EngineConfig]),
        ("link", REFUSED[LinkConfig] | {"via": {"w-a": "h:1", "v-a": "h:2"}}),
        *(("gateway", {key: value} | ({"admin": "127.0.0.1:9100"} if key == "workers" else {}))
          for key, value in REFUSED[GatewayConfig].items()),
        ("gateway", {"tenants": [{"name": "acme", **REFUSED[TenantConfig]}]}),
    ],
)  # fmt: skip
def test_what_pods_cannot_have_is_refused(part: str, change: dict[str, Any]) -> None:
    deployment = file(**{part: change})
    with pytest.raises(ConfigError):
        kubernetes.render(deployment)


@pytest.mark.parametrize(
    ("part", "change", "told"),
    [
        *(("agent", {key: value}, key) for key, value in TOLD[AgentConfig].items()),
        *(("agent", {"tls": {**TLS, key: value}}, f"tls: {key} (agent")
          for key, value in TOLD[TlsConfig].items()),
        *(("gateway", {"agent_tls": {**TLS, key: value}}, f"tls: {key} (gateway")
          for key, value in TOLD[TlsConfig].items()),
        *(("gateway", {key: value}, "Secret operator-key")
          for key, value in TOLD[GatewayConfig].items()),
    ],
)  # fmt: skip
def test_what_pods_have_otherwise_is_told(part: str, change: dict[str, Any], told: str) -> None:
    def last_part(deployment: Deployment) -> str:
        return kubernetes.render(deployment)["README.md"].partition("## What pods have")[2]

    assert told not in last_part(file())
    assert told in last_part(file(**{part: change}))


def test_a_gateway_near_no_cluster_is_told_where_it_stands() -> None:
    text = {
        "clusters": [
            {"name": name, "kind": "pd", "agent": {"name": f"{name}-a", "plaintext": True},
             "engines": [{"name": f"{name}-d", "role": "decode"}]}
            for name in ("west", "south")
        ],
        "gateway": {"plaintext": True},
    }  # fmt: skip
    deployment = parse_deployment(json.dumps(text), source="here")
    assert "beside cluster 'west'" in kubernetes.render(deployment)["README.md"]


def test_engines_that_share_a_gpu_are_refused() -> None:
    text = {
        "clusters": [
            {"name": "west", "kind": "pd", "agent": {"name": "a", "plaintext": True},
             "engines": [{"name": "p", "role": "prefill", "gpus": "0,1"},
                         {"name": "d", "role": "decode", "gpus": "1"}]}
        ],
        "gateway": {"plaintext": True},
    }  # fmt: skip
    deployment = parse_deployment(json.dumps(text), source="here")
    with pytest.raises(ConfigError, match="share GPU 1"):
        kubernetes.render(deployment)
