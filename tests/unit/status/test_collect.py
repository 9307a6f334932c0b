"""A snapshot of a deployment of mock engines and agents behind a real gateway."""

from __future__ import annotations

import aiohttp
import msgspec
import pytest

from prfaas.status import collect as status_collect
from prfaas.status.collect import collect
from prfaas.status.snapshot import Snapshot
from prfaas.status.view import draw
from prfaas.testing.mock_deployment import MockDeployment

LONG = list(range(100))


async def ask(mock: MockDeployment, url: str) -> Snapshot:
    async with aiohttp.ClientSession() as http:
        return await collect(mock.deployment(), http, gateway=url, now=5.0, timeout_s=10)


def base(client: aiohttp.ClientSession) -> str:
    return str(client._base_url).rstrip("/")


async def test_a_deployment_that_is_well() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        body = {"model": "mock-model", "prompt": LONG, "max_tokens": 4}
        async with client.post("/v1/completions", json=body) as answer:
            assert answer.status == 200
            await answer.read()
        snapshot = await ask(mock, base(client))
    assert snapshot.well
    assert snapshot.troubles == []
    assert snapshot.threshold_tokens == 40
    assert [(c.name, c.kind, len(c.engines)) for c in snapshot.clusters] == [
        ("east", "prfaas", 1),
        ("west", "pd", 3),
    ]
    assert all(engine.up for cluster in snapshot.clusters for engine in cluster.engines)
    (line,) = snapshot.lines
    assert (line.source, line.target, line.up, line.connections) == ("east", "west", True, 1)
    (decision,) = snapshot.decisions
    assert (decision.route, decision.total_tokens) == ("offload", 100)
    assert (decision.prefill_engine, decision.outcome) == ("e1", "ok")
    assert sum(snapshot.gateway.requests.values()) == 1


async def test_nonsense_of_one_process_hides_nothing_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that are none, and numbers that are too large to be multiplied or shown."""
    mock, read = MockDeployment(), status_collect.read_at_most

    async def nonsense(response: aiohttp.ClientResponse, most: int) -> bytes:
        if response.url.path == "/requests":
            return b'{"requests": [{"request_id": 5}, {"outcome": []}]}'
        if response.url.port in {a.port for a in mock.agents.values()}:
            return b'prfaas_pool_slots{state="free"} 1e308\nprfaas_pool_slot_bytes 1e308\n'
        return await read(response, most)

    monkeypatch.setattr(status_collect, "read_at_most", nonsense)
    async with mock.running() as client:
        await mock.ready()
        snapshot = await ask(mock, base(client))
    assert snapshot.decisions == []
    assert all(engine.up for cluster in snapshot.clusters for engine in cluster.engines)
    draw(snapshot)


async def test_what_is_away_is_a_trouble_in_words() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        url = base(client)
        await mock.agents["east-agent"].stop()
        snapshot = await ask(mock, url)
        assert snapshot.well
        assert any("agent east-agent of east does not answer" in t for t in snapshot.troubles)
        assert "no KV can travel from east to west" in snapshot.troubles
        assert not snapshot.lines[0].up
    snapshot = await ask(mock, url)
    assert not snapshot.well
    assert not snapshot.gateway.up
    assert snapshot.troubles[0] == f"the gateway at {url} does not answer"
    assert "engine d1 of west is down" in snapshot.troubles


async def test_decisions_of_a_gateway_with_keys_are_asked_with_the_files_own() -> None:
    mock = MockDeployment(keys="[secret]")
    async with mock.running() as client:
        await mock.ready()
        body = {"model": "mock-model", "prompt": LONG, "max_tokens": 4}
        key = {"Authorization": "Bearer secret"}
        async with client.post("/v1/completions", json=body, headers=key) as answer:
            await answer.read()
        async with client.get("/requests") as refused:
            assert refused.status == 401
        snapshot = await ask(mock, base(client))
    assert len(snapshot.decisions) == 1


async def test_who_has_no_operators_key_is_told_so_and_calls_nothing_down() -> None:
    keys = (
        "  operator_keys: [secret]\n  tenants: [{name: a, api_keys: [a]}, {name: b, api_keys: [b]}]"
    )
    mock = MockDeployment(gateway=keys)
    async with mock.running() as client:
        await mock.ready()
        deployment, url = mock.deployment(), base(client)
        ours = msgspec.structs.replace(deployment.gateway, operator_keys=(), tenants=())
        here = msgspec.structs.replace(deployment, gateways=(ours,))
        async with aiohttp.ClientSession() as http:
            snapshot = await collect(here, http, gateway=url, now=5.0)
    closed = f"the gateway at {url} tells operators alone what it does, and no key of one is here"
    assert snapshot.troubles == [closed]


async def test_the_key_goes_to_the_gateway_alone() -> None:
    """Whose machine an agent or an engine is on would be an operator with it."""
    shown: dict[str, set[str]] = {}

    async def asked(_: object, __: object, sent: aiohttp.TraceRequestStartParams) -> None:
        shown.setdefault(sent.headers.get("Authorization", ""), set()).add(str(sent.url.origin()))

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(asked)
    mock = MockDeployment(keys="[secret]")
    async with mock.running() as client, aiohttp.ClientSession(trace_configs=[trace]) as http:
        await mock.ready()
        await collect(mock.deployment(), http, gateway=base(client), now=5.0, timeout_s=10)
        assert shown["Bearer secret"] == {base(client)}
    assert len(shown[""]) > 2


async def test_gateways_beside_the_one_that_is_asked_are_looked_at_too() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        deployment = mock.deployment()
        ours = msgspec.structs.replace(deployment.gateway, listen=base(client)[7:])
        away = msgspec.structs.replace(ours, name="away", listen="127.0.0.1:1")
        several = msgspec.structs.replace(deployment, gateways=(ours, away))
        async with aiohttp.ClientSession() as http:
            snapshot = await collect(several, http, gateway=base(client), now=5.0)
            alone = await collect(deployment, http, gateway=base(client), now=5.0)
    assert snapshot.troubles == ["gateway away at http://127.0.0.1:1 does not answer"]
    assert alone.troubles == []
