"""Which part of a journal which release has written: gateways of several append to one file, one
after the other, and each answers for its own commands alone."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from prfaas.core.errors import CallerError
from prfaas.scheduler.replay import read_journal, replay


class JournalParts:
    """Told by whoever starts gateways; ``source`` is the code that one runs."""

    def __init__(self) -> None:
        self._began: dict[Path, list[tuple[int, Path]]] = {}

    def begins(self, journal: Path, source: Path) -> None:
        """A process is about to append to it; whoever did before has ended."""
        at = journal.stat().st_size if journal.exists() else 0
        self._began.setdefault(journal, []).append((at, source))

    def of(self, journal: Path, source: Path) -> list[bytes]:
        """What processes of this code have written, a part for each. Raises OSError."""
        text = journal.read_bytes()
        began = [*self._began.get(journal, ()), (len(text), source)]
        return [text[at:end] for (at, of), (end, _) in pairwise(began) if of == source]


def replays(parts: Iterable[bytes]) -> str:
    """Empty where each gives the same commands again, else what is wrong. One of which a full disk
    took lines says so, and ends there."""
    written = [part for part in parts if part]
    if not written:
        return "nothing was written"
    for part in written:
        # A line that the writer before did not end is ended by the next one, in its own part.
        lines = part.lstrip(b"\n").splitlines(keepends=True)
        try:
            for difference in replay(read_journal(lines)):
                return f"at {difference.at}: {difference}"[:1000]
        except CallerError as error:
            if "were lost" not in str(error):
                return str(error)
    return ""
