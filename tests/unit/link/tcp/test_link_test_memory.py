"""Where the bytes of link tests go."""

from __future__ import annotations

import threading

from prfaas.link.tcp.link_test_memory import LINK_TEST_LAYOUT, ScratchMemory, is_link_test
from prfaas.testing.link_ends import an_offer


def test_the_layout_marks_a_test() -> None:
    assert is_link_test(an_offer(layout=LINK_TEST_LAYOUT))
    assert not is_link_test(an_offer(layout="3f2a"))


def test_each_thread_has_scratch_of_its_own() -> None:
    memory, other = ScratchMemory(), list[memoryview]()
    (first,) = memory.views(0, 100)
    (again,) = memory.views(5000, 60)
    assert len(again) == 60
    first[0] = 7
    assert again[0] == 7, "the same memory for every range"
    thread = threading.Thread(target=lambda: other.extend(memory.views(0, 100)))
    thread.start()
    thread.join()
    assert other[0][0] == 0
