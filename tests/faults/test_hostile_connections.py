"""Connections that mean harm, at every HTTP listener: each is ended or bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.faults.doors import DOORS, LINE, SAYS, Door

from prfaas.process import front_door, http_handler
from prfaas.testing.mock_deployment import until

FLOODS = {
    "endless headers": (LINE, b"X-%d: " + b"a" * 4000 + b"\r\n"),
    "an endless line": (b"GET /", b"%d" + b"a" * 4000),
    "an endless CONNECT": (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n", b"X-%d: " + b"a" * 1000 + b"\r\n"),
    "chunks without end": (
        b"PUT /gateways/abcdefgh HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"fa0\r\n%4d" + b"a" * 3996 + b"\r\n",
    ),
    "trailers without end": (
        b"PUT /gateways/abcdefgh HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"X-%d: " + b"a" * 4000 + b"\r\n",
    ),
    "what follows another protocol": (
        LINE + b"Connection: upgrade\r\nUpgrade: another\r\n\r\n",
        b"%4d" + b"a" * 3996,
    ),
}
"""How it begins, and what follows again and again."""
_MOST_SENT = 8 * 1024 * 1024


@pytest.fixture(params=DOORS)
async def door(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Door]:
    async with DOORS[request.param](tmp_path) as found:
        yield found


async def test_who_says_half_of_something_is_ended(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every kind a few: none stays, none is taken for somebody who may be here."""
    monkeypatch.setattr(http_handler.read_body, "__kwdefaults__", {"within_s": 0.1})
    opened = [(said, *await door.connect()) for said in SAYS.values() for _ in range(3)]
    for said, _, writer in opened:
        writer.write(said)
    await door.well()
    door.book._stranger_s = 0.0
    for _, reader, writer in opened:
        try:
            while await reader.read(65536):
                pass
        except OSError:
            pass
        writer.transport.abort()
    await until(lambda: (door.book.strangers, door.book.busy) == (0, 0))


@pytest.mark.parametrize("flood", FLOODS)
async def test_what_does_not_end_is_refused(
    flood: str, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "_LINGER_S", 0.0)
    reader, writer = await door.connect()
    begins, again = FLOODS[flood]
    sent = 0
    writer.write(begins)
    try:
        while not reader.at_eof() and sent < _MOST_SENT:
            writer.write(again % (sent % 10_000))
            sent += len(again)
            await writer.drain()
            await asyncio.sleep(0)
    except OSError:
        pass
    writer.transport.abort()
    assert sent < _MOST_SENT
    await door.well()
    await until(lambda: door.book.busy == 0)


async def test_one_line_without_headers_is_no_request(door: Door) -> None:
    """HTTP/0.9."""
    reader, writer = await door.connect()
    writer.write(b"GET /health\r\n")
    writer.write_eof() if writer.can_write_eof() else None
    door.book._stranger_s = 0.5
    try:
        answer = await reader.read()
    except OSError:
        answer = b""
    assert not answer or b" 400 " in answer.split(b"\r\n", 1)[0]
    writer.transport.abort()
