"""A prompt's token ids as an engine's renderer wrote them, which is how engines want them.

They travel as that text: of 128K ids a list of Python integers costs megabytes and milliseconds to
make, and as much to write again. Numbers are made of as many as somebody asks for; the compiled
wheel makes all at once, in a quarter of the time (`token_text`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from prfaas.gateway.json_fields import MOST_PROMPTS
from prfaas.index.keys import Tokens

_numbers: Callable[[bytes, NDArray[np.uint32]], int] | None = None
with contextlib.suppress(ImportError):
    from prfaas.gateway import token_text

    _numbers = token_text.numbers

_LARGEST = (1 << 32) - 1
_NONE = msgspec.Raw(b"[]")
_NAMED = re.compile(rb'"token_ids"\s*:\s*\[')
"""A list's beginning. In a JSON string the quotes would be escaped, so it is no part of one."""
_COMMA, _ZERO = ord(","), ord("0")
_AT_ONCE, _LEAST_AT_ONCE = 1 << 16, 1 << 12
"""Bytes of text: arrays of that size stay in the cache, and need no pages of their own."""
_BYTES_OF_ONE = 7
_WORD = 8
_PAD = b"0" * _WORD
_PAIRS = np.uint64(10 * 2**8 + 1)
_FOURS = np.uint64(100 * 2**16 + 1)
_EIGHTS = np.uint64(10_000 * 2**32 + 1)


class TokenIds(Tokens):
    """``text``: a JSON array. Raises ValueError where it is none of whole numbers."""

    def __init__(self, text: bytes) -> None:
        compact = text.replace(b", ", b",") if b", " in text[: 2 * _WORD] else text
        if _numbers is not None:
            made = np.empty(len(compact) // 2, np.uint32)
            known = _numbers(compact, made)
            if known >= 0:
                self._text, self._numbers = compact, made[:known]
                self._count = self._known = known
                return
        count = _count_of(compact)
        if count is None:
            compact = msgspec.json.encode(msgspec.json.decode(text, type=list[int]))
            count = _count_of(compact)
            if count is None:
                raise ValueError("a token id is negative")
        self._text, self._count = compact, count
        self._numbers = np.empty(count, np.uint32)
        self._known, self._at = 0, 1
        """Of the numbers, and where in the text the next begins."""

    def __len__(self) -> int:
        return self._count

    def first(self, count: int) -> NDArray[np.uint32]:
        """The first ``count`` of them. Raises OverflowError for one that is no uint32."""
        count = min(count, self._count)
        while self._known < count:
            self._read_on(count - self._known)
        return self._numbers[:count]

    def json(self, count: int | None = None) -> msgspec.Raw:
        """The first ``count`` of them, or all, as they go into a body."""
        if count is None or count >= self._count:
            return msgspec.Raw(self._text)
        return msgspec.Raw(self._text[: self._end(count)] + b"]") if count > 0 else _NONE

    def _end(self, count: int) -> int:
        """Where the text of so many ends, which are not all: at a comma."""
        marks, start = np.frombuffer(self._text, np.uint8), 0
        while True:
            commas = marks[start : start + _AT_ONCE] == _COMMA
            here = int(np.count_nonzero(commas))
            if here >= count:
                return start + int(np.flatnonzero(commas)[count - 1])
            count, start = count - here, start + _AT_ONCE

    def _read_on(self, wanted: int) -> None:
        """Make numbers of at most so many more: eight digits are one word, and turned into a number
        by three multiplications (a digit, two, four beside each other)."""
        size = min(_AT_ONCE, max(_LEAST_AT_ONCE, wanted * _BYTES_OF_ONE))
        text = _PAD + self._text[self._at : self._at + size]
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == _COMMA)
        if self._at + size >= len(self._text):
            ends = np.append(ends, len(text) - 1)
        ends = ends[:wanted]
        if not ends.size:
            raise OverflowError("a token id is larger than 32 bits")
        digits = ends - _WORD
        digits[1:] -= ends[:-1] - (_WORD - 1)
        stop, known = int(ends[-1]), self._known + len(ends)
        if int(digits.max()) > _WORD:
            long = np.fromstring(text[_WORD:stop], np.int64, sep=",")
            if int(long.max()) > _LARGEST:
                raise OverflowError("a token id is larger than 32 bits")
            self._numbers[self._known : known] = long
        else:
            every = np.ndarray(len(text) - _WORD + 1, "<u8", buffer=text, strides=(1,))
            before = ((_WORD - digits) * 8).view(np.uint64)
            self._numbers[self._known : known] = _value(every[ends - _WORD], before)
        self._known, self._at = known, self._at + stop - _WORD + 1


def _value(words: NDArray[np.uint64], before: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers whose last digit is the last byte of each word; so many bits before them are of
    others."""
    words >>= before
    words <<= before
    words &= np.uint64(0x0F0F0F0F0F0F0F0F)
    words *= _PAIRS
    words >>= np.uint64(8)
    words &= np.uint64(0x00FF00FF00FF00FF)
    words *= _FOURS
    words >>= np.uint64(16)
    words &= np.uint64(0x0000FFFF0000FFFF)
    words *= _EIGHTS
    words >>= np.uint64(32)
    return words


def take_out(answer: bytes) -> tuple[bytes, list[bytes]]:
    """A JSON document without the numbers in its lists ``token_ids``, and the texts of these lists.

    In place of their numbers, the lists have one below zero: -1 in the first, -2 in the second.
    That a list is one is not looked at: `TokenIds` does. Raises ValueError for more lists than a
    request has prompts.
    """
    rest, lists, at = [], [], 0
    while (found := _NAMED.search(answer, at)) is not None:
        end = answer.find(b"]", found.end()) + 1
        if not end:
            break
        lists.append(answer[found.end() - 1 : end])
        if len(lists) > MOST_PROMPTS:
            raise ValueError(f"more than {MOST_PROMPTS} prompts")
        rest += [answer[at : found.end()], b"%d]" % -len(lists)]
        at = end
    return b"".join([*rest, answer[at:]]), lists


def _count_of(text: bytes) -> int | None:
    """How many numbers ``[1,2,3]`` has, as JSON is written without spaces; None if it is no such
    list of whole numbers."""
    if text == b"[]":
        return 0
    if not (text.startswith(b"[") and text.endswith(b"]")) or text[-2:-1] in b"[,":
        return None
    marks, count = np.frombuffer(text, np.uint8)[:-1], 0
    for start in range(0, len(marks), _AT_ONCE):
        part = marks[start : start + _AT_ONCE + 2]
        begins = part == _COMMA
        begins[0] |= start == 0
        count += int(np.count_nonzero(begins[:_AT_ONCE]))
        digit = part - _ZERO < 10
        if not (digit | begins).all() or (begins[1:] & begins[:-1]).any():
            return None
        zero = begins[:-2] & (part[1:-1] == _ZERO)
        if zero.any() and (zero & digit[2:]).any():
            return None  # JSON has no 07.
    return count
