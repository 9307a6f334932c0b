"""Any order of leases, exports, receptions and imports keeps the pool's bookkeeping true."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prfaas.pool.slots import ArenaFull, Pool, TooLarge

SLOT, COUNT, EXPORT = 16, 10, 4


class PoolMachine(RuleBasedStateMachine):
    """A model arena holds real bytes: what an import reads must be what was handed over."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(slot_bytes=SLOT, slot_count=COUNT, export_slots=EXPORT)
        self.arena = bytearray(SLOT * COUNT)
        self.leased: dict[int, set[int]] = {}
        self.queued: list[int] = []
        self.local: dict[int, bytes] = {}
        self.remote: dict[int, bytes] = {}
        self.reading: list[tuple[int, bytes]] = []
        self.next_key = 0
        self.now = 0.0

    @rule(owner=st.integers(1, 3), count=st.integers(1, 6))
    def lease(self, owner: int, count: int) -> None:
        slots = self.pool.lease(owner, count)
        assert len(slots) <= count
        self.leased.setdefault(owner, set()).update(slots)

    @rule(owner=st.integers(1, 3))
    def connection_ends(self, owner: int) -> None:
        self.pool.owner_gone(owner)
        self.leased.pop(owner, None)

    @precondition(lambda self: any(self.leased.values()))
    @rule(data=st.data(), queue=st.booleans())
    def give_back(self, data: st.DataObject, queue: bool) -> None:
        owner = data.draw(st.sampled_from([o for o, s in self.leased.items() if s]))
        slot = self.leased[owner].pop()
        if queue:
            self.pool.queue(owner, slot)
            self.queued.append(slot)
        else:
            self.pool.return_slots(owner, [slot])

    @precondition(lambda self: self.queued)
    @rule()
    def acknowledged(self) -> None:
        self.pool.release(self.queued.pop())

    @rule(size=st.integers(1, 7 * SLOT), local=st.booleans(), life=st.integers(1, 20))
    def offer(self, size: int, local: bool, life: int) -> None:
        key, self.next_key = self.next_key, self.next_key + 1
        content = bytes((key + i) % 251 for i in range(size))
        try:
            self.pool.reserve(key, size, deadline=self.now + life, local=local)
        except TooLarge:
            assert size > (COUNT - EXPORT) * SLOT
        except ArenaFull:
            assert self.pool.receptions
        else:
            (self.local if local else self.remote)[key] = content

    @precondition(lambda self: self.local and self.queued)
    @rule(data=st.data())
    def hand_over(self, data: st.DataObject) -> None:
        """A filled slot with one or two ranges, anywhere in it, perhaps handed over before."""
        key = data.draw(st.sampled_from(sorted(self.local)))
        content, slot = self.local[key], self.queued.pop()
        spans = []
        position = data.draw(st.integers(0, SLOT - 1))
        for _ in range(data.draw(st.integers(1, 2))):
            flat = data.draw(st.integers(0, len(content) - 1))
            length = data.draw(st.integers(1, SLOT))
            length = min(length, SLOT - position, len(content) - flat)
            if length > 0:
                spans.append((slot * SLOT + position, flat, length))
            position += length
        for at, flat, length in spans:
            self.arena[at : at + length] = content[flat : flat + length]
        for source, target, length in self.pool.adopt(key, slot, spans):
            self.arena[target : target + length] = self.arena[source : source + length]

    @precondition(lambda self: self.remote)
    @rule(data=st.data())
    def arrives(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.remote)))
        content, reception = self.remote[key], self.pool.receptions[key]
        flat = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(1, len(content) - flat))
        position = flat
        for at, part in reception.locate(flat, length):
            self.arena[at : at + part] = content[position : position + part]
            position += part
        reception.stored.add(flat, flat + length)

    @precondition(lambda self: self.remote)
    @rule(data=st.data())
    def link_lets_go(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.remote)))
        reception = self.pool.receptions[key]
        reception.written_by_link = False
        content = self.remote.pop(key)
        if reception.complete:
            self.local[key] = content
        else:
            self.pool.drop(key, "failed")
        self.pool.reclaim(key)
        if key not in self.pool.receptions:
            self.local.pop(key, None)

    @precondition(lambda self: any(self.pool.receptions[k].complete for k in self.local))
    @rule(data=st.data())
    def open_import(self, data: st.DataObject) -> None:
        keys = [k for k in sorted(self.local) if self.pool.receptions[k].complete]
        key = data.draw(st.sampled_from(keys))
        self.pool.receptions[key].readers += 1
        self.reading.append((key, self.local[key]))

    @precondition(lambda self: self.reading)
    @rule()
    def close_import(self) -> None:
        key, _ = self.reading.pop()
        self.pool.receptions[key].readers -= 1
        self.pool.reclaim(key)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        keys = sorted({**self.local, **self.remote})
        if keys:
            self._drop(data.draw(st.sampled_from(keys)))

    @rule(passed=st.integers(1, 30))
    def time_passes(self, passed: int) -> None:
        self.now += passed
        for key in self.pool.expired(now=self.now):
            assert isinstance(key, int)
            self._drop(key)

    def _drop(self, key: int) -> None:
        self.pool.drop(key, "dropped")
        self.local.pop(key, None)

    @invariant()
    def integrity(self) -> None:
        self.pool.check_integrity()

    @invariant()
    def readers_see_what_was_handed_over(self) -> None:
        for key, content in self.reading:
            position = 0
            for at, flat, length in self.pool.receptions[key].spans():
                assert flat == position
                assert self.arena[at : at + length] == content[flat : flat + length]
                position += length
            assert position == len(content)

    def teardown(self) -> None:
        """When every party has let go, every slot is free again."""
        for slot in self.queued:
            self.pool.release(slot)
        for owner in self.leased:
            self.pool.owner_gone(owner)
        for key, reception in list(self.pool.receptions.items()):
            reception.readers, reception.written_by_link = 0, False
            self.pool.drop(key, "over")
        assert self.pool.counts().free == COUNT


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestPool = PoolMachine.TestCase
