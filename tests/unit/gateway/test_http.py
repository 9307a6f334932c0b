"""What the front refuses, and how it says so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from prfaas.testing.mock_deployment import MockDeployment, clear_line, mock_layout, until

COMPLETIONS = "/v1/completions"


async def error_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    content = await response.json()
    assert set(content["error"]) >= {"message", "type", "param", "code"}
    assert content["error"]["code"] == response.status
    return dict(content["error"])


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"prompt": ', 400, "not a JSON object"),
        (b"[1]", 400, "not a JSON object"),
        (b"\xff\xfe", 400, "not a JSON object"),
        (b"", 400, "not a JSON object"),
        (b"[" * 100_000, 413, "larger than"),
        (b'{"prompt": "a", "kv_transfer_params": {"prfaas": "import"}}', 400, "set by the gateway"),
        (b'{"stream": ' + b"[" * 50_000 + b"]" * 10_000 + b"}", 400, "not"),
        (b'{"prompt": "a", "model": "other"}', 404, "`other` does not exist"),
        (b'{"prompt": "' + b"a" * 70_000 + b'"}', 413, "larger than 65536 bytes"),
        (json.dumps({"prompt": [1] * 3, "x": "y" * 60_000}).encode(), 200, ""),
        (b'{"prompt": ["a", "b"], "max_tokens": 1' + b"0" * 400 + b"}", 400, "max_tokens must be"),
        (b'{"prompt": "a", "echo": true, "n": 1' + b"0" * 400 + b"}", 400, "n must be at most"),
        (b'{"prompt": ["a", "b"], "max_tokens": 1e400}', 400, "max_tokens is not valid"),
        (b'{"prompt": ["a", "b"], "max_tokens": 9223372036854775807}', 200, ""),
    ],
)
async def test_bodies(body: bytes, status: int, says: str) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        async with client.post(COMPLETIONS, data=body) as response:
            assert response.status == status
            assert response.headers["X-Request-Id"]
            if status != 200:
                assert says in (await error_of(response))["message"]


async def test_paths_methods_and_request_ids() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        async with client.get("/v1/nothing") as response:
            assert response.status == 404
            await error_of(response)
        async with client.get(COMPLETIONS) as response:
            assert response.status == 405
            assert "takes POST" in (await error_of(response))["message"]
        for given_id, kept in (("my-id.1", True), ("bad id\x01"[:6], False), ("x" * 200, False)):
            async with client.get("/health", headers={"X-Request-Id": given_id}) as response:
                assert (response.headers["X-Request-Id"] == given_id) is kept


async def test_keys() -> None:
    mock = MockDeployment(keys='["secret-1", "secret-2"]')
    async with mock.running() as client:
        await mock.ready()
        for header in ("", "Bearer", "Bearer wrong", "Basic secret-1", "secret-1"):
            async with client.get("/v1/models", headers={"Authorization": header}) as response:
                assert response.status == 401
                await error_of(response)
        async with client.get(
            "/v1/models", headers={"Authorization": "Bearer secret-2"}
        ) as response:
            assert response.status == 200
        for path in ("/health", "/ready", "/metrics"):
            async with client.get(path) as response:
                assert response.status == 200


async def send_raw(client: aiohttp.ClientSession, *lines: bytes, body: bytes = b"") -> bytes:
    """The whole answer to a request that no decent client sends."""
    url = (await client.get("/health")).url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"\r\n".join((*lines, b"Connection: close", b"", b"")) + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_key_that_is_no_text_is_a_wrong_one(caplog: pytest.LogCaptureFixture) -> None:
    mock = MockDeployment(keys='["secret"]')
    async with mock.running() as client:
        await mock.ready()
        head = b"GET /v1/models HTTP/1.1", b"Host: h", b"Authorization: Bearer \xff"
        assert (await send_raw(client, *head)).startswith(b"HTTP/1.1 401 ")
    assert {record.name for record in caplog.records} == {"prfaas.audit"}, "no traceback"


async def test_a_body_that_cannot_be_read_is_the_clients_mistake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        headers = {"Content-Encoding": "gzip"}
        async with client.post(COMPLETIONS, data=b"no gzip", headers=headers) as response:
            assert response.status == 400
            assert "not chunked or compressed as" in (await error_of(response))["message"]
    assert not caplog.records


async def test_headers_that_are_no_ascii_stay_here() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        body = b'{"prompt": "abc"}'
        answer = await send_raw(
            client,
            b"POST /v1/completions HTTP/1.1",
            b"Host: h",
            b"traceparent: 00-1-2-01",
            b"tracestate: \xff",
            "X-Session-ID: é".encode(),
            b"Content-Length: %d" % len(body),
            body=body,
        )
        assert answer.startswith(b"HTTP/1.1 200 ")
        ((_, _, headers),) = mock.engines["d1"].requests + mock.engines["d2"].requests
        assert headers["traceparent"] == "00-1-2-01"
        assert not {"tracestate", "X-Session-ID", "Accept-Encoding"} & headers.keys()


async def test_layouts_that_do_not_pair_are_not_used_and_everything_else_is() -> None:
    mock = MockDeployment()
    mock.engines["e1"].agent.register("e1", mock_layout(page_bytes=128))
    async with mock.running() as client:
        await until(lambda: mock.gateway.fleet.up == {"p1", "d1", "d2"})
        # A busy machine's agents may have been late at first.
        await until(lambda: all("pair" in w for w in mock.gateway.fleet.warnings()))
        async with client.get("/ready") as response:
            assert response.status == 200
            answer = await response.json()
        assert (answer["troubles"], answer["warnings"]) == (
            [],
            ["KV layouts of e1 and d1, d2 do not pair: layer l0: page_bytes differs: 128 and 64"],
        )
        metrics = await (await client.get("/metrics")).text()
        assert 'prfaas_gateway_layout_mismatches{decode="d1, d2",prefill="e1"} 2.0' in metrics
        mock.engines["e1"].agent.register("e1", mock_layout(), pid=2)
        await mock.ready()
        metrics = await (await client.get("/metrics")).text()
        assert "prfaas_gateway_layout_mismatches{" not in metrics


async def test_a_line_that_is_down_is_told_and_keeps_nobody_from_being_served() -> None:
    mock = MockDeployment()
    mock.agents["east-agent"].links = [clear_line("west-agent", connections=0)]
    async with mock.running() as client:
        await until(lambda: mock.gateway.fleet.up == mock.engines.keys())
        async with client.get("/ready") as response:
            assert response.status == 200
            told = (await response.json())["warnings"]
        assert "no KV can travel from east to west" in told
        mock.agents["east-agent"].links = [clear_line("west-agent")]
        await mock.ready()
        assert (await (await client.get("/ready")).json())["warnings"] == []


async def test_an_engine_that_is_down_is_told_and_keeps_nobody_from_being_served() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for name in ("e1", "d2"):
            await mock.engines[name].stop()
        await until(lambda: mock.gateway.fleet.up == {"p1", "d1"})
        async with client.get("/ready") as response:
            assert response.status == 200
            answer = await response.json()
        assert answer["troubles"] == []
        told = [warning.partition(": ")[0] for warning in answer["warnings"]]
        assert told == ["prefill engine e1 is down", "decode engine d2 is down"]
        for name in ("p1", "d1"):
            await mock.engines[name].stop()
        await until(lambda: not mock.gateway.fleet.up)
        async with client.get("/ready") as response:
            assert response.status == 503
            answer = await response.json()
        assert not set(answer["troubles"]) & set(answer["warnings"])
        assert len(answer["warnings"]) == 2, "of the prefill engines"


async def test_one_new_decode_build_takes_no_prefill_engine_out() -> None:
    mock = MockDeployment()
    mock.engines["d1"].agent.register("d1", mock_layout(page_bytes=128))
    async with mock.running() as client:
        await until(lambda: mock.gateway.fleet.up == mock.engines.keys())
        for number in range(8):
            body = {"prompt": chr(ord("a") + number) * 100}
            async with client.post(COMPLETIONS, json=body) as response:
                assert response.status == 200
                decoded = response.headers["x-prfaas-decode-engine"]
                route = response.headers["x-prfaas-route"]
            assert decoded in ("d1", "d2")
            assert route.startswith("offload; ") == (decoded == "d2"), route
        assert {e.name for e in mock.engines.values() if e.requests} >= {"e1", "d2"}


async def test_before_any_layout_is_known_requests_are_answered_and_ready_says_so() -> None:
    mock = MockDeployment()
    for agent in mock.agents.values():
        agent.ranks = []
    async with mock.running() as client:
        await until(lambda: mock.gateway.fleet.up == {"p1", "d1", "d2"})
        async with client.post(COMPLETIONS, json={"prompt": "a" * 100}) as response:
            assert response.status == 200
            assert response.headers["x-prfaas-route"].startswith("direct; ")
        async with client.get("/ready") as response:
            assert response.status == 200
            assert any("KV layout" in t for t in (await response.json())["warnings"])
        for name in ("p1", "d1", "d2"):
            await mock.engines[name].stop()
        await until(lambda: not mock.gateway.fleet.up)
        async with client.post(COMPLETIONS, json={"prompt": "a"}) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert "no engine" in (await error_of(response))["message"]
