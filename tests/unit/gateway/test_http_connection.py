"""Answers as they may come: in pieces, without an end, in no HTTP at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from prfaas.gateway import http_answer
from prfaas.gateway.http_answer import Answer, ConnectionBroke, NotHttp, Timeouts
from prfaas.gateway.http_client import HttpClient
from prfaas.testing.mock_deployment import until
from prfaas.testing.raw_server import Talk, talking

QUICK = Timeouts(20.0)


@asynccontextmanager
async def asked(
    reply: Talk, timeouts: Timeouts = QUICK, data: bytes = b""
) -> AsyncIterator[Answer]:
    """The answer of a server that does as ``reply`` says."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reply(reader, writer)

    client = HttpClient()
    async with talking(talk) as url:
        try:
            async with await client.request(
                "POST", url, "/", data=data, timeouts=timeouts
            ) as answer:
                yield answer
        finally:
            await client.close()


def says(*pieces: bytes, hangs: bool = False) -> Talk:
    """These bytes, then the end of the connection, or nothing more."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if hangs:
            await reader.read()

    return reply


class Nowhere:
    """A connection of which nothing comes by itself."""

    def abort(self) -> None: ...

    def go_on(self) -> None: ...


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD + b"Content-Length: 5\r\n\r\nhello"],
        [HEAD + b"Content-Length: 5\r\n\r\n", b"hel", b"lo"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"],
        [HEAD + b"\r\nhel", b"lo"],  # It ends with the connection.
        [b"HTTP/1.1 103 Early\r\nContent-Type: x/y\r\n\r\n" + HEAD + b"\r\n", b"hello"],
        [b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nhello"],
    ],
)
async def test_a_body_is_whole_however_its_end_is_told(pieces: list[bytes]) -> None:
    async with asked(says(*pieces)) as answer:
        assert answer.status == 200
        assert answer.header("CONTENT-TYPE") == "text/plain"
        assert answer.header("Retry-After") is None
        assert await answer.read() == b"hello"


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        HEAD + b"X: " + b"x" * 200_000,
        b"HTTP/1.1 101 Other\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_refused(said: bytes) -> None:
    with pytest.raises(NotHttp):
        async with asked(says(said, hangs=True)):
            pass


async def all_of(answer: Answer) -> bytes:
    return b"".join([piece async for piece in answer.pieces()])


@pytest.mark.parametrize(
    "said",
    [HEAD + b"Content-Length: 5\r\n\r\nhel", HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe"],
)
async def test_a_body_that_breaks_off_is_an_error_after_what_came(said: bytes) -> None:
    async with asked(says(said)) as answer:
        assert b"hello".startswith(await answer.read_any())
        with pytest.raises(ConnectionBroke):
            await all_of(answer)
    async with asked(says(said)) as answer:
        with pytest.raises(ConnectionBroke):
            await answer.read()


async def test_lines_are_whole_and_bounded() -> None:
    body = HEAD + b"\r\n"
    async with asked(says(body, b"a", b"b\nc\n\nd", b"\nrest")) as answer:
        assert [line async for line in answer.lines(10)] == [b"ab", b"c", b"", b"d", b"rest"]
    async with asked(says(body, b"a\n" + b"b" * 100)) as answer:
        with pytest.raises(ValueError, match="without an end"):
            assert [line async for line in answer.lines(10)]


async def test_silence_and_slowness_are_told() -> None:
    with pytest.raises(TimeoutError):
        async with asked(says(hangs=True), Timeouts(0.01)):
            pass
    said = HEAD + b"Content-Length: 5\r\n\r\nhel"
    async with asked(says(said, hangs=True), Timeouts(None, read_s=0.01)) as answer:
        assert await answer.read_any() == b"hel"
        with pytest.raises(TimeoutError):
            await answer.read_any()


async def test_who_closes_an_answer_ends_whoever_reads_it() -> None:
    async with asked(says(HEAD + b"Content-Length: 5\r\n\r\n", hangs=True)) as answer:
        reading = asyncio.ensure_future(answer.read_any())
        await asyncio.sleep(0)
        answer.close()
        with pytest.raises(ConnectionBroke):
            await reading


async def test_an_answer_that_is_left_frees_its_connection_when_it_ends() -> None:
    said = asyncio.Event()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n")
        await said.wait()
        writer.write(b"3\r\nllo\r\n0\r\n\r\n")
        await reader.read()

    async with asked(reply) as answer:
        assert await answer.read_any() == b"he"
        answer.leave()
        answer.close()
        assert answer._connection.is_open  # type: ignore[attr-defined]
        said.set()
        await until(lambda: answer._ended)
        assert not answer._parts
        assert answer._connection.is_open  # type: ignore[attr-defined]


@pytest.mark.parametrize("endless", [True, False])
async def test_an_answer_that_is_left_and_does_not_end_is_closed(
    endless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not endless:
        monkeypatch.setattr(http_answer, "_LEFT_S", 0.01)

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\nhello")
        while endless:
            writer.write(bytes(1 << 16))
            await writer.drain()
        await reader.read()

    async with asked(reply) as answer:
        answer.leave()
        await until(lambda: not answer._connection.is_open)  # type: ignore[attr-defined]


async def test_what_is_not_read_is_not_taken_from_the_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_answer, "_MOST_HELD", 1000)
    sent = 0

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        size = 64 << 20
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(bytes(1 << 16))
            sent += 1 << 16
            await writer.drain()

    async with asked(reply) as answer:
        come = len(await answer.read_any())
        await until(lambda: answer._held >= 1000)
        assert answer._connection._paused  # type: ignore[attr-defined]
        assert sent < 64 << 20
        while data := await answer.read_any():
            come += len(data)
        assert come == sent == 64 << 20


async def test_a_server_may_answer_before_it_has_read_all() -> None:
    served = 0

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        writer.write(b"HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async with asked(reply, data=bytes(64 << 20)) as answer:
        assert answer.status == 413
        assert not answer._connection.is_open  # type: ignore[attr-defined]  # What was not sent is never part of another.
    assert served == 1


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "more",
    [b"0\r\n" + b"X-A: b\r\n" * 100_000, b"0\r\nX-A: " + b"b" * 800_000, b"1;" + b"a" * 800_000],
    ids=["fields behind the body", "a field behind the body", "what is said of a chunk"],
)
async def test_what_comes_in_place_of_a_body_is_bounded(more: bytes) -> None:
    async with asked(says(CHUNKED + b"2\r\nhe\r\n", more, hangs=True)) as answer:
        with pytest.raises(NotHttp, match="has no end"):
            await answer.read()
        assert len(answer._fields) == 2, "what follows the body is kept by nobody"


async def test_an_answer_may_come_in_small_pieces() -> None:
    async with asked(says(CHUNKED, b"1\r\nx\r\n" * 100_000, b"0\r\nX-A: b\r\n\r\n")) as answer:
        assert await answer.read() == b"x" * 100_000
        assert answer.header("X-A") is None


async def test_of_lines_that_say_all_anew_the_last_is_taken() -> None:
    async with asked(says(HEAD + b"\r\na\nb\nc\nd")) as answer:
        assert [line async for line in answer.newest(10, 0.0)] == [b"c", b"d"]
    async with asked(says(HEAD + b"\r\na\n" + b"b" * 100)) as answer:
        with pytest.raises(ValueError, match="without an end"):
            assert [line async for line in answer.newest(10, 0.0)]


async def test_a_line_that_comes_byte_by_byte_is_not_looked_at_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = []

    class Counting(bytearray):
        def rpartition(self, *args: Any) -> Any:
            looked.append(len(self))
            return super().rpartition(*args)

    monkeypatch.setattr(http_answer, "bytearray", Counting, raising=False)
    answer = Answer(Nowhere(), QUICK)
    answer.begin(200)

    async def come() -> None:
        for piece in (b"a" * 1000, *[b"b"] * 100, b"\nc"):
            answer.add(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        answer.end()

    coming = asyncio.ensure_future(come())
    found = [line async for line in answer.newest(10_000, 0.0)]
    assert found == [b"a" * 1000 + b"b" * 100, b"c"]
    assert len(looked) == 1
    await coming


async def test_whoever_takes_lines_lets_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_answer, "_TURN_S", 0.0)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with asked(says(HEAD + b"\r\n" + b"\n" * 1000)) as answer:
        running = asyncio.ensure_future(others())
        lines = [line async for line in answer.lines(10)]
        running.cancel()
    assert len(lines) == 1000
    assert turns >= 1000
