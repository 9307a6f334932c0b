"""Who goes where one more comes."""

from __future__ import annotations

from prfaas.listening.crowd import Crowd


def crowd(*owners: str) -> Crowd[int]:
    """Items 0, 1, ... of these, in this order."""
    made = Crowd[int]()
    for item, whose in enumerate(owners):
        made.add(item, whose)
    return made


def test_the_oldest_goes() -> None:
    some = crowd("a", "b", "c")
    assert list(some.all) == [0, 1, 2]
    assert some.makes_room("d", 24) == 0


def test_of_many_ones_own_goes() -> None:
    some = crowd("a", "b", "b", "c")
    assert some.makes_room("b", 15) == 1, "two of fifteen are more than an eighth"
    assert some.makes_room("b", 16) == 0, "of sixteen they are not"
    assert some.makes_room("c", 15) == 0


def test_who_is_removed_counts_no_more() -> None:
    some = crowd("a", "b", "b")
    assert some.remove(1, "b")
    assert not some.remove(1, "b"), "it is not there"
    assert list(some.all) == [0, 2]
    assert some.makes_room("b", 15) == 0
    some.add(1, "b")
    assert list(some.all) == [0, 2, 1], "as the newest"
    assert some.makes_room("b", 15) == 2


def test_nothing_is_kept_of_owners_that_have_nothing() -> None:
    some = crowd("a", "a")
    for item in (0, 1):
        some.remove(item, "a")
    assert not some.all
    assert not some._of
