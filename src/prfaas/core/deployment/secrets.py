"""Keys that need not stand in the deployment file, which every machine holds."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from prfaas.core.errors import ConfigError
from prfaas.core.strict import Strict

_MOST_BYTES = 1024 * 1024
_KEY = re.compile(r"[\x21-\x7e]{1,512}\Z")


class KeySource(Strict, frozen=True):
    """Where keys come from: any of the three, together."""

    written: tuple[str, ...] = ()
    file: str | None = None
    """One key a line; empty lines and lines that begin with ``#`` are passed over."""
    env: str | None = None
    """An environment variable; white space stands between keys."""

    def __bool__(self) -> bool:
        return bool(self.written or self.file or self.env)

    def read(self) -> tuple[str, ...]:
        """Every key, as the file and the environment are now. Raises ConfigError where one cannot
        be had, or none is left of those there were: as if none had been asked for. Never with a key
        in its text."""
        found = [*self.written]
        if self.file is not None:
            found += _of_file(Path(self.file))
        if self.env is not None:
            text = os.environ.get(self.env)
            if text is None:
                raise ConfigError(f"the environment has no variable {self.env}, for keys")
            found += text.split()
        for number, key in enumerate(found, 1):
            if not _KEY.match(key):
                raise ConfigError(
                    f"key {number} is none: a key is 1 to 512 printable ASCII characters without "
                    "spaces"
                )
        if self and not found:
            raise ConfigError("no key is left of it: an empty list would let everybody in")
        return tuple(dict.fromkeys(found))


def _of_file(path: Path) -> Iterator[str]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise ConfigError(f"{path}: keys are read from a regular file of at most 1 MiB")
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not ASCII; write one key a line") from error
    for line in text.splitlines():
        key = line.strip()
        if key and not key.startswith("#"):
            yield key
