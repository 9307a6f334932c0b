"""The deployment's cache key: what agents and gateways name cached blocks with."""

from __future__ import annotations

import re
from pathlib import Path

from prfaas.core.errors import ConfigError
from prfaas.tls.live import stamp_of_file

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


class LiveCacheKey:
    """The key that names are made with, and its file, while a process runs. Raises ConfigError as
    `read_cache_key`."""

    def __init__(self, path: Path) -> None:
        self.path, self._seen = path, stamp_of_file(path)
        self.key = read_cache_key(path)

    def look_at(self, path: Path) -> bool:
        """Go by this file from now on; whether there is another key in it. Raises ConfigError where
        it cannot be used: the key of before holds, until somebody looks again."""
        # Before it is read: what is written meanwhile is a change.
        self.path, self._seen = path, stamp_of_file(path)
        before, self.key = self.key, read_cache_key(path)
        return self.key != before

    def changed(self) -> bool:
        """Whether the file is another than when it was looked at last."""
        return stamp_of_file(self.path) != self._seen
