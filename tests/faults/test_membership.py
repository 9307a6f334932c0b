"""Engines, machines, lines and keys join and leave while requests are answered."""

from __future__ import annotations

import asyncio
import json
import signal
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from prfaas.core.deployment import Deployment, load_deployment, parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.gateway.rereading import Rereading
from prfaas.process.reloading import Reloading
from prfaas.testing.asking import SHORT, answer_to, ask
from prfaas.testing.gateway_process import gateway_process
from prfaas.testing.mock_deployment import MockDeployment, until
from prfaas.testing.mock_engine import MockEngine

LONG = "a long prompt that is certainly longer than the threshold of forty tokens"


async def decoded_by(client: aiohttp.ClientSession, prompt: str = SHORT) -> str:
    response, content = await ask(client, prompt)
    assert response.status == 200, content
    assert json.loads(content)["choices"][0]["text"] == answer_to(prompt)
    return response.headers["x-prfaas-decode-engine"]


def without(text: str, name: str) -> str:
    """The file without the line of an engine."""
    kept = [line for line in text.splitlines() if f"{{name: {name}," not in line]
    assert len(kept) < len(text.splitlines())
    return "\n".join(kept) + "\n"


def entry(engine: MockEngine, role: str = "decode") -> str:
    return (
        f'      - {{name: {engine.name}, role: {role}, url: "{engine.url}", '
        'kv_events: "tcp://127.0.0.1:1"}\n'
    )


def become(mock: MockDeployment, text: str) -> None:
    mock.gateway.become(parse_deployment(text, source="new"), source="new")


async def test_engines_join_and_leave_while_they_answer() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        text = mock.deployment_text()
        d1, d2 = mock.engines["d1"], mock.engines["d2"]
        for engine in (d1, d2):
            engine.middle_gate.clear()
        asked = [asyncio.create_task(ask(client, LONG)) for _ in range(4)]
        await until(lambda: len(d1.requests) + len(d2.requests) == 4)
        d3 = await mock.join("d3", "west-agent")
        line = next(x for x in text.splitlines(keepends=True) if "name: d2," in x)
        become(mock, without(text, "d1").replace(line, line + entry(d3)))
        await until(lambda: mock.gateway.fleet.takes_handoffs("d3"))
        d2.full_for_s = 9
        assert {await decoded_by(client, p) for p in (SHORT, LONG, SHORT)} == {"d3"}
        assert "d1" in mock.gateway.engines
        for engine in (d1, d2):
            engine.middle_gate.set()
        for response, content in await asyncio.gather(*asked):
            assert response.status == 200
            assert json.loads(content)["choices"][0]["text"] == answer_to(LONG)
        await until(lambda: "d1" not in mock.gateway.engines)
        assert mock.gateway.fleet.up == {"e1", "p1", "d2", "d3"}
        metrics = await (await client.get("/metrics")).text()
        assert 'engine="d3"' in metrics
        assert 'engine="d1"' not in metrics
        before = len(d1.requests)
        for _ in range(4):
            await decoded_by(client)
        assert len(d1.requests) == before
        # And back.
        become(mock, text)
        await until(lambda: mock.gateway.fleet.up == {"e1", "p1", "d1", "d2"})
        assert await decoded_by(client, LONG) == "d1"


async def test_an_engine_that_is_back_before_it_has_left_goes_on() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        text = mock.deployment_text()
        d1, d2 = mock.engines["d1"], mock.engines["d2"]
        for engine in (d1, d2):
            engine.middle_gate.clear()
        asked = [asyncio.create_task(ask(client)) for _ in range(2)]
        await until(lambda: len(d1.requests) == len(d2.requests) == 1)
        become(mock, without(text, "d1"))
        as_prefill = text.replace("{name: d1, role: decode", "{name: d1, role: prefill")
        with pytest.raises(ConfigError, match="'d1' is still finishing its requests"):
            become(mock, as_prefill)
        become(mock, text)
        for engine in (d1, d2):
            engine.middle_gate.set()
        await asyncio.gather(*asked)
        assert await decoded_by(client) == "d1"


async def test_an_engine_that_has_moved_is_another_process() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        text = mock.deployment_text()
        moved = await mock.join("d1", "west-agent")
        old = mock.deployment().machine_of_engine("d1").engines[1].url
        assert old is not None
        become(mock, text.replace(old, moved.url))
        await until(lambda: "d1" in mock.gateway.fleet.up)
        mock.engines["d2"].full_for_s = 9
        for _ in range(3):
            await ask(client)
        assert len(moved.requests) == 3


async def test_a_whole_cluster_and_its_line_join_and_leave() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        text = mock.deployment_text()
        alone = text[: text.index("  - name: east")] + text[text.index("  - name: west") :]
        alone = alone.replace("  - {from: east, to: west, rate: 200 Mbit/s}\n", "")
        become(mock, alone.replace("links:\n", ""))
        await until(lambda: mock.gateway.fleet.up == {"p1", "d1", "d2"})
        connections = mock.agents["east-agent"].connections
        await until(lambda: all(connection.is_closing() for connection in connections))
        response, _ = await ask(client, LONG)
        assert response.headers["x-prfaas-route"].startswith("pd-p")
        become(mock, text)
        await until(lambda: "e1" in mock.gateway.fleet.up)
        route = ""
        async with asyncio.timeout(60):
            while not route.startswith("offload"):
                response, _ = await ask(client, LONG)
                route = response.headers["x-prfaas-route"]


