"""Which rows of a table are free."""

from __future__ import annotations

from array import array

import numpy as np

from prfaas.index.open_table import Rows


class FreeRows:
    """Rows from 0 on. Whoever takes them sees to it that there are so many."""

    def __init__(self) -> None:
        self._freed = array("I")
        self.fresh = 0
        """No row from here on was ever taken."""

    def take_one(self) -> int:
        """One that was freed, where there is one."""
        return self._freed.pop() if self._freed else int(self.take(1)[0])

    def take(self, count: int) -> Rows:
        """The same of several."""
        again = min(count, len(self._freed))
        rows = np.empty(count, np.int64)
        if again:
            rows[:again] = self._freed[len(self._freed) - again :]
            del self._freed[len(self._freed) - again :]
        rows[again:] = np.arange(self.fresh, self.fresh + count - again)
        self.fresh += count - again
        return rows

    def give_back(self, row: int) -> None:
        """It is free."""
        self._freed.append(row)
