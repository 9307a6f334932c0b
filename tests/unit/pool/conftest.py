"""Every test's pool must be in order when the test is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prfaas.testing.pool_kit import PoolRig


@pytest.fixture
def rig() -> Iterator[PoolRig]:
    rig = PoolRig()
    yield rig
    rig.pool.check_integrity()
