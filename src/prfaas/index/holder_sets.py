"""Sets of holders, each kept once and known by a small number.

Neighbouring blocks are mostly held by the same engines, so many blocks share few sets. A set is one
integer, a bit for each member. Sets are counted by their users and end with the last.
"""

from __future__ import annotations

from math import inf

EMPTY = 0
"""The number of the set without members; it always exists."""
_BESIDE_BYTES = 150
"""What a set takes beside its bits."""


class HolderSets:
    """``masks[number]`` is a set's bits. ``most_bytes``: see `has_room`."""

    def __init__(self, most_bytes: float = inf) -> None:
        self._most_bytes = most_bytes
        self.bytes = 0
        """Of all sets, about."""
        self.masks: list[int] = [0]
        self.users: list[int] = [0]
        self._numbers: dict[int, int] = {0: EMPTY}
        self._unused: list[int] = []

    def has_room(self, mask: int) -> bool:
        """Whether there may be such a set. Engines of a machine that was taken over tell of blocks
        that each have another one, of thousands of bits."""
        return mask in self._numbers or self.bytes + _bytes_of(mask) <= self._most_bytes

    def number_of(self, mask: int) -> int:
        """The set with these bits, made if there is none. It must be used (`use`) at once."""
        number = self._numbers.get(mask)
        if number is None:
            if self._unused:
                number = self._unused.pop()
                self.masks[number] = mask
            else:
                number = len(self.masks)
                self.masks.append(mask)
                self.users.append(0)
            self._numbers[mask] = number
            self.bytes += _bytes_of(mask)
        return number

    def use(self, number: int, count: int) -> None:
        """So many more users; a negative number for fewer."""
        left = self.users[number] = self.users[number] + count
        if left == 0 and number != EMPTY:
            mask = self.masks[number]
            if self._numbers.get(mask) == number:
                del self._numbers[mask]
            self.bytes -= _bytes_of(mask)
            self.masks[number] = 0
            self._unused.append(number)

    def forget(self, number: int, bits: int) -> bool:
        """Take bits out of a set, for all its users; whether nothing is left though some use it.
        Two sets may be equal then, until the users of one have gone."""
        mask = self.masks[number]
        left = mask & ~bits
        if left == mask:
            return False
        if self._numbers.get(mask) == number:
            del self._numbers[mask]
        self.masks[number] = left
        self.bytes += _bytes_of(left) - _bytes_of(mask)
        if left:
            self._numbers.setdefault(left, number)
        return not left

    def __len__(self) -> int:
        """Sets that have users."""
        return len(self.masks) - len(self._unused)


def _bytes_of(mask: int) -> int:
    return _BESIDE_BYTES + mask.bit_length() // 8
