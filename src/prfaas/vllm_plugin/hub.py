"""Which version of a model or adapter from a hub lies here: its name stays, what it names does
not."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache


def commit_of(name: str, file: str, *, revision: str | None = None) -> str | None:
    """The commit of what was downloaded last under this name, by where one of its files lies; None
    where none was, or the name is none of a hub's."""
    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except ValueError:
        return None
    return Path(found).parent.name if isinstance(found, str) else None
