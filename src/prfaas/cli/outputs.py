"""Files that a verb writes when its work is done: that they cannot be written is known before."""

from __future__ import annotations

import os
from pathlib import Path

from prfaas.core.errors import ConfigError


def check_output(option: str, path: Path | None) -> None:
    """Return where ``path`` can be written, or is none.

    Raises ConfigError, which names the option, for a directory that is not there or is closed to
    us, and for a path that is a directory.
    """
    if path is None:
        return
    directory = path.parent
    if not directory.is_dir():
        raise ConfigError(f"{option} {path}: there is no directory {directory}")
    if path.is_dir():
        raise ConfigError(f"{option} {path}: that is a directory; write the name of a file")
    if not os.access(path if path.exists() else directory, os.W_OK):
        raise ConfigError(f"{option} {path}: it may not be written")
