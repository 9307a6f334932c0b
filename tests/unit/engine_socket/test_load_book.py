"""Loads of one connection."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest

from prfaas.core.extents import Extent
from prfaas.engine_socket.errors import AgentUnavailable, TransferUnusable
from prfaas.engine_socket.load_book import LoadBook
from prfaas.engine_socket.messages import LoadedPart, LoadFailed, LoadReady


def ready(number: int, *extents: Extent) -> LoadReady:
    return LoadReady(number, (LoadedPart(0, 16, extents),))


def test_a_load_is_answered_and_closed_once() -> None:
    book = LoadBook(100)
    number, future = book.open()
    answer = ready(number, Extent(0, 10, 20), Extent(20, 90, 10))
    for tell in book.answered(answer):
        tell()
    assert future.result(0) == answer.parts
    assert book.answered(answer) == []
    assert len(book) == 1
    assert book.close(number)
    assert not book.close(number)
    assert book.answered(answer) == []


@pytest.mark.parametrize(
    "extents",
    [
        (Extent(0, 90, 20),),
        (Extent(0, -1, 20),),
        (Extent(5, 0, 20),),
        (Extent(0, 0, 0),),
        (Extent(0, 0, 10), Extent(20, 10, 10)),
    ],
)
def test_extents_outside_the_arena_or_with_gaps_are_refused(extents: tuple[Extent, ...]) -> None:
    book = LoadBook(100)
    number, future = book.open()
    for tell in book.answered(ready(number, *extents)):
        tell()
    with pytest.raises(TransferUnusable):
        future.result(0)


def test_a_failed_load_says_why() -> None:
    book = LoadBook(100)
    number, future = book.open()
    for tell in book.answered(LoadFailed(number, "not here")):
        tell()
    with pytest.raises(TransferUnusable, match="not here"):
        future.result(0)


def test_with_the_connection_go_those_without_an_answer() -> None:
    book = LoadBook(100)
    first, had = book.open()
    _, waits = book.open()
    _, cancelled = book.open()
    for tell in book.answered(ready(first, Extent(0, 0, 10))):
        tell()
    cancelled.cancel()
    for tell in book.connection_lost(AgentUnavailable("gone")):
        tell()
    assert had.result(0)
    with pytest.raises(AgentUnavailable):
        waits.result(0)
    with pytest.raises(CancelledError):
        cancelled.result(0)
