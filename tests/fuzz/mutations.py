"""Valid inputs, spoilt: bytes changed, cut, doubled and moved, numbers made huge, nested deep; or
what a sender can say that knows the format well: single values exchanged for others."""

from __future__ import annotations

import random
import re
from base64 import b64decode, b64encode
from contextlib import suppress
from typing import Any, Protocol

_DEEP = 20_000
_ODD = (b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xd9\x02\xff\xfe", b"null", b"-1", b"\n")


class Made:
    """How many inputs have been made."""

    inputs = 0


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Up to four changes."""
    Made.inputs += 1
    for _ in range(rng.randrange(5)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[at + rng.randrange(9) :]
        elif kind == 2:
            end = at + rng.randrange(40)
            data = data[:end] + data[at:end] * rng.randrange(3) + data[end:]
        elif kind == 3:
            data = data[:at] + rng.randbytes(rng.randrange(9)) + data[at:]
        elif kind == 4:
            data = data[:at]
        elif kind == 5:
            huge = (b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"1e999", b"9" * 400)
            data = data[:at] + rng.choice(huge) + data[at:]
        elif kind == 6:
            deep = rng.choice((b"[", b'{"a":', b"\x91", b"\x81\xa1a"))
            data = data[:at] + deep * rng.choice((3, _DEEP)) + data[at:]
        else:
            data = data[:at] + rng.choice(_ODD) + data[at:]
    return data


class Codec(Protocol):
    """`msgspec.json`, `msgspec.msgpack` or `msgspec.yaml`."""

    def encode(self, obj: Any, /) -> bytes: ...
    def decode(self, buf: bytes, /) -> Any: ...


def misshapen(rng: random.Random, data: bytes, codec: Codec) -> bytes:
    """Up to three of its values are others; all else is as it was."""
    Made.inputs += 1
    whole = [codec.decode(data)]
    for _ in range(rng.randrange(1, 4)):
        places = list(_places(whole))
        if places:
            holder, at = rng.choice(places)
            holder[at] = _other(rng, holder[at])
    with suppress(ValueError, TypeError, OverflowError):  # What the format cannot say.
        return codec.encode(whole[0])
    return data


def altered(rng: random.Random, data: bytes, codec: Codec) -> bytes:
    """As often the one as the other."""
    return misshapen(rng, data, codec) if rng.random() < 0.5 else mutated(rng, data)


def _places(value: Any) -> Any:
    """Wherever a value stands, and what holds it there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for at, held in list(inner):
        yield value, at
        if isinstance(held, dict | list):
            yield from _places(held)


_NUMBERS = (
    *(-1, 0, 1, 2, 7, 1 << 31, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
    *(10**30, 10**400, -(10**400)),  # JSON and YAML have them, and no float is as large.
)
_QUANTITY = re.compile(r"[0-9.]+(?=\s*[A-Za-z])")
_ANYTHING = (
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\0",
    b"",
    b"y",
    [],
    {},
)


def _other(rng: random.Random, value: Any) -> Any:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice((*_ANYTHING, *_NUMBERS))
    match value:
        case bool() | None:
            return rng.choice((True, False, None))
        case int():
            near = value + rng.choice((-1, 1, 8))
            as_float = float(max(-(1 << 64), min(value, 1 << 64)))
            return rng.choice((*_NUMBERS, near, 2 * value, -value, str(value), as_float))
        case float():
            return rng.choice((-value, 0.0, 1e-300, 1e308, float("inf"), float("nan"), 3))
        case bytes():
            return _cut_or_longer(rng, value)
        case str():
            with suppress(ValueError):
                if value and rng.random() < 0.5:
                    return b64encode(_cut_or_longer(rng, b64decode(value, validate=True))).decode()
            if _QUANTITY.match(value) and rng.random() < 0.5:
                return _QUANTITY.sub(rng.choice(("0", "1e300", "1e18", "1e-300")), value, count=1)
            longer = rng.choice((" ", "\0", "\u2028", "\U0001f600", "x" * 5000))
            return rng.choice((value[: rng.randrange(len(value) + 1)], value + longer, longer))
        case list():
            return rng.choice((value[1:], value[:-1], value + value[:1], value * 40, value[::-1]))
        case dict() if value:
            at = rng.choice(list(value))
            spare = {key: held for key, held in value.items() if key != at}
            return rng.choice((spare, {**value, "more": 1}, {**spare, f"{at}x": value[at]}))
    return rng.choice(_ANYTHING)


def _cut_or_longer(rng: random.Random, value: bytes) -> bytes:
    at = rng.randrange(len(value) + 1)
    more = rng.randbytes(rng.choice((1, 7, 8, 16)))
    return rng.choice((value[:at], value[at:], value + more, value + value, more))
