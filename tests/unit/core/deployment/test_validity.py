"""What a deployment file cannot say is refused, with its place."""

from math import inf

import pytest

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.errors import ConfigError

TEXT = """
clusters:
  - name: east
    kind: prfaas
    engines: [{name: e0, role: prefill, max_num_seqs: 32}]
    agent: {name: a-east, slot: 1 MiB, dscp: 10}
  - name: west
    kind: pd
    engines: [{name: d0, role: decode}]
    agent: {name: a-west}
links: [{from: east, to: west, rate: 1 Gbit/s, leave_to_others: 0.1, connections: 8}]
model: {max_model_len: 4096, block_tokens: 256, max_num_batched_tokens: 512, kv_cache: 1 GiB}
gateway: {request_deadline: 60 s, max_body: 1 MiB, max_inflight_requests: 8}
scheduler: {transfer_stall: 10 s, attempt_share: 0.5, max_attempts: 8}
"""


def _changed(old: str, new: str) -> Deployment:
    assert old in TEXT
    return parse_deployment(TEXT.replace(old, new), source="file.yaml")


def test_the_text_as_it_stands_is_valid() -> None:
    assert _changed("10 s", "10 s").cluster("west").agents[0].name == "a-west"


def test_comments_to_clients_that_wait_may_be_turned_off() -> None:
    gateway = _changed("max_body: 1 MiB", "keepalive: null").gateway
    assert gateway.keepalive_s == inf


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("a-west", "a-east", "engine or agent name used twice: a-east"),
        ("a-west", "e0", "engine or agent name used twice: e0"),
        ("a-west", "gateway", "'gateway' names a process of the product's own"),
        ("name: d0", "name: plain-engine", "'plain-engine' names a process"),
        ("name: d0", "name: west/d0", "clusters[1].engines[0].name"),
        ("name: d0", "name: " + "d" * 64, "clusters[1].engines[0].name"),
        ("name: west", "name: east", "cluster name used twice: east"),
        ("kind: prfaas", "kind: pd", "cluster 'east': a PD cluster needs an engine"),
        ("role: decode", "role: prefill", "cluster 'west': a PD cluster needs an engine"),
        ("slot: 1 MiB", "slot: 0 B", "agent 'a-east': slot must be above zero"),
        ("slot: 1 MiB", "slot: 512 MiB", "agent 'a-east': arena 512 MiB must be a multiple"),
        ("dscp: 10", "cache: {size: 1 KiB}", "cache: size 1 KiB is less than a slot, 1 MiB"),
        ("dscp: 10", "cache: {spill: {path: /kv, size: 1 KiB}}", "size 1 KiB is less than a slot"),
        ("dscp: 10", "cache: {spill: {path: /kv, size: 0 B}}", "spill: size 0 B is less than"),
        ("dscp: 10", "cache: {spill: {path: kv, size: 1 GiB}}", "give an absolute path"),
        ("dscp: 10", "cache: {size: 0 B, spill: {path: /kv, size: 1 GiB}}", "caches nothing"),
        ("dscp: 10", "dscp: 64", "agent 'a-east': dscp 64 is not in 0..63"),
        ("dscp: 10", "listen: banana", "agent 'a-east': listen 'banana' is not host:port"),
        ("dscp: 10", "admin: banana", "agent 'a-east': admin 'banana' is not host:port"),
        ("name: d0", "name: d0, url: banana", "engine 'd0': url 'banana' is not http://"),
        ("name: d0", "name: d0, kv_events: banana", "engine 'd0': kv_events 'banana' is no ZMQ"),
        ("name: d0", r'name: "d0\n"', "clusters[1].engines[0].name"),
        ("name: west", "name: 'the west'", "clusters[1].name"),
    ],
)
def test_mistakes_in_clusters(old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        _changed(old, new)
    assert str(raised.value).startswith("file.yaml: ")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("to: west", "to: south", "link from 'east' to 'south': no cluster 'south'; known: east,"),
        ("from: east", "from: west", "link from 'west' to 'west': inside a cluster no link"),
        ("from: east, to: west", "from: west, to: east", "a PrfaaS cluster only sends"),
        ("links: [", "links: [{from: east, to: west}, ", "'east' to 'west': written twice"),
        ("rate: 1 Gbit/s", "rate: 0 Gbit/s", "'east' to 'west': rate must be above zero"),
        ("rate: 1 Gbit/s", "rate: 1 Gbit", "'east' to 'west': rate '1 Gbit' has unit"),
        ("leave_to_others: 0.1", "leave_to_others: 0.95", "links[0].leave_to_others"),
        ("leave_to_others: 0.1", "leave_to_others: -0.1", "links[0].leave_to_others"),
        ("leave_to_others: 0.1", "leave_to_others: .nan", "links[0].leave_to_others"),
        ("connections: 8", "via: banana", "'east' to 'west': via: 'banana' is not host:port"),
        ("connections: 8", "connections: 0", "links[0].connections"),
        ("connections: 8", "connections: 65", "at most 64 for each of its 1 pairs"),
    ],
)
def test_mistakes_in_links(old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        _changed(old, new)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_num_seqs: 32", "max_num_seqs: 0", "engines[0].max_num_seqs"),
        ("max_model_len: 4096", "max_model_len: 0", "model.max_model_len"),
        ("block_tokens: 256", "block_tokens: 0", "model.block_tokens"),
        ("batched_tokens: 512", "batched_tokens: -1", "model.max_num_batched_tokens"),
        ("kv_cache: 1 GiB", "kv_cache: 0 GiB", "model: kv_cache must be above zero"),
        ("request_deadline: 60 s", "request_deadline: 0 s", "gateway: request_deadline must be"),
        ("max_body: 1 MiB", "max_body: 0 B", "gateway: max_body must be above zero"),
        ("max_body: 1 MiB", "keepalive: 0 s", "gateway: keepalive must be above zero"),
        ("max_body: 1 MiB", "keepalive: 1 us", "keepalive 1 us: write 1 ms or more, or null"),
        ("max_num_seqs: 32", f"max_num_seqs: {10**30}", "engines[0].max_num_seqs"),
        ("max_body: 1 MiB", f"max_index_blocks: {10**30}", "gateway.max_index_blocks"),
        ("max_body: 1 MiB", "tenants: [{name: t, weight: .inf}]", "tenants[0].weight"),
        ("max_body: 1 MiB", "tenants: [{name: t, weight: 1.0e-300}]", "tenants[0].weight"),
        ("max_body: 1 MiB", "tenants: [{name: t, requests_per_s: .inf}]", "requests_per_s"),
        ("max_body: 1 MiB", f"tenants: [{{name: t, priority: {10**30}}}]", "tenants[0].priority"),
        ("max_body: 1 MiB", "certificate_name: a-west", "engine or agent name used twice: a-west"),
        (
            "max_body: 1 MiB",
            "agent_tls: {ca: ca.pem, cert: g.pem, key: g-key.pem, names: agent}",
            "gateway: agent_tls: names must have {agent} where",
        ),
        ("max_inflight_requests: 8", "max_inflight_requests: 0", "max_inflight_requests"),
        ("transfer_stall: 10 s", "transfer_stall: 0 s", "scheduler: transfer_stall must be"),
        ("attempt_share: 0.5", "attempt_share: .nan", "scheduler.attempt_share"),
        ("max_attempts: 8", "max_attempts: 0", "scheduler.max_attempts"),
    ],
)
def test_numbers_out_of_bounds(old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        _changed(old, new)
    assert said in str(raised.value)
