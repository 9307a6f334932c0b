"""The prompt by which a started engine tunes kernels for all: asked again where it dies of it."""

from __future__ import annotations

import asyncio
import time

import aiohttp

from prfaas.core.deployment import Deployment, EngineConfig
from prfaas.core.errors import EngineError, ProcessError
from prfaas.launch import tuning
from prfaas.launch.child import Child, ChildState

_NOTICED_S = 10.0
"""How long a server whose workers have died may take to end."""
_LOOK_S = 0.1


async def tune(
    http: aiohttp.ClientSession, deployment: Deployment, child: Child, engine: EngineConfig
) -> None:
    """Have ``child``, which runs ``engine``, tune. One that dies meanwhile is started again, as
    ever, and asked once more: what it had tuned is kept.

    Raises ProcessError for one that cannot be had to, with where its log is.
    """
    starts = child.starts
    try:
        try:
            await tuning.run(http, deployment, engine)
        except EngineError:
            if not await _is_there_again(child, starts):
                raise
            await tuning.run(http, deployment, engine)
    except EngineError as error:
        raise ProcessError(f"{error}. See {child.log}") from error


async def _is_there_again(child: Child, starts: int) -> bool:
    """Whether it has ended since it had been started so often, and is ready again. One that lives
    on gave its answer; one that ends again before it is ready will not do it."""
    give_up_at = time.monotonic() + _NOTICED_S
    while child.starts == starts:
        if time.monotonic() > give_up_at:
            return False
        await asyncio.sleep(_LOOK_S)
    while child.starts == starts + 1:
        if child.state is ChildState.READY:
            return True
        await asyncio.sleep(_LOOK_S)
    return False
