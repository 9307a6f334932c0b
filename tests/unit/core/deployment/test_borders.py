"""A file that would speak plaintext to another machine is refused, with what to write."""

from __future__ import annotations

import json

import pytest

from prfaas.core.deployment import Deployment, check_borders, is_carried, parse_deployment
from prfaas.core.errors import ConfigError

TLS = "tls: {ca: ca.pem, cert: a.pem, key: a-key.pem}"
EVERYWHERE = f'admin_advertise: "10.0.0.9:1", advertise: "10.0.0.9:4", {TLS}'


def deployment(
    *,
    agent: str = "",
    admin: str = "127.0.0.1:1",
    engine: str = 'url: "http://127.0.0.1:2"',
    gateway: str = "",
) -> Deployment:
    return parse_deployment(
        f"""
clusters:
  - name: west
    kind: pd
    agent: {{name: a, admin: "{admin}", listen: "10.0.0.9:4", {agent}}}
    engines: [{{name: d, role: decode, {engine}}}]
gateway: {{{gateway}}}
""",
        source="test",
    )


FRONT = "{cert: f.pem, key: f-key.pem}"
SHOWN = "agent_tls: {ca: ca.pem, cert: g.pem, key: g-key.pem}"


@pytest.mark.parametrize(
    "fine",
    [
        deployment(),
        deployment(admin="[::1]:1", engine='url: "http://localhost:2"'),
        deployment(agent="plaintext: true", admin="10.0.0.9:1", engine='url: "http://10.0.0.7:2"'),
        deployment(agent=TLS, admin="10.0.0.9:1", gateway=SHOWN),
        deployment(agent=TLS, gateway=SHOWN, engine='url: "http://[::ffff:127.0.0.1]:2"'),
        deployment(engine="kv_events: 'tcp://[::ffff:127.0.0.1]:5557', args: [--host, '::1']"),
        deployment(agent="plaintext: true", engine='kv_events: "tcp://*:5557"'),
        deployment(engine="""args: ["--kv-events-config={}"]"""),
        deployment(engine="args: [--kv-events-config.enable_kv_cache_events, 'False']"),
        deployment(engine="args: ['--kv-events-config.endpoint=tcp://*:1']"),
        deployment(
            engine="""args: [--kv-events-config,
                             '{"enable_kv_cache_events": true, "publisher": "null"}']"""
        ),
        deployment(engine="""url: "https://d.example", args: [--host, "0.0.0.0"]"""),
        deployment(engine='url: "https://d.example"'),
        deployment(gateway='listen: "[::1]:8000", admin: "localhost:9090"'),
        deployment(gateway='listen: "0.0.0.0:8000", admin: ":9090", plaintext: true'),
        deployment(gateway=f'listen: "0.0.0.0:80", tls: {FRONT}, admin: "10.0.0.9:9", {SHOWN}'),
        deployment(engine='kv_events: "ipc:///run/d", url: "http://127.0.0.1:2"'),
        deployment(engine='args: [--data-parallel-address, "127.0.0.1", --nnodes, "1"]'),
        deployment(engine='env: {GLOO_SOCKET_IFNAME: lo, NCCL_SOCKET_IFNAME: "=lo"}'),
        deployment(agent="plaintext: true", engine='args: [-dpa, "10.0.0.9"]'),
    ],
)
def test_what_stays_or_is_encrypted_or_says_so_is_fine(fine: Deployment) -> None:
    check_borders(fine)


