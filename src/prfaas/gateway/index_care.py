"""Looks after the prefix index while there is time."""

from __future__ import annotations

import asyncio

from prfaas.index.prefix_index import PrefixIndex

_TIDY_S = 0.25
"""How often: it makes room ahead of what a second may bring."""


async def keep_tidy(index: PrefixIndex) -> None:
    """For ever, in small steps."""
    while True:
        pause_s = 0.0 if index.tidy() else _TIDY_S
        await asyncio.sleep(pause_s)
