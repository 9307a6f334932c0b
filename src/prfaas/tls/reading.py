"""Reading certificates and lists that somebody has put there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prfaas.core.errors import ConfigError


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Raises ConfigError for whatever is wrong with the file. Not all of it is a ValueError, nor
    found when it is read: what it says is parsed when somebody asks for it."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path}: not {what} in PEM: {error}") from error