async def test_keys_are_exchanged() -> None:
    mock = MockDeployment(keys='["old"]')
    async with mock.running() as client:
        await mock.ready()
        assert (await ask(client, key="old"))[0].status == 200
        become(mock, mock.deployment_text().replace('["old"]', '["new"]'))
        assert (await ask(client, key="old"))[0].status == 401
        assert (await ask(client, key="new"))[0].status == 200


async def test_half_of_a_file_lets_nobody_in() -> None:
    """A copy broke off before its last lines, those of tenants; it can be read all the same."""
    mock = MockDeployment(gateway="  tenants: [{name: acme, api_keys: [key]}]\n")
    async with mock.running() as client:
        await mock.ready()
        whole = mock.deployment_text()
        read = partial(parse_deployment, whole[: whole.index("  tenants:")], source="x")
        with pytest.raises(ConfigError, match="is the file whole"):
            Rereading(mock.gateway, read, source="x").take()
        assert (await ask(client, key="none"))[0].status == 401
        assert (await ask(client, key="key"))[0].status == 200


@pytest.mark.parametrize("error", [ConfigError, ZeroDivisionError])
async def test_keys_are_exchanged_while_the_file_is_refused(
    tmp_path: Path, error: type[Exception]
) -> None:
    """Somebody has left a fault in it, or we in what reads it; then a key leaks."""
    keys = tmp_path / "keys"
    keys.write_text("old\nother\n")
    mock = MockDeployment(gateway=f'  api_keys_file: "{keys}"')

    def refused() -> Deployment:
        raise error("unknown key 'nonsense'")

    async with mock.running() as client:
        await mock.ready()
        assert (await ask(client, key="old"))[0].status == 200
        keys.write_text("other\n")
        with pytest.raises(error, match="nonsense"):
            Rereading(mock.gateway, refused, source="x").take()
        assert (await ask(client, key="old"))[0].status == 401
        assert (await ask(client, key="other"))[0].status == 200


async def test_a_key_file_that_is_refused_keeps_no_other_tenants_key(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("one\n")
    second.write_text("old\nother\n")
    tenants = "".join(
        f"    - {{name: {file.name}, api_keys_file: {file}}}\n" for file in (first, second)
    )
    mock = MockDeployment(gateway=f"  tenants:\n{tenants}")
    async with mock.running() as client:
        await mock.ready()
        first.write_text("")
        second.write_text("other\n")
        read = partial(parse_deployment, mock.deployment_text(), source="x")
        with pytest.raises(ConfigError, match="first"):
            Rereading(mock.gateway, read, source="x").take()
        found = {key: (await ask(client, key=key))[0].status for key in ("one", "old", "other")}
        assert found == {"one": 200, "old": 401, "other": 200}


async def test_a_key_file_that_comes_after_the_file_that_names_it(tmp_path: Path) -> None:
    """Else whom the new file has no more would stay, and whom it has would not come, until somebody
    writes it again."""
    file, (mine, theirs) = tmp_path / "deployment.yaml", (tmp_path / "mine", tmp_path / "theirs")
    mine.write_text("old\n")
    mock = MockDeployment(gateway=f'  api_keys_file: "{mine}"')
    async with mock.running() as client:
        await mock.ready()
        file.write_text(mock.deployment_text())
        rereading = Rereading(mock.gateway, partial(load_deployment, file), source="x")
        told, ends = asyncio.Event(), asyncio.Queue[str]()
        reloading = Reloading(
            file, rereading.take, asked=told, beside=rereading.named, on_end=ends.put_nowait
        )
        running = asyncio.create_task(reloading.run())
        file.write_text(mock.deployment_text().replace(str(mine), str(theirs)))
        async with asyncio.timeout(60):
            assert await ends.get() == "refused"
            theirs.write_text("new\n")
            assert await ends.get() == "taken"
        running.cancel()
        assert [(await ask(client, key=key))[0].status for key in ("old", "new")] == [401, 200]


@pytest.mark.slow
async def test_a_gateway_reads_its_file_again_and_refuses_a_bad_one(tmp_path: Path) -> None:
    mock = MockDeployment()
    async with mock.running(), gateway_process(mock, tmp_path) as running:
        text = running.file.read_text()
        running.file.write_text(without(text, "d1"))  # Noticed by itself.
        await running.logged("engine d1 has left the deployment")
        running.file.write_text(text + "\nnonsense: 1\n")
        running.process.send_signal(signal.SIGHUP)
        await running.logged("is refused, all stays as it was")
        assert "unknown key 'nonsense'" in running.log.read_text()
        assert {await decoded_by(running.client) for _ in range(3)} == {"d2"}
        running.file.write_text(text)
        running.process.send_signal(signal.SIGHUP)
        await running.logged("deployment: engine d1 joins cluster west (decode)")
        metrics = await (await running.client.get("/metrics")).text()
        assert 'deployment_reads_total{outcome="refused"} 1.0' in metrics
        running.file.unlink()
        running.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(60):
            while running.log.read_text().count("is refused") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (await ask(running.client))[0].status == 200
