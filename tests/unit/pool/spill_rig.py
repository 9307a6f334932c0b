"""A pool with a disk, whose effects a test carries out."""

from __future__ import annotations

from tests.unit.pool.test_cache import BLOCK, ROOT, prompt
from tests.unit.pool.test_cache import Rig as CacheRig

from prfaas.core.prefixes import chain
from prfaas.pool.disk_events import (
    SpillFound,
    SpillRead,
    SpillUnreadable,
    SpillWriteFailed,
    SpillWritten,
)
from prfaas.pool.effects import AnyEffect, DropSpilled, ReadSpilled, WriteSpilled
from prfaas.pool.events import LoadOpened
from prfaas.pool.kept import KeptPrefix
from prfaas.pool.spill_format import ALIGN

FILE = 2 * ALIGN


class Rig(CacheRig):
    """With room for four files. Effects for the disk are kept until a test carries them out."""

    def __init__(self, files: int = 4) -> None:
        self.disk: list[WriteSpilled | ReadSpilled] = []
        self.files: dict[str, KeptPrefix] = {}
        super().__init__(disk_bytes=files * FILE)

    def say(self, event: object) -> list[AnyEffect]:
        effects = super().say(event)  # type: ignore[arg-type]
        for effect in effects:
            if isinstance(effect, DropSpilled):
                self.files.pop(effect.key.transfer_id, None)
        self.disk += [e for e in effects if isinstance(e, WriteSpilled | ReadSpilled)]
        self.pool.check_integrity()
        return [e for e in effects if not isinstance(e, WriteSpilled | ReadSpilled | DropSpilled)]

    def disk_does(self, *, fails: str = "", full: bool = False) -> list[AnyEffect]:
        """The next thing."""
        effect = self.disk.pop(0)
        key = effect.what.key
        if isinstance(effect, ReadSpilled):
            return self.say(SpillUnreadable(key, fails) if fails else SpillRead(key))
        if fails:
            return self.say(SpillWriteFailed(key, fails, full))
        self.files[key.transfer_id] = effect.what
        return self.say(SpillWritten(key))

    def all_written(self) -> None:
        while self.disk:
            self.disk_does()

    def on_disk(self) -> list[str]:
        found = [entry.transfer_id for entry in self.pool.disk.views()]
        assert sorted(found) == sorted(self.files)
        return found

    def open_load(self, tokens: list[int], *, by: int = 1) -> list[AnyEffect]:
        self.loads += 1
        end = len(tokens) // BLOCK * BLOCK
        return self.say(LoadOpened(by, self.loads, 0, end, BLOCK, chain(ROOT, tokens, BLOCK)))


def another_life(rig: Rig, files: int = 4) -> Rig:
    """The agent again, with nothing but the files."""
    again = Rig(files)
    again.files = dict(rig.files)
    for what in list(rig.files.values()):
        again.say(SpillFound(what))
    return again


def filled(count: int = 3, *, slots: int = 1) -> Rig:
    rig = Rig()
    for number in range(1, count + 1):
        rig.receive(f"t{number}", prompt(number, 1), slots=slots)
        rig.all_written()
    return another_life(rig)
