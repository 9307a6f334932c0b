"""Files of prompts: a JSON request, or one a line, each a completion or a chat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from prfaas.core.errors import UNREADABLE, ConfigError

_MOST_BYTES, _MOST_PROMPTS = 64 << 20, 1000
_SHOWN = 60


def requests_of(file: str) -> Iterator[bytes]:
    """The requests of a file. Raises ConfigError."""
    try:
        raw = Path("/dev/stdin" if file == "-" else file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    if len(raw) > _MOST_BYTES:
        raise ConfigError(f"{file}: {len(raw)} bytes; at most {_MOST_BYTES} are read")
    try:
        values = [msgspec.json.decode(raw)]
    except UNREADABLE:
        values = []
        for number, line in enumerate(raw.splitlines(), start=1):
            try:
                values += [msgspec.json.decode(line)] if line.strip() else []
            except UNREADABLE as error:
                raise ConfigError(f"{file}, line {number}: not JSON: {error}") from error
    if not 0 < len(values) <= _MOST_PROMPTS:
        raise ConfigError(f"{file}: {len(values)} prompts; 1 to {_MOST_PROMPTS} are taken")
    for number, value in enumerate(values, start=1):
        value = {"prompt": value} if isinstance(value, str) else value
        if not isinstance(value, dict) or not {"prompt", "messages"} & value.keys():
            raise ConfigError(
                f"{file}: prompt {number} is no request: write "
                '{"prompt": "..."} or {"messages": [...]}'
            )
        yield msgspec.json.encode(value)


def beginning(body: bytes) -> str:
    """How a request begins, in one line: its text, where that is what it has."""
    value = msgspec.json.decode(body)
    messages = value.get("messages") or [{}]
    first = messages[0].get("content") if isinstance(messages[0], dict) else None
    text = next((t for t in (value.get("prompt"), first) if isinstance(t, str)), body.decode())
    line = " ".join(text[: 2 * _SHOWN].split())
    return line[:_SHOWN] + ("..." if len(line) > _SHOWN or len(text) > 2 * _SHOWN else "")
