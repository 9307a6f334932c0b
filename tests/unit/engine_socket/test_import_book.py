"""One connection's open imports, without a connection."""

from __future__ import annotations

import pytest

from prfaas.core.extents import Extent
from prfaas.engine_socket.errors import AgentUnavailable, TransferUnusable
from prfaas.engine_socket.import_book import ImportBook
from prfaas.engine_socket.messages import CloseImport, ImportFailed, ImportReady, OpenImport

REQUEST = OpenImport("x", 0, 16, 8)
EXTENTS = (Extent(0, 64, 5), Extent(5, 0, 3))


def test_users_of_a_transfer_share_one_request() -> None:
    book = ImportBook()
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
    book = ImportBook()
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
    book = ImportBook()
    done, _ = book.open(REQUEST)
    book.answered(ImportReady("x", EXTENTS))
    waiting, _ = book.open(OpenImport("y", 0, 16, 8))
    for resolve in book.connection_lost(AgentUnavailable("gone")):
        resolve()
    with pytest.raises(AgentUnavailable):
        waiting.future.result()
    assert done.extents == EXTENTS
    assert len(book) == 1


def test_one_transfer_has_one_size() -> None:
    book = ImportBook()
    book.open(REQUEST)
    with pytest.raises(ValueError, match="differs"):
        book.open(OpenImport("x", 0, 16, 9))
