"""Clipping."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.workload.lengths import EmpiricalLengths
from prfaas.workload.trace import PooledTrace, RecordedTrace


def test_what_is_longer_is_cut_with_its_blocks_and_the_share_is_kept() -> None:
    trace = RecordedTrace(
        arrivals=[0.0, 1.0, 2.0, 3.0],
        prompts=[2000, 1024, 100, 1025],
        outputs=[1, 2, 3, 4],
        blocks=[[1, 2, 3], [1, 2], [], [1, 9]],
    )
    clipped = trace.clipped(1024)
    assert clipped.prompts == [1024, 1024, 100, 1024]
    assert clipped.blocks == [[1, 2], [1, 2], [], [1, 9]]
    assert clipped.clipped_share == 0.5
    assert (clipped.arrivals, clipped.outputs) == (trace.arrivals, trace.outputs)
    assert trace.clipped(2000) == trace
    assert trace.clipped(1).blocks == [[], [], [], []]


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    st.integers(1, 5000),
)
def test_recorded_and_pooled_are_clipped_alike(prompts: list[int], tokens: int) -> None:
    zeros = [1] * len(prompts)
    recorded = RecordedTrace(arrivals=None, prompts=prompts, outputs=zeros, blocks=[])
    pooled = PooledTrace(
        prompts=EmpiricalLengths(prompts), outputs=EmpiricalLengths(zeros), rates=[]
    )
    cut, cut_pool = recorded.clipped(tokens), pooled.clipped(tokens)
    assert cut_pool.clipped_share == pytest.approx(cut.clipped_share, abs=1e-12)
    assert cut_pool.prompts.mean() == pytest.approx(sum(cut.prompts) / len(prompts))
    assert cut_pool.prompts.high <= tokens
