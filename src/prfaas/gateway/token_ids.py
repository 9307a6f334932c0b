"""A prompt's token ids as an engine's renderer wrote them, which is how engines want them.

They travel as that text: of 128K ids a list of Python integers costs megabytes and milliseconds to
make, and as much to write again. Numbers are made of as many as somebody asks for.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from prfaas.index.keys import Tokens

_DIGITS_AND_BETWEEN = b"0123456789, \t\r\n"
_LARGEST = (1 << 32) - 1


class TokenIds(Tokens):
    """``text``: a JSON array, known to be valid JSON. Raises ValueError where it has anything else
    than whole numbers."""

    def __init__(self, text: bytes) -> None:
        if text.translate(None, _DIGITS_AND_BETWEEN) != b"[]":
            raise ValueError("token ids are no list of whole numbers")
        self._text = text.strip()
        commas = self._text.count(b",")
        self._count = commas + 1 if commas or self._text[1:-1].strip() else 0
        self._numbers = np.empty(0, np.uint32)

    def __len__(self) -> int:
        return self._count

    def first(self, count: int) -> NDArray[np.uint32]:
        """The first ``count`` of them. Raises OverflowError for one that is no uint32."""
        count = min(count, self._count)
        if len(self._numbers) < count:
            numbers = np.fromstring(self._text[1:-1], np.int64, count, sep=",")
            if int(numbers.max()) > _LARGEST:
                raise OverflowError("a token id is larger than 32 bits")
            self._numbers = numbers.astype(np.uint32)
        return self._numbers[:count]

    def json(self, count: int | None = None) -> msgspec.Raw:
        """The first ``count`` of them, or all, as they go into a body."""
        if count is None or count >= self._count:
            return msgspec.Raw(self._text)
        if count <= 0:
            return msgspec.Raw(b"[]")
        commas = np.flatnonzero(np.frombuffer(self._text, np.uint8) == ord(","))
        return msgspec.Raw(self._text[: commas[count - 1]] + b"]")
