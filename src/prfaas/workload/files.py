"""Trace files: what to read and how, and the bytes as text."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from pathlib import Path

from prfaas.core.errors import ConfigError
from prfaas.core.units import parse_tokens
from prfaas.workload.schemas import parse_trace
from prfaas.workload.trace import PooledTrace, RecordedTrace, TraceFormat

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte-order marks; UTF-32's begins with UTF-16's."""
_MOST_UNPACKED = 100
"""Bytes for each packed one: traces have stamps and lengths that differ, and pack to a tenth or so;
deflate can make a thousand of one, which a file that is broken does by chance."""
_UNPACKED_AT_LEAST = 1 << 20
"""Bytes that any file may unpack to, since a short one of equal lines packs better."""
_PIECE = 1 << 18
_AS_IT_SAYS = TraceFormat()


class TraceSource(TraceFormat, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trace in a scenario: the file, what it does not say of itself, what to do with it."""

    file: str
    clip: str | int | None = None
    """Tokens: prompts that are longer are cut to this many."""

    def read(self, beside: Path) -> RecordedTrace | PooledTrace:
        """The trace, clipped if asked for. A relative ``file`` starts from ``beside``.

        Raises ConfigError as `read_trace_file` does, and for a ``clip`` that is no length.
        """
        trace = read_trace_file(beside / self.file, self)
        if self.clip is None:
            return trace
        tokens = parse_tokens(self.clip)
        if tokens < 1:
            raise ConfigError(f"clip: {self.clip}; write 1 token or more")
        return trace.clipped(tokens)


def clip_note(clip: str | int, share: float) -> str:
    """What is said of a clipped trace beside its results."""
    return f"trace: {share:.2%} of the prompts were longer than {clip} tokens and were cut to them"


def read_trace_file(path: Path, form: TraceFormat = _AS_IT_SAYS) -> RecordedTrace | PooledTrace:
    """Everything in the file, unpacked if it is gzip's.

    Raises ConfigError where it cannot be read, is none of the schemas, is ambiguous where ``form``
    does not say, or holds no request.
    """
    try:
        packed = path.read_bytes()
        raw = _unpacked(packed) if packed[:2] == b"\x1f\x8b" else packed
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"trace {path}: cannot be read: {error}") from error
    try:
        trace = parse_trace(_text(raw), form)
    except ConfigError as error:
        raise ConfigError(f"trace {path}: {error}") from error
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"trace {path}: not what its first line promises: {error}") from error
    if isinstance(trace, RecordedTrace) and not trace.prompts:
        raise ConfigError(f"trace {path}: no request in it")
    return trace


def _unpacked(packed: bytes) -> bytearray:
    """Raises OSError for bytes that unpack to more than any trace does."""
    most, unpacked = max(_UNPACKED_AT_LEAST, _MOST_UNPACKED * len(packed)), bytearray()
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
        while piece := stream.read(_PIECE):
            unpacked += piece
            if len(unpacked) > most:
                raise OSError(f"it unpacks to more than {_MOST_UNPACKED} times its size")
    return unpacked


def _text(raw: bytes | bytearray) -> str:
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(f"not {encoding} text: byte {error.start} {error.reason}") from error
