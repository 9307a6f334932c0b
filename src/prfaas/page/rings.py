"""What is kept of the past, in bounded memory."""

from __future__ import annotations

from collections import deque


class Ring:
    """The newest encoded rows, at most ``most`` of them and at most ``most_bytes``.

    They lie in one buffer. As objects of their own they would live for hours between what requests
    take and give back, and the memory around them could not be used again for what is larger.

    Args:
        resident: take all its memory at once, so that it does not grow for hours.
    """

    def __init__(self, most: int, most_bytes: int, *, resident: bool = False) -> None:
        self._buffer = bytearray(1) * most_bytes if resident else bytearray(most_bytes)
        self._spans: deque[tuple[int, int]] = deque()
        """Start and end of each row, the oldest first."""
        self._most = most
        self._end = 0
        """Of the newest."""

    def __len__(self) -> int:
        return len(self._spans)

    def add(self, row: bytes) -> list[bytes]:
        """One more; the oldest go where there are too many, and are returned. A row that is larger
        than all that is kept goes itself."""
        if len(row) > len(self._buffer):
            return [row]
        gone = []
        start, end = self._end, self._end + len(row)
        if end > len(self._buffer):
            while self._spans and self._spans[0][0] >= start:
                gone.append(self._pop())
            start, end = 0, len(row)
        while self._spans and (len(self) == self._most or self._is_in(start, end)):
            gone.append(self._pop())
        self._buffer[start:end] = row
        self._spans.append((start, end))
        self._end = end
        return gone

    def rows(self) -> list[bytes]:
        """Oldest first."""
        return [bytes(self._buffer[start:end]) for start, end in self._spans]

    def _pop(self) -> bytes:
        start, end = self._spans.popleft()
        return bytes(self._buffer[start:end])

    def _is_in(self, start: int, end: int) -> bool:
        first, last = self._spans[0]
        return first < end and start < last


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
        self._fine = Ring(fine, most_bytes // 2)
        self._every = every
        self._coarse = Ring(coarse, most_bytes // 2)
        self._aged = 0

    def add(self, sample: bytes) -> None:
        """The newest."""
        for old in self._fine.add(sample):
            if self._aged % self._every == 0:
                self._coarse.add(old)
            self._aged += 1

    def rows(self) -> list[bytes]:
        """Oldest first."""
        return [*self._coarse.rows(), *self._fine.rows()]


def as_list(rows: list[bytes]) -> bytes:
    """Encoded rows as one JSON list."""
    return b"[" + b",".join(rows) + b"]"
