"""One connection's open imports, without a connection."""

from __future__ import annotations

import pytest

from prfaas.core.extents import Extent
from prfaas.engine_socket.errors import AgentUnavailable, TransferUnusable
from prfaas.engine_socket.import_book import ImportBook
from prfaas.engine_socket.messages import CloseImport, ImportFailed, ImportReady, OpenImport
from prfaas.testing.mock_engine_rank import MOCK_DIGEST

ARENA_BYTES = 128
REQUEST = OpenImport("x", 0, 16, 8, MOCK_DIGEST)
EXTENTS = (Extent(0, 64, 5), Extent(5, 0, 3))


def test_users_of_a_transfer_share_one_request() -> None:
    book = ImportBook(ARENA_BYTES)
    one, must_send = book.open(REQUEST)
    two, again = book.open(REQUEST)
    assert (must_send, again, len(book)) == (True, False, 1)
    for resolve in book.answered(ImportReady("x", EXTENTS)):
        resolve()
    assert one.future.result() == two.future.result() == EXTENTS
    assert one.extents == EXTENTS
    assert book.close(one) is None
    assert book.close(two) == CloseImport("x")
    assert book.close(two) is None
    assert len(book) == 0


def test_an_answer_belongs_to_the_oldest_request() -> None:
    book = ImportBook(ARENA_BYTES)
    old, _ = book.open(REQUEST)
    book.close(old)
    new, must_send = book.open(REQUEST)
    assert must_send
    assert book.answered(ImportReady("x", EXTENTS)) == []
    for resolve in book.answered(ImportFailed("x", "dropped")):
        resolve()
    with pytest.raises(TransferUnusable, match="dropped"):
        new.future.result()
    assert book.answered(ImportFailed("x", "nobody asked")) == []


def test_a_lost_connection_fails_only_what_waits() -> None:
    book = ImportBook(ARENA_BYTES)
    done, _ = book.open(REQUEST)
    book.answered(ImportReady("x", EXTENTS))
    waiting, _ = book.open(OpenImport("y", 0, 16, 8, MOCK_DIGEST))
    for resolve in book.connection_lost(AgentUnavailable("gone")):
        resolve()
    with pytest.raises(AgentUnavailable):
        waiting.future.result()
    assert done.extents == EXTENTS
    assert len(book) == 1


def test_one_transfer_has_one_size() -> None:
    book = ImportBook(ARENA_BYTES)
    book.open(REQUEST)
    with pytest.raises(ValueError, match="differs"):
        book.open(OpenImport("x", 0, 16, 9, MOCK_DIGEST))


@pytest.mark.parametrize(
    "extents",
    [
        (Extent(0, 0, 7),),
        (Extent(0, 0, 5), Extent(6, 8, 3)),
        (Extent(0, 0, 8), Extent(8, 8, 0)),
        (Extent(0, ARENA_BYTES - 7, 8),),
        (Extent(0, -1, 8),),
    ],
    ids=["short", "gap", "empty", "beyond the arena", "before the arena"],
)
def test_bytes_that_are_not_the_transfers_are_refused(extents: tuple[Extent, ...]) -> None:
    book = ImportBook(ARENA_BYTES)
    ticket, _ = book.open(REQUEST)
    for resolve in book.answered(ImportReady("x", extents)):
        resolve()
    with pytest.raises(TransferUnusable, match="not those of x"):
        ticket.future.result()
    assert book.close(ticket) == CloseImport("x")
