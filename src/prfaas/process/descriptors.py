"""How many files and sockets this process may have open."""

from __future__ import annotations

import resource


def allow_all_files() -> int:
    """As many as the system lets it have (``ulimit -Hn``): returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def share_of_files(share: int, *, most: int) -> int:
    """One ``share``-th of all that it may have open now, at most ``most``."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else max(16, min(most, soft // share))
