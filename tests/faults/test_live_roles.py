"""Roles follow the load of a gateway that serves, and nobody notices."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from prfaas.testing.asking import answer_to
from prfaas.testing.mock_deployment import MockDeployment, until

PROMPTS = [f"a prompt of which there are many, this is number {n}" for n in range(60)]


def patient(*, roles: str = "live") -> MockDeployment:
    """None of its requests is begun anew, or refused, for a machine that is busy with something
    else."""
    policy = f"auto\n  options: {{ttft: 10 min}}\n  roles: {roles}"
    return MockDeployment(policy=policy, deadline="10 min", transfer_stall="5 min")


async def ask(client: aiohttp.ClientSession, prompt: str) -> tuple[str, dict[str, str]]:
    async with client.post("/v1/completions", json={"prompt": prompt}) as response:
        assert response.status == 200, await response.text()
        text = (await response.json())["choices"][0]["text"]
        return text, dict(response.headers)


def roles(mock: MockDeployment) -> dict[str, str]:
    view = mock.gateway._driver.scheduler.view
    return {name: engine.role for name, engine in view.engines.items()}


async def many_answers_at_once(mock: MockDeployment, client: aiohttp.ClientSession) -> None:
    """Until the prefill engine of the PD cluster has turned to decode; then they end."""
    decoders = [mock.engines[name] for name in ("p1", "d1", "d2")]
    for engine in decoders:
        engine.middle_gate.clear()
    asked = [asyncio.create_task(ask(client, prompt)) for prompt in PROMPTS]
    await until(lambda: roles(mock)["p1"] == "decode")
    for engine in decoders:
        engine.middle_gate.set()
    for prompt, (text, headers) in zip(PROMPTS, await asyncio.gather(*asked), strict=True):
        assert text == answer_to(prompt)
        assert headers["x-prfaas-attempts"] == "1", headers["x-prfaas-route"]


async def test_a_prefill_engine_decodes_when_answers_are_many() -> None:
    mock = patient()
    async with mock.running() as client:
        await mock.ready()
        await many_answers_at_once(mock, client)
        async with client.get("/metrics") as response:
            page = await response.text()
        assert 'prfaas_gateway_engine_role{engine="p1",role="decode"} 1.0' in page
        change = 'prfaas_scheduler_role_changes_total{done="yes",engine="p1",role="decode"} 1.0'
        assert change in page


@pytest.mark.slow
async def test_and_one_prefills_again_when_they_have_become_few() -> None:
    mock = patient()
    async with mock.running() as client:
        await mock.ready()
        await many_answers_at_once(mock, client)
        await until(lambda: "prefill" in [roles(mock)[n] for n in ("p1", "d1", "d2")], within_s=300)
        text, headers = await ask(client, PROMPTS[0])
        assert text == answer_to(PROMPTS[0])
        assert headers["x-prfaas-attempts"] == "1", headers["x-prfaas-route"]


async def test_in_a_dry_run_it_is_only_told() -> None:
    mock = patient(roles="dry-run")
    async with mock.running() as client:
        await mock.ready()
        for engine in mock.engines.values():
            engine.middle_gate.clear()
        asked = [asyncio.create_task(ask(client, prompt)) for prompt in PROMPTS]
        told = mock.gateway.metrics.role_changes.labels("p1", "decode", "no")
        await until(lambda: told._value.get() > 0)
        assert roles(mock)["p1"] == "prefill"
        for engine in mock.engines.values():
            engine.middle_gate.set()
        await asyncio.gather(*asked)
