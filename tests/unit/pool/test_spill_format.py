"""Heads of files: nothing that is cut off, damaged or made up is believed."""

from __future__ import annotations

import random

import msgspec
import pytest

from prfaas.core.prefixes import Prefix
from prfaas.link.api import TransferKey
from prfaas.pool.kept import KeptPrefix
from prfaas.pool.spill_format import (
    ALIGN,
    CHUNK_BYTES,
    MOST_HEAD_BYTES,
    FileHead,
    SpillFault,
    decode_head,
    encode_head,
    file_bytes,
    head_bytes,
    pack_checksums,
    span_of_head,
)

KEY = "0123456789abcdef"
PREFIX = Prefix(16, 32, b"p" * 16, (b"a" * 16, b"b" * 16))
WHAT = KeptPrefix(TransferKey("t", 1, 5), "layout", PREFIX, 70, CHUNK_BYTES + 1, 64, True)
HEAD = FileHead(KEY, WHAT, pack_checksums([1, 2**64 - 1]))


def test_a_head_is_read_as_it_was_written() -> None:
    raw = encode_head(HEAD)
    assert len(raw) == head_bytes(WHAT) == span_of_head(raw[:ALIGN]) == ALIGN
    assert decode_head(raw, key_id=KEY, size=file_bytes(WHAT)) == HEAD
    assert [HEAD.checksum(n) for n in (0, 1)] == [1, 2**64 - 1]


def test_a_long_prefix_has_a_long_head_of_a_size_that_is_known_before() -> None:
    prefix = Prefix(16, 0, b"p" * 16, tuple(n.to_bytes(16, "big") for n in range(4000)))
    what = msgspec.structs.replace(WHAT, prefix=prefix, to_token=64_000, stands_at=64_000)
    raw = encode_head(FileHead(KEY, what, HEAD.checksums))
    assert len(raw) == head_bytes(what) == span_of_head(raw[:ALIGN]) > 16 * ALIGN
    assert decode_head(raw, key_id=KEY, size=file_bytes(what)).what == what


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"total_bytes": 0}, "bytes are no transfer's"),
        ({"total_bytes": 1 << 60}, "bytes are no transfer's"),
        ({"to_token": 80}, "does not end where"),
        ({"to_token": 63}, "does not end where"),
        ({"stands_at": 48}, "no block's end"),
        ({"layout": ""}, "no layout"),
        ({"layout": "l" * 200}, "no layout"),
        ({"key": TransferKey("t", -1, 5)}, "Expected `int` >= 0"),
        ({"key": TransferKey("t", 1, -5)}, "Expected `int` >= 0"),
        ({"key": TransferKey("t", 1, 2**63)}, "Expected `int` <= "),
        ({"prefix": Prefix(0, 0, b"", ())}, "whole blocks"),
        ({"prefix": Prefix(16, 32, b"p" * 16, (b"short",) * 2)}, "names of prefixes"),
        ({"total_bytes": 3 * CHUNK_BYTES}, "checksum for each chunk"),
        ({"total_bytes": CHUNK_BYTES + 1 + ALIGN}, "cut off"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(change: dict[str, object], reason: str) -> None:
    head = FileHead(KEY, msgspec.structs.replace(WHAT, **change), HEAD.checksums)
    with pytest.raises(SpillFault, match=reason):
        decode_head(encode_head(head), key_id=KEY, size=file_bytes(WHAT))


def test_names_of_transfers_are_no_paths() -> None:
    raw = encode_head(FileHead(KEY, WHAT, HEAD.checksums))
    for name in (b"\xa3../", b"\xa1/"):
        body = msgspec.msgpack.encode(HEAD).replace(b"\xa1t", name)
        assert body not in raw
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(body, type=FileHead)


def test_another_key_another_release_no_head_a_head_without_end() -> None:
    raw = encode_head(HEAD)
    with pytest.raises(SpillFault, match="another cache key"):
        decode_head(raw, key_id="f" * 16, size=file_bytes(WHAT))
    with pytest.raises(SpillFault, match="another release"):
        span_of_head(raw[:8] + b"\x09" + raw[9:])
    with pytest.raises(SpillFault, match="no file of an agent"):
        span_of_head(bytes(ALIGN))
    with pytest.raises(SpillFault, match="is none"):
        span_of_head(raw[:12] + (MOST_HEAD_BYTES + 1).to_bytes(4, "little") + raw[16:])
    with pytest.raises(SpillFault, match="cut off"):
        span_of_head(raw[:20])


def test_any_damage_to_a_head_is_found() -> None:
    raw, rng = encode_head(HEAD), random.Random(3)
    body = len(raw.rstrip(b"\0"))
    for _ in range(300):
        damaged = bytearray(raw)
        damaged[rng.randrange(body)] ^= 1 << rng.randrange(8)
        with pytest.raises(SpillFault):
            decode_head(bytes(damaged[: rng.choice([ALIGN, body])]), key_id=KEY, size=1)