@pytest.mark.parametrize(
    ("leaks", "says"),
    [
        (deployment(admin="10.0.0.9:1"), "agent 'a': its HTTP at 10.0.0.9:1 would cross"),
        (deployment(admin="0.0.0.0:1"), "plaintext: true where"),
        (
            deployment(gateway='listen: "0.0.0.0:8000"'),
            "gateway 'gateway': listen 0.0.0.0:8000 would have prompts, answers and keys cross",
        ),
        (deployment(gateway=f'listen: ":8000", {SHOWN}'), "write tls: {cert, key}, or"),
        (
            deployment(gateway=f'admin: "10.0.0.9:9090", tls: {FRONT}'),
            "admin 10.0.0.9:9090 would have operators' keys cross",
        ),
        (
            deployment(admin="0.0.0.0:1", agent='admin_advertise: "127.0.0.1:1"'),
            "agent 'a': its HTTP at 0.0.0.0:1 would cross",
        ),
        (
            deployment(gateway='listen: "127.0.0.1:80", advertise: "g.example:80"'),
            "advertise g.example:80 would have operators' keys cross",
        ),
        (deployment(agent=TLS), "prfaas certs issue gateway' and write at the gateway: agent_tls"),
        (deployment(engine='url: "http://10.0.0.7:2"'), "engine 'd': url http://10.0.0.7:2 would"),
        (
            deployment(agent=TLS, gateway=SHOWN, engine='url: "http://10.0.0.7:2"'),
            "listen on 127.0.0.1, where agent 'a' carries it",
        ),
        (
            deployment(engine='url: "https://d", kv_events: "tcp://10.0.0.7:5557"'),
            "the tokens of every prompt open",
        ),
        # What is bound to an address of its own machine, others reach too.
        (
            deployment(agent=TLS, gateway=SHOWN, engine='url: "http://10.0.0.9:2"'),
            "engine 'd': url http://10.0.0.9:2 would",
        ),
        (
            deployment(
                agent=EVERYWHERE, admin="0.0.0.0:1", gateway=SHOWN, engine='url: "http://0.0.0.0:2"'
            ),
            "engine 'd': url http://0.0.0.0:2 would",
        ),
        (deployment(engine='kv_events: "tcp://*:5557"'), "kv_events tcp://*:5557 would"),
        (
            deployment(agent=TLS, gateway=SHOWN, engine='kv_events_replay: "tcp://10.0.0.9:1"'),
            "kv_events_replay tcp://10.0.0.9:1 would",
        ),
        (deployment(engine='args: ["--host=0.0.0.0"]'), "--host 0.0.0.0 would"),
        (
            deployment(engine="""args: [--kv-events-config, '{"enable_kv_cache_events": true}']"""),
            "--kv-events-config tcp://*:5557 would",
        ),
        (deployment(engine='args: ["--hos", "0.0.0.0"]'), "--host 0.0.0.0 would"),
        (deployment(engine='args: ["--host="]'), "--host  would"),
        *(
            (
                deployment(engine=f"args: {json.dumps(args)}"),
                "--kv-events-config tcp://*:5557 would",
            )
            for args in (
                ["--kv_events_config.enable_kv_cache_events", "True"],
                ["--kv-events-conf", '{"enable_kv_cache_events": "on"}'],
                ["--kv-events-conf.enable_kv_cache_events=yes", "--kv-events-config", "{}"],
                [
                    "--kv-events-config",
                    "{}",
                    "--kv-events-config.enable_kv_cache_events=1",
                    "--kv-events-config.replay_endpoint",
                    "tcp://127.0.0.1:1",
                ],
            )
        ),
        (
            deployment(
                engine="""args: [--kv-events-config.enable_kv_cache_events, 'true',
                                 --kv-events-config.endpoint, 'ipc:///run/d',
                                 --kv-events-config.replay_endpoint, 'tcp://10.0.0.9:1']"""
            ),
            "--kv-events-config tcp://10.0.0.9:1 would",
        ),
        (
            deployment(
                engine="""args: [--kv-events-config,
                                 '{"enable_kv_cache_events": true, "hwm": 100k}']"""
            ),
            "where it publishes cannot be told, since it is no JSON object",
        ),
        *(
            (deployment(agent=TLS, gateway=SHOWN, engine=where), f"engine 'd': {says} would have")
            for where, says in (
                (
                    'args: [--data-parallel-address, "10.0.0.9"]',
                    "--data-parallel-address 10.0.0.9",
                ),
                ('args: [-dpa, "0.0.0.0"]', "--data-parallel-address 0.0.0.0"),
                ("args: [--data_parallel_addr=10.0.0.9]", "--data-parallel-address 10.0.0.9"),
                ('args: ["--master-addr=h.example"]', "--master-addr h.example"),
                ('args: [--nnodes, "2", --node-rank, "0"]', "--nnodes 2"),
                ('args: [-n, "2"], url: "https://d.example"', "--nnodes 2"),
                ("env: {VLLM_DP_MASTER_IP: 10.0.0.9}", "env: VLLM_DP_MASTER_IP 10.0.0.9"),
                ("env: {GLOO_SOCKET_IFNAME: eth0}", "env: GLOO_SOCKET_IFNAME eth0"),
                ('env: {NCCL_SOCKET_IFNAME: ""}', "env: NCCL_SOCKET_IFNAME "),
            )
        ),
    ],
)
def test_what_would_leave_the_machine_in_plaintext_is_refused(leaks: Deployment, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_borders(leaks)
    assert says in str(error.value)


def test_an_agent_with_tls_carries_engines_that_speak_none() -> None:
    for agent, engine, carried in (
        (TLS, 'url: "http://127.0.0.1:2"', True),
        (TLS, 'url: "https://d.example"', False),
        ("plaintext: true", 'url: "http://127.0.0.1:2"', False),
    ):
        found = deployment(agent=agent, engine=engine)
        assert is_carried(found.engines[0], found.agents[0]) is carried
