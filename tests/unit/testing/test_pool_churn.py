"""A full pool under churn: the books agree at every step, nothing leaks."""

from __future__ import annotations

import gc

import pytest

from prfaas.testing.pool_churn import CACHE_SLOTS, Churn

STEPS = 1500


@pytest.mark.parametrize("seed", [1, 2])
def test_a_full_pool_keeps_its_books_under_churn(seed: int) -> None:
    churn = Churn(seed)
    for _ in range(STEPS):
        churn.step()
    counters = churn.pool.snapshot().counters
    evicted = churn.evicted + counters.cache_evicted
    assert evicted > CACHE_SLOTS, "it was never full"
    assert counters.loads_ready
    assert counters.copies_complete
    kinds = ("turns", "loaded", "not loaded", "copied", "not copied", "pinned", "died", "written")
    for kind in (*kinds, "read back"):
        assert churn.done[kind], churn.done
    churn.end()


def test_it_holds_no_more_after_much_churn_than_after_some() -> None:
    """Objects, not bytes: what is remembered of ended transfers is forgotten after a while."""
    churn, held = Churn(3), []
    for _ in range(2):
        for _ in range(STEPS):
            churn.step()
        churn.end()
        gc.collect()
        held.append(sum(1 for _ in reachable(churn.pool)))
    assert held[1] < 1.5 * held[0], held


def reachable(root: object) -> list[object]:
    """What is held by it, but for modules, types and functions."""
    found: dict[int, object] = {}
    left = [root]
    while left:
        one = left.pop()
        if id(one) in found or isinstance(one, type) or (callable(one) and one is not root):
            continue
        found[id(one)] = one
        left += gc.get_referents(one)
    return list(found.values())
