"""Connections that mean harm, at every HTTP listener: each is ended or bounded."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import StreamReader
from aiohttp.http_parser import DeflateBuffer
from tests.faults.doors import DOORS, LINE, SAYS, Door

from prfaas.process import front_door, http_handler
from prfaas.process.taking_turns import _PIECE_BYTES, TakingTurns
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


def _bomb() -> bytes:
    packing = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packing.compress(bytes(1 << 20)) for _ in range(128))
    return b"%x\r\n%b\r\n" % (len(packed), packed)


@pytest.mark.parametrize(
    ("coding", "body"),
    [(b"Content-Encoding: gzip\r\n", _bomb()), (b"", b"1\r\na\r\n" * 500_000)],
    ids=["a bomb", "chunks of a byte"],
)
async def test_a_body_that_is_not_wanted_is_not_taken_apart(
    coding: bytes, body: bytes, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be for seconds, in which nobody else has a turn."""
    monkeypatch.setattr(front_door, "_LINGER_S", 1.0)
    feed, pieces = StreamReader.feed_data, list[int]()

    def fed(reader: StreamReader, data: bytes, size: int = 0) -> bool:
        if data.count(0) + data.count(b"a") == len(data):  # Others speak here as well.
            pieces.append(len(data))
        return feed(reader, data, size)

    monkeypatch.setattr(StreamReader, "feed_data", fed)
    reader, writer = await door.connect()
    head = b"PUT /gateways/abcdefgh HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
    writer.write(head + coding + b"\r\n")
    answer = b""
    with suppress(OSError):
        writer.write(body)
        await writer.drain()
        while data := await reader.read(65536):
            answer += data
    writer.transport.abort()
    if answer:  # Where TLS is spoken, there is none.
        assert answer.split(b" ")[1] in (b"400", b"401", b"403", b"404", b"405", b"413", b"415")
        assert b"connection: close" in answer.lower()
    assert sum(pieces) < 8 << 20
    assert len(pieces) < 250_000
    await door.well()


async def test_what_is_dropped_is_read_a_piece_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS a loop deciphers all that there is, megabytes in records of a byte, at once."""
    pauses = list[bool]()
    pause = TakingTurns._pause_transport_reading

    def paused(handler: TakingTurns) -> None:
        pauses.append(bool(getattr(handler, "_unwanted", False)))
        pause(handler)

    monkeypatch.setattr(TakingTurns, "_pause_transport_reading", paused)
    monkeypatch.setattr(front_door, "_LINGER_S", 0.5)
    async with DOORS["gateway"](tmp_path) as door:
        reader, writer = await door.connect()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n"
        writer.write(head)
        assert b" 401 " in await reader.readline()
        before = pauses.count(True)
        for _ in range(3):
            writer.write(b"a" * 1000)
            await asyncio.sleep(0.05)
        assert pauses.count(True) - before == 3
        with suppress(OSError):
            await reader.read()  # Its end, though this end says none.
        writer.transport.abort()


async def test_a_small_body_that_is_not_wanted_costs_no_connection(tmp_path: Path) -> None:
    """Clients send it after the head, and ask again."""
    async with DOORS["gateway"](tmp_path) as door:
        reader, writer = await door.connect()
        for _ in range(3):
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 401 " in head
            assert b"connection: close" not in head.lower()
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(size)
            writer.write(b"{}")
        writer.transport.abort()


async def test_who_leaves_before_it_is_told_to_go_on_writes_no_traceback(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred bytes of a stranger's were 1.3 kB of the log."""
    head = LINE.replace(b"GET", b"POST") + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    for _ in range(5):
        _, writer = await door.connect()
        writer.write(head)
        writer.transport.close()
    await until(lambda: not door.book.strangers)
    await door.well()
    assert not [record for record in caplog.records if record.exc_info]


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


@asynccontextmanager
async def unpacked(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[int]]:
    """How many pieces were unpacked in each turn of the loop."""
    feed, turns = DeflateBuffer.feed_data, [0]

    def fed(unpacking: DeflateBuffer, data: bytes, size: int) -> bool:
        turns[-1] += 1
        return feed(unpacking, data, size)

    async def turn() -> None:
        while True:
            turns.append(0)
            await asyncio.sleep(0)

    monkeypatch.setattr(DeflateBuffer, "feed_data", fed)
    turning = asyncio.ensure_future(turn())
    try:
        yield turns
    finally:
        turning.cancel()


