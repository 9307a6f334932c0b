"""The deployment's cache key: what agents and gateways name cached blocks with."""

from __future__ import annotations

import re
from pathlib import Path

from prfaas.core.errors import ConfigError

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
