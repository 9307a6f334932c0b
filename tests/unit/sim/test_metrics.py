"""One row per request."""

from __future__ import annotations

import numpy as np
import pytest

from prfaas.policies.api import Route
from prfaas.sim.metrics import Recorder
from prfaas.workload.requests import Workload

WORKLOAD = Workload([0.0, 1.0, 2.0], [100, 200, 300], [11, 1, 5])


def test_times_are_of_the_request_they_were_told_of() -> None:
    recorder = Recorder(WORKLOAD)
    recorder.routed(0, Route.OFFLOAD, 2)
    recorder.prefill(0, 0.5, 1.0, held=64)
    recorder.transferred(0, 1.75)
    recorder.first_token(0, 2.0)
    recorder.completed(0, 3.0)
    recorder.routed(1, Route.DIRECT, 1)
    recorder.first_token(1, 1.5)
    recorder.completed(1, 1.5)
    table = recorder.table()
    assert table.ttft_s[:2].tolist() == [2.0, 0.5]
    assert table.tpot_s[0] == pytest.approx(0.1)
    assert table.tpot_s[1] == 0  # An answer of one token has no second to wait for.
    assert np.isnan(table.ttft_s[2])
    assert table.offloaded.tolist() == [True, False, False]
    assert table.direct.tolist() == [False, True, False]
    assert table.attempts.tolist() == [2, 1, 0]
    assert table.held_tokens.tolist() == [64, 0, 0]
    assert table.transferred_at[0] == 1.75
