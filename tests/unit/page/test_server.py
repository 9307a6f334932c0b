"""The page over HTTP: its files are open, what they show is the operators'."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.page.server import static_files
from prfaas.testing.mock_deployment import MockDeployment, until

ROOT = Path(__file__).resolve().parents[3]
KEY = {"Authorization": "Bearer secret"}


async def test_files_are_served_and_say_what_may_run() -> None:
    async with MockDeployment().running() as client:
        async with client.get("/ui", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (308, "/ui/")
        async with client.get("/ui/") as answer:
            assert answer.content_type == "text/html"
            assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        for name in static_files():
            async with client.get(f"/ui/{name}") as answer:
                assert answer.status == 200, name
                assert answer.headers["Content-Encoding"] == "gzip"
                whole = await answer.read()
            plain = {"Accept-Encoding": "identity"}
            async with client.get(f"/ui/{name}", headers=plain) as answer:
                assert "Content-Encoding" not in answer.headers
                assert await answer.read() == whole


@pytest.mark.parametrize("path", ["none.js", "%2e%2e/server.py", "..%2fserver.py", "vendor/"])
async def test_nothing_else_is_served(path: str) -> None:
    async with MockDeployment().running() as client, client.get(f"/ui/{path}") as answer:
        assert answer.status == 404


async def test_a_page_is_told_what_was_and_what_comes() -> None:
    deployment = MockDeployment()
    async with deployment.running() as client:
        await deployment.ready()
        body = {"model": "mock-model", "prompt": "x" * 60, "max_tokens": 5, "stream": True}
        async with client.get("/ui/stream") as stream:
            async with client.post("/v1/completions", json=body) as answer:
                await answer.read()
            ended: list[dict[str, object]] = []
            async for line in stream.content:
                if line.startswith(b"data: "):
                    tick = json.loads(line[6:])
                    ended += tick["ended"]
                    if ended:
                        break
        (row,) = ended
        assert (row["route"], row["total_tokens"], row["outcome"]) == ("offload", 60, "ok")
        async with client.get("/ui/history") as answer:
            history = await answer.json()
        assert [row["request_id"] for row in history["ended"]] == [row["request_id"]]
        names = [engine["name"] for engine in history["deployed"][0]["topology"]["engines"]]
        sample = history["samples"][-1]
        assert len(sample["engines"]) == len(names) == 4
        assert set(sample["engines"].lower()) == {"p", "d"}
        assert sample["thresholds"] == {"west": 40.0}


async def test_where_clients_need_keys_a_page_needs_an_operators() -> None:
    async with MockDeployment(keys="[secret]").running() as client:
        for path in ("/ui/history", "/ui/stream"):
            async with client.get(path, headers=KEY) as answer:
                assert answer.status == 403
        async with client.get("/ui/") as answer:
            assert answer.status == 200


async def test_a_stream_ends_with_the_key_that_it_was_asked_with() -> None:
    deployment = MockDeployment(gateway="  operator_keys: [secret]\n")
    async with deployment.running() as client:
        async with client.get("/ui/stream", headers=KEY) as stream:
            assert stream.status == 200
            await stream.content.readline()
            text = deployment.deployment_text().replace("[secret]", "[another]")
            deployment.gateway.become(parse_deployment(text, source="f"), source="f")
            await asyncio.wait_for(stream.read(), 10)
        async with client.get("/ui/stream", headers=KEY) as stream:
            assert stream.status == 401


async def test_streams_end_when_the_server_stops() -> None:
    deployment = MockDeployment()
    async with deployment.running() as client:
        stream = await client.get("/ui/stream")
        await stream.content.readline()
        reading = asyncio.ensure_future(stream.read())
        await until(lambda: not reading.done())
    await asyncio.wait([reading])


def test_the_chart_library_keeps_its_licence() -> None:
    vendor = Path(static_files()["vendor/uplot/uPlot.esm.js"]).parent
    assert "MIT" in (vendor / "LICENSE").read_text()
    assert "Not our code" in (vendor / "README.md").read_text()


def test_no_file_asks_another_host() -> None:
    for name, path in static_files().items():
        if not name.startswith("vendor/"):
            text = path.read_text().replace("http://www.w3.org/", "")
            assert "http://" not in text, name
            assert "https://" not in text, name


def test_wheels_contain_the_files() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    packed = {file.distribution_path for file in wheel.recurse_included_files()}
    assert {f"prfaas/page/static/{name}" for name in static_files()} <= packed
    assert "prfaas/page/static/vendor/uplot/LICENSE" in packed