@pytest.mark.parametrize("wanted", [False, True], ids=["refused", "taken"])
async def test_chunks_of_which_nothing_comes_are_taken_apart_in_turns(
    wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed, all of them are of a name that does not end: no reader sees any of it."""
    async with DOORS["gateway"](tmp_path) as door, unpacked(monkeypatch) as turns:
        reader, writer = await door.connect()
        key = b"secret" if wanted else b"another"
        head = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %b\r\n" % key
        head += b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
        writer.write(head + b"a\r\n\x1f\x8b\x08\x08\0\0\0\0\0\3\r\n" + b"1\r\na\r\n" * 40_000)
        if wanted:
            await until(lambda: sum(turns) > 10_000)
        else:
            assert b" 401 " in await reader.readline()
        writer.transport.abort()
        await door.well()
    assert max(turns) < 2_000
    assert sum(turns) < 30_000 if wanted else not sum(turns)


async def test_packed_parts_of_which_nothing_comes_are_unpacked_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kilobyte has fifty of them, and no reader sees any of it."""
    body = gzip.compress(b"") * 3_000
    head = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer secret\r\n"
    head += b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with DOORS["gateway"](tmp_path) as door, unpacked(monkeypatch) as turns:
        reader, writer = await door.connect()
        writer.write(head + body)
        assert b" 400 " in await reader.readline()  # All of it is an empty body.
        writer.transport.abort()
    assert sum(turns) >= len(body) // _PIECE_BYTES
    assert max(turns) <= 2


async def test_requests_behind_one_another_wait_two_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands come in one go: as messages they would be megabytes, which take long to make."""
    take_apart, waiting = TakingTurns.take_apart, list[int]()

    def taken(handler: TakingTurns, data: bytes) -> None:
        take_apart(handler, data)
        waiting.append(len(handler._messages))

    monkeypatch.setattr(TakingTurns, "take_apart", taken)
    async with DOORS["gateway"](tmp_path) as door:
        reader, writer = await door.connect()
        writer.write((LINE + b"\r\n") * 3000)
        for _ in range(3000):
            assert b" 200 " in (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
        writer.transport.abort()
    assert max(waiting) == 2


async def test_empty_lines_before_a_request_are_taken_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_apart, pieces = TakingTurns.take_apart, list[int]()

    def taken(handler: TakingTurns, data: bytes) -> None:
        pieces.append(len(data))
        take_apart(handler, data)

    monkeypatch.setattr(TakingTurns, "take_apart", taken)
    async with DOORS["gateway"](tmp_path) as door:
        reader, writer = await door.connect()
        for _ in range(2):
            writer.write(b"\r\n" * 14_000 + LINE + b"\r\n")
            assert b" 200 " in (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
        assert len(pieces) < 20
        writer.write(b"\r\n" * 20_000)  # They are of a head.
        assert b" 431 " in await reader.readline()
        writer.transport.abort()


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
@pytest.mark.parametrize("before", [b"", b"behind a body"])
async def test_whose_body_is_refused_has_none_of_it_taken_apart_wherever_its_head_is(
    before: bytes, cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head is taken some kilobytes at a time."""
    feed, fed = StreamReader.feed_data, [0]

    def feeds(reader: StreamReader, data: bytes, size: int = 0) -> bool:
        fed[0] += data == b"~"
        return feed(reader, data, size)

    monkeypatch.setattr(StreamReader, "feed_data", feeds)
    begins = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nX-A: "
    begins += b"a" * 4000 + b"\r\nX-B: "
    async with DOORS["gateway"](tmp_path) as door:
        reader, writer = await door.connect()
        size = (_PIECE_BYTES if not before else 5000) - len(begins) - cut
        head = begins + b"b" * size + b"\r\n\r\n"
        if before:
            line = b"GET /v1/models HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(before)
            head = line + before + head
        writer.write(head + b"1\r\n~\r\n" * 1000)
        for _ in range(2 if before else 1):
            await reader.readuntil(b"HTTP/1.1 401 ")
        writer.transport.abort()
    assert fed == [0]


async def test_a_packed_body_that_is_refused_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was before anybody had looked whether it is wanted: a megabyte for each stranger."""
    unpacked = list[int]()

    def feeds(_: DeflateBuffer, data: bytes, size: int) -> bool:
        unpacked.append(size)
        return False

    monkeypatch.setattr(DeflateBuffer, "feed_data", feeds)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\n"
    async with DOORS["gateway"](tmp_path) as door:
        reader, writer = await door.connect()
        writer.write(head + b"Content-Length: 50000\r\n\r\n" + _bomb()[:50_000])
        assert b" 401 " in await reader.readline()
        writer.transport.abort()
    assert not unpacked


async def test_a_head_of_more_than_32_kib_is_told_so(tmp_path: Path) -> None:
    """Each of its lines, and their number, could be a client's."""
    async with DOORS["gateway"](tmp_path) as door:
        reader, writer = await door.connect()
        await door.well()
        writer.write(LINE + b"".join(b"X-%d: " % n + b"a" * 1000 + b"\r\n" for n in range(40)))
        assert b" 431 " in await reader.readline()
        assert await reader.read()  # And no more than that: the connection is closed.
        writer.transport.abort()
