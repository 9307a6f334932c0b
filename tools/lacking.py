"""Print the entries of a lock file whose packages are not installed here.

    python tools/lacking.py images/base.lock

For an image that has packages of its own, which must stay as they are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

_ENTRY = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==")


def lacking(lock: str, installed: Iterable[str]) -> str:
    """The entries with their hashes. ``installed``: names of distributions."""
    there = {_normal(name) for name in installed}
    kept, keep = [], False
    for line in lock.splitlines(keepends=True):
        entry = _ENTRY.match(line)
        if entry is not None:
            keep = _normal(entry[1]) not in there
        if keep and not line.lstrip().startswith("#"):
            kept.append(line)
    return "".join(kept)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    names = [found.metadata["Name"] for found in distributions()]
    print(lacking(Path(sys.argv[1]).read_text(), names), end="")
