"""Which version of a model or adapter from a hub lies here: its name stays, what it names does
not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import try_to_load_from_cache


def files_of(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Files of a downloaded model or adapter whose names are like one of these, in order; none
    where there is no such folder."""
    return sorted({file for pattern in patterns for file in folder.glob(pattern)})


def commit_of(name: str, file: str, *, revision: str | None = None) -> str | None:
    """The commit of what was downloaded last under this name, by where one of its files lies; None
    where none was, or the name is none of a hub's."""
    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except ValueError:
        return None
    return Path(found).parent.name if isinstance(found, str) else None
