"""Files that a verb writes when its work is done: that they cannot be written is known before."""

from __future__ import annotations

import os
from pathlib import Path

from prfaas.core.errors import ConfigError


def prepare_output(option: str, path: Path | None) -> None:
    """Return where ``path`` can be written, whose directory is made for it, or is none.

    Raises ConfigError, which names the option, for a directory that cannot be or is closed to us,
    and for a path that is a directory.
    """
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"{option} {path}: that is a directory; write the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be written: {error.strerror}") from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{option} {path}: it may not be written")
