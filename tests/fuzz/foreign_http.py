"""Fuzz targets of what comes as HTTP: heads at a door, tunnels' heads and answers, engines' streams
and errors, deployment files. See `fuzz_foreign_bytes`."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import msgspec
import yaml
from aiohttp import web
from mutations import altered, mutated

from prfaas.agent.peers import Peers
from prfaas.agent.tunnels import Tunnels
from prfaas.core.addresses import Address
from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError, EngineError
from prfaas.gateway.event_stream import EventStream
from prfaas.gateway.http_answer import ConnectionBroke, NotHttp, Timeouts
from prfaas.gateway.http_connection import Connection
from prfaas.gateway.token_ids import TokenIds, take_out
from prfaas.gateway.tunnel import _Asking
from prfaas.gateway.upstream_errors import error_message, error_status, refusal
from prfaas.gateway.usage import (
    _counts_in,
    counts_told,
    without_cached_tokens,
    without_last_usage,
)
from prfaas.kv_events.sources import source_of
from prfaas.process.connections import Connections
from prfaas.process.http_handler import StrangersHandler, read_body
from prfaas.process.lines import Lines
from prfaas.process.turns import Turns

_LOOP = asyncio.new_event_loop()
_MOST_HELD = 4 * 1024 * 1024


class _Transport:
    """A connection that takes what is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data
        assert len(self.written) < _MOST_HELD

    def close(self) -> None:
        self.closed = True

    abort = close
    pause_reading = resume_reading = lambda self: None

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


def _in_pieces(rng: random.Random, data: bytes) -> list[bytes]:
    pieces, at = [], 0
    while at < len(data):
        step = rng.choice((1, 7, 100, 65536))
        pieces.append(data[at : at + step])
        at += step
        if len(pieces) > 200:
            pieces.append(data[at:])
            break
    return pieces


# heads of requests

_HEADS = (
    b"GET /health HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer k\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"
    b"GET / HTTP/1.0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    b"a\r\n\x1f\x8b\x08\x08\0\0\0\0\0\3\r\n1\r\na\r\n2\r\na\0\r\n0\r\n\r\n",
    b"\r\nPOST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 40\r\nContent-Encoding: gzip\r\n\r\n"
    + gzip.compress(b"") * 2
    + b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"0" * 5000 + b"2\r\n\r\n{}",
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
)


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    with suppress(web.RequestPayloadError, web.HTTPRequestEntityTooLarge):
        await read_body(cast("web.Request", request), most=1024)
    return web.Response(text="fine")


async def _at_door(rng: random.Random) -> None:
    book = Connections(most=4, stranger_s=1.0, idle_s=1.0)
    server = web.Server(_answer)
    entry = book.came("127.0.0.1", 0.0)
    handler = StrangersHandler(
        server, book, entry, Turns(1.0), Lines(1e9), loop=_LOOP, access_log=None
    )
    transport = _Transport()
    handler.connection_made(cast("asyncio.Transport", transport))
    for piece in _in_pieces(rng, mutated(rng, b"".join(rng.choices(_HEADS, k=2)))):
        if transport.closed:
            break
        handler.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    handler.connection_lost(None)
    await asyncio.sleep(0)
    assert (book.strangers, book.busy, book.idle) == (0, 0, 0)


def http_door(rng: random.Random) -> None:
    _LOOP.run_until_complete(_at_door(rng))


# tunnels

_CONNECT = b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n"
_CONNECTED = b"HTTP/1.1 200 Connected\r\n\r\n"


async def _tunnel(rng: random.Random) -> None:
    tunnels = Tunnels(Peers(None, ()), [Address("127.0.0.1", 2)])
    transport, ended, admitted = _Transport(), list[Any](), list[Any]()
    begin = tunnels.others[b"CONNECT "]
    begin(mutated(rng, _CONNECT), cast("Any", transport), lambda: admitted.append(1), ended.append)
    near = cast("asyncio.Protocol", transport.protocol)
    for piece in _in_pieces(rng, mutated(rng, _CONNECT)):
        if not transport.closed:
            near.data_received(piece)
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    near.connection_lost(None)
    assert not admitted, "no engine listens there"
    assert len(ended) == 1
    assert tunnels.open == 0


def tunnel_head(rng: random.Random) -> None:
    """Strangers', and gateways'. None of them is an engine's address."""
    _LOOP.run_until_complete(_tunnel(rng))


async def _tunnel_answer(rng: random.Random) -> None:
    answered: asyncio.Future[int] = _LOOP.create_future()
    asking = _Asking(cast("Any", None), Address("h", 1), answered)
    for piece in _in_pieces(rng, mutated(rng, _CONNECTED)):
        asking.data_received(piece)
    asking.connection_lost(None)
    assert answered.done()
    assert isinstance(answered.exception() or answered.result(), int | ConnectionResetError)


