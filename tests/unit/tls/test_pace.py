"""A connection over which many small records have come waits as long as it is told to, once."""

from __future__ import annotations

import asyncio

import pytest

from prfaas.tls.pace import FEW_RECORDS, Pace
from prfaas.tls.records import Watched


class _Paced:
    """A connection, and what was done with it."""

    def __init__(self) -> None:
        self.done: list[str | int] = []
        self.goes_on = asyncio.Event()
        self.watched = Watched(lambda: None)
        self.pace = Pace(self.watched, self._comes_in_s, pause=self._pause, resume=self._resume)

    def _comes_in_s(self, records: int) -> float:
        self.done.append(records)
        return 0.01

    def _pause(self) -> None:
        assert self.pace.holds
        self.done.append("pause")

    def _resume(self) -> None:
        assert not self.pace.holds
        self.done.append("resume")
        self.goes_on.set()

    def comes(self, records: int, each: int = 1) -> None:
        for _ in range(records):
            self.watched.comes_record()
        self.pace.came(records * each)


async def test_it_is_not_read_until_as_many_would_have_come() -> None:
    paced = _Paced()
    for _ in range(2):
        paced.goes_on.clear()
        paced.comes(1000)
        paced.comes(1000)  # What the loop had deciphered already.
        await asyncio.wait_for(paced.goes_on.wait(), 60.0)
    assert paced.done == ["pause", 1000 - 1000 // 64, "resume"] * 2


@pytest.mark.parametrize(("records", "each"), [(FEW_RECORDS, 1), (10_000, 64)])
async def test_a_few_or_large_ones_are_no_matter(records: int, each: int) -> None:
    paced = _Paced()
    paced.comes(records, each)
    assert not paced.done
    assert not paced.pace.holds
