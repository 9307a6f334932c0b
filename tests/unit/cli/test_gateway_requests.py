"""What verbs ask of gateways: an answer as its type, or one line that says why there is none."""

from __future__ import annotations

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from prfaas.cli.gateway_requests import ask_gateway, operator_headers
from prfaas.core.deployment import GatewayConfig


class Answer(msgspec.Struct):
    drains: list[str] = []


async def said(status: int, body: bytes) -> tuple[Answer | None, str | None, int]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    app = web.Application()
    app.router.add_get("/drain", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        reply = await ask_gateway(http, "GET", str(server.make_url("/drain")), Answer)
        return reply.answer, reply.error, reply.status


async def test_an_answer_is_read_as_its_type() -> None:
    assert await said(200, b'{"drains": ["d1"]}') == (Answer(["d1"]), None, 200)


async def test_a_refusal_is_the_gateways_words() -> None:
    refused = b'{"error": {"message": "no engine of that name", "type": "x"}}'
    assert await said(404, refused) == (None, "no engine of that name", 404)


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"x": ' + b"[" * 100_000, b'{"error": "\xff"}'])
async def test_what_cannot_be_read_is_said(status: int, body: bytes) -> None:
    if status == 200 and b"\xff" in body:
        body = b'{"drains": "\xff"}'
    answer, error, found = await said(status, body)
    assert (answer, found) == (None, status)
    assert f"answered {status}, and nothing that can be read" in (error or "")


async def test_nobody_who_answers_is_said() -> None:
    async with aiohttp.ClientSession() as http:
        reply = await ask_gateway(http, "GET", "http://127.0.0.1:1/drain", Answer)
    assert reply == (None, "http://127.0.0.1:1/drain does not answer: Connection refused", 0)


def test_an_operators_key_is_shown_where_there_is_one() -> None:
    assert operator_headers(GatewayConfig()) == {}
    shown = operator_headers(GatewayConfig(operator_keys=("k1", "k2")))
    assert shown == {"Authorization": "Bearer k1"}
