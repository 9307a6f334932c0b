"""Kept prefixes by name: what it takes to find them does not grow with those that are not meant."""

from __future__ import annotations

from prfaas.core.prefixes import Prefix, chain, root_digest
from prfaas.link.api import TransferKey
from prfaas.pool.entries import Entries
from prfaas.pool.kept import KeptPrefix

BLOCK, SHARED = 16, 32
ROOT = root_digest("w", adapter=None, salt=None)


class Looked:
    """An entry that counts how often anybody looks what it is."""

    def __init__(self, number: int, *, own_blocks: int = 2) -> None:
        own = range(1000 * number, 1000 * number + own_blocks * BLOCK)
        tokens = [*range(SHARED * BLOCK), *own]
        prefix = Prefix(BLOCK, 0, ROOT, chain(ROOT, tokens, BLOCK))
        key = TransferKey(f"t{number}", 0, 1)
        self._what = KeptPrefix(key, "l", prefix, len(tokens), 100, 0, needs_state=False)
        self.looks = 0

    @property
    def what(self) -> KeptPrefix:
        self.looks += 1
        return self._what


def test_behind_one_system_prompt_those_that_end_elsewhere_are_not_looked_at() -> None:
    """They share every block of it: to look at each at every block takes a square of them."""
    entries: Entries[Looked] = Entries()
    others = [Looked(number) for number in range(1, 50)]
    for other in others:
        entries.add(other)
    inside, new = Looked(0, own_blocks=0), Looked(99)
    entries.add(inside)
    for other in others:
        other.looks = 0
    assert entries.replaced_by(new.what) == [inside]
    assert sum(other.looks for other in others) == 0
    entries.check_integrity()


def test_an_end_goes_with_its_entry() -> None:
    entries: Entries[Looked] = Entries()
    short, new = Looked(0, own_blocks=0), Looked(1)
    entries.add(short)
    entries.remove(short)
    entries.check_integrity()
    assert entries.replaced_by(new.what) == []
