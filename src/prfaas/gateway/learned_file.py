"""What a gateway has learned of its engines, kept in a file for its successor.

The file is written whole and then renamed, so there is always one that can be read; one that cannot
be (a torn disk, another version) is passed over with a warning, and everything is learned anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from prfaas.core.errors import UNREADABLE, ConfigError
from prfaas.core.strict import Strict
from prfaas.policies.fading_line import Sums
from prfaas.process.own_files import for_us_alone
from prfaas.scheduler.journal import CostInputs
from prfaas.scheduler.load_times import LearnedTimes

logger = logging.getLogger(__name__)

VERSION = 1
"""Counts up when a reader of older files could misread a newer one."""
_EVERY_S = 30.0
"""What a gateway that is killed may forget: some prefills."""


class Learned(Strict, frozen=True):
    """The file's content. ``prefills``: engine -> sums, as `PrefillLearner.learned` gives them.
    ``loads``: the same of `LearnedLoads`, ``steps``: of `LearnedSteps`, ``fetches``: of
    `LearnedFetches`."""

    version: int
    prefills: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)
    loads: dict[str, Sums] = msgspec.field(default_factory=dict)
    steps: dict[str, Sums] = msgspec.field(default_factory=dict)
    fetches: dict[str, Sums] = msgspec.field(default_factory=dict)

    def beside(self, seeds: CostInputs) -> CostInputs:
        """What a scheduler's estimates begin with: this, and ``seeds`` of profiles."""
        return msgspec.structs.replace(
            seeds,
            learned=self.prefills,
            loads=self.loads,
            steps=self.steps,
            fetches=self.fetches,
        )


class LearnedFile:
    """The file of one gateway. ``path`` None: nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written: Learned | None = None

    def read(self) -> Learned:
        """What a predecessor has left; empty where there is nothing that can be read."""
        nothing = Learned(VERSION)
        if self._path is None:
            return nothing
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=Learned)
        except FileNotFoundError:
            return nothing
        except (OSError, *UNREADABLE) as error:
            logger.warning("%s: not read, costs are learned anew: %s", self._path, error)
            return nothing
        if found.version != VERSION:
            logger.warning(
                "%s: of version %d, not %d: costs are learned anew",
                self._path,
                found.version,
                VERSION,
            )
            return nothing
        return found

    def check(self) -> None:
        """Raise ConfigError where the file could not be written."""
        if self._path is not None and not os.access(self._path.parent, os.W_OK | os.X_OK):
            raise ConfigError(f"{self._path}: its directory is missing or cannot be written")

    def write(self, times: LearnedTimes) -> None:
        """Keep this, if it is something else than before. A full disk costs a warning."""
        learned = Learned(VERSION, *map(dict, times))
        if self._path is None or not times.prefills or learned == self._written:
            return
        scratch = self._path.with_name(f"{self._path.name}.tmp")
        try:
            scratch.unlink(missing_ok=True)  # Or it may be a link of another user's, or a pipe.
            with open(scratch, "xb", opener=for_us_alone) as file:
                file.write(msgspec.json.encode(learned))
            scratch.replace(self._path)
        except OSError as error:
            logger.warning("%s: not written: %s", self._path, error)
        else:
            self._written = learned

    async def keep(self, learned: Callable[[], LearnedTimes]) -> None:
        """Write now and then, for ever."""
        while self._path is not None:
            await asyncio.sleep(_EVERY_S)
            self.write(learned())
