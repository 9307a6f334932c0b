"""Valid inputs, spoilt: bytes changed, cut, doubled and moved, numbers made huge, nested deep."""

from __future__ import annotations

import random

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
