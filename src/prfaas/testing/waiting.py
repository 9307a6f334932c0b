"""Waiting for what other threads and processes do. Event loops wait by `mock_deployment.until`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(
    condition: Callable[[], Any], what: str = "it did not happen", *, within_s: float = 60.0
) -> Any:
    """What the condition says, once that is something; where it never is it fails with ``what``."""
    end, pause_s = time.monotonic() + within_s, 0.01
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, 0.1)
    return found
