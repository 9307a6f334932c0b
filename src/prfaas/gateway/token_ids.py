"""A prompt's token ids as an engine's renderer wrote them, which is how engines want them.

They travel as that text: of 128K ids a list of Python integers costs megabytes and milliseconds to
make, and as much to write again. Numbers are made of as many as somebody asks for.
"""

from __future__ import annotations

import re

import msgspec
import numpy as np
from numpy.typing import NDArray

from prfaas.index.keys import Tokens

_LARGEST = (1 << 32) - 1
_NONE = msgspec.Raw(b"[]")
_SHORT = 1500
"""Below so many bytes a regular expression is faster than arrays are made: 10 us for 200 ids."""
_PLAIN = re.compile(
    rb"\[(?:0|[1-9]\d*+)(?:,(?:0|[1-9]\d*+))*+\]|\[(?:0|[1-9]\d*+)(?:, (?:0|[1-9]\d*+))*+\]"
)
_NAMED = re.compile(rb'"token_ids"\s*:\s*\[')
"""A list's beginning. In a JSON string the quotes would be escaped, so it is no part of one."""


class TokenIds(Tokens):
    """``text``: a JSON array. Raises ValueError where it is none of whole numbers."""

    def __init__(self, text: bytes) -> None:
        if not _is_plain(text):
            text = msgspec.json.encode(msgspec.json.decode(text, type=list[int]))
            if b"-" in text:
                raise ValueError("a token id is negative")
        self._text = text
        self._count = _commas(text) + (len(text) > len(b"[]"))
        self._numbers = np.empty(0, np.uint32)

    def __len__(self) -> int:
        return self._count

    def first(self, count: int) -> NDArray[np.uint32]:
        """The first ``count`` of them. Raises OverflowError for one that is no uint32."""
        count, known = min(count, self._count), len(self._numbers)
        if known < count:
            text = self._text[self._end(known) + 1 : self._end(count)]
            numbers = np.fromstring(text, np.int64, sep=",")
            if int(numbers.max()) > _LARGEST:
                raise OverflowError("a token id is larger than 32 bits")
            self._numbers = np.concatenate((self._numbers, numbers.astype(np.uint32)))
        return self._numbers[:count]

    def json(self, count: int | None = None) -> msgspec.Raw:
        """The first ``count`` of them, or all, as they go into a body."""
        if count is None or count >= self._count:
            return msgspec.Raw(self._text)
        return msgspec.Raw(self._text[: self._end(count)] + b"]") if count > 0 else _NONE

    def _end(self, count: int) -> int:
        """Where the text of so many ends: at a comma, or a bracket."""
        if count == 0:
            return 0
        if count == self._count:
            return len(self._text) - 1
        commas = np.flatnonzero(np.frombuffer(self._text, np.uint8) == ord(","))
        return int(commas[count - 1])


def take_out(answer: bytes) -> tuple[bytes, list[bytes]]:
    """A JSON document without the numbers in its lists ``token_ids``, and the texts of these lists.

    In place of their numbers, the lists have one below zero: -1 in the first, -2 in the second.
    That a list is one is not looked at: `TokenIds` does.
    """
    rest, lists, at = [], [], 0
    while (found := _NAMED.search(answer, at)) is not None:
        end = answer.find(b"]", found.end()) + 1
        if not end:
            break
        lists.append(answer[found.end() - 1 : end])
        rest += [answer[at : found.end()], b"%d]" % -len(lists)]
        at = end
    return b"".join([*rest, answer[at:]]), lists


def _commas(text: bytes) -> int:
    if len(text) < _SHORT:
        return text.count(b",")
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord(",")))


def _is_plain(text: bytes) -> bool:
    """Whether it is ``[1,2,3]`` or ``[1, 2, 3]``, as JSON is usually written."""
    if text == b"[]":
        return True
    if len(text) < _SHORT:
        return _PLAIN.fullmatch(text) is not None
    if not (text.startswith(b"[") and text.endswith(b"]")):
        return False
    marks = np.frombuffer(text, np.uint8)[1:-1]
    if not marks.size:
        return False
    digit, comma, space = marks - ord("0") < 10, marks == ord(","), marks == ord(" ")
    if not (digit[0] and digit[-1] and (digit | comma | space).all()):
        return False
    if (comma[1:] & comma[:-1]).any() or (comma[2:] & space[1:-1] & comma[:-2]).any():
        return False
    begins = np.append(True, ~digit[:-1])
    if (begins[:-1] & (marks[:-1] == ord("0")) & digit[1:]).any():
        return False  # JSON has no 07.
    spaces = np.count_nonzero(space)
    if not spaces:
        return True
    each = np.count_nonzero(comma[:-1] & space[1:])
    return bool(each == spaces == np.count_nonzero(comma))
