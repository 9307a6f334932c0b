"""The file of a kept prefix on disk: a head that says what it is, then its bytes in flat order.

    head    magic, version, length and checksum of what follows; MessagePack (`FileHead`); zeros
    bytes   the transfer's, from the next multiple of `ALIGN` on; zeros up to a multiple of it

The head has a checksum for each `CHUNK_BYTES` of the bytes, the same kind as the KV link's. It is
made last: a file that was not written to its end has none. Everything read here may have been cut
off, come from another release, or be nobody's: it is bounded and checked.
"""

from __future__ import annotations

import struct

import msgspec
from xxhash import xxh3_64_intdigest

from prfaas.core.errors import UNREADABLE, PrfaasError
from prfaas.pool.kept import KeptPrefix

ALIGN = 4096
"""Bytes; what a disk reads and writes without a copy is a multiple of it."""
CHUNK_BYTES = 4 << 20
"""Are read, written and have a checksum together."""
MOST_HEAD_BYTES = 32 << 20
VERSION = 1

_MAGIC = b"PRFAASKV"
_LEAD = struct.Struct("<8sIIQ")
_CHECKSUM = struct.Struct("<Q")


class SpillFault(PrfaasError):
    """A file is not what it should be: torn, damaged, of another release, or nobody's."""


class FileHead(msgspec.Struct, frozen=True):
    """``key_id``: of the cache key that made the names (`index.keyed_blocks`); under another one
    they are found by nobody. ``checksums``: xxh3, uint64, little-endian, of each chunk."""

    key_id: str
    what: KeptPrefix
    checksums: bytes

    def checksum(self, chunk: int) -> int:
        """Of one chunk."""
        found: int = _CHECKSUM.unpack_from(self.checksums, chunk * _CHECKSUM.size)[0]
        return found


def chunks_of(total_bytes: int) -> int:
    """How many chunks so many bytes are."""
    return -(-total_bytes // CHUNK_BYTES)


def padded(length: int) -> int:
    """Up to the next multiple of `ALIGN`."""
    return -(-length // ALIGN) * ALIGN


def head_bytes(what: KeptPrefix) -> int:
    """Where the bytes begin in the file."""
    return len(encode_head(_blank(what)))


def file_bytes(what: KeptPrefix) -> int:
    """Of the whole file."""
    return head_bytes(what) + padded(what.total_bytes)


def pack_checksums(checksums: list[int]) -> bytes:
    """As `FileHead` has them."""
    return b"".join(map(_CHECKSUM.pack, checksums))


def encode_head(head: FileHead) -> bytes:
    """Padded to a multiple of `ALIGN`."""
    body = msgspec.msgpack.encode(head)
    raw = _LEAD.pack(_MAGIC, VERSION, len(body), xxh3_64_intdigest(body)) + body
    return raw.ljust(padded(len(raw)), b"\0")


def span_of_head(first: bytes) -> int:
    """How many bytes a file's head takes, by the first `ALIGN` of them. Raises SpillFault."""
    if len(first) < _LEAD.size:
        raise SpillFault("it is cut off")
    magic, version, length, _ = _LEAD.unpack_from(first)
    if magic != _MAGIC:
        raise SpillFault("it was not written to its end, or is no file of an agent")
    if version != VERSION:
        raise SpillFault(f"it is of another release (format {version}, here {VERSION})")
    if length > MOST_HEAD_BYTES:
        raise SpillFault(f"a head of {length} bytes is none")
    return padded(_LEAD.size + length)


def decode_head(raw: bytes, *, key_id: str, size: int) -> FileHead:
    """The head, of a file of ``size`` bytes. Raises SpillFault."""
    end = span_of_head(raw)
    _, _, length, checksum = _LEAD.unpack_from(raw)
    body = raw[_LEAD.size : _LEAD.size + length]
    if len(body) != length or xxh3_64_intdigest(body) != checksum:
        raise SpillFault("its head is damaged")
    try:
        head = msgspec.msgpack.decode(body, type=FileHead)
    except UNREADABLE as error:
        raise SpillFault(f"its head makes no sense: {error}") from error
    fault = head.what.fault()
    if fault is None and len(head.checksums) != chunks_of(head.what.total_bytes) * _CHECKSUM.size:
        fault = "it has not a checksum for each chunk"
    if fault is None and size != end + padded(head.what.total_bytes):
        fault = "it is cut off"
    if fault is None and head.key_id != key_id:
        fault = "it was written under another cache key"
    if fault is not None:
        raise SpillFault(fault)
    return head


def _blank(what: KeptPrefix) -> FileHead:
    zeros = bytes(chunks_of(what.total_bytes) * _CHECKSUM.size)
    return FileHead("0" * KEY_ID_CHARACTERS, what, zeros)


KEY_ID_CHARACTERS = 16
"""`index.keyed_blocks.key_id`: eight bytes in hexadecimal."""
