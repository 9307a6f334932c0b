"""What workers of a gateway are started as."""

from __future__ import annotations

import sys

from prfaas.launch.gateway_workers import GatewayWorkers

HUNG_UP_ON = "import os, signal; os.kill(os.getpid(), signal.SIGHUP)"


async def test_a_hangup_that_is_passed_on_before_a_worker_listens_ends_it_not() -> None:
    workers = GatewayWorkers(1, lambda _: [sys.executable, "-S", "-c", HUNG_UP_ON])
    assert await workers._see_through(1) == 0
