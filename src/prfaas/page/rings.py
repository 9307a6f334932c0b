"""What is kept of the past, in bounded memory."""

from __future__ import annotations

from collections import deque


class Ring:
    """The newest encoded rows, at most ``most`` of them and at most ``most_bytes``."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._rows: deque[bytes] = deque()
        self._most, self._most_bytes = most, most_bytes
        self.bytes = 0
        """Of all rows together."""

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: bytes) -> None:
        """One more; the oldest go where there are too many."""
        self._rows.append(row)
        self.bytes += len(row)
        while len(self._rows) > self._most or self.bytes > self._most_bytes:
            self.bytes -= len(self._rows.popleft())

    def rows(self) -> list[bytes]:
        """Oldest first."""
        return list(self._rows)


class Samples:
    """Each sample for some minutes, then one in so many for hours.

    Args:
        fine: how many of the newest are kept as they come.
        every: of older ones, one in so many is kept.
        coarse: how many of those.
        most_bytes: of all together.
    """

    def __init__(
        self,
        *,
        fine: int = 600,
        every: int = 10,
        coarse: int = 1080,
        most_bytes: int = 32 << 20,
    ) -> None:
        self._fine: deque[bytes] = deque()
        self._most_fine, self._every = fine, every
        self._coarse = Ring(coarse, most_bytes // 2)
        self._most_bytes = most_bytes // 2
        self._bytes = self._aged = 0

    def add(self, sample: bytes) -> None:
        """The newest."""
        self._fine.append(sample)
        self._bytes += len(sample)
        while len(self._fine) > self._most_fine or self._bytes > self._most_bytes:
            old = self._fine.popleft()
            self._bytes -= len(old)
            if self._aged % self._every == 0:
                self._coarse.add(old)
            self._aged += 1

    def rows(self) -> list[bytes]:
        """Oldest first."""
        return [*self._coarse.rows(), *self._fine]


def as_list(rows: list[bytes]) -> bytes:
    """Encoded rows as one JSON list."""
    return b"[" + b",".join(rows) + b"]"
