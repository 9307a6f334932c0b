"""The deployment's cache key: what agents and gateways name cached blocks with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from prfaas.core.errors import ConfigError
from prfaas.tls.live import FileStamp, stamp_of_file

_KEY = re.compile(r"[0-9a-fA-F]{64,128}\Z")


def read_cache_key(path: Path) -> bytes:
    """Its bytes. Raises ConfigError that names the file, never what is in it."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; 'prfaas certs issue' makes it, and every agent and gateway "
            "needs the same one"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: a cache key is 64 to 128 hexadecimal digits") from error
    if not _KEY.match(text) or len(text) % 2:
        raise ConfigError(f"{path}: a cache key is 64 to 128 hexadecimal digits")
    return bytes.fromhex(text)


class FoundKey(NamedTuple):
    """What is in a file now."""

    path: Path
    stamp: FileStamp | None
    key: bytes


def find_cache_key(path: Path) -> FoundKey:
    """Raises ConfigError as `read_cache_key`."""
    stamp = stamp_of_file(path)  # Before it is read: what is written meanwhile is read again.
    return FoundKey(path, stamp, read_cache_key(path))


class LiveCacheKey:
    """The key that names are made with, and where it came from, while its process runs. Raises
    ConfigError as `read_cache_key`."""

    def __init__(self, path: Path) -> None:
        self._found = find_cache_key(path)
        self._seen = self._found.stamp

    @property
    def path(self) -> Path:
        """Of its file."""
        return self._found.path

    @property
    def key(self) -> bytes:
        """Its bytes."""
        return self._found.key

    def take(self, found: FoundKey) -> bool:
        """Go by this from now on; whether it is another key."""
        before, self._found, self._seen = self.key, found, found.stamp
        return found.key != before

    def changed(self) -> bool:
        """Whether the file is another than the one that was looked at last."""
        return stamp_of_file(self.path) != self._seen

    def refuse_until_changed(self) -> None:
        """The file as it is now cannot be used: do not look at it again."""
        self._seen = stamp_of_file(self.path)