def tunnel_answer(rng: random.Random) -> None:
    _LOOP.run_until_complete(_tunnel_answer(rng))


# engines' answers

_EVENTS = (
    b": comment\n\n"
    b'data: {"choices": [{"text": "a"}], "usage": {"prompt_tokens_details": {"cached_tokens": 7}}}'
    b'\r\n\r\nevent: x\ndata: {"usage": {"completion_tokens": 3}}\n\ndata: [DONE]\n\n'
)
_USAGE_EVENTS = (
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":7}}\n\n'
    b'data: {"type":"response.completed","response":{"usage":{"output_tokens":7}}}\r\n\r\n'
)
_ERROR = b'{"error": {"message": "no", "code": 400}, "object": "error", "usage": {"x": 1}}'


class _Answer:
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def read_any(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


async def _stream(rng: random.Random) -> None:
    given = mutated(rng, _EVENTS)
    answer = _Answer(_in_pieces(rng, given))
    stream = EventStream("e", cast("Any", answer), on_heard=lambda: None)
    got = b""
    while events := await stream.next():
        got += events
    assert got == given, "nothing is lost, nothing made up"


def engine_stream(rng: random.Random) -> None:
    _LOOP.run_until_complete(_stream(rng))


_ANSWERS = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.0 503 No\r\nRetry-After: 1\r\n\r\nhello",
)


async def _http(rng: random.Random) -> None:
    transport = _Transport()
    connection = Connection(lambda _: None)
    connection.connection_made(cast("asyncio.Transport", transport))
    asked = asyncio.ensure_future(connection.ask(b"GET / HTTP/1.1\r\n\r\n", b"", Timeouts(None)))
    await asyncio.sleep(0)
    for piece in _in_pieces(rng, mutated(rng, b"".join(rng.choices(_ANSWERS, k=2)))):
        if not transport.closed:
            connection.data_received(piece)
        await asyncio.sleep(0)
    connection.connection_lost(None)
    async with asyncio.timeout(10):  # Whatever came, it ends.
        with suppress(ConnectionBroke, NotHttp):
            await (await asked).read()


def engine_http(rng: random.Random) -> None:
    _LOOP.run_until_complete(_http(rng))


def token_ids(rng: random.Random) -> None:
    """As a renderer writes them: what is taken as text is what JSON says it is."""
    text = mutated(rng, rng.choice((b"[1,2,3]", b"[1, 20, 4294967295]", b"[]", b"[0]")))
    try:
        ids = TokenIds(text)
        numbers = ids.first(len(ids)).tolist()
    except (ValueError, OverflowError):  # msgspec's errors are ValueErrors.
        return
    assert numbers == json.loads(text) == json.loads(bytes(ids.json()))
    take_out(altered(rng, b'[{"token_ids": [1, 2], "sampling_params": {}}]', msgspec.json))


def engine_errors(rng: random.Random) -> None:
    body = altered(rng, _ERROR, msgspec.json)
    error_message(body)
    error_status(body)
    refusal("e", rng.choice((400, 429, 500, 503)), rng.choice((None, "1", "x", "1e999")), body)
    _counts_in(body)
    without_cached_tokens(mutated(rng, _EVENTS), message=rng.random() < 0.5)
    assert counts_told(without_last_usage(mutated(rng, _USAGE_EVENTS))).prompt >= 0


_SOURCE = b'{"0": {"endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:5558"}}'


def engine_sources(rng: random.Random) -> None:
    with suppress(EngineError):
        source_of("e", 200, altered(rng, _SOURCE, msgspec.json))


# deployment files

_DEPLOYMENT = yaml.safe_dump(
    {
        "clusters": [
            {
                "name": "west",
                "kind": "pd",
                "engines": [{"name": "d", "role": "decode", "url": "http://127.0.0.1:1"}],
                "agent": {"name": "a", "socket": "/s", "arena": "4 MiB", "plaintext": True},
            }
        ],
        "links": [{"from": "west", "to": "west", "rate": "1 Gbit/s"}],
        "gateway": {"listen": "127.0.0.1:1", "api_keys": ["k"], "request_deadline": "3 s"},
        "scheduler": {"policy": "threshold", "threshold": 10},
    }
).encode()


def deployment_file(rng: random.Random) -> None:
    with suppress(ConfigError):
        parse_deployment(altered(rng, _DEPLOYMENT, msgspec.yaml), source="fuzz")


TARGETS: tuple[Callable[[random.Random], None], ...] = (
    http_door, tunnel_head, tunnel_answer, engine_http, engine_stream, token_ids, engine_errors,
    engine_sources, deployment_file,
)  # fmt: skip
