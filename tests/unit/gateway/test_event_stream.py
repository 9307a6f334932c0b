"""An engine's events go out whole, however its bytes come."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.gateway import event_stream
from prfaas.gateway.event_stream import EventStream, _without_comments
from prfaas.gateway.usage import without_cached_tokens

ENDS = (b"\n\n", b"\r\n\r\n")


@given(
    events=st.lists(
        st.tuples(st.binary(max_size=8), st.sampled_from(ENDS)).map(
            lambda made: b":" + made[0].replace(b"\n", b"").replace(b"\r", b"") + made[1]
        )
    ),
    rest=st.sampled_from([b"", b"data: ha"]),
    cuts=st.lists(st.integers(0, 80)),
)
def test_a_stream_is_passed_on_byte_for_byte_in_whole_events(
    events: list[bytes], rest: bytes, cuts: list[int]
) -> None:
    sent = b"".join(events) + rest
    places = sorted({min(cut, len(sent)) for cut in cuts} | {0, len(sent)})
    passed = asyncio.run(pass_on([sent[a:b] for a, b in pairwise(places)]))
    assert b"".join(passed) == sent
    assert all(piece.endswith(ENDS) for piece in passed[: -1 if rest else None])


async def pass_on(pieces: list[bytes]) -> list[bytes]:
    """What goes out where the engine's bytes come in these pieces."""
    coming = iter(pieces)

    async def read_any() -> bytes:
        return next(coming, b"")

    answer = SimpleNamespace(read_any=read_any)
    stream = EventStream("e", answer, on_heard=lambda: None)  # type: ignore[arg-type]
    passed: list[bytes] = []
    while piece := await stream.next():
        passed.append(piece)
    return passed


def test_what_is_held_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_LONGEST_EVENT", 1000)
    passed = asyncio.run(pass_on([b"1" * 600, b"2" * 401, b"3\n", b"\n4", b"5"]))
    first = passed[0]
    assert 900 < len(first) < 1001
    assert b"".join(passed) == b"1" * 600 + b"2" * 401 + b"3\n\n45"
    assert passed[1].endswith(b"3\n\n")
    assert passed[2:] == [b"45"]


@pytest.mark.parametrize("size", range(0, 60, 3))
def test_what_says_how_much_was_cached_is_in_one_piece(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it could not be taken out where others' caches are shared."""
    monkeypatch.setattr(event_stream, "_LONGEST_EVENT", 1000)
    counts = b'"input_tokens_details":{"cached_tokens":7}'
    event = b"data: " + b"a" * 1000 + b'"usage":{' + counts + b"}\n\n"
    cut = event.index(b'"usage"') - 5 + size
    passed = asyncio.run(pass_on([event[:cut], event[cut:]]))
    assert b"".join(passed) == event
    assert any(counts in piece for piece in passed)
    told = [without_cached_tokens(each, message=False) for each in passed]
    assert b'cached_tokens":7' not in b"".join(told)


def test_no_part_of_a_long_event_is_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may begin with a colon, of which JSON has many."""
    monkeypatch.setattr(event_stream, "_LONGEST_EVENT", 100)
    pieces = [b": wait\n\n", b'data: {"a"' + b"a" * 90 + b'"' * 24, b":1}\n\n", b""]
    event = b"".join(pieces[1:])
    cut = event.index(b":1}")
    monkeypatch.setattr(event_stream, "before_counts", lambda here: min(cut, len(here)))

    async def firsts() -> list[bytes]:
        coming = iter(pieces)

        async def read_any() -> bytes:
            return next(coming, b"")

        answer = SimpleNamespace(read_any=read_any)
        stream = EventStream("e", answer, on_heard=lambda: None)  # type: ignore[arg-type]
        return [await stream.first(), await stream.first()]

    assert b"".join(asyncio.run(firsts())) == event


def test_an_event_that_ends_with_carriage_returns_does_not_wait_for_the_next() -> None:
    pieces = [b"data: a\r\n\r", b"\ndata: b\r\n\r\n", b"data: c\n\n"]
    assert asyncio.run(pass_on(pieces)) == [
        b"data: a\r\n\r\ndata: b\r\n\r\n",
        b"data: c\n\n",
    ]


def test_comments_before_the_first_event_are_left_out() -> None:
    async def first(pieces: list[bytes]) -> bytes:
        coming = iter(pieces)

        async def read_any() -> bytes:
            return next(coming, b"")

        answer = SimpleNamespace(read_any=read_any)
        return await EventStream("e", answer, on_heard=lambda: None).first()  # type: ignore[arg-type]

    assert asyncio.run(first([b": k\n\n: k\r\n\r\n", b": k\n\ndata: a\n\n"])) == b"data: a\n\n"
    assert asyncio.run(first([b": k\n\n"])) == b""


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (b":\n\n" * 500_000 + b"data: a\n\n", b"data: a\n\n"),
        (b": a\r\n\r\n: b\n\ndata: c\n\n: d\n\n", b"data: c\n\n: d\n\n"),
        (b": a\n\n", b""),
        (b": a", b""),
        (b"data: a\n\n: b\n\n", b"data: a\n\n: b\n\n"),
    ],
    ids=["many", "of both kinds", "nothing else", "torn", "none at first"],
)
def test_comments_before_the_first_event_are_passed_over_in_one_go(
    said: bytes, left: bytes
) -> None:
    assert _without_comments(said) == left
